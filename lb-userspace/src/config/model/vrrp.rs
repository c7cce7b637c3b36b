//! `[[vrrp]]`: virtual routers.

use std::{
    net::IpAddr,
    num::NonZeroU8,
    path::{Path, PathBuf},
    time::Duration,
};

use schemars::JsonSchema;
use serde::Serialize;

use super::as_text;

/// Default of `vrrp.version`.
pub const DEFAULT_VRRP_VERSION: VrrpVersion = VrrpVersion::V3;
/// Default of `vrrp.priority` (RFC 9568 §5.2.4).
pub const DEFAULT_PRIORITY: NonZeroU8 = NonZeroU8::new(100).unwrap();
/// Default of `vrrp.preempt`.
pub const DEFAULT_PREEMPT: bool = true;
/// Default of `vrrp.preempt_delay`.
pub const DEFAULT_PREEMPT_DELAY: Duration = Duration::ZERO;
/// Default of `vrrp.advert_interval` for version 3.
pub const DEFAULT_ADVERT_INTERVAL_V3: Duration = Duration::from_millis(200);
/// Default of `vrrp.advert_interval` for version 2, which can only say whole seconds (RFC 3768 §5.3.7).
pub const DEFAULT_ADVERT_INTERVAL_V2: Duration = Duration::from_secs(1);
/// Default of `vrrp.virtual_mac`.
pub const DEFAULT_VIRTUAL_MAC: bool = false;
/// Default of `vrrp.track.user`: a program that looks at something needs no rights.
pub const DEFAULT_TRACK_USER: &str = "nobody";
/// Default of `vrrp.track.interval`.
pub const DEFAULT_TRACK_INTERVAL: Duration = Duration::from_secs(2);
/// Default of `vrrp.track.rise` and `vrrp.track.fall`.
pub const DEFAULT_TRACK_COUNT: u32 = 1;
/// Default of `vrrp.track.weight`: a failure means Fault.
pub const DEFAULT_TRACK_WEIGHT: i16 = 0;
/// The largest `vrrp.track.weight` and, negative, the smallest.
pub const MAX_TRACK_WEIGHT: i16 = 253;
/// The shortest `vrrp.auth_hmac.time_window`.
pub const MIN_TIME_WINDOW: Duration = Duration::from_secs(1);
/// The longest.
pub const MAX_TIME_WINDOW: Duration = Duration::from_secs(300);

/// Default of `vrrp.auth_hmac.time_window`: three intervals without their fractions of a second, at least 5 s, as
/// keepalived has it.
pub fn default_time_window(advert_interval: Duration) -> Duration {
    Duration::from_secs(advert_interval.as_secs().saturating_mul(3).max(5)).min(MAX_TIME_WINDOW)
}

/// `[[vrrp]]`: a virtual router.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct VrrpInstance {
    /// Unique name.
    pub name: String,
    /// Protocol version on the wire.
    pub version: VrrpVersion,
    /// VRID, 1 to 255, unique among the instances of a family: IPv4 and IPv6 virtual routers have nothing to do with
    /// each other (RFC 9568 §1).
    pub virtual_router_id: NonZeroU8,
    /// 1 to 255; 255 is the address owner (RFC 9568 §5.2.4).
    pub priority: NonZeroU8,
    /// Time between advertisements: whole seconds for version 2, 10 ms to 40.95 s in steps of 10 ms for version 3.
    #[serde(serialize_with = "as_text")]
    #[schemars(with = "String")]
    pub advert_interval: Duration,
    /// Whether a higher priority takes over from a working lower one.
    pub preempt: bool,
    /// How long to wait before pre-empting.
    #[serde(serialize_with = "as_text")]
    #[schemars(with = "String")]
    pub preempt_delay: Duration,
    /// Source of our advertisements, of the instance's family ([`family_of`]); by default the interface's first address of that family,
    /// with multicast over IPv6 its link-local one (RFC 9568 §5.1.2.1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unicast_source: Option<IpAddr>,
    /// Peers, of the instance's family; empty means multicast to 224.0.0.18 or ff02::12.
    pub unicast_peers: Vec<IpAddr>,
    /// Version 2 only: the simple password, at most 8 bytes (RFC 2338 §5.3.10), as keepalived still speaks it.
    #[serde(skip_serializing)]
    pub auth_pass: Option<String>,
    /// HMAC-SHA256 over each advertisement, as keepalived 2.4.2 and later speak it. Never together with `auth_pass`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auth_hmac: Option<AuthHmac>,
    /// Which checksum we send with version 3 over IPv4; both are accepted.
    pub checksum: VrrpChecksum,
    /// Instances of one group are Active together or not at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sync_group: Option<String>,
    /// Whether the VIPs have the virtual router's own Ethernet address (RFC 9568 §7.3), which the data plane answers for.
    pub virtual_mac: bool,
    /// Who must answer a ping before this node takes over from a router that it does not hear any more: usually the
    /// gateway. One of them is enough; empty: nobody.
    #[serde(rename = "witness")]
    pub witnesses: Vec<IpAddr>,
    /// What else the instance depends on, beside our own data plane and interface.
    #[serde(rename = "track")]
    pub tracks: Vec<Track>,
}

impl VrrpInstance {
    /// One with every default.
    pub fn new(name: &str, virtual_router_id: NonZeroU8) -> Self {
        Self {
            name: name.to_owned(),
            version: DEFAULT_VRRP_VERSION,
            virtual_router_id,
            priority: DEFAULT_PRIORITY,
            advert_interval: DEFAULT_ADVERT_INTERVAL_V3,
            preempt: DEFAULT_PREEMPT,
            preempt_delay: DEFAULT_PREEMPT_DELAY,
            unicast_source: None,
            unicast_peers: Vec::new(),
            auth_pass: None,
            auth_hmac: None,
            checksum: VrrpChecksum::default(),
            sync_group: None,
            virtual_mac: DEFAULT_VIRTUAL_MAC,
            witnesses: Vec::new(),
            tracks: Vec::new(),
        }
    }
}

/// `[vrrp.auth_hmac]`: draft-cassen-vrrp-auth-hmac, with keepalived's key words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct AuthHmac {
    /// At least one, with ids of their own.
    #[serde(rename = "key")]
    pub keys: Vec<HmacKey>,
    /// The id, one of those in `keys`, of the key that we sign with.
    pub active_key: NonZeroU8,
    /// Who must sign.
    pub mode: AuthMode,
    /// What tells an old advertisement from a new one.
    pub anti_replay: AntiReplay,
    /// How far the sender's wall clock may be from ours, 1 to 300 s; only for [`AntiReplay::Time`].
    #[serde(serialize_with = "as_text")]
    #[schemars(with = "String")]
    pub time_window: Duration,
}

/// `[[vrrp.auth_hmac.key]]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct HmacKey {
    /// Its number on the wire.
    pub id: NonZeroU8,
    /// What the members share.
    #[serde(skip_serializing)]
    #[schemars(skip)]
    pub secret: HmacSecret,
}

/// The secret of an HMAC key: [`Self::MIN`] to [`Self::MAX`] bytes. Not for logs.
#[derive(Clone, PartialEq, Eq)]
pub struct HmacSecret {
    bytes: Vec<u8>,
    file: Option<PathBuf>,
}

impl HmacSecret {
    /// The fewest bytes.
    pub const MIN: usize = 32;
    /// The most bytes.
    pub const MAX: usize = 64;

    /// `None` if it is too short or too long.
    pub fn new(bytes: Vec<u8>) -> Option<Self> {
        (Self::MIN..=Self::MAX).contains(&bytes.len()).then_some(Self { bytes, file: None })
    }

    /// The same secret, known to come from `file`.
    #[must_use]
    pub fn from_file(self, file: PathBuf) -> Self {
        Self { file: Some(file), ..self }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The file that holds it; none where it is in the configuration itself.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }
}

impl std::fmt::Debug for HmacSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HmacSecret(..)")
    }
}

/// `vrrp.auth_hmac.mode`: the steps in which a running group begins to sign without a gap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AuthMode {
    /// We do not sign; who does is verified.
    ReceiveOnly,
    /// We sign; who does not is accepted.
    Permissive,
    /// We sign; who does not is ignored.
    #[default]
    Enforce,
}

/// `vrrp.auth_hmac.anti_replay`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AntiReplay {
    /// The sender's time must be near ours, and its sequence must grow.
    #[default]
    Time,
    /// The sender's sequence must grow.
    Monotonic,
}

/// `[[vrrp.track]]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Track {
    /// What is looked at.
    #[serde(flatten)]
    pub what: Tracked,
    /// keepalived's sign rule, -253 to 253: a positive weight is added to the priority while all is well, a negative one
    /// while it is not. With 0 a failure means Fault.
    pub weight: i16,
}

/// What is looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Tracked {
    /// An interface: whether it is up and has a carrier.
    Interface {
        /// Its name; it need not be one of `node.interfaces`.
        interface: String,
    },
    /// A program: whether it ends with 0.
    Script {
        /// The program, by its absolute path, and its arguments.
        command: Vec<String>,
        /// Who runs it.
        user: String,
        /// From start to start.
        #[serde(serialize_with = "as_text")]
        #[schemars(with = "String")]
        interval: Duration,
        /// It is killed then, and has failed.
        #[serde(serialize_with = "as_text")]
        #[schemars(with = "String")]
        timeout: Duration,
        /// Successes in a row after which all is well.
        rise: u32,
        /// Failures in a row after which it is not.
        fall: u32,
    },
}

/// VRRP protocol version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(into = "u8")]
pub enum VrrpVersion {
    /// RFC 3768, with the simple password of RFC 2338 as keepalived speaks it.
    V2,
    /// RFC 9568.
    V3,
}

impl From<VrrpVersion> for u8 {
    fn from(version: VrrpVersion) -> Self {
        match version {
            VrrpVersion::V2 => 2,
            VrrpVersion::V3 => 3,
        }
    }
}

/// What the checksum of a version 3 advertisement over IPv4 covers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VrrpChecksum {
    /// A pseudo-header and the message: what keepalived sends unless told `v3_checksum_as_v2`.
    #[default]
    Keepalived,
    /// The message alone (RFC 9568 §5.2.8).
    Rfc9568,
}
