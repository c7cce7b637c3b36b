//! Reading a whole hash map, many entries at a time.
//!
//! The kernel gives whole buckets (`BPF_MAP_LOOKUP_BATCH`, kernel 5.6), so entries that come and go meanwhile neither
//! make the walk begin anew nor show any other entry twice, as going from key to key does; and a million flows cost
//! some thousand system calls instead of millions.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd as _, AsRawFd as _},
};

use aya::{Pod, maps::MapData, sys::SyscallError};

use super::{DataplaneError, in_map};

/// Entries that are asked for at once, unless a bucket has more.
const BATCH: usize = 4096;
/// `enum bpf_cmd` of the kernel's `include/uapi/linux/bpf.h`.
pub(super) const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_int = 26;

/// The part of `union bpf_attr` that is for batches, as the kernel's `include/uapi/linux/bpf.h` has it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct BatchAttr {
    pub(super) in_batch: u64,
    pub(super) out_batch: u64,
    pub(super) keys: u64,
    pub(super) values: u64,
    pub(super) count: u32,
    pub(super) map_fd: u32,
    pub(super) elem_flags: u64,
    pub(super) flags: u64,
}

/// Writes many entries at once (`BPF_MAP_UPDATE_BATCH`, kernel 5.6), over those that are there.
///
/// # Errors
/// What the kernel says of the first that it did not take; those after it were not written, either.
pub(super) fn write_all<K: Pod, V: Pod>(map: &MapData, keys: &[K], values: &[V]) -> io::Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let info = map.info().map_err(io::Error::other)?;
    if info.key_size() as usize != size_of::<K>()
        || info.value_size() as usize != size_of::<V>()
        || keys.len() != values.len()
    {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut attr = BatchAttr {
        keys: keys.as_ptr().expose_provenance() as u64,
        values: values.as_ptr().expose_provenance() as u64,
        count: u32::try_from(keys.len()).unwrap_or(u32::MAX),
        map_fd: map.fd().as_fd().as_raw_fd().cast_unsigned(),
        ..BatchAttr::default()
    };
    // SAFETY: the attributes are laid out as the kernel's; it reads `count` keys and values, which both slices have, of
    // the sizes that were compared above, and writes the count back.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_UPDATE_BATCH, &raw mut attr, size_of::<BatchAttr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A hash map, plain or LRU, that is read as a whole.
#[derive(Debug)]
pub(super) struct HashWalk<K, V> {
    map: MapData,
    name: &'static str,
    _entry: PhantomData<(K, V)>,
}

impl<K: Pod, V: Pod> HashWalk<K, V> {
    /// A walk through a map whose keys and values have these types; `name` is for errors.
    pub(super) const fn new(map: MapData, name: &'static str) -> Self {
        Self { map, name, _entry: PhantomData }
    }

    /// Shows every entry once, as it was when its bucket was read.
    pub(super) fn run(&self, mut visit: impl FnMut(&K, &V)) -> Result<(), DataplaneError> {
        self.check_sizes()?;
        let (mut keys, mut values) = (Vec::with_capacity(BATCH), Vec::with_capacity(BATCH));
        let mut position = None;
        while !self.batch(&mut position, &mut keys, &mut values, &mut visit)? {}
        Ok(())
    }

    /// The next [`BATCH`] entries or so of a walk that began with None, and may pause. True where these are the last.
    pub(super) fn step(
        &self,
        position: &mut Option<u32>,
        mut visit: impl FnMut(&K, &V),
    ) -> Result<bool, DataplaneError> {
        self.check_sizes()?;
        self.batch(position, &mut Vec::with_capacity(BATCH), &mut Vec::with_capacity(BATCH), &mut visit)
    }

    fn batch(
        &self,
        position: &mut Option<u32>,
        keys: &mut Vec<K>,
        values: &mut Vec<V>,
        visit: &mut impl FnMut(&K, &V),
    ) -> Result<bool, DataplaneError> {
        loop {
            let is_last = match self.next(position, keys, values) {
                Ok(is_last) => is_last,
                // A bucket has more entries than fit.
                Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                    let more = keys.capacity() * 2;
                    keys.reserve(more);
                    values.reserve(more);
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(io_error) => {
                    let source = SyscallError { call: "bpf_map_lookup_batch", io_error };
                    return Err(in_map(self.name)(source.into()));
                }
            };
            keys.iter().zip(values.iter()).for_each(|(key, value)| visit(key, value));
            return Ok(is_last);
        }
    }

    /// The kernel writes as much as the map says, whatever we made room for.
    fn check_sizes(&self) -> Result<(), DataplaneError> {
        let info = self.map.info().map_err(in_map(self.name))?;
        let sizes = (info.key_size() as usize, info.value_size() as usize);
        if sizes == (size_of::<K>(), size_of::<V>()) {
            return Ok(());
        }
        let source = aya::maps::MapError::InvalidValueSize { size: size_of::<V>(), expected: sizes.1 };
        Err(in_map(self.name)(source))
    }

    /// Replaces keys and values by the next ones. True where these are the last.
    fn next(&self, position: &mut Option<u32>, keys: &mut Vec<K>, values: &mut Vec<V>) -> io::Result<bool> {
        keys.clear();
        values.clear();
        let room = keys.capacity().min(values.capacity());
        let begin = position.unwrap_or_default();
        let mut next = 0u32;
        let mut attr = BatchAttr {
            in_batch: if position.is_some() { (&raw const begin).expose_provenance() as u64 } else { 0 },
            out_batch: (&raw mut next).expose_provenance() as u64,
            keys: keys.as_mut_ptr().expose_provenance() as u64,
            values: values.as_mut_ptr().expose_provenance() as u64,
            count: u32::try_from(room).unwrap_or(u32::MAX),
            map_fd: self.map.fd().as_fd().as_raw_fd().cast_unsigned(),
            ..BatchAttr::default()
        };
        // SAFETY: the attributes are laid out as the kernel's; what they point to lives through the call. It writes
        // at most `count` keys and values, which both vectors have room for: `check_sizes` compared the sizes.
        let result = unsafe {
            libc::syscall(libc::SYS_bpf, BPF_MAP_LOOKUP_BATCH, &raw mut attr, size_of::<BatchAttr>())
        };
        let is_last = match (result, io::Error::last_os_error()) {
            (0, _) => false,
            // Nothing follows; what was read until there counts.
            (_, error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            (_, error) => return Err(error),
        };
        let count = (attr.count as usize).min(room);
        // SAFETY: the kernel has written `count` of each, and any bytes are a `Pod` value.
        unsafe {
            keys.set_len(count);
            values.set_len(count);
        }
        *position = Some(next);
        Ok(is_last)
    }
}
