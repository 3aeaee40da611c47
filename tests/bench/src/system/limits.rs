//! What a process may take.

use std::io;

use super::done;

/// Lets this process, and those that it starts, have so many descriptors open, as far as it is allowed to; tells how many.
pub(crate) fn descriptors(wanted: u64) -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit lives through both calls.
    unsafe {
        done(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit))?;
        let found = limit;
        limit.rlim_max = limit.rlim_max.max(wanted);
        limit.rlim_cur = limit.rlim_cur.max(wanted);
        if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) < 0 {
            limit = libc::rlimit { rlim_cur: found.rlim_max, ..found };
            done(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit))?;
        }
    }
    Ok(limit.rlim_cur)
}

/// Gives this process an ordinary share of its processors, behind what is measured: for what would take all it can get.
pub(crate) fn modest() {
    // SAFETY: no pointers. To be nicer is allowed to everyone.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 0) };
    let _ = std::fs::write("/proc/self/autogroup", "0");
}
