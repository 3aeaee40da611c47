//! Servers on loopback that do what a test tells them: DNS over TLS with certificates of the test's own CA, and plain DNS.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use hickory_proto::op::Message;
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::authority::{Authority, LAST_YEAR, NAME};
use crate::conversation::{self, Tap};
use crate::reaction::Reaction;

/// What a server makes of a name, in lower case, and the number of the query, from 1.
type React = dyn Fn(&str, usize) -> Reaction + Send + Sync;

/// A running server; it ends with the test's runtime.
#[derive(Clone)]
pub struct Server {
    pub address: SocketAddr,
    pub seen: Arc<Seen>,
    /// None: plain DNS.
    tls: Arc<Mutex<Option<TlsAcceptor>>>,
    listening: Arc<Mutex<Option<JoinHandle<()>>>>,
}

/// What a server has seen, and what it makes of it.
pub struct Seen {
    queries: Mutex<Vec<Vec<u8>>>,
    connections: AtomicUsize,
    pub open: AtomicUsize,
    pub records: AtomicUsize,
    react: Box<React>,
}

impl Server {
    /// A DNS-over-TLS server that answers everything.
    pub async fn tls(authority: &Authority) -> Self {
        Self::tls_that(authority, |_, _| Reaction::Answer).await
    }

    /// A DNS-over-TLS server that reacts to a name, in lower case, and the number of the query, from 1, as told.
    pub async fn tls_that(
        authority: &Authority,
        react: impl Fn(&str, usize) -> Reaction + Send + Sync + 'static,
    ) -> Self {
        Self::tls_at(unused_address(), authority, NAME, LAST_YEAR, react).await
    }

    /// A DNS-over-TLS server whose certificate is for this name and valid until this year.
    pub async fn tls_with_certificate(authority: &Authority, name: &str, last_year: i32) -> Self {
        Self::tls_at(unused_address(), authority, name, last_year, |_, _| Reaction::Answer).await
    }

    /// The same at an address that is known beforehand.
    pub async fn tls_at(
        address: SocketAddr,
        authority: &Authority,
        name: &str,
        last_year: i32,
        react: impl Fn(&str, usize) -> Reaction + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let server = Self::new(listener.local_addr().unwrap(), Some(authority.acceptor(name, last_year)), react);
        server.listen(listener);
        server
    }

    /// A server of plain DNS, UDP and TCP, that reacts as told.
    pub async fn plain(react: impl Fn(&str, usize) -> Reaction + Send + Sync + 'static) -> Self {
        let address = unused_address();
        let (socket, listener) = (UdpSocket::bind(address).await.unwrap(), TcpListener::bind(address).await.unwrap());
        let server = Self::new(address, None, react);
        let seen = Arc::clone(&server.seen);
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
                let (query, reaction) = seen.query(&buffer[..length]);
                for reply in reaction.datagrams(&query) {
                    socket.send_to(&reply, client).await.unwrap();
                }
            }
        });
        server.listen(listener);
        server
    }

    fn new(
        address: SocketAddr,
        tls: Option<TlsAcceptor>,
        react: impl Fn(&str, usize) -> Reaction + Send + Sync + 'static,
    ) -> Self {
        let seen = Seen {
            queries: Mutex::default(),
            connections: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            records: AtomicUsize::new(0),
            react: Box::new(react),
        };
        Self { address, seen: Arc::new(seen), tls: Arc::new(Mutex::new(tls)), listening: Arc::default() }
    }

    /// Takes connections in a task that owns the listener and them: all end with it.
    fn listen(&self, listener: TcpListener) {
        let server = self.clone();
        let listening = tokio::spawn(async move {
            let mut clients = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap(); // as resolvers do
                let (seen, acceptor) = (Arc::clone(&server.seen), server.tls.lock().unwrap().clone());
                clients.spawn(async move {
                    let socket = socket2::SockRef::from(&stream).try_clone().unwrap();
                    let Some(acceptor) = acceptor else { return conversation::hold(stream, socket, &seen).await };
                    if let Ok(stream) = acceptor.accept(Tap::new(stream, Arc::clone(&seen))).await {
                        conversation::hold(stream, socket, &seen).await;
                    }
                });
            }
        });
        *self.listening.lock().unwrap() = Some(listening);
    }

    /// Goes away: its connections end, and new ones are refused.
    pub async fn goes_away(&self) {
        let listening = self.listening.lock().unwrap().take().expect("it is there");
        listening.abort();
        let _ = listening.await; // it was cancelled
    }

    /// Comes back at the same address.
    pub async fn comes_back(&self) {
        self.listen(TcpListener::bind(self.address).await.unwrap());
    }

    /// Shows another certificate to who connects from now on.
    pub fn replaces_its_certificate(&self, authority: &Authority, name: &str, last_year: i32) {
        *self.tls.lock().unwrap() = Some(authority.acceptor(name, last_year));
    }

    /// The names that were asked, in lower case and in order.
    pub fn asked(&self) -> Vec<String> {
        self.queries().iter().map(|query| name_in(query)).collect()
    }

    /// The queries as they came.
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

    /// How many TLS records with data came; each handshake has one.
    pub fn records(&self) -> usize {
        self.seen.records.load(Ordering::SeqCst)
    }

    /// How the proxy is told of a DNS-over-TLS server.
    pub fn url(&self) -> String {
        format!("tls://{}#{NAME}", self.address)
    }
}

impl Seen {
    /// Takes a query down, and tells what is to be done with it.
    pub fn query(&self, message: &[u8]) -> (Message, Reaction) {
        let mut queries = self.queries.lock().unwrap();
        queries.push(message.to_vec());
        (Message::from_vec(message).unwrap(), (self.react)(&name_in(message), queries.len()))
    }

    /// Counts a connection as open until the guard is dropped.
    pub fn connected(&self) -> impl Drop {
        struct Open<'a>(&'a AtomicUsize);
        impl Drop for Open<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::SeqCst);
            }
        }
        self.connections.fetch_add(1, Ordering::SeqCst);
        self.open.fetch_add(1, Ordering::SeqCst);
        Open(&self.open)
    }
}

fn name_in(query: &[u8]) -> String {
    Message::from_vec(query).unwrap().queries[0].name().to_string().to_lowercase()
}

/// An address at which nobody listens, nor will by chance.
pub fn unused_address() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, dot_test_ports::reserve()))
}
