use std::time::Duration;

use super::*;
use crate::import::incumbent::{
    Authentication, Bind, Choice, Pool, PoolServer, Proxy, RouterInstance, RouterNode, RouterScript,
    RouterTrack, RouterTracked, RouterVip, ServerAddress, ServerCheck,
};

const fn place(file: usize, line: usize) -> Place {
    Place { file: FileId(file), line, column: 1 }
}

use crate::{import::source::FileId, password::SAMPLE};

fn at<T>(value: T, line: usize) -> At<T> {
    At::new(value, place(0, line))
}

fn server(number: u8) -> PoolServer {
    PoolServer {
        name: at(format!("m{number}"), 100 + usize::from(number)),
        address: ServerAddress::Ip(([172, 16, 0, number], 6443).into()),
        weight: 1,
        max_connections: 0,
        checked: true,
        backup: false,
        disabled: false,
        interval: Duration::from_secs(2),
        fast_interval: None,
        down_interval: None,
        rise: 2,
        fall: 3,
        slow_start: Duration::ZERO,
    }
}

fn proxy(servers: Vec<PoolServer>) -> Proxy {
    Proxy {
        name: at("api".to_owned(), 1),
        binds: vec![at(Bind { address: None, port: 6443 }, 2)],
        http: false,
        allow: Vec::new(),
        max_connections: None,
        client_timeout: None,
        logs_connections: None,
        skips_empty: None,
        pool: Pool {
            name: at("api".to_owned(), 10),
            http: false,
            balance: at(Choice::RoundRobin, 11),
            check: at(ServerCheck::Tcp, 12),
            connect_timeout: None,
            server_timeout: None,
            tunnel_timeout: None,
            check_timeout: None,
            resets_when_down: false,
            servers,
        },
    }
}

fn instance(name: &str, vips: &[&str]) -> RouterInstance {
    RouterInstance {
        name: at(name.to_owned(), 50),
        begins_as_master: false,
        interface: at("eth0".to_owned(), 51),
        virtual_router_id: at(60, 52),
        priority: at(100, 53),
        version: VrrpVersion::V2,
        advert_interval: Duration::from_secs(1),
        authentication: Authentication::None,
        unicast_source: None,
        unicast_peers: Vec::new(),
        vips: vips
            .iter()
            .map(|vip| {
                let (address, length) = vip.split_once('/').expect("a prefix length");
                let vip = RouterVip {
                    address: address.parse().expect("an address"),
                    prefix_len: length.parse().expect("a length"),
                    interface: None,
                    advertised: true,
                };
                at(vip, 54)
            })
            .collect(),
        no_preempt: None,
        preempt_delay: Duration::ZERO,
        virtual_mac: None,
        checksum_as_v2: false,
        tracks: Vec::new(),
        hooks: Vec::new(),
    }
}

fn script(asks_for_balancer: bool, weight: i16, command: &[&str]) -> RouterTrack {
    let script = RouterScript {
        name: at("check".to_owned(), 60),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        asks_for_balancer,
        interval: Duration::from_secs(2),
        timeout: None,
        rise: 1,
        fall: 1,
        user: None,
    };
    RouterTrack { place: place(0, 61), what: RouterTracked::Script(script), weight }
}

fn incumbent(proxy: Proxy, instances: Vec<RouterInstance>) -> Incumbent {
    let node = RouterNode { file: FileId(0), name: None, instances, sync_groups: Vec::new() };
    Incumbent { proxies: vec![proxy], routers: vec![node], ..Incumbent::default() }
}

/// The first node's plan, which is a configuration, and what was noted.
fn planned(from: &Incumbent) -> (NodePlan, Vec<Entry>) {
    let sources = [Source::new("keepalived.conf", b"")];
    let mut ledger = Ledger::default();
    let plans = plan(from, &sources, &Options::default(), &mut ledger).expect("a plan");
    for plan in &plans {
        let text = crate::import::write::write(plan, &sources, &|_| Some(SAMPLE.to_owned()));
        let read_file = |_: &Path| Ok(vec![b'k'; 32]);
        let file_mode = |_: &Path| Ok(0o700);
        let facts =
            crate::config::Facts { host_name: "lb".to_owned(), read_file: &read_file, file_mode: &file_mode };
        if let Err(problems) = crate::config::parse(&text, Path::new("xvip.toml"), &facts) {
            panic!("{problems}\n{text}");
        }
    }
    (plans.into_iter().next().expect("a node"), ledger.entries().to_vec())
}

fn noted(entries: &[Entry], line: usize) -> Vec<(Fate, &str)> {
    let of_line = entries.iter().filter(|entry| entry.place.line == line);
    of_line.map(|entry| (entry.fate, entry.note.as_str())).collect()
}

fn one(proxy: Proxy) -> (NodePlan, Vec<Entry>) {
    planned(&incumbent(proxy, vec![instance("main", &["172.16.0.10/24"])]))
}

#[test]
fn each_proxy_is_a_service_on_each_vip() {
    let both = instance("main", &["172.16.0.10/24", "172.16.0.11/24"]);
    let mut from = incumbent(proxy(vec![server(4)]), vec![both]);
    let mut second = proxy(vec![server(5)]);
    second.name = at("web page".to_owned(), 3);
    second.binds = vec![at(Bind { address: Some([172, 16, 0, 11].into()), port: 80 }, 4)];
    from.proxies.push(second);
    let (plan, _) = planned(&from);
    let services: Vec<_> = plan
        .services
        .iter()
        .map(|service| (service.name.value.as_str(), service.vip.value.to_string(), service.port.value))
        .collect();
    assert_eq!(
        services,
        [
            ("api", "172.16.0.10/24".to_owned(), 6443),
            ("api-2", "172.16.0.11/24".to_owned(), 6443),
            ("web-page", "172.16.0.11/24".to_owned(), 80),
        ]
    );
}

#[test]
fn what_cannot_be_a_service_says_why() {
    let mut http = proxy(vec![server(4)]);
    http.http = true;
    let mut from = incumbent(proxy(vec![server(4)]), vec![instance("main", &["172.16.0.10/24"])]);
    http.name = at("web".to_owned(), 20);
    from.proxies.push(http);
    let mut elsewhere = proxy(vec![server(4)]);
    elsewhere.binds = vec![at(Bind { address: Some([172, 16, 0, 2].into()), port: 80 }, 21)];
    from.proxies.push(elsewhere);
    let mut again = proxy(vec![server(5)]);
    again.binds = vec![at(Bind { address: None, port: 6443 }, 22)];
    from.proxies.push(again);
    let (plan, entries) = planned(&from);
    assert_eq!(plan.services.len(), 1);
    for (line, word) in [(20, "mode http"), (21, "--vip 172.16.0.2/32"), (22, "already api's")] {
        let notes = noted(&entries, line);
        assert!(
            notes.iter().any(|(fate, note)| *fate == Fate::NotPossible && note.contains(word)),
            "{notes:?}"
        );
    }
}

#[test]
fn servers_that_cannot_be_backends_are_named() {
    let named = PoolServer { address: ServerAddress::Name("m.example".to_owned(), 6443), ..server(5) };
    let local = PoolServer { address: ServerAddress::Ip(([127, 0, 0, 1], 6443).into()), ..server(6) };
    let other =
        PoolServer { address: ServerAddress::Ip("[fd00::7]:6443".parse().expect("one")), ..server(7) };
    let vip = PoolServer { address: ServerAddress::Ip(([172, 16, 0, 10], 6443).into()), ..server(8) };
    let twice = PoolServer { name: at("twice".to_owned(), 109), ..server(4) };
    let portless = PoolServer { address: ServerAddress::Ip(([172, 16, 0, 9], 0).into()), ..server(9) };
    let (plan, entries) = one(proxy(vec![
        server(4),
        named,
        local,
        other,
        vip,
        twice,
        PoolServer { name: at("p".to_owned(), 110), ..portless },
    ]));
    let backends: Vec<_> = plan.services[0].backends.iter().map(|one| one.address.to_string()).collect();
    assert_eq!(backends, ["172.16.0.4:6443", "172.16.0.9:6443"]);
    for (line, word) in
        [(105, "--resolve"), (106, "own address"), (107, "IPv6"), (108, "in circles"), (109, "m4's")]
    {
        let notes = noted(&entries, line);
        assert!(
            notes.iter().any(|(fate, note)| *fate == Fate::NotPossible && note.contains(word)),
            "{line}: {notes:?}"
        );
    }
}

#[test]
fn weights_stay_where_they_differ_and_reserves_get_nothing() {
    let weights = |servers| {
        let (plan, _) = one(proxy(servers));
        let backends = plan.services[0].backends.iter();
        backends.map(|one| one.weight.as_ref().map(|weight| weight.value)).collect::<Vec<_>>()
    };
    let heavy = PoolServer { weight: 7, ..server(5) };
    let backup = PoolServer { backup: true, ..server(6) };
    let disabled = PoolServer { disabled: true, ..server(7) };
    assert_eq!(weights(vec![server(4), server(5)]), [None, None]);
    assert_eq!(weights(vec![server(4), heavy]), [Some(1), Some(7)]);
    assert_eq!(weights(vec![server(4), backup.clone(), disabled.clone()]), [None, Some(0), Some(0)]);
    // Somebody must serve.
    assert_eq!(weights(vec![backup, disabled]), [Some(100), Some(100)]);
}

#[test]
fn checks_are_what_haproxy_really_did() {
    let check = |check| {
        let mut proxy = proxy(vec![server(4)]);
        proxy.pool.check = at(check, 12);
        one(proxy).0.services[0].health.check.value.clone()
    };
    let http = |tls, path: &str, expect: &[u16]| ServerCheck::Http {
        tls,
        path: path.to_owned(),
        expect: expect.to_vec(),
        ca_file: None,
    };
    assert_eq!(check(ServerCheck::None), CheckPlan::Tcp);
    assert_eq!(check(ServerCheck::SslHello), CheckPlan::Tls(None));
    assert_eq!(check(http(true, "/readyz", &[200])), CheckPlan::Https("/readyz".to_owned(), vec![200], None));
    assert_eq!(
        check(http(false, "a b\"", &[200, 200, 99])),
        CheckPlan::Http("/a%20b%22".to_owned(), vec![200])
    );
    let CheckPlan::Http(_, expect) = check(http(false, "/", &[])) else { panic!("http") };
    assert!(expect.contains(&200) && expect.contains(&302) && !expect.contains(&404));
    // Relative to nothing that is known here.
    assert_eq!(check(ServerCheck::Tls { ca_file: Some("ca.pem".to_owned()) }), CheckPlan::Tls(None));
}

#[test]
fn times_are_haproxys_own_and_in_range() {
    let quick = PoolServer {
        interval: Duration::from_micros(1),
        down_interval: Some(Duration::from_secs(86_400)),
        fast_interval: Some(Duration::from_millis(500)),
        rise: 0,
        fall: 9999,
        ..server(4)
    };
    let (plan, entries) = one(proxy(vec![quick]));
    let health = &plan.services[0].health;
    assert_eq!(health.interval.value, Duration::from_millis(10));
    assert_eq!(health.down_interval.value, Duration::from_secs(3600));
    assert_eq!(health.fast_interval.value, Duration::from_millis(500));
    assert_eq!((health.rise.value, health.fall.value), (1, 1000));
    assert!(noted(&entries, 104).len() >= 4, "{entries:?}");
    let (plan, _) = one(proxy(vec![server(4)]));
    let health = &plan.services[0].health;
    // Without fastinter, downinter and timeout check, `inter` is all of them.
    assert!(
        [&health.down_interval, &health.fast_interval, &health.timeout]
            .iter()
            .all(|key| key.value == Duration::from_secs(2))
    );
    assert!(
        health.fast_interval.check.contains("6.0 s") && health.fast_interval.check.contains("2.4 s"),
        "{health:?}"
    );
}

#[test]
fn priorities_are_what_is_advertised_while_all_is_well() {
    let with = |priority, tracks: Vec<RouterTrack>| {
        let router =
            RouterInstance { priority: at(priority, 53), tracks, ..instance("main", &["172.16.0.10/24"]) };
        let (plan, _) = planned(&incumbent(proxy(vec![server(4)]), vec![router]));
        let instance = plan.instances.into_iter().next().expect("one");
        (instance.priority.value, instance.tracks.len())
    };
    assert_eq!(with(100, vec![script(true, 2, &["killall", "-0", "haproxy"])]), (102, 0));
    assert_eq!(with(100, vec![script(true, -20, &["pidof", "haproxy"])]), (100, 0));
    assert_eq!(with(100, vec![script(true, 0, &["pidof", "haproxy"])]), (100, 0));
    assert_eq!(with(250, vec![script(true, 20, &["pidof", "haproxy"])]), (254, 0));
    assert_eq!(with(255, vec![script(true, 20, &["pidof", "haproxy"])]), (255, 0));
    // What looks at something else stays, with its weight.
    assert_eq!(with(100, vec![script(false, 20, &["/usr/local/bin/uplink"])]), (100, 1));
    let process = RouterTrack {
        place: place(0, 61),
        what: RouterTracked::Process("/usr/sbin/haproxy -f x".to_owned()),
        weight: 3,
    };
    assert_eq!(with(100, vec![process]), (103, 0));
}

#[test]
fn scripts_run_by_a_path() {
    let router = RouterInstance {
        tracks: vec![script(false, -20, &["curl", "-k", "https://10.0.0.1"]), script(false, 0, &[])],
        ..instance("main", &["172.16.0.10/24"])
    };
    let (plan, entries) = planned(&incumbent(proxy(vec![server(4)]), vec![router]));
    let [track] = plan.instances[0].tracks.as_slice() else { panic!("{:?}", plan.instances[0].tracks) };
    let TrackedPlan::Script { command, .. } = &track.what.value else { panic!("{track:?}") };
    assert_eq!(command[..2], ["/usr/bin/env", "curl"]);
    assert_eq!(track.weight, -20);
    assert!(noted(&entries, 60).iter().any(|(fate, _)| *fate == Fate::NotPossible));
}

#[test]
fn nopreempt_is_what_keepalived_makes_of_it() {
    let preempt = |begins_as_master, no_preempt| {
        let router = RouterInstance { begins_as_master, no_preempt, ..instance("main", &["172.16.0.10/24"]) };
        planned(&incumbent(proxy(vec![server(4)]), vec![router])).0.instances[0].preempt.value
    };
    assert!(preempt(false, None) && preempt(true, None));
    assert!(!preempt(false, Some(place(0, 55))));
    assert!(preempt(true, Some(place(0, 55))), "keepalived takes it back with state MASTER");
}

#[test]
fn what_speaks_another_family_is_left_out() {
    let router = RouterInstance {
        unicast_source: Some(at([172, 16, 0, 2].into(), 55)),
        unicast_peers: vec![
            at([172, 16, 0, 3].into(), 56),
            at([172, 16, 0, 3].into(), 57),
            at([172, 16, 0, 2].into(), 58),
            at("fd00::3".parse().expect("one"), 59),
            at([172, 16, 0, 10].into(), 59),
        ],
        ..instance("main", &["172.16.0.10/24"])
    };
    let (plan, _) = planned(&incumbent(proxy(vec![server(4)]), vec![router]));
    let peers: Vec<IpAddr> = plan.instances[0].unicast_peers.iter().map(|peer| peer.value).collect();
    assert_eq!(peers, [IpAddr::from([172, 16, 0, 3])]);
}

#[test]
fn instances_without_a_service_and_on_other_interfaces_are_left_out() {
    let bound = Proxy {
        binds: vec![at(Bind { address: Some([172, 16, 0, 10].into()), port: 6443 }, 2)],
        ..proxy(vec![server(4)])
    };
    let second = RouterInstance {
        name: at("second".to_owned(), 70),
        virtual_router_id: at(61, 71),
        ..instance("second", &["172.16.0.11/24"])
    };
    let other = RouterInstance {
        name: at("other".to_owned(), 80),
        interface: at("eth1".to_owned(), 81),
        ..instance("other", &["10.0.0.9/24"])
    };
    let (plan, entries) =
        planned(&incumbent(bound, vec![instance("main", &["172.16.0.10/24"]), second, other]));
    assert_eq!(plan.instances.iter().map(|one| one.name.value.as_str()).collect::<Vec<_>>(), ["main"]);
    assert!(noted(&entries, 70).iter().any(|(_, note)| note.contains("no service")));
    assert!(noted(&entries, 80).iter().any(|(_, note)| note.contains("one interface")));
}

#[test]
fn one_virtual_router_has_one_id() {
    let second =
        RouterInstance { name: at("second".to_owned(), 70), ..instance("second", &["172.16.0.11/24"]) };
    let (plan, _) =
        planned(&incumbent(proxy(vec![server(4)]), vec![instance("main", &["172.16.0.10/24"]), second]));
    let ids: Vec<u8> = plan.instances.iter().map(|one| one.virtual_router_id.value).collect();
    assert_eq!(ids, [60, 1]);
    assert!(plan.instances[1].virtual_router_id.check.contains("60"));
}

#[test]
fn a_group_elects_as_one_or_is_none() {
    let groups = |priority| {
        let second = RouterInstance {
            name: at("second".to_owned(), 70),
            virtual_router_id: at(61, 71),
            priority: at(priority, 72),
            ..instance("second", &["172.16.0.11/24"])
        };
        let mut from = incumbent(proxy(vec![server(4)]), vec![instance("main", &["172.16.0.10/24"]), second]);
        from.routers[0].sync_groups =
            vec![(at("g".to_owned(), 90), vec!["main".to_owned(), "second".to_owned()])];
        let (plan, _) = planned(&from);
        plan.instances.iter().filter(|one| one.sync_group.is_some()).count()
    };
    assert_eq!((groups(100), groups(101)), (2, 0));
}

#[test]
fn a_name_that_all_nodes_have_is_nobodys() {
    let mut from = incumbent(proxy(vec![server(4)]), vec![instance("main", &["172.16.0.10/24"])]);
    let mut second = from.routers[0].clone();
    second.file = FileId(1);
    for node in [&mut from.routers[0], &mut second] {
        node.name = Some(at("lb".to_owned(), 45));
    }
    from.routers.push(second);
    let sources = [Source::new("/etc/a.conf", b""), Source::new("/etc/b.conf", b"")];
    let plans = plan(&from, &sources, &Options::default(), &mut Ledger::default()).expect("plans");
    assert_eq!(plans.iter().map(|plan| plan.file_name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert!(plans.iter().all(|plan| plan.name.as_ref().is_some_and(|name| !name.check.is_empty())));
}

#[test]
fn passwords_are_cut_as_keepalived_cuts_them() {
    let password = |text: &str, version| {
        let authentication = Authentication::Password(at(text.to_owned(), 55));
        let router = RouterInstance { authentication, version, ..instance("main", &["172.16.0.10/24"]) };
        let (plan, _) = planned(&incumbent(proxy(vec![server(4)]), vec![router]));
        plan.instances[0].auth_pass.as_ref().map(|key| key.value.clone())
    };
    assert_eq!(password("Admin12345", VrrpVersion::V2).as_deref(), Some("Admin123"));
    assert_eq!(password("1111", VrrpVersion::V2).as_deref(), Some("1111"));
    assert_eq!(password("1111", VrrpVersion::V3), None);
    assert_eq!(password("", VrrpVersion::V2), None);
    assert_eq!(password("1234567\u{e9}", VrrpVersion::V2).as_deref(), Some("1234567"));
}
