//! What the kernel can be asked for that keeps hostile clients from taking the time of the others: that a thread runs
//! soon, and that a connection wakes nobody until enough has come. Elsewhere than on Linux nothing is asked for.

#[cfg(not(target_os = "linux"))]
pub(super) use elsewhere::{run_soon, wake_at};
#[cfg(target_os = "linux")]
pub(super) use linux::{run_soon, wake_at};

#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "no library that is here offers these calls")]
mod linux {
    use std::os::fd::AsRawFd;
    use std::{io, mem};

    use tokio::net::TcpStream;

    /// The shortest slice that the scheduler knows, in nanoseconds.
    const SHORTEST: u64 = 100_000;

    /// Asks that this thread, when it has something to do, runs before one that has run for a while: by a shorter slice,
    /// which is a wish for less delay and not for more time, and open to everyone (sched(7); Linux 6.12). Without it, a
    /// thread that sleeps most of the time waits until the slice of one that is busy is over, 3 ms and more.
    pub(in crate::listener) fn run_soon() -> io::Result<()> {
        let size = u32::try_from(size_of::<libc::sched_attr>()).expect("some dozens of octets");
        // SAFETY: a sched_attr is integers alone, for which zeroes are valid.
        let mut wanted: libc::sched_attr = unsafe { mem::zeroed() };
        // Of this thread (0): policy and niceness stay what they are.
        // SAFETY: the kernel writes at most `size` octets to the address, which is that of a live value of that size.
        succeeded(unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut wanted, size, 0) })?;
        wanted.size = size;
        wanted.sched_runtime = SHORTEST;
        // SAFETY: the kernel reads `size` octets from the address, which is that of a live value of that size.
        succeeded(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const wanted, 0) })
    }

    /// Asks that nobody is woken for a connection until so many octets can be read, or it ends (SO_RCVLOWAT, socket(7)).
    /// The kernel grants less where its buffer would be full before.
    pub(in crate::listener) fn wake_at(socket: &TcpStream, octets: usize) -> io::Result<()> {
        let octets = libc::c_int::try_from(octets).unwrap_or(libc::c_int::MAX);
        let length = libc::socklen_t::try_from(size_of_val(&octets)).expect("an int is small");
        // SAFETY: the descriptor is open for as long as `socket` is borrowed, and the kernel reads one int from the address
        // of a live one.
        let outcome = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVLOWAT,
                (&raw const octets).cast(),
                length,
            )
        };
        succeeded(outcome.into())
    }

    fn succeeded(outcome: libc::c_long) -> io::Result<()> {
        if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

#[cfg(not(target_os = "linux"))]
mod elsewhere {
    use std::io;

    use tokio::net::TcpStream;

    pub(in crate::listener) fn run_soon() -> io::Result<()> {
        Ok(())
    }

    pub(in crate::listener) fn wake_at(_: &TcpStream, _: usize) -> io::Result<()> {
        Ok(())
    }
}
