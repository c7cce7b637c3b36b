//! One question to the kernel by netlink, and its answers, without a runtime: for the families that rtnetlink does not
//! speak, and for what the kernel says in words when it refuses (extended acknowledgements).

use std::{io, os::fd::AsFd as _};

use netlink_sys::{
    Socket, SocketAddr,
    protocols::{NETLINK_GENERIC, NETLINK_ROUTE},
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// The kernel answers within the system call that asks; this is for one that does not answer at all.
const PATIENCE_MS: u16 = 2000;
/// More than any single answer (NLMSG_GOODSIZE is 8 KiB; a dump is in several).
const LARGEST_ANSWER: usize = 1 << 16;

// linux/netlink.h
const HEADER_LEN: usize = 16;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSGERR_ATTR_MSG: u16 = 1;
const NLA_F_NESTED: u16 = 0x8000;
/// Without the flags for nesting and byte order.
const NLA_TYPE_MASK: u16 = 0x3fff;
// linux/genetlink.h
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum QuestionError {
    /// No netlink socket, or none that works.
    #[error("netlink: {0}")]
    Socket(#[from] io::Error),
    /// The kernel refused.
    #[error("{error}{}", message.as_ref().map(|message| format!(": {message}")).unwrap_or_default())]
    Refused {
        /// Its error number.
        error: io::Error,
        /// What it said besides, word for word.
        message: Option<String>,
    },
    /// An answer that is none.
    #[error("the kernel's answer was not understood")]
    Malformed,
}

/// A netlink socket.
pub struct Asker {
    socket: Socket,
    sequence: u32,
}

impl Asker {
    /// For interfaces, addresses, routes.
    ///
    /// # Errors
    /// Where there is no such socket.
    pub fn route() -> Result<Self, QuestionError> {
        Self::open(NETLINK_ROUTE)
    }

    /// For the generic families.
    ///
    /// # Errors
    /// Where there is no such socket.
    pub fn generic() -> Result<Self, QuestionError> {
        Self::open(NETLINK_GENERIC)
    }

    fn open(protocol: isize) -> Result<Self, QuestionError> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        // Without the question in the answer, so that the words come right after the error number.
        socket.set_cap_ack(true)?;
        socket.set_ext_ack(true)?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Asks, and returns the payloads of all answers.
    ///
    /// # Errors
    /// [`QuestionError::Refused`] with what the kernel says, or where its answer makes no sense.
    pub fn ask(&mut self, kind: u16, flags: u16, payload: &[u8]) -> Result<Vec<Vec<u8>>, QuestionError> {
        self.sequence += 1;
        let mut message = Vec::with_capacity(HEADER_LEN + payload.len());
        let len = u32::try_from(HEADER_LEN + payload.len()).map_err(|_| QuestionError::Malformed)?;
        message.extend_from_slice(&len.to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&(NLM_F_REQUEST | NLM_F_ACK | flags).to_ne_bytes());
        message.extend_from_slice(&self.sequence.to_ne_bytes());
        message.extend_from_slice(&[0; 4]);
        message.extend_from_slice(payload);
        self.socket.send(&message, 0)?;
        let mut answers = Vec::new();
        loop {
            let datagram = self.receive()?;
            for (header, body) in messages(&datagram) {
                if header.sequence != self.sequence {
                    continue;
                }
                match header.kind {
                    NLMSG_DONE => return Ok(answers),
                    NLMSG_ERROR => return outcome(header.flags, body).map(|()| answers),
                    _ => answers.push(body.to_vec()),
                }
            }
        }
    }

    fn receive(&self) -> Result<Vec<u8>, QuestionError> {
        let mut datagram = Vec::with_capacity(LARGEST_ANSWER);
        loop {
            match self.socket.recv(&mut datagram, libc::MSG_DONTWAIT) {
                Ok(_) => return Ok(datagram),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait()?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn wait(&self) -> Result<(), QuestionError> {
        let fd = self.socket.as_fd();
        let ready = poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::from(PATIENCE_MS));
        match ready.map_err(io::Error::from)? {
            0 => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
            _ => Ok(()),
        }
    }

    /// The number of a generic family; an error where the kernel does not have it.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub fn family(&mut self, name: &str) -> Result<u16, QuestionError> {
        let mut attributes = Attributes::default();
        attributes.put(CTRL_ATTR_FAMILY_NAME, &[name.as_bytes(), &[0]].concat());
        let answers = self.ask(GENL_ID_CTRL, 0, &generic(CTRL_CMD_GETFAMILY, &attributes))?;
        let answer = answers.first().and_then(|answer| answer.get(GENERIC_HEADER_LEN..));
        let id = answer.and_then(|answer| find(answer, CTRL_ATTR_FAMILY_ID)).and_then(half);
        id.ok_or(QuestionError::Malformed)
    }
}

/// Bytes of `struct genlmsghdr`.
pub const GENERIC_HEADER_LEN: usize = 4;

/// The payload of a generic message.
pub fn generic(command: u8, attributes: &Attributes) -> Vec<u8> {
    [&[command, 1, 0, 0], attributes.bytes()].concat()
}

struct Header {
    kind: u16,
    flags: u16,
    sequence: u32,
}

fn messages(mut datagram: &[u8]) -> impl Iterator<Item = (Header, &[u8])> {
    std::iter::from_fn(move || {
        let len = datagram.get(..4).and_then(word)? as usize;
        let whole = datagram.get(..len)?;
        let body = whole.get(HEADER_LEN..)?;
        let header = Header {
            kind: whole.get(4..6).and_then(half)?,
            flags: whole.get(6..8).and_then(half)?,
            sequence: whole.get(8..12).and_then(word)?,
        };
        datagram = datagram.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((header, body))
    })
}

/// What an `NLMSG_ERROR` means. 0 is an acknowledgement.
fn outcome(flags: u16, body: &[u8]) -> Result<(), QuestionError> {
    let number = body.get(..4).and_then(word).ok_or(QuestionError::Malformed)?.cast_signed();
    if number == 0 {
        return Ok(());
    }
    let words = (flags & NLM_F_ACK_TLVS != 0).then(|| body.get(4 + HEADER_LEN..)).flatten();
    let message = words.and_then(|words| find(words, NLMSGERR_ATTR_MSG)).map(text);
    Err(QuestionError::Refused { error: io::Error::from_raw_os_error(number.saturating_neg()), message })
}

/// Attributes that are being written.
#[derive(Clone, Debug, Default)]
pub struct Attributes(Vec<u8>);

impl Attributes {
    /// Adds one.
    pub fn put(&mut self, kind: u16, value: &[u8]) {
        // The callers' values are some bytes long.
        let len = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&len.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    /// Adds one that consists of others.
    pub fn nest(&mut self, kind: u16, inner: &Self) {
        self.put(kind | NLA_F_NESTED, &inner.0);
    }

    /// What goes into the message.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The attributes in these bytes, with their kinds; ends where they make no sense any more.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(bytes.get(..2).and_then(half)?);
        let kind = bytes.get(2..4).and_then(half)? & NLA_TYPE_MASK;
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The first attribute of this kind.
pub fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// 16 bits in host order.
pub fn half(bytes: &[u8]) -> Option<u16> {
    bytes.first_chunk().map(|bytes| u16::from_ne_bytes(*bytes))
}

/// 32 bits in host order.
pub fn word(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

/// 64 bits in host order.
pub fn long(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes))
}

/// A text that ends with a zero byte.
pub fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_nested() {
        let (mut outer, mut inner) = (Attributes::default(), Attributes::default());
        inner.put(1, &[7]);
        inner.put(2, &5u32.to_ne_bytes());
        outer.nest(43, &inner);
        outer.put(3, b"eth0\0");
        assert_eq!(outer.bytes().len(), 4 + 8 + 8 + 12);
        let nested = find(outer.bytes(), 43).expect("the nest, without its flag");
        assert_eq!(find(nested, 1), Some(&[7][..]));
        assert_eq!(find(nested, 2).and_then(word), Some(5));
        assert_eq!(find(outer.bytes(), 3).map(text).as_deref(), Some("eth0"));
        assert_eq!(find(outer.bytes(), 4), None);
    }

    #[test]
    fn damaged_attributes_end_the_list() {
        for bytes in [&[0, 0, 1, 0, 9][..], &[255, 255, 1, 0], &[8, 0], &[3, 0, 1, 0]] {
            assert_eq!(attributes(bytes).count(), 0, "{bytes:?}");
        }
    }

    #[test]
    fn a_refusal_has_the_kernel_s_words() {
        let mut words = Attributes::default();
        words.put(NLMSGERR_ATTR_MSG, b"Peer MTU is too large to set XDP\0");
        let body = [&(-libc::ERANGE).to_ne_bytes()[..], &[0; HEADER_LEN], words.bytes()].concat();
        let Err(QuestionError::Refused { error, message }) = outcome(NLM_F_ACK_TLVS, &body) else {
            panic!("not refused")
        };
        assert_eq!(error.raw_os_error(), Some(libc::ERANGE));
        assert_eq!(message.as_deref(), Some("Peer MTU is too large to set XDP"));
        assert!(outcome(0, &[0; 20]).is_ok());
        assert!(matches!(outcome(0, &[0]), Err(QuestionError::Malformed)));
    }

    #[test]
    fn the_kernel_knows_the_loopback_and_says_what_it_does_not_know() {
        let mut asker = Asker::route().expect("a socket");
        // RTM_GETLINK of index 1.
        let mut loopback = [0; 16];
        loopback[4..8].copy_from_slice(&1i32.to_ne_bytes());
        let answers = asker.ask(18, 0, &loopback).expect("an answer");
        // IFLA_IFNAME
        assert_eq!(
            answers.first().and_then(|answer| find(&answer[16..], 3)).map(text).as_deref(),
            Some("lo")
        );
        loopback[4..8].copy_from_slice(&i32::MAX.to_ne_bytes());
        assert!(matches!(asker.ask(18, 0, &loopback), Err(QuestionError::Refused { .. })));
        assert!(Asker::generic().expect("a socket").family("no-such-thing").is_err());
    }
}
