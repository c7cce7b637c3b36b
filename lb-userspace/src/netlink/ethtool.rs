//! What a driver can do and is set to: offloads and queues (genetlink family `ethtool`, Linux 5.6), and what it can do
//! with XDP (family `netdev`, Linux 6.3).

use std::collections::BTreeMap;

use super::question::{
    Asker, Attributes, GENERIC_HEADER_LEN, QuestionError, attributes, find, generic, long, text, word,
};

// linux/ethtool_netlink.h
const ETHTOOL_MSG_FEATURES_GET: u8 = 11;
const ETHTOOL_MSG_CHANNELS_GET: u8 = 17;
/// Of every message: the header attribute, and in it the interface's name.
const HEADER: u16 = 1;
const HEADER_DEV_NAME: u16 = 2;
const FEATURES_ACTIVE: u16 = 4;
const FEATURES_NOCHANGE: u16 = 5;
const FEATURES_HW: u16 = 2;
const BITSET_NOMASK: u16 = 1;
const BITSET_BITS: u16 = 3;
const BIT_NAME: u16 = 2;
const BIT_VALUE: u16 = 3;
const CHANNELS_RX_MAX: u16 = 2;
const CHANNELS_COMBINED_MAX: u16 = 5;
const CHANNELS_RX_COUNT: u16 = 6;
const CHANNELS_COMBINED_COUNT: u16 = 9;
// linux/netdev.h
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;

/// `NETDEV_XDP_ACT_BASIC`: aborted, drop, pass, transmit.
pub const XDP_BASIC: u64 = 1;
/// `NETDEV_XDP_ACT_REDIRECT`
pub const XDP_REDIRECT: u64 = 2;
/// `NETDEV_XDP_ACT_NDO_XMIT`: others may redirect to it.
pub const XDP_TARGET: u64 = 4;

/// An offload, by the name that `ethtool -k` has for it in the kernel (`rx-lro`, `rx-gro-hw`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Feature {
    /// Whether it is on.
    pub on: bool,
    /// Whether it can be changed.
    pub changeable: bool,
}

/// Receive queues; those that also transmit are counted, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queues {
    /// How many there are.
    pub receive: u32,
    /// How many there may be.
    pub receive_max: u32,
}

/// The offloads of an interface.
///
/// # Errors
/// Where the kernel does not tell.
pub fn features(interface: &str) -> Result<BTreeMap<String, Feature>, QuestionError> {
    let answer = ethtool(ETHTOOL_MSG_FEATURES_GET, interface)?;
    let set = |kind| find(&answer, kind).map(names).unwrap_or_default();
    let (hardware, active, fixed) = (set(FEATURES_HW), set(FEATURES_ACTIVE), set(FEATURES_NOCHANGE));
    let all = hardware.iter().chain(&active).cloned();
    Ok(all
        .map(|name| {
            let changeable = hardware.contains(&name) && !fixed.contains(&name);
            let on = active.contains(&name);
            (name, Feature { on, changeable })
        })
        .collect())
}

/// The queues of an interface.
///
/// # Errors
/// Where the driver does not tell.
pub fn queues(interface: &str) -> Result<Queues, QuestionError> {
    let answer = ethtool(ETHTOOL_MSG_CHANNELS_GET, interface)?;
    let number = |kind| find(&answer, kind).and_then(word).unwrap_or(0);
    Ok(Queues {
        receive: number(CHANNELS_RX_COUNT) + number(CHANNELS_COMBINED_COUNT),
        receive_max: number(CHANNELS_RX_MAX) + number(CHANNELS_COMBINED_MAX),
    })
}

/// What the driver of the interface with this index can do with XDP: `XDP_BASIC` and so on.
///
/// # Errors
/// Where the kernel does not tell; before Linux 6.3 it never does.
pub fn xdp_features(index: u32) -> Result<u64, QuestionError> {
    let mut asker = Asker::generic()?;
    let family = asker.family("netdev")?;
    let mut question = Attributes::default();
    question.put(NETDEV_A_DEV_IFINDEX, &index.to_ne_bytes());
    let answers = asker.ask(family, 0, &generic(NETDEV_CMD_DEV_GET, &question))?;
    let answer = answers.first().and_then(|answer| answer.get(GENERIC_HEADER_LEN..));
    let features = answer.and_then(|answer| find(answer, NETDEV_A_DEV_XDP_FEATURES)).and_then(long);
    features.ok_or(QuestionError::Malformed)
}

fn ethtool(command: u8, interface: &str) -> Result<Vec<u8>, QuestionError> {
    let mut asker = Asker::generic()?;
    let family = asker.family("ethtool")?;
    let (mut question, mut header) = (Attributes::default(), Attributes::default());
    header.put(HEADER_DEV_NAME, &[interface.as_bytes(), &[0]].concat());
    question.nest(HEADER, &header);
    let mut answers = asker.ask(family, 0, &generic(command, &question))?;
    match answers.pop() {
        Some(mut answer) if answer.len() >= GENERIC_HEADER_LEN => Ok(answer.split_off(GENERIC_HEADER_LEN)),
        _ => Err(QuestionError::Malformed),
    }
}

/// The names of the bits that are set, from a bit set in its long form.
fn names(set: &[u8]) -> Vec<String> {
    let list_is_of_set_ones = find(set, BITSET_NOMASK).is_some();
    let bits = attributes(find(set, BITSET_BITS).unwrap_or_default()).map(|(_, bit)| bit);
    let set = bits.filter(|bit| list_is_of_set_ones || find(bit, BIT_VALUE).is_some());
    set.filter_map(|bit| find(bit, BIT_NAME).map(text)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bit(name: &str, value: bool) -> Attributes {
        let mut bit = Attributes::default();
        bit.put(BIT_NAME, &[name.as_bytes(), &[0]].concat());
        if value {
            bit.put(BIT_VALUE, &[]);
        }
        bit
    }

    #[test]
    fn a_bit_set_is_a_list_of_those_that_are_set_or_says_which() {
        let set = |nomask: bool, bits: &[Attributes]| {
            let (mut set, mut list) = (Attributes::default(), Attributes::default());
            if nomask {
                set.put(BITSET_NOMASK, &[]);
            }
            for bit in bits {
                list.nest(1, bit);
            }
            set.nest(BITSET_BITS, &list);
            names(set.bytes())
        };
        let bits = [bit("rx-lro", false), bit("rx-gro", true)];
        assert_eq!(set(true, &bits), ["rx-lro", "rx-gro"]);
        assert_eq!(set(false, &bits), ["rx-gro"]);
    }

    #[test]
    fn the_loopback_has_offloads_and_no_queues() {
        let features = features("lo").expect("offloads");
        assert!(features.contains_key("rx-gro"), "{features:?}");
        assert!(queues("lo").is_err());
        assert!(super::features("no-such-if").is_err());
    }
}
