//! What an operator should make of each reason of the data plane: when a packet with it is as it should be, and what to do
//! where it is not.
//!
//! What a reason *means* is beside its name, in `lb_common::reason`. This is the one place for the rest; the manual's page
//! `docs/reasons.md` is made of both. A new reason does not compile without its advice.

use lb_common::reason::{DropReason, PassReason, TransmitReason, Verdict};

/// What to make of a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advice {
    /// When it is as it should be: a sentence.
    pub normal: &'static str,
    /// What to do where it is not: a sentence or two, or empty where there is never anything to do.
    pub remedy: &'static str,
}

const fn always(normal: &'static str) -> Advice {
    Advice { normal, remedy: "" }
}

const fn advice(normal: &'static str, remedy: &'static str) -> Advice {
    Advice { normal, remedy }
}

/// What to make of a verdict's reason.
pub const fn explain(verdict: Verdict) -> Advice {
    match verdict {
        Verdict::Pass(reason) => passed(reason),
        Verdict::Drop(reason) => dropped(reason),
        Verdict::Transmit(reason) => transmitted(reason),
    }
}

/// Of packets that were left to the host.
pub const fn passed(reason: PassReason) -> Advice {
    match reason {
        PassReason::NotIp | PassReason::Arp | PassReason::NotVip => {
            always("Always: it is the node's own traffic.")
        }
        PassReason::OtherHost => advice(
            "A few: switches flood frames whose destination they have not learned.",
            "If it grows as fast as the traffic, the switch does not learn where the VIP is: look for two machines that announce \
             it (`xvip doctor`), and for a mirror port.",
        ),
        PassReason::NotTcp => advice(
            "Pings of the VIP, and whatever else the node itself answers there.",
            "UDP to the VIP is not balanced: a client that needs it is configured wrongly.",
        ),
        PassReason::NoService => advice(
            "Port scans, and SSH to the VIP.",
            "If clients get no answer, compare the port that they use with `service.port`.",
        ),
        PassReason::TooShort => {
            advice("Never on Ethernet.", "Capture some (`xvip capture`) and look who sends them.")
        }
        PassReason::NotConfigured => advice(
            "In the first moments of the daemon's first start.",
            "If it goes on, the daemon could not write its maps: `xvip status` and the log say why.",
        ),
        PassReason::OtherVlan => advice(
            "On a trunk, where XDP sees the frames of every VLAN.",
            "If the VIP is dead meanwhile, `node.interface` is in another VLAN than the clients.",
        ),
        PassReason::LocalBackend => {
            always("Where xvip runs on an API server's node, for the connections of that API server.")
        }
        PassReason::IcmpUnrelated => {
            always("A few: errors about connections of the node itself, or about ended ones.")
        }
        PassReason::NeighbourSolicitation | PassReason::NeighbourAdvertisement => {
            always("Always: the node takes part in IPv6.")
        }
        PassReason::ForeignClaim => advice(
            "On a standby node, whenever the owner announces the VIP.",
            "On the node that owns the VIP it is a second machine with that address: `xvip status` names its MAC.",
        ),
        PassReason::BadArp | PassReason::BadNeighbour => {
            advice("Never.", "Capture some (`xvip capture`): somebody forges them, or has a broken stack.")
        }
        PassReason::Vrrp => always("Always on a network with VRRP: the advertisements of the other nodes."),
        PassReason::BadVrrp => advice(
            "Never.",
            "An advertisement came over a router, or was damaged; `adverts of` in `xvip status` says what else was wrong.",
        ),
        PassReason::HostSocket => advice(
            "While xvip takes HAProxy's place on a running node, until HAProxy's connections have ended.",
            "If it goes on, something on this node still listens on the VIP's port: `ss -tlnp`.",
        ),
        PassReason::Observed => advice(
            "With `node.observe = true`: everything.",
            "To let xvip forward, write `observe = false` and restart it.",
        ),
    }
}

/// Of packets that were dropped.
pub const fn dropped(reason: DropReason) -> Advice {
    match reason {
        DropReason::BadIpHeader
        | DropReason::BadIpChecksum
        | DropReason::BadTcpHeader
        | DropReason::BadTcpFlags => advice(
            "A few: port scanners send such packets.",
            "If they come from a client of yours (`xvip trace`), its network card or a device on the way damages packets.",
        ),
        DropReason::FragmentUnknown => advice(
            "A few, when fragments overtake each other.",
            "If many come, a device on the way fragments TCP: find the link with the smaller MTU, and let ICMP pass there.",
        ),
        DropReason::BadFragment => {
            advice("Never: these are made to get around filters.", "Look who sends them (`xvip trace`).")
        }
        DropReason::BadExtension => advice(
            "Hardly ever.",
            "Look who sends them (`xvip trace`): TCP behind unusual IPv6 extension headers is not forwarded.",
        ),
        DropReason::TtlExpired => advice(
            "Traceroutes, where the answer itself would not be allowed.",
            "If it grows quickly, packets go round in circles: two nodes or routers send the VIP's packets to each other.",
        ),
        DropReason::TooBig => advice(
            "Hardly ever.",
            "With `dsr-ipip` the way to the backends needs an MTU that is larger by the tunnel's header: `xvip doctor`, `mtu`.",
        ),
        DropReason::BadIcmp => {
            advice("A few, from the Internet.", "Nothing, unless path-MTU discovery fails.")
        }
        DropReason::BadSource => advice(
            "Never: somebody forges source addresses.",
            "Filter them where they come in (BCP 38); `xvip trace` shows their MAC.",
        ),
        DropReason::SourceNotAllowed => advice(
            "Whenever somebody tries who is not in the service's `allow`.",
            "If it is a client of yours, add its network to `service.allow` and `xvip reload`.",
        ),
        DropReason::SourceRateLimited => advice(
            "While one source opens more than `service.new_connections_per_source` allows.",
            "If it is a client of yours, raise the limit. Clients behind one NAT share theirs.",
        ),
        DropReason::UnknownFlow => {
            always("After connections have ended: the last RST of either side comes late.")
        }
        DropReason::UnknownReply => advice(
            "For some seconds after the VIP has moved.",
            "If it goes on, this node does not know flows of the other one: see `sync` in `xvip status`, or use `[sync]`.",
        ),
        DropReason::NextHopUnknown => advice(
            "Some packets, after a start or when a backend comes back.",
            "If it goes on, the backend or the router to it does not answer ARP: `ip neigh show`, `xvip doctor`.",
        ),
        DropReason::AllBackendsFull => advice(
            "While every backend has its `max_connections`, with `on_all_full = \"drop\"`.",
            "Raise `max_connections`, or add backends.",
        ),
        DropReason::NatPortsExhausted => advice(
            "Never.",
            "All NAT ports towards a backend are in use or rest for 60 s after their connection: add backends, a second VIP, or use \
             a dsr mode. A client that opens thousands of connections a second is the usual cause: `xvip flows`.",
        ),
        DropReason::FlowTableFull => {
            advice("Never.", "Raise `flows.max` and restart xvip; `xvip flows` shows who has them.")
        }
        DropReason::Fenced => advice(
            "After the daemon was killed, until it is back.",
            "The daemon does not run, or hangs: start it. `xvip status` says since when.",
        ),
        DropReason::Internal => {
            advice("Never.", "It is a fault of xvip: report it, with `xvip status --json` and the log.")
        }
    }
}

/// Of packets that were sent.
pub const fn transmitted(reason: TransmitReason) -> Advice {
    match reason {
        TransmitReason::ToBackend => always("Always: what xvip is for."),
        TransmitReason::ToClient => always(
            "Always with `nat`. With direct server return there is none: backends answer clients themselves.",
        ),
        TransmitReason::ResetNoBackend => advice(
            "While a cluster is bootstrapped and no API server runs yet.",
            "No backend is up: `xvip status` has the reason of each, `xvip explain NAME` its history.",
        ),
        TransmitReason::ResetUnknownFlow => advice(
            "After a move of the VIP, for connections that could not be carried over; and when a client comes back after \
             `flows.idle_timeout`.",
            "If it goes on, the nodes do not know each other's flows: see `sync` in `xvip status`.",
        ),
        TransmitReason::ResetAllFull => advice(
            "While every backend has its `max_connections`.",
            "Raise `max_connections`, or add backends.",
        ),
        TransmitReason::TimeExceeded => advice(
            "Traceroutes.",
            "If it grows quickly, packets go round in circles: two nodes or routers send the VIP's packets to each other.",
        ),
        TransmitReason::PacketTooBig => {
            always("Path-MTU discovery at work: the client sends smaller packets from then on.")
        }
        TransmitReason::IcmpToBackend | TransmitReason::IcmpToClient => {
            always("Path-MTU discovery at work, and errors of routers on the way.")
        }
        TransmitReason::ArpReply | TransmitReason::NeighbourReply => {
            always("Always with `virtual_mac = true`.")
        }
        TransmitReason::ResetSevered => advice(
            "After a backend has died, and after `xvip backend disable` or a rebalance.",
            "If it goes on, a client does not take the RST: `xvip trace` shows whose it is.",
        ),
        TransmitReason::ToOtherNode => always("For a minute after the VIP has moved."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<(&'static str, &'static str, Advice)> {
        let passed = PassReason::ALL.iter().map(|r| (r.name(), r.description(), explain(Verdict::Pass(*r))));
        let dropped = DropReason::ALL.iter().map(|r| (r.name(), r.description(), explain(Verdict::Drop(*r))));
        let sent =
            TransmitReason::ALL.iter().map(|r| (r.name(), r.description(), explain(Verdict::Transmit(*r))));
        passed.chain(dropped).chain(sent).collect()
    }

    #[test]
    fn each_advice_is_made_of_sentences() {
        for (name, description, Advice { normal, remedy }) in all() {
            for text in [description.trim(), normal, remedy] {
                let ends = text.ends_with('.') && !text.ends_with("..") && !text.contains("  ");
                assert!(text.is_empty() || ends, "{name}: {text:?}");
                assert!(!text.starts_with(char::is_lowercase), "{name}: {text:?}");
            }
            assert!(!normal.is_empty(), "{name}");
        }
    }

    #[test]
    fn what_should_never_happen_says_what_to_do() {
        for (name, _, Advice { normal, remedy }) in all() {
            assert!(!normal.starts_with("Never") || !remedy.is_empty(), "{name}");
        }
        let alarming = DropReason::ALL.iter().filter(|reason| reason.is_alarming());
        for reason in alarming {
            assert!(!dropped(*reason).remedy.is_empty(), "{}: the log is full of it", reason.name());
        }
    }

    #[test]
    fn no_two_reasons_share_a_name() {
        let mut names: Vec<&str> = all().into_iter().map(|(name, ..)| name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
