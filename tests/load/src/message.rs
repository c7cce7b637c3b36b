//! What goes over the wire: a request says how many bytes it wants. Pure.
//!
//! ```text
//!   request:  0      4                      128
//!             | size | zeros                 |       size: little-endian; ENDLESS: until the client closes
//!   answer:   size bytes, all zero
//! ```

/// Bytes of a request.
pub const REQUEST: usize = 128;
/// Bytes of an answer, where nothing else was asked for.
pub const ANSWER: u32 = 512;
/// The size of an answer that ends when the client closes.
pub const ENDLESS: u32 = u32::MAX;

/// A request for so many bytes.
#[must_use]
pub fn request(size: u32) -> [u8; REQUEST] {
    let mut request = [0; REQUEST];
    request[..4].copy_from_slice(&size.to_le_bytes());
    request
}

/// The requests that have come on a connection, in pieces of any size.
#[derive(Debug, Clone, Copy, Default)]
pub struct Requests {
    /// Bytes of the one that is not complete.
    have: usize,
    size: [u8; 4],
}

impl Requests {
    /// Takes the bytes that came next; returns how many bytes the requests ask for that are complete now. An
    /// [`ENDLESS`] one asks for `u64::MAX`.
    pub fn take(&mut self, mut bytes: &[u8]) -> u64 {
        let mut asked: u64 = 0;
        while !bytes.is_empty() {
            let (piece, rest) = bytes.split_at(bytes.len().min(REQUEST - self.have));
            for (at, byte) in (self.have..self.size.len()).zip(piece) {
                self.size[at] = *byte;
            }
            self.have += piece.len();
            bytes = rest;
            if self.have == REQUEST {
                self.have = 0;
                asked = match u32::from_le_bytes(self.size) {
                    ENDLESS => u64::MAX,
                    size => asked.saturating_add(size.into()),
                };
            }
        }
        asked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_understood_in_pieces_of_any_size() {
        let stream: Vec<u8> = [request(512), request(0), request(70_000)].concat();
        for piece in [1, 2, 3, 5, 127, 128, 129, 384] {
            let mut requests = Requests::default();
            let asked: Vec<u64> = stream.chunks(piece).map(|bytes| requests.take(bytes)).collect();
            assert_eq!(asked.iter().sum::<u64>(), 70_512, "pieces of {piece}");
            let first = asked.iter().position(|asked| *asked > 0);
            assert_eq!(first, Some((REQUEST - 1) / piece), "none is answered before it is complete: {piece}");
        }
    }

    #[test]
    fn an_endless_answer_stays_endless() {
        let mut requests = Requests::default();
        let stream = [request(5), request(ENDLESS), request(7)].concat();
        assert_eq!(requests.take(&stream), u64::MAX);
    }
}
