//! What a combination sends and receives: counted on the way, by a relay on loopback that passes on what it gets.
//!
//! The relay sees what TLS and QUIC have encrypted, their handshakes too, and what a program of its own sends as well. It counts
//! the octets within TCP segments and UDP datagrams; the headers of TCP, UDP and IP are not among them.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

/// Clients of the relay for UDP at once; each is a QUIC connection.
const CLIENTS: usize = 256;

/// No UDP datagram is longer.
const DATAGRAM: usize = 65_535;

/// Octets that have passed, in both directions.
#[derive(Debug, Clone, Default)]
pub(crate) struct Count(Arc<AtomicU64>);

impl Count {
    /// How many until now.
    pub(crate) fn octets(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self, octets: usize) {
        self.0.fetch_add(octets as u64, Ordering::Relaxed);
    }
}

/// Passes TCP and UDP on to a server, on one port for both, as long as this value lives.
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    pub(crate) count: Count,
    _tasks: JoinSet<()>,
}

impl Relay {
    pub(crate) async fn to(server: SocketAddr) -> io::Result<Self> {
        let (listener, socket) = bind().await?;
        let address = listener.local_addr()?;
        let (count, mut tasks) = (Count::default(), JoinSet::new());
        tasks.spawn(pass_connections(listener, server, count.clone()));
        tasks.spawn(pass_datagrams(Arc::new(socket), server, count.clone()));
        Ok(Self { address, count, _tasks: tasks })
    }
}

/// A port that is free for both.
async fn bind() -> io::Result<(TcpListener, UdpSocket)> {
    const ATTEMPTS: usize = 16;
    let mut last = io::ErrorKind::AddrInUse.into();
    for _ in 0..ATTEMPTS {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        match UdpSocket::bind(listener.local_addr()?).await {
            Ok(socket) => return Ok((listener, socket)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

async fn pass_connections(listener: TcpListener, server: SocketAddr, count: Count) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let count = count.clone();
        connections.spawn(async move {
            // Without the server the client's connection ends, as it would without the relay.
            let Ok(server) = TcpStream::connect(server).await else { return };
            let _ = (client.set_nodelay(true), server.set_nodelay(true)); // else it would only be slower
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            tokio::join!(pass(from_client, to_server, &count), pass(from_server, to_client, &count));
        });
    }
}

async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, count: &Count) {
    let mut buffer = vec![0; 1 << 14];
    while let Ok(octets) = from.read(&mut buffer).await
        && octets > 0
    {
        count.add(octets);
        if to.write_all(&buffer[..octets]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await; // the other side may be gone already
}

async fn pass_datagrams(socket: Arc<UdpSocket>, server: SocketAddr, count: Count) {
    let mut clients: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    let mut ways_back = JoinSet::new();
    let mut buffer = vec![0; DATAGRAM];
    while let Ok((octets, client)) = socket.recv_from(&mut buffer).await {
        count.add(octets);
        let towards = match clients.get(&client) {
            Some(towards) => Arc::clone(towards),
            None if clients.len() < CLIENTS => {
                let Ok(towards) = connected(server).await else { continue };
                clients.insert(client, Arc::clone(&towards));
                ways_back.spawn(pass_back(Arc::clone(&towards), Arc::clone(&socket), client, count.clone()));
                towards
            }
            None => continue,
        };
        let _ = towards.send(&buffer[..octets]).await; // QUIC sends again what is lost
    }
}

async fn connected(server: SocketAddr) -> io::Result<Arc<UdpSocket>> {
    let any: SocketAddr = if server.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    Ok(Arc::new(socket))
}

async fn pass_back(from: Arc<UdpSocket>, to: Arc<UdpSocket>, client: SocketAddr, count: Count) {
    let mut buffer = vec![0; DATAGRAM];
    // The server is gone when receiving fails: a client that sends goes on by itself.
    while let Ok(octets) = from.recv(&mut buffer).await {
        count.add(octets);
        let _ = to.send_to(&buffer[..octets], client).await; // QUIC sends again what is lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_passes_over_tcp_is_counted_in_both_directions() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let relay = Relay::to(server.local_addr().unwrap()).await.unwrap();
        let mut client = TcpStream::connect(relay.address).await.unwrap();
        let (mut accepted, _) = server.accept().await.unwrap();
        let mut buffer = [0; 10];
        client.write_all(b"question").await.unwrap();
        accepted.read_exact(&mut buffer[..8]).await.unwrap();
        accepted.write_all(b"the answer").await.unwrap();
        client.read_exact(&mut buffer).await.unwrap();
        assert_eq!((&buffer, relay.count.octets()), (b"the answer", 18));
        drop(client);
        assert_eq!(accepted.read(&mut buffer).await.unwrap(), 0); // that it ended is passed on too
    }

    #[tokio::test]
    async fn datagrams_find_their_way_back_to_who_asked() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let relay = Relay::to(server.local_addr().unwrap()).await.unwrap();
        let clients = [UdpSocket::bind("127.0.0.1:0").await.unwrap(), UdpSocket::bind("127.0.0.1:0").await.unwrap()];
        let mut buffer = [0; 10];
        for (client, text) in clients.iter().zip([b"one", b"two"]) {
            client.send_to(text, relay.address).await.unwrap();
        }
        for _ in &clients {
            let (octets, from) = server.recv_from(&mut buffer).await.unwrap();
            server.send_to(&buffer[..octets], from).await.unwrap();
        }
        for (client, text) in clients.iter().zip([b"one", b"two"]) {
            let octets = client.recv(&mut buffer).await.unwrap();
            assert_eq!(&buffer[..octets], text);
        }
        assert_eq!(relay.count.octets(), 12);
    }
}
