//! How much of what was written the other machine has not acknowledged: the one system call that tells.

use tokio::net::TcpStream;

/// Octets that the peer's TCP has not acknowledged, those that were not sent yet included. 0 where the system does not tell.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "no library that is here offers this ioctl")]
pub(crate) fn unacknowledged(socket: &TcpStream) -> u64 {
    use std::os::fd::AsRawFd;
    let mut octets: libc::c_int = 0;
    // SAFETY: the descriptor is open for as long as `socket` is borrowed, and TIOCOUTQ (SIOCOUTQ, tcp(7)) writes one int to
    // the address, which is that of a live and exclusively borrowed one.
    let status = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut octets) };
    if status == 0 { u64::try_from(octets).unwrap_or(0) } else { 0 }
}

/// Elsewhere it is not known: a second without a failure has to do.
#[cfg(not(target_os = "linux"))]
pub(crate) fn unacknowledged(_: &TcpStream) -> u64 {
    0
}
