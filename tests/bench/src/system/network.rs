//! A network of this process's own, and sockets that the standard library does not open.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::{done, length_of};

/// Moves this process, which has one thread, into a network namespace of its own that has nothing but loopback. What it starts
/// from here on is in there too; the namespace goes with the last of them.
pub(crate) fn leave() -> io::Result<()> {
    // SAFETY: no pointers.
    done(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
    let socket = open(libc::SOCK_DGRAM, 0)?;
    // SAFETY: all zeroes are a valid request, whose name is "lo"; it lives through the call, which takes the flags of the union.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (place, letter) in request.ifr_name.iter_mut().zip(b"lo") {
            *place = libc::c_char::from_ne_bytes([*letter]);
        }
        request.ifr_ifru.ifru_flags = libc::c_short::try_from(libc::IFF_UP).expect("the flag is 1");
        done(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request))
    }
}

/// A socket that takes whole IPv4 packets, header and all, for `destination`: any source can stand in them.
pub(crate) fn packets_to(destination: Ipv4Addr) -> io::Result<OwnedFd> {
    let socket = open(libc::SOCK_RAW, libc::IPPROTO_RAW)?;
    connect(&socket, SocketAddrV4::new(destination, 0))?;
    Ok(socket)
}

/// Begins to connect, and does not wait until it is: reading and writing would block until then.
pub(crate) fn begin_to_connect(server: SocketAddrV4) -> io::Result<TcpStream> {
    let socket = open(libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0)?;
    match connect(&socket, server) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
        _ => Ok(socket.into()),
    }
}

/// Ends the connection by a reset when it is closed, so that no port is kept waiting.
pub(crate) fn reset_on_close(stream: &TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: the option lives through the call. A socket that is gone already needs no reset.
    unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            length_of::<libc::linger>(),
        );
    }
}

fn open(kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the descriptor that is returned is nobody else's.
    unsafe {
        let fd = libc::socket(libc::AF_INET, kind | libc::SOCK_CLOEXEC, protocol);
        done(fd)?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

fn connect(socket: &OwnedFd, to: SocketAddrV4) -> io::Result<()> {
    let address = libc::sockaddr_in {
        sin_family: libc::sa_family_t::try_from(libc::AF_INET).expect("the family is 2"),
        sin_port: to.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(to.ip().octets()) },
        sin_zero: [0; 8],
    };
    // SAFETY: the address lives through the call, with its true length.
    done(unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), length_of::<libc::sockaddr_in>()) })
}
