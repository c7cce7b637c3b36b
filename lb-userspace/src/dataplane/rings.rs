//! Replacing Maglev tables.
//!
//! After a change of an array of maps the kernel waits until no program runs any more that may have seen the former table
//! (`maybe_wait_bpf_programs`, kernel/bpf/syscall.c): ten to forty milliseconds, during which nobody waits but us. So
//! tables are replaced together, which since Linux 6.8 is one wait for all of them: a hundred one by one took two seconds.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd},
    path::Path,
    sync::Arc,
};

use aya::{
    maps::{ArrayOfMaps, Map, MapData, MapError},
    sys::SyscallError,
};
use lb_common::layout::MaglevSlots;

use super::{DataplaneError, Ring, flow_tables::pinned, hash_walk::write_all, in_map};

const NAME: &str = "RINGS";
/// `enum bpf_cmd` and `enum bpf_map_type` of the kernel's `include/uapi/linux/bpf.h`.
const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_TYPE_ARRAY: u32 = 2;

/// The beginning of `union bpf_attr` that is for making a map; the kernel takes what follows as zero.
#[repr(C)]
struct CreateAttr {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
}

/// The outer array: by service, as `ServiceEntry::index` has it.
pub(super) struct Rings {
    each: ArrayOfMaps<MapData, Ring>,
    whole: MapData,
}

impl Rings {
    /// Opens the pinned map in the directory `maps`.
    pub(super) fn open(maps: &Path) -> Result<Self, DataplaneError> {
        let each = ArrayOfMaps::try_from(Map::ArrayOfMaps(pinned(maps, NAME)?)).map_err(in_map(NAME))?;
        Ok(Self { each, whole: pinned(maps, NAME)? })
    }

    /// Replaces the tables of these services, each in one step: it is filled before the data plane can see it.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses; some may have been replaced then.
    pub(super) fn replace(&mut self, tables: &[(u32, Arc<MaglevSlots>)]) -> Result<(), DataplaneError> {
        let (fds, inner): (Vec<i32>, Vec<Ring>) =
            tables.iter().map(|(_, slots)| filled(slots)).collect::<Result<_, _>>()?;
        let services: Vec<u32> = tables.iter().map(|(service, _)| *service).collect();
        if write_all(&self.whole, &services, &fds).is_ok() {
            return Ok(());
        }
        // Linux 5.18 takes them one by one only; and any other refusal says what it is about.
        for (service, ring) in services.iter().zip(&inner) {
            self.each.set(*service, ring, 0).map_err(in_map(NAME))?;
        }
        Ok(())
    }

    /// The table of a service; `KeyNotFound` where there is none.
    pub(super) fn get(&self, service: u32) -> Result<Ring, MapError> {
        self.each.get(&service, 0)
    }
}

/// A new table, with its descriptor, which it owns.
fn filled(slots: &Arc<MaglevSlots>) -> Result<(i32, Ring), DataplaneError> {
    let attr = CreateAttr {
        map_type: BPF_MAP_TYPE_ARRAY,
        key_size: size_of::<u32>() as u32,
        value_size: size_of::<MaglevSlots>() as u32,
        max_entries: 1,
    };
    // SAFETY: the attributes are laid out as the kernel's, which reads as many bytes of them as it is told.
    let fd =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_CREATE, &raw const attr, size_of::<CreateAttr>()) };
    if fd < 0 {
        return Err(refused("bpf_map_create", io::Error::last_os_error()));
    }
    // SAFETY: the kernel has just given this descriptor to us, and to nobody else.
    let fd = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let map = MapData::from_fd(fd).map_err(in_map(NAME))?;
    write_all(&map, &[0u32], std::slice::from_ref(slots.as_ref()))
        .map_err(|error| refused("bpf_map_update_batch", error))?;
    let fd = map.fd().as_fd().as_raw_fd();
    Ok((fd, Ring::try_from(Map::Array(map)).map_err(in_map(NAME))?))
}

fn refused(call: &'static str, io_error: io::Error) -> DataplaneError {
    in_map(NAME)(MapError::from(SyscallError { call, io_error }))
}
