//! Why a packet was passed, dropped or sent: one name and one counter for each reason.
//!
//! The names are a contract: `status`, metrics, `trace` and the manual show them.

macro_rules! reasons {
    ($(#[$meta:meta])* $name:ident from $first:tt { $($(#[doc = $doc:literal])+ $variant:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[doc = $doc])+ $variant,)+ }

        impl $name {
            /// Every reason, in the order of the counters.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name in `status`, metrics and logs.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// The sentence that explains it to an operator.
            pub const fn description(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+)),+ }
            }

            /// Its index in the `COUNTERS` map.
            #[inline(always)]
            pub const fn counter(self) -> u32 {
                $first + self as u32
            }
        }
    };
}

/// Where the reasons to drop begin in the `COUNTERS` map.
pub const FIRST_DROP_COUNTER: u32 = 32;

/// Size of the `COUNTERS` map: 32 for each of the three kinds.
pub const COUNTERS: u32 = 96;

reasons! {
    /// Why a packet was left to the host, untouched.
    PassReason from 0 {
        /// Neither IPv4 nor IPv6 nor ARP.
        NotIp = "not-ip",
        /// ARP.
        Arp = "arp",
        /// The destination is not a VIP.
        NotVip = "not-vip",
        /// The frame is for another host's Ethernet address: a switch flooded it.
        OtherHost = "other-host",
        /// For a VIP, but not TCP: the host answers (ping, for one).
        NotTcp = "not-tcp",
        /// TCP for a VIP, but neither for a service nor of a flow: the host answers.
        NoService = "no-service",
        /// The frame is too short to tell whether it is for a VIP.
        TooShort = "too-short",
        /// The controller has not configured the data plane yet.
        NotConfigured = "not-configured",
        /// The frame is of a VLAN that the interface is not in, or has more than two tags.
        OtherVlan = "other-vlan",
        /// The backend is this very node: its own API server answers.
        LocalBackend = "local-backend",
        /// An ICMP error about something else than a flow of ours.
        IcmpUnrelated = "icmp-unrelated",
        /// A neighbour solicitation.
        NeighbourSolicitation = "neighbour-solicitation",
        /// A neighbour advertisement.
        NeighbourAdvertisement = "neighbour-advertisement",
        /// Another node says in ARP or neighbour discovery that a VIP is its own; on a standby node that is as it should be.
        ForeignClaim = "foreign-claim",
        /// ARP about a VIP that no sender means: not of IPv4 over Ethernet, or with an address that nobody has.
        BadArp = "bad-arp",
        /// Neighbour discovery that has passed a router, is cut short, or has a wrong checksum (RFC 4861 §7.1).
        BadNeighbour = "bad-neighbour",
        /// A VRRP advertisement.
        Vrrp = "vrrp",
        /// VRRP that has passed a router, is cut short or in parts, or has a wrong checksum; who listens counts it, too.
        BadVrrp = "bad-vrrp",
        /// Of a connection that a process on this node has: a proxy whose place xvip has taken keeps those that it began.
        HostSocket = "host-socket",
        /// Left to the host because xvip only observes (`node.observe`).
        Observed = "observed",
    }
}

reasons! {
    /// Why a packet was dropped. Only packets for a VIP are ever dropped.
    DropReason from FIRST_DROP_COUNTER {
        /// IP version, header length or total length contradict the frame.
        BadIpHeader = "bad-ip-header",
        /// The checksum of the IP header is wrong.
        BadIpChecksum = "bad-ip-checksum",
        /// A fragment whose first fragment was not seen before it.
        FragmentUnknown = "fragment-unknown",
        /// A fragment that would overlap the TCP header of the first one, or whose first one has none (RFC 1858).
        BadFragment = "bad-fragment",
        /// IPv6 extension headers that are cut short, too many, or of an unknown kind.
        BadExtension = "bad-extension",
        /// No hop left, and no ICMP error was due.
        TtlExpired = "ttl-expired",
        /// Larger than the way to the backend allows, and no ICMP error was due.
        TooBig = "too-big",
        /// The TCP header is cut short or its length contradicts the datagram.
        BadTcpHeader = "bad-tcp-header",
        /// A combination of TCP flags that no sender makes, such as SYN with FIN.
        BadTcpFlags = "bad-tcp-flags",
        /// An ICMP error about a flow of ours, but for somebody else or cut short.
        BadIcmp = "bad-icmp",
        /// A source address or port that nobody can answer to, such as the VIP itself or a multicast group.
        BadSource = "bad-source",
        /// The source is not in the service's list of those that may connect.
        SourceNotAllowed = "source-not-allowed",
        /// The source opens more connections per second than it may.
        SourceRateLimited = "source-rate-limited",
        /// A RST of a flow that is not known.
        UnknownFlow = "unknown-flow",
        /// From a backend, of a flow that is not known yet, nor to the node that had the VIP: a RST by the host would end it.
        UnknownReply = "unknown-reply",
        /// The backend's next hop is not resolved; the controller is at it.
        NextHopUnknown = "next-hop-unknown",
        /// Every backend has all the connections that it may have, and the service says to drop.
        AllBackendsFull = "all-backends-full",
        /// Every NAT port tried towards the backend is in use.
        NatPortsExhausted = "nat-ports-exhausted",
        /// The table of established flows is full.
        FlowTableFull = "flow-table-full",
        /// ARP or a neighbour solicitation for a VIP while this node's controller is not running: another node may own
        /// the VIP by now.
        Fenced = "fenced",
        /// The maps contradict each other, or a frame could not be resized; a fault of xvip.
        Internal = "internal",
    }
}

reasons! {
    /// Why a packet was sent.
    TransmitReason from 64 {
        /// Forwarded from a client to a backend.
        ToBackend = "to-backend",
        /// Forwarded from a backend to a client.
        ToClient = "to-client",
        /// Answered with a RST: no backend is up.
        ResetNoBackend = "reset-no-backend",
        /// Answered with a RST: no SYN, and of no flow that is known.
        ResetUnknownFlow = "reset-unknown-flow",
        /// Answered with a RST: every backend has all the connections that it may have.
        ResetAllFull = "reset-all-full",
        /// Answered with an ICMP error: no hop left.
        TimeExceeded = "time-exceeded",
        /// Answered with an ICMP error: larger than the way to the backend allows.
        PacketTooBig = "packet-too-big",
        /// An ICMP error about a flow, forwarded to its backend.
        IcmpToBackend = "icmp-to-backend",
        /// An ICMP error about a flow, forwarded to its client.
        IcmpToClient = "icmp-to-client",
        /// An ARP request for a VIP, answered with the virtual router's Ethernet address.
        ArpReply = "arp-reply",
        /// A neighbour solicitation for a VIP, answered with the virtual router's Ethernet address.
        NeighbourReply = "neighbour-reply",
        /// Answered with a RST: xvip has ended the flow (its backend is dead, or `xvip backend`, or a rebalance).
        ResetSevered = "reset-severed",
        /// From a backend, of a flow that is not known, while the VIP moves: sent on to the node that had it, or has it now.
        ToOtherNode = "to-other-node",
    }
}

impl DropReason {
    /// Whether it is a fault of the node or its surroundings rather than of the packet: the log says so.
    #[inline(always)]
    pub const fn is_alarming(self) -> bool {
        matches!(
            self,
            Self::NextHopUnknown
                | Self::AllBackendsFull
                | Self::NatPortsExhausted
                | Self::FlowTableFull
                | Self::Internal
        )
    }
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The host's network stack gets it, untouched.
    Pass(PassReason),
    /// Nobody gets it.
    Drop(DropReason),
    /// It goes out, rewritten, by the interface that the frame was told ([`crate::frame::Frame::leave_by`]).
    Transmit(TransmitReason),
}

impl Verdict {
    /// The index of its reason in the `COUNTERS` map.
    #[inline(always)]
    pub const fn counter(self) -> u32 {
        match self {
            Self::Pass(reason) => reason.counter(),
            Self::Drop(reason) => reason.counter(),
            Self::Transmit(reason) => reason.counter(),
        }
    }
}

const _: () = {
    assert!(PassReason::ALL.len() <= 32 && DropReason::ALL.len() <= 32 && TransmitReason::ALL.len() <= 32);
};
