//! A server of DNS over QUIC on loopback that does what a test tells it, and a way to it that loses datagrams and moves.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_proto::op::Message;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Connection, ConnectionError, Endpoint, RecvStream, SendStream, ServerConfig};
use tokio::net::UdpSocket;

use crate::answers::answer;
use crate::authority::{Authority, LAST_YEAR, NAME};
use crate::conversation::frame;

/// What a server does with a query.
#[derive(Debug, Clone, Copy)]
pub enum Act {
    /// Answers it.
    Answer,
    /// Answers it so much later, and other queries meanwhile.
    Late(Duration),
    /// Sends what this makes of the answer.
    Altered(fn(&mut Message)),
    /// Sends these octets, without a length before them.
    Octets(&'static [u8]),
    /// Says nothing.
    Silence,
    /// Resets the stream with this code.
    Reset(u32),
    /// Closes the connection with this code.
    Close(u32),
}

type React = dyn Fn(&str, usize) -> Act + Send + Sync;

/// A running server; it ends with the test's runtime.
#[derive(Clone)]
pub struct QuicServer {
    pub address: SocketAddr,
    seen: Arc<Seen>,
}

struct Seen {
    queries: Mutex<Vec<Vec<u8>>>,
    connections: AtomicUsize,
    open: AtomicUsize,
    /// The codes by which clients closed connections.
    closed_by: Mutex<Vec<u64>>,
    react: Box<React>,
}

impl QuicServer {
    /// A server that reacts to a name, in lower case, and the number of the query, from 1, as told.
    pub fn that(authority: &Authority, react: impl Fn(&str, usize) -> Act + Send + Sync + 'static) -> Self {
        Self::with_tls(authority.tls(NAME, LAST_YEAR, &["doq"]), react)
    }

    /// The same with TLS of the test's own.
    pub fn with_tls(tls: rustls::ServerConfig, react: impl Fn(&str, usize) -> Act + Send + Sync + 'static) -> Self {
        let config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()));
        let endpoint = Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
        let seen = Seen {
            queries: Mutex::default(),
            connections: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            closed_by: Mutex::default(),
            react: Box::new(react),
        };
        let server = Self { address: endpoint.local_addr().unwrap(), seen: Arc::new(seen) };
        let seen = Arc::clone(&server.seen);
        tokio::spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                let seen = Arc::clone(&seen);
                tokio::spawn(async move {
                    if let Ok(connection) = incoming.await {
                        seen.hold(connection).await;
                    }
                });
            }
        });
        server
    }

    /// How the proxy is told of it.
    pub fn url(&self) -> String {
        format!("quic://{}#{NAME}", self.address)
    }

    /// The queries as they came, with their length before them.
    pub fn queries(&self) -> Vec<Vec<u8>> {
        self.seen.queries.lock().unwrap().clone()
    }

    /// How many connections came to the point where queries can be asked.
    pub fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    /// How many of them are open.
    pub fn open_connections(&self) -> usize {
        self.seen.open.load(Ordering::SeqCst)
    }

    /// The codes by which clients closed connections.
    pub fn closed_by(&self) -> Vec<u64> {
        self.seen.closed_by.lock().unwrap().clone()
    }
}

impl Seen {
    async fn hold(self: Arc<Self>, connection: Connection) {
        self.connections.fetch_add(1, Ordering::SeqCst);
        self.open.fetch_add(1, Ordering::SeqCst);
        let ended = loop {
            match connection.accept_bi().await {
                Ok((sending, receiving)) => {
                    tokio::spawn(Arc::clone(&self).respond(connection.clone(), sending, receiving));
                }
                Err(ended) => break ended,
            }
        };
        if let ConnectionError::ApplicationClosed(close) = ended {
            self.closed_by.lock().unwrap().push(close.error_code.into_inner());
        }
        self.open.fetch_sub(1, Ordering::SeqCst);
    }

    async fn respond(self: Arc<Self>, connection: Connection, mut sending: SendStream, mut receiving: RecvStream) {
        let Ok(framed) = receiving.read_to_end(usize::from(u16::MAX)).await else { return };
        let query = Message::from_vec(&framed[2..]).unwrap();
        let count = {
            let mut queries = self.queries.lock().unwrap();
            queries.push(framed);
            queries.len()
        };
        let mut reply = answer(&query);
        let octets = match (self.react)(&query.queries[0].name().to_string().to_lowercase(), count) {
            Act::Answer => frame(&reply.to_vec().unwrap()),
            Act::Late(delay) => {
                tokio::time::sleep(delay).await;
                frame(&reply.to_vec().unwrap())
            }
            Act::Altered(alter) => {
                alter(&mut reply);
                frame(&reply.to_vec().unwrap())
            }
            Act::Octets(octets) => octets.to_vec(),
            Act::Silence => return drop(sending.stopped().await),
            Act::Reset(code) => return sending.reset(code.into()).unwrap(),
            Act::Close(code) => return connection.close(code.into(), b""),
        };
        // A client that has left already needs no answer.
        let _ = sending.write_all(&octets).await;
        let _ = sending.finish();
    }
}

/// A way to a server, for one client at a time: what stands between them, a NAT for instance.
pub struct Way {
    address: SocketAddr,
    outside: Arc<Mutex<Arc<UdpSocket>>>,
    inside: Arc<UdpSocket>,
    client: Arc<Mutex<Option<SocketAddr>>>,
    /// Of so many datagrams one is lost; 0: none.
    loses_one_of: usize,
}

impl Way {
    /// A way to this server.
    pub async fn to(server: SocketAddr, loses_one_of: usize) -> Self {
        let inside = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let outside = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let way = Self {
            address: inside.local_addr().unwrap(),
            outside: Arc::new(Mutex::new(Arc::clone(&outside))),
            inside,
            client: Arc::default(),
            loses_one_of,
        };
        way.carry_back(outside);
        let (inside, outside, client) = (Arc::clone(&way.inside), Arc::clone(&way.outside), Arc::clone(&way.client));
        tokio::spawn(async move {
            let (mut buffer, mut count) = ([0; 2048], 0);
            while let Ok((length, from)) = inside.recv_from(&mut buffer).await {
                *client.lock().unwrap() = Some(from);
                count += 1;
                if loses_one_of == 0 || count % loses_one_of != 0 {
                    let outside = Arc::clone(&outside.lock().unwrap());
                    outside.send_to(&buffer[..length], server).await.unwrap();
                }
            }
        });
        way
    }

    /// From now on the server sees another address.
    pub async fn moves(&self) {
        let fresh = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
        self.carry_back(Arc::clone(&fresh));
        *self.outside.lock().unwrap() = fresh;
    }

    fn carry_back(&self, outside: Arc<UdpSocket>) {
        let (inside, client, loses_one_of) = (Arc::clone(&self.inside), Arc::clone(&self.client), self.loses_one_of);
        tokio::spawn(async move {
            let (mut buffer, mut count) = ([0; 2048], 0);
            while let Ok((length, _)) = outside.recv_from(&mut buffer).await {
                let client = *client.lock().unwrap();
                count += 1;
                if let Some(client) = client
                    && (loses_one_of == 0 || count % loses_one_of != 0)
                {
                    inside.send_to(&buffer[..length], client).await.unwrap();
                }
            }
        });
    }

    /// How the proxy is told of the server behind it.
    pub fn url(&self) -> String {
        format!("quic://{}#{NAME}", self.address)
    }
}
