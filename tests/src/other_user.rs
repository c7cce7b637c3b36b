//! What another user may do: a part of a test that runs with an unprivileged user's rights.

use std::io;
use std::thread;

/// Debian's `nobody` and `nogroup`.
pub const NOBODY: u32 = 65_534;

/// Does the work on a thread of its own that has no more rights than [`NOBODY`].
///
/// # Errors
/// When the rights cannot be given up.
pub fn as_nobody<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            give_up_rights()?;
            Ok(work())
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Of this thread alone, which glibc's functions would not do: they change all threads of a process.
fn give_up_rights() -> io::Result<()> {
    let id = libc::c_long::from(NOBODY);
    let none: *const libc::gid_t = std::ptr::null();
    let zero: libc::c_long = 0;
    // SAFETY: setgroups(2) with no groups reads nothing from memory; the other calls take numbers alone.
    let done = unsafe {
        libc::syscall(libc::SYS_setgroups, zero, none) == 0
            && libc::syscall(libc::SYS_setresgid, id, id, id) == 0
            && libc::syscall(libc::SYS_setresuid, id, id, id) == 0
    };
    if done { Ok(()) } else { Err(io::Error::last_os_error()) }
}
