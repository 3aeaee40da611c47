//! Where queries come in: sockets, and how many may come at once.

pub mod tcp;
pub mod udp;

use std::io;
use std::net::{SocketAddr, UdpSocket};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use socket2::{Domain, Protocol, Socket, Type};

use crate::events::Events;
use crate::kernel;
use crate::panics::Panics;

/// Connections that the kernel may hold ready for us; it grants what net.core.somaxconn allows. In a flood of them a true
/// client that finds no place there waits a second.
const BACKLOG: i32 = 4096;

/// What the kernel may hold of datagrams not read yet, in octets; it grants what net.core.rmem_max allows.
const DATAGRAMS: usize = 1 << 20;

/// What the kernel may hold for a TCP client in each direction, in octets (and it takes the double of it). It counts
/// towards the container's memory: left to itself, a thousand clients that do not read made it 400 MB, so 30 MB.
const STREAM: usize = 8 << 10;

/// The sockets of one address: UDP and TCP on the same port.
#[derive(Debug)]
pub struct Sockets {
    /// Datagrams, one socket for each reader.
    pub udp: Vec<UdpSocket>,
    /// Connections.
    pub tcp: tokio::net::TcpListener,
}

/// What the listeners count and tell.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// Where what clients do wrong is told.
    pub events: Events,
    /// Replies in datagrams that the system did not take.
    pub unsent: Counter,
    /// How often more datagrams came than could be read, so that those who sent the most were held back.
    floods: Counter,
    /// Messages lost to a defect of this program.
    panics: Panics,
    clients: Gauge,
    closed: Family<ClosedLabel, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClosedLabel {
    reason: &'static str,
}

impl Metrics {
    /// Counts from zero; events and panics go there.
    pub fn telling(events: Events, panics: Panics) -> Self {
        Self { events, panics, ..Self::default() }
    }

    /// Registers them.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("unsent_replies", "Replies in datagrams that could not be sent", self.unsent.clone());
        let floods = "Times that senders of datagrams were held back, because more came than could be read";
        registry.register("datagram_floods", floods, self.floods.clone());
        registry.register("tcp_clients", "TCP clients connected", self.clients.clone());
        registry.register("tcp_clients_closed", "TCP clients that left or were let go", self.closed.clone());
    }

    /// Does one message's work: a panic loses that message alone, and is counted.
    fn contained<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        self.panics.contain("listener", work)
    }
}

impl Sockets {
    /// Binds TCP and so many sockets for UDP; with port 0 the system chooses one port for all.
    pub fn bind(address: SocketAddr, readers: usize) -> io::Result<Self> {
        const TRIES: usize = 16; // the port that UDP got may be taken for TCP
        let mut outcome = Self::bind_once(address, readers);
        for _ in 1..TRIES {
            match &outcome {
                Err(error) if address.port() == 0 && error.kind() == io::ErrorKind::AddrInUse => {
                    outcome = Self::bind_once(address, readers);
                }
                _ => break,
            }
        }
        outcome
    }

    fn bind_once(address: SocketAddr, readers: usize) -> io::Result<Self> {
        // With one reader nobody else can share the port, not even a process of the same user.
        let shared = readers > 1;
        let mut udp = vec![bind_udp(address, shared)?];
        let address = udp[0].local_addr()?;
        for _ in 1..readers {
            udp.push(bind_udp(address, shared)?);
        }
        let tcp = listen_tcp_with(address, |socket| {
            // Connections inherit these.
            socket.set_tcp_nodelay(true)?;
            socket.set_recv_buffer_size(STREAM)?;
            socket.set_send_buffer_size(STREAM)?;
            kernel::wake_at(socket, tcp::LENGTH)
        })?;
        Ok(Self { udp, tcp })
    }
}

fn bind_udp(address: SocketAddr, shared: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    both_families(&socket, address)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.set_recv_buffer_size(DATAGRAMS)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// A listening TCP socket; `[::]` takes IPv4 too.
pub fn listen_tcp(address: SocketAddr) -> io::Result<tokio::net::TcpListener> {
    listen_tcp_with(address, |_| Ok(()))
}

fn listen_tcp_with(
    address: SocketAddr,
    configure: impl FnOnce(&Socket) -> io::Result<()>,
) -> io::Result<tokio::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    both_families(&socket, address)?;
    // A restart must not wait for connections of the last run to be forgotten.
    socket.set_reuse_address(true)?;
    configure(&socket)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(socket.into())
}

fn both_families(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    if address.is_ipv6() { socket.set_only_v6(false) } else { Ok(()) }
}
