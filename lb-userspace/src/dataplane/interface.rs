//! What the data plane has to know about an interface: its Ethernet address, whether its driver sends what XDP tells it
//! to, and that XDP sees its VLAN tags.
//!
//! Asked of the kernel by netlink and ioctl, not read from `/sys`: a process in another network namespace may still see
//! the former one's there.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
};

use lb_common::wire::Mac;
use nix::{
    ifaddrs::getifaddrs,
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};

/// The interface's Ethernet address.
///
/// # Errors
///
/// Where it has none.
pub fn mac(interface: &str) -> io::Result<Mac> {
    getifaddrs()?
        .filter(|entry| entry.interface_name == interface)
        .find_map(|entry| entry.address?.as_link_addr()?.addr())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not an Ethernet interface"))
}

/// Names of the drivers' counters for frames that XDP said to send and that were not sent: veth, virtio_net, mlx5; and
/// veth's for those that another interface's program said to send here.
const TRANSMIT_FAILURES: [&str; 4] = ["xdp_tx_err", "xdp_tx_drop", "xdp_tx_full", "xdp_xmit_err"];

/// How many frames XDP has said to send and the drivers of these interfaces have not, since they exist; `None` where no
/// driver counts them. A VLAN sub-interface has no such counters: its parent has.
pub fn transmit_failures<'a>(interfaces: impl IntoIterator<Item = &'a str>) -> Option<u64> {
    interfaces.into_iter().filter_map(failures_of).reduce(u64::saturating_add)
}

fn failures_of(interface: &str) -> Option<u64> {
    let counters = driver_counters(interface).ok()?;
    sum_of_failures(&counters)
}

fn sum_of_failures(counters: &[(String, u64)]) -> Option<u64> {
    let mut failures = counters
        .iter()
        .filter(|(name, _)| TRANSMIT_FAILURES.iter().any(|word| name.contains(word)))
        .peekable();
    failures.peek()?;
    Some(failures.fold(0, |sum: u64, (_, count)| sum.saturating_add(*count)))
}

/// Has an interface leave VLAN tags in the frames: most take them out before XDP sees the frame, and put them beside it.
/// Returns whether that is a change.
///
/// # Errors
///
/// Where the driver cannot, or there is no such interface.
pub fn keep_vlan_tags(interface: &str) -> io::Result<bool> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut flags = request(&[ETHTOOL_GFLAGS], ETHTOOL_VALUE_LEN);
    ethtool(&socket, interface, &mut flags)?;
    let flags = word_at(&flags, 4);
    if flags & ETH_FLAG_RXVLAN == 0 {
        return Ok(false);
    }
    let mut flags = request(&[ETHTOOL_SFLAGS, flags & !ETH_FLAG_RXVLAN], ETHTOOL_VALUE_LEN);
    ethtool(&socket, interface, &mut flags)?;
    Ok(true)
}

// From the kernel's include/uapi/linux/ethtool.h.
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_SFLAGS: u32 = 0x26;
const ETH_FLAG_RXVLAN: u32 = 1 << 8;
/// `sizeof(struct ethtool_value)`.
const ETHTOOL_VALUE_LEN: usize = 8;
const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSTATS: u32 = 0x1d;
const ETH_SS_STATS: u32 = 1;
const ETH_GSTRING_LEN: usize = 32;
/// `sizeof(struct ethtool_drvinfo)`, and where its `n_stats` is.
const DRVINFO_LEN: usize = 196;
const DRVINFO_N_STATS: usize = 180;
/// And where the driver's name is.
const DRVINFO_DRIVER: std::ops::Range<usize> = 4..36;
/// More counters than any driver has.
const COUNTERS_AT_MOST: usize = 1 << 16;

/// The name of the interface's driver (`ethtool -i`).
///
/// # Errors
///
/// Where it does not tell, or there is no such interface.
pub fn driver(interface: &str) -> io::Result<String> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut info = request(&[ETHTOOL_GDRVINFO], DRVINFO_LEN);
    ethtool(&socket, interface, &mut info)?;
    let info = bytes(&info);
    let name = &info[DRVINFO_DRIVER];
    let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    Ok(String::from_utf8_lossy(&name[..end]).into_owned())
}

/// The driver's own counters (`ethtool -S`).
fn driver_counters(interface: &str) -> io::Result<Vec<(String, u64)>> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;

    let mut info = request(&[ETHTOOL_GDRVINFO], DRVINFO_LEN);
    ethtool(&socket, interface, &mut info)?;
    let count = word_at(&info, DRVINFO_N_STATS) as usize;
    if count == 0 || count > COUNTERS_AT_MOST {
        return Ok(Vec::new());
    }

    let mut names = request(&[ETHTOOL_GSTRINGS, ETH_SS_STATS, count as u32], 12 + count * ETH_GSTRING_LEN);
    ethtool(&socket, interface, &mut names)?;
    let mut values = request(&[ETHTOOL_GSTATS, count as u32], 8 + count * 8);
    ethtool(&socket, interface, &mut values)?;

    let names = bytes(&names).split_off(12);
    let names = names.chunks(ETH_GSTRING_LEN).map(|name| {
        let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
        String::from_utf8_lossy(&name[..end]).into_owned()
    });
    Ok(names.zip(values.into_iter().skip(1)).take(count).collect())
}

/// A buffer of at least `len` bytes that begins with `words`. Of `u64`, so that the kernel's structures are aligned.
fn request(words: &[u32], len: usize) -> Vec<u64> {
    let mut buffer = vec![0u64; len.div_ceil(8)];
    for (pair, word) in words.chunks(2).zip(&mut buffer) {
        let mut octets = [0; 8];
        for (octets, word) in octets.chunks_mut(4).zip(pair) {
            octets.copy_from_slice(&word.to_ne_bytes());
        }
        *word = u64::from_ne_bytes(octets);
    }
    buffer
}

fn bytes(buffer: &[u64]) -> Vec<u8> {
    buffer.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn word_at(buffer: &[u64], offset: usize) -> u32 {
    let octets = buffer[offset / 8].to_ne_bytes();
    let (low, high) = octets.split_at(4);
    let half = if offset.is_multiple_of(8) { low } else { high };
    u32::from_ne_bytes([half[0], half[1], half[2], half[3]])
}

/// One `SIOCETHTOOL` request. The buffer is as long as the command in its first word needs.
fn ethtool(socket: &OwnedFd, interface: &str, buffer: &mut [u64]) -> io::Result<()> {
    let mut name = [0; libc::IFNAMSIZ];
    // One byte stays zero.
    for (place, byte) in name.iter_mut().take(libc::IFNAMSIZ - 1).zip(interface.bytes()) {
        *place = byte as libc::c_char;
    }
    let mut request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: buffer.as_mut_ptr().cast() },
    };
    // SAFETY: `request` and the buffer it points to live through the call; the callers make the buffer as long as the
    // kernel writes for its command and count.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_begins_with_its_words() {
        let buffer = request(&[ETHTOOL_GSTRINGS, ETH_SS_STATS, 7], 12 + 7 * ETH_GSTRING_LEN);
        assert_eq!(buffer.len() * 8, 240);
        assert_eq!([0, 4, 8, 12].map(|offset| word_at(&buffer, offset)), [0x1b, 1, 7, 0]);
    }

    #[test]
    fn failures_of_all_queues_count_and_none_is_not_zero() {
        let counters = |rows: &[(&str, u64)]| -> Vec<(String, u64)> {
            rows.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
        };
        let veth = counters(&[
            ("rx_queue_0_xdp_tx", 9),
            ("rx_queue_0_xdp_tx_errors", 2),
            ("rx_queue_1_xdp_tx_errors", 3),
        ]);
        assert_eq!(sum_of_failures(&veth), Some(5));
        assert_eq!(sum_of_failures(&counters(&[("rx_queue_0_xdp_tx_errors", 0)])), Some(0));
        assert_eq!(sum_of_failures(&counters(&[("tx_packets", 7)])), None);
    }

    #[test]
    fn the_loopback_counts_no_failures() {
        assert_eq!(transmit_failures(["lo", "no-such-if"]), None);
        assert!(mac("no-such-if").is_err());
        assert!(keep_vlan_tags("no-such-if").is_err());
        assert!(driver("no-such-if").is_err());
    }
}
