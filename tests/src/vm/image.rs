//! The kernel inside a `bzImage`: where it is, and how it is packed (the kernel's
//! `Documentation/arch/x86/boot.rst`). QEMU boots what comes out of it by the PVH entry; unpacking it there, under
//! emulation, is what would take long.

use std::ops::Range;

/// Why a file is not a kernel that we can unpack.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ImageError {
    /// It does not begin like a kernel of boot protocol 2.08 or later.
    #[error("this is no x86 kernel image of boot protocol 2.08 or later")]
    NotAnImage,
    /// Its header points out of the file.
    #[error("the header says that the packed kernel is at {0:?}, and the file ends before that")]
    Truncated(Range<usize>),
    /// It is packed in a form that we do not know.
    #[error("the packed kernel begins with {0:02x?}, which is neither LZ4, Zstandard nor XZ")]
    UnknownPacking([u8; 4]),
}

/// How a kernel or a module is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// LZ4, in its legacy frame.
    Lz4,
    /// Zstandard.
    Zstd,
    /// XZ.
    Xz,
}

impl Packing {
    /// The program that unpacks it (with `-dc FILE`), which is also the beginning of its Debian package's name.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
            Self::Xz => "xz",
        }
    }

    /// Knows it by its first bytes.
    fn of(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [0x02, 0x21, 0x4c, 0x18, ..] => Some(Self::Lz4),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Self::Zstd),
            [0xfd, b'7', b'z', b'X', ..] => Some(Self::Xz),
            _ => None,
        }
    }
}

/// Finds the packed kernel.
///
/// # Errors
/// When the file is something else, or packed in a way that we do not know.
pub fn packed_kernel(image: &[u8]) -> Result<(Packing, &[u8]), ImageError> {
    let number = |at: usize| {
        let bytes = image.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u32::from_le_bytes).ok_or(ImageError::NotAnImage)
    };
    // "HdrS" and the version of the boot protocol; 2.08 added payload_offset and payload_length.
    if number(0x202)?.to_le_bytes() != *b"HdrS" || number(0x206)? & 0xffff < 0x208 {
        return Err(ImageError::NotAnImage);
    }
    // 0 means 4, for historical reasons.
    let set_up_sectors = match image[0x1f1] {
        0 => 4,
        count => usize::from(count),
    };
    let begin = (set_up_sectors + 1) * 512 + number(0x248)? as usize;
    // Behind each of these packings the build puts four bytes with the unpacked size, and counts them in.
    let range = begin..(begin + number(0x24c)? as usize).saturating_sub(4);
    let payload = image.get(range.clone()).ok_or(ImageError::Truncated(range))?;
    let first = payload.first_chunk().copied().unwrap_or_default();
    let packing = Packing::of(payload).ok_or(ImageError::UnknownPacking(first))?;
    Ok((packing, payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One set-up sector, then 16 bytes of something else, then this payload.
    fn image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 1024 + 16];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
        image[0x248..0x24c].copy_from_slice(&16_u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        image.extend_from_slice(payload);
        image
    }

    #[test]
    fn the_packed_kernel_is_found_without_its_size() {
        let image = image(b"\x28\xb5\x2f\xfdkernel\x01\x02\x03\x04");
        assert_eq!(packed_kernel(&image), Ok((Packing::Zstd, b"\x28\xb5\x2f\xfdkernel".as_slice())));
    }

    #[test]
    fn what_is_no_kernel_is_refused() {
        assert_eq!(packed_kernel(b"MZ"), Err(ImageError::NotAnImage));
        let good = image(b"\x02\x21\x4c\x18....");
        let mut old = good.clone();
        old[0x206] = 7;
        assert_eq!(packed_kernel(&old), Err(ImageError::NotAnImage));
        assert_eq!(packed_kernel(&good[..1042]), Err(ImageError::Truncated(1040..1044)));
        let unknown = image(b"BZh9....");
        assert_eq!(packed_kernel(&unknown), Err(ImageError::UnknownPacking(*b"BZh9")));
    }
}
