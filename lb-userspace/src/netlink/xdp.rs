//! The XDP programs of an interface, and the way to attach one by netlink: unlike a BPF link it says in words why not.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use super::question::{Asker, Attributes, QuestionError, attributes, find, text, word};

// linux/rtnetlink.h, linux/if_link.h
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
/// Bytes of `struct ifinfomsg`, whose index is at 4.
const IFINFO_LEN: usize = 16;
const IFLA_MTU: u16 = 4;
const IFLA_XDP: u16 = 43;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_XDP_FD: u16 = 1;
const IFLA_XDP_FLAGS: u16 = 3;
const IFLA_XDP_DRV_PROG_ID: u16 = 5;
const IFLA_XDP_SKB_PROG_ID: u16 = 6;
const IFLA_XDP_HW_PROG_ID: u16 = 7;
const IFLA_XDP_EXPECTED_FD: u16 = 8;
const XDP_FLAGS_UPDATE_IF_NOEXIST: u32 = 1;
const XDP_FLAGS_DRV_MODE: u32 = 4;
const XDP_FLAGS_REPLACE: u32 = 16;

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the driver.
    Driver,
    /// In the stack.
    Stack,
    /// On the card.
    Card,
}

/// An interface, as far as XDP is concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct XdpLink {
    /// Its name.
    pub name: String,
    /// Largest IP packet in bytes.
    pub mtu: u32,
    /// What kind of virtual interface it is; `None` for a real one.
    pub kind: Option<String>,
    /// Its programs' kernel-wide ids.
    pub programs: Vec<(Place, u32)>,
}

/// The interface with this index.
///
/// # Errors
/// Where it does not exist.
pub fn link(index: u32) -> Result<XdpLink, QuestionError> {
    let answers = Asker::route()?.ask(RTM_GETLINK, 0, &ifinfo(index))?;
    let answer =
        answers.first().and_then(|answer| answer.get(IFINFO_LEN..)).ok_or(QuestionError::Malformed)?;
    Ok(link_of(answer))
}

fn link_of(answer: &[u8]) -> XdpLink {
    let kind = find(answer, IFLA_LINKINFO).and_then(|info| find(info, IFLA_INFO_KIND)).map(text);
    let programs = attributes(find(answer, IFLA_XDP).unwrap_or_default()).filter_map(|(kind, id)| {
        let place = match kind {
            IFLA_XDP_DRV_PROG_ID => Place::Driver,
            IFLA_XDP_SKB_PROG_ID => Place::Stack,
            IFLA_XDP_HW_PROG_ID => Place::Card,
            _ => return None,
        };
        Some((place, word(id)?))
    });
    XdpLink {
        name: find(answer, IFLA_IFNAME).map(text).unwrap_or_default(),
        mtu: find(answer, IFLA_MTU).and_then(word).unwrap_or(0),
        kind,
        programs: programs.collect(),
    }
}

/// Attaches a program in native mode where none is attached, and takes it off again at once.
///
/// # Errors
/// Where the kernel refuses, with what it says.
pub fn try_native(index: u32, program: BorrowedFd<'_>) -> Result<(), QuestionError> {
    let mut asker = Asker::route()?;
    let fd = program.as_raw_fd();
    asker.ask(
        RTM_SETLINK,
        0,
        &set(
            index,
            &[
                (IFLA_XDP_FD, fd),
                (IFLA_XDP_FLAGS, (XDP_FLAGS_UPDATE_IF_NOEXIST | XDP_FLAGS_DRV_MODE).cast_signed()),
            ],
        ),
    )?;
    // Only if it is still ours.
    asker.ask(
        RTM_SETLINK,
        0,
        &set(
            index,
            &[
                (IFLA_XDP_FD, -1),
                (IFLA_XDP_EXPECTED_FD, fd),
                (IFLA_XDP_FLAGS, (XDP_FLAGS_REPLACE | XDP_FLAGS_DRV_MODE).cast_signed()),
            ],
        ),
    )?;
    Ok(())
}

fn set(index: u32, words: &[(u16, i32)]) -> Vec<u8> {
    let (mut outer, mut inner) = (Attributes::default(), Attributes::default());
    for (kind, value) in words {
        inner.put(*kind, &value.to_ne_bytes());
    }
    outer.nest(IFLA_XDP, &inner);
    [&ifinfo(index)[..], outer.bytes()].concat()
}

fn ifinfo(index: u32) -> [u8; IFINFO_LEN] {
    let mut header = [0; IFINFO_LEN];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_come_with_their_places() {
        let (mut outer, mut inner, mut info) =
            (Attributes::default(), Attributes::default(), Attributes::default());
        inner.put(2, &[4]);
        inner.put(IFLA_XDP_DRV_PROG_ID, &7u32.to_ne_bytes());
        inner.put(IFLA_XDP_SKB_PROG_ID, &9u32.to_ne_bytes());
        info.put(IFLA_INFO_KIND, b"veth\0");
        outer.put(IFLA_IFNAME, b"eth0\0");
        outer.put(IFLA_MTU, &1500u32.to_ne_bytes());
        outer.nest(IFLA_XDP, &inner);
        outer.nest(IFLA_LINKINFO, &info);
        let expected = XdpLink {
            name: "eth0".to_owned(),
            mtu: 1500,
            kind: Some("veth".to_owned()),
            programs: vec![(Place::Driver, 7), (Place::Stack, 9)],
        };
        assert_eq!(link_of(outer.bytes()), expected);
    }

    #[test]
    fn the_loopback_has_no_program() {
        let lo = link(1).expect("the loopback");
        assert_eq!((lo.name.as_str(), lo.kind, lo.programs), ("lo", None, vec![]));
        assert!(link(u32::MAX >> 1).is_err());
    }
}
