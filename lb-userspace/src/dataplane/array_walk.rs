//! Reading the beginning of an array map, many entries at a time.
//!
//! Ids and indices are given from the lowest free one up, so what is in use is at the beginning: a thousand backends'
//! counters cost one system call (`BPF_MAP_LOOKUP_BATCH`; arrays: kernel 5.6, per-CPU arrays: 5.13) instead of a thousand.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
};

use aya::{
    Pod,
    maps::{MapData, MapError},
    sys::SyscallError,
    util::nr_cpus,
};

use super::{
    DataplaneError,
    flow_tables::pinned,
    hash_walk::{BPF_MAP_LOOKUP_BATCH, BatchAttr},
    in_map,
};

/// An array, or a per-CPU array, whose beginning is read as a whole.
#[derive(Debug)]
pub(super) struct ArrayWalk<V> {
    map: MapData,
    name: &'static str,
    /// Values for each index: 1, or as many as there can be CPUs.
    copies: usize,
    _value: PhantomData<V>,
}

impl<V: Pod + Default> ArrayWalk<V> {
    /// Of a pinned array.
    pub(super) fn of_array(maps: &Path, name: &'static str) -> Result<Self, DataplaneError> {
        Self::open(maps, name, 1)
    }

    /// Of a pinned per-CPU array.
    pub(super) fn of_cpus(maps: &Path, name: &'static str) -> Result<Self, DataplaneError> {
        // The kernel pads each CPU's copy to eight bytes (`bpf_percpu_array_copy`, kernel/bpf/arraymap.c).
        const { assert!(size_of::<V>().is_multiple_of(8), "the copies of the CPUs would not be side by side") };
        let cpus = nr_cpus().map_err(|(_, source)| {
            let source = SyscallError { call: "reading the number of CPUs", io_error: source };
            in_map(name)(source.into())
        })?;
        Self::open(maps, name, cpus)
    }

    fn open(maps: &Path, name: &'static str, copies: usize) -> Result<Self, DataplaneError> {
        let map = pinned(maps, name)?;
        let info = map.info().map_err(in_map(name))?;
        let sizes = (info.key_size() as usize, info.value_size() as usize);
        if sizes != (size_of::<u32>(), size_of::<V>()) {
            let source = MapError::InvalidValueSize { size: size_of::<V>(), expected: sizes.1 };
            return Err(in_map(name)(source));
        }
        Ok(Self { map, name, copies, _value: PhantomData })
    }

    /// The values of the indices below `count`, or of all that there are: of a per-CPU array the CPUs' copies side by side.
    ///
    /// # Errors
    ///
    /// Where the map cannot be read.
    pub(super) fn first(&self, count: u32) -> Result<Vec<V>, DataplaneError> {
        let mut indices = vec![0u32; count as usize];
        let mut values = vec![V::default(); count as usize * self.copies];
        let mut next = 0u32;
        let mut attr = BatchAttr {
            out_batch: (&raw mut next).expose_provenance() as u64,
            keys: indices.as_mut_ptr().expose_provenance() as u64,
            values: values.as_mut_ptr().expose_provenance() as u64,
            count,
            map_fd: self.map.fd().as_fd().as_raw_fd().cast_unsigned(),
            ..BatchAttr::default()
        };
        if count == 0 {
            return Ok(values);
        }
        // SAFETY: the attributes are laid out as the kernel's; what they point to lives through the call. It writes at most
        // `count` indices, and as many values of `copies` times the size that `open` compared, which both vectors have.
        let result = unsafe {
            libc::syscall(libc::SYS_bpf, BPF_MAP_LOOKUP_BATCH, &raw mut attr, size_of::<BatchAttr>())
        };
        let error = io::Error::last_os_error();
        // The end of the array was reached before `count`.
        if result < 0 && error.raw_os_error() != Some(libc::ENOENT) {
            let source = SyscallError { call: "bpf_map_lookup_batch", io_error: error };
            return Err(in_map(self.name)(source.into()));
        }
        values.truncate(attr.count as usize * self.copies);
        Ok(values)
    }

    /// How many values of [`Self::first`] belong to one index.
    pub(super) const fn copies(&self) -> usize {
        self.copies
    }
}
