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

/// Lets a process of one thread run before what has the processor and is no less nice, once it has something to do, without
/// more of the processor in all (a short slice; Linux 6.12): for what stands for another machine beside an attacker.
pub(crate) fn prompt(process: u32) -> io::Result<()> {
    const NANOSECONDS: u64 = 100_000;
    let size = u32::try_from(size_of::<libc::sched_attr>()).expect("some dozens of octets");
    // SAFETY: a sched_attr is integers alone; the kernel reads and writes `size` octets of one that lives through both calls.
    unsafe {
        let mut wanted: libc::sched_attr = std::mem::zeroed();
        let done = |outcome: libc::c_long| if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
        done(libc::syscall(libc::SYS_sched_getattr, process, &raw mut wanted, size, 0))?;
        (wanted.size, wanted.sched_runtime) = (size, NANOSECONDS);
        done(libc::syscall(libc::SYS_sched_setattr, process, &raw const wanted, 0))
    }
}

/// Gives this process an ordinary share of its processors, behind what is measured: for what would take all it can get.
pub(crate) fn modest() {
    // SAFETY: no pointers. To be nicer is allowed to everyone.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 0) };
    let _ = std::fs::write("/proc/self/autogroup", "0");
}
