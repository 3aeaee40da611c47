//! Where queries come in: sockets, and how many may come at once.

pub mod tcp;
pub mod udp;

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that the kernel may hold ready for us.
const BACKLOG: i32 = 1024;

/// The sockets of one address: UDP and TCP on the same port.
#[derive(Debug)]
pub struct Sockets {
    /// Datagrams.
    pub udp: tokio::net::UdpSocket,
    /// Connections.
    pub tcp: tokio::net::TcpListener,
}

impl Sockets {
    /// Binds both; with port 0 the system chooses one port for both.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        const TRIES: usize = 16; // the port that UDP got may be taken for TCP
        let mut outcome = Self::bind_once(address);
        for _ in 1..TRIES {
            match &outcome {
                Err(error) if address.port() == 0 && error.kind() == io::ErrorKind::AddrInUse => {
                    outcome = Self::bind_once(address);
                }
                _ => break,
            }
        }
        outcome
    }

    fn bind_once(address: SocketAddr) -> io::Result<Self> {
        let udp = bind_udp(address)?;
        let tcp = listen_tcp(udp.local_addr()?)?;
        Ok(Self { udp, tcp })
    }
}

fn bind_udp(address: SocketAddr) -> io::Result<tokio::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    both_families(&socket, address)?;
    socket.bind(&address.into())?;
    socket.set_nonblocking(true)?;
    tokio::net::UdpSocket::from_std(socket.into())
}

/// A listening TCP socket; `[::]` takes IPv4 too.
pub fn listen_tcp(address: SocketAddr) -> io::Result<tokio::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    both_families(&socket, address)?;
    // A restart must not wait for connections of the last run to be forgotten.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(socket.into())
}

fn both_families(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    if address.is_ipv6() { socket.set_only_v6(false) } else { Ok(()) }
}
