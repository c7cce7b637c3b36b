//! How long ago this node took a VIP over, and from whom: for a while after that, packets of flows that it does not know may
//! be of those that the former owner had. Pure.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use lb_common::{layout::virtual_mac, wire::Mac};

use crate::dataplane::AdvertSeen;

/// Since when each VRRP instance has been active here, and who had it before. Starting as the active one counts as taking
/// over: what happened to the VIP before is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inheritance(BTreeMap<String, (Instant, Option<Mac>)>);

impl Inheritance {
    /// These instances, and no others, are active at `now`. `former` says where the router is that was active before an
    /// instance was here; asked once for each time.
    pub fn follow<'a>(
        &mut self,
        active: impl Iterator<Item = &'a String>,
        former: impl Fn(&str) -> Option<Mac>,
        now: Instant,
    ) {
        let mut before = std::mem::take(&mut self.0);
        let mut since = |name: &str| before.remove(name).unwrap_or_else(|| (now, former(name)));
        self.0 = active.map(|name| (name.clone(), since(name))).collect();
    }

    /// Those that became active less than `rebuild` before `now`, each with where the former owner is.
    pub fn heirs(&self, rebuild: Duration, now: Instant) -> BTreeMap<String, Option<Mac>> {
        let lately = |since: &Instant| now.saturating_duration_since(*since) < rebuild;
        let heirs = self.0.iter().filter(|(_, (since, _))| lately(since));
        heirs.map(|(name, (_, former))| (name.clone(), *former)).collect()
    }

    /// When the next of these ceases to be one.
    pub fn next_end(&self, rebuild: Duration, now: Instant) -> Option<Instant> {
        self.0.values().map(|(since, _)| *since + rebuild).filter(|end| *end > now).min()
    }
}

/// Where the other router is that has advertised a virtual router last, by all that the data plane has seen. One that
/// advertises from the virtual router's Ethernet address is found by its own one, which `own_mac` knows.
pub fn former_router(
    vrid: u8,
    is_ipv6: bool,
    adverts: &[(IpAddr, u8, AdvertSeen)],
    own_mac: impl Fn(IpAddr) -> Option<Mac>,
) -> Option<Mac> {
    let of_router = adverts.iter().filter(|(source, seen, _)| (*seen, source.is_ipv6()) == (vrid, is_ipv6));
    let (source, _, last) = of_router.max_by_key(|(.., seen)| seen.at_ns)?;
    if last.mac == virtual_mac(is_ipv6, vrid) { own_mac(*source) } else { Some(last.mac) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const REBUILD: Duration = Duration::from_secs(300);

    /// Active are these, and nothing is known of former owners.
    fn follow(inheritance: &mut Inheritance, active: &[&str], now: Instant) {
        inheritance.follow(names(active).iter(), |_| None, now);
    }

    fn heirs(inheritance: &Inheritance, rebuild: Duration, now: Instant) -> BTreeSet<String> {
        inheritance.heirs(rebuild, now).into_keys().collect()
    }

    fn names(all: &[&str]) -> BTreeSet<String> {
        all.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn an_heir_is_one_for_a_while_after_it_became_active() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut inheritance = Inheritance::default();
        assert_eq!(inheritance.next_end(REBUILD, begin), None);
        follow(&mut inheritance, &["main"], at(0));
        follow(&mut inheritance, &["main", "other"], at(100));
        assert_eq!(heirs(&inheritance, REBUILD, at(100)), names(&["main", "other"]));
        assert_eq!(inheritance.next_end(REBUILD, at(100)), Some(at(300)));
        assert_eq!(heirs(&inheritance, REBUILD, at(299)), names(&["main", "other"]));
        assert_eq!(heirs(&inheritance, REBUILD, at(300)), names(&["other"]));
        assert_eq!(inheritance.next_end(REBUILD, at(300)), Some(at(400)));
        assert_eq!(heirs(&inheritance, REBUILD, at(400)), names(&[]));
        assert_eq!(inheritance.next_end(REBUILD, at(400)), None);
        // Still active: nothing begins anew.
        follow(&mut inheritance, &["main", "other"], at(500));
        assert_eq!(heirs(&inheritance, REBUILD, at(500)), names(&[]));
    }

    #[test]
    fn whoever_loses_the_vip_and_gets_it_back_inherits_again() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut inheritance = Inheritance::default();
        follow(&mut inheritance, &["main"], at(0));
        follow(&mut inheritance, &[], at(10));
        assert_eq!(heirs(&inheritance, REBUILD, at(10)), names(&[]), "it is somebody else's now");
        assert_eq!(inheritance.next_end(REBUILD, at(10)), None);
        follow(&mut inheritance, &["main"], at(1000));
        assert_eq!(heirs(&inheritance, REBUILD, at(1000)), names(&["main"]));
    }

    #[test]
    fn nobody_inherits_where_that_is_switched_off() {
        let begin = Instant::now();
        let mut inheritance = Inheritance::default();
        follow(&mut inheritance, &["main"], begin);
        assert_eq!(heirs(&inheritance, Duration::ZERO, begin), names(&[]));
        assert_eq!(inheritance.next_end(Duration::ZERO, begin), None);
    }

    #[test]
    fn who_had_it_is_asked_once_for_each_time() {
        let begin = Instant::now();
        let main = names(&["main"]);
        let of = |inheritance: &Inheritance| inheritance.heirs(REBUILD, begin)["main"];
        let mut inheritance = Inheritance::default();
        inheritance.follow(main.iter(), |_| Some([2, 0, 0, 0, 0, 3]), begin);
        inheritance.follow(main.iter(), |_| Some([2, 0, 0, 0, 0, 4]), begin);
        assert_eq!(of(&inheritance), Some([2, 0, 0, 0, 0, 3]), "others advertise, too, where two are active");
        inheritance.follow(names(&[]).iter(), |_| None, begin);
        inheritance.follow(main.iter(), |_| Some([2, 0, 0, 0, 0, 4]), begin);
        assert_eq!(of(&inheritance), Some([2, 0, 0, 0, 0, 4]));
    }

    #[test]
    fn the_former_router_is_who_has_advertised_last() {
        let [first, second, v6]: [IpAddr; 3] =
            ["172.16.0.2", "172.16.0.3", "fe80::2"].map(|text| text.parse().expect("an address"));
        let seen = |at_ns, last| AdvertSeen { at_ns, mac: [2, 0, 0, 0, 0, last], priority: 100, version: 3 };
        let adverts = [
            (first, 60, seen(5, 2)),
            (second, 60, seen(7, 3)),
            (second, 61, seen(9, 4)),
            (v6, 60, seen(8, 5)),
        ];
        let nobody = |_| None;
        assert_eq!(former_router(60, false, &adverts, nobody), Some([2, 0, 0, 0, 0, 3]));
        assert_eq!(former_router(60, true, &adverts, nobody), Some([2, 0, 0, 0, 0, 5]));
        assert_eq!(former_router(62, false, &adverts, nobody), None);
    }

    #[test]
    fn the_virtual_ethernet_address_is_ours_by_now() {
        let source: IpAddr = [172, 16, 0, 2].into();
        let mac = virtual_mac(false, 60);
        let adverts = [(source, 60, AdvertSeen { at_ns: 5, mac, priority: 100, version: 3 })];
        assert_eq!(former_router(60, false, &adverts, |_| None), None);
        let own = [2, 0, 0, 0, 0, 2];
        assert_eq!(former_router(60, false, &adverts, |of| (of == source).then_some(own)), Some(own));
    }
}
