//! What the kernel can be asked for that keeps clients from waiting for others, be they hostile or other programs of the
//! machine: that a thread runs soon, and that a connection wakes nobody until enough has come. Elsewhere than on Linux
//! nothing is asked for.

use std::time::Duration;

/// The slice of threads that read datagrams: the shortest that the scheduler knows.
pub(crate) const SLICE_OF_READERS: Duration = Duration::from_micros(100);

/// The slice of all other threads of the proxy: shorter than what others have by default, longer than the readers', which
/// have little to do for each datagram.
pub(crate) const SLICE: Duration = Duration::from_micros(300);

#[cfg(not(target_os = "linux"))]
pub(crate) use elsewhere::{run_soon, wake_at};
#[cfg(target_os = "linux")]
pub(crate) use linux::{run_soon, wake_at};

#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "no library that is here offers these calls")]
mod linux {
    use std::os::fd::AsRawFd;
    use std::time::Duration;
    use std::{io, mem};

    /// Asks that this thread, and those that it starts from here on, when they have something to do, run before one with a
    /// longer slice. That is a wish for less delay and not for more time, so it is open to everyone (Linux 6.12; older ones
    /// ignore it). Without it, a thread that sleeps most of the time waits until the slice of one that is busy is over, 3 ms
    /// and more.
    pub(crate) fn run_soon(slice: Duration) -> io::Result<()> {
        let size = u32::try_from(size_of::<libc::sched_attr>()).expect("some dozens of octets");
        // SAFETY: a sched_attr is integers alone, for which zeroes are valid.
        let mut wanted: libc::sched_attr = unsafe { mem::zeroed() };
        // Of this thread (0): policy and niceness stay what they are.
        // SAFETY: the kernel writes at most `size` octets to the address, which is that of a live value of that size.
        succeeded(unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut wanted, size, 0) })?;
        wanted.size = size;
        wanted.sched_runtime = u64::try_from(slice.as_nanos()).unwrap_or(u64::MAX);
        // SAFETY: the kernel reads `size` octets from the address, which is that of a live value of that size.
        succeeded(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const wanted, 0) })
    }

    /// Asks that nobody is woken for a connection until so many octets can be read, or it ends (SO_RCVLOWAT, socket(7)).
    /// The kernel grants less where its buffer would be full before. Of a socket that listens, connections inherit it.
    pub(crate) fn wake_at(socket: &impl AsRawFd, octets: usize) -> io::Result<()> {
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
    use std::time::Duration;

    pub(crate) fn run_soon(_: Duration) -> io::Result<()> {
        Ok(())
    }

    pub(crate) fn wake_at<S>(_: &S, _: usize) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::timeout;

    #[tokio::test]
    async fn nobody_is_woken_before_as_much_has_come_as_was_asked_for_or_the_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        wake_at(&stream, 5).unwrap();
        let (mut buffer, short) = ([0; 16], Duration::from_millis(50));
        // What a connection has at first is tried without waiting to be woken.
        assert!(timeout(short, stream.read(&mut buffer)).await.is_err());
        client.write_all(&[1; 4]).await.unwrap();
        assert!(timeout(short, stream.read(&mut buffer)).await.is_err(), "four have come");
        client.write_all(&[1]).await.unwrap();
        assert_eq!(stream.read(&mut buffer).await.unwrap(), 5);
        wake_at(&stream, 100).unwrap();
        client.write_all(&[1; 3]).await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(stream.read(&mut buffer).await.unwrap(), 3, "no more will come");
        assert_eq!(stream.read(&mut buffer).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn what_had_come_before_wakes_when_less_is_asked_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        wake_at(&stream, 5).unwrap();
        let (mut buffer, short) = ([0; 16], Duration::from_millis(50));
        assert!(timeout(short, stream.read(&mut buffer)).await.is_err());
        client.write_all(&[1; 4]).await.unwrap();
        assert!(timeout(short, stream.read(&mut buffer)).await.is_err());
        wake_at(&stream, 1).unwrap();
        assert_eq!(stream.read(&mut buffer).await.unwrap(), 4);
    }

    #[test]
    fn everyone_may_wish_for_a_short_slice() {
        for slice in [SLICE, SLICE_OF_READERS] {
            run_soon(slice).unwrap();
        }
    }
}
