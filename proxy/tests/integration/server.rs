//! Servers on loopback that do what a test tells them: DNS over TLS with certificates of the test's own CA, and plain DNS.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use hickory_proto::op::{Message, MessageType, OpCode};
use hickory_proto::rr::rdata::{A, SOA};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio_rustls::TlsAcceptor;

/// The name in the servers' certificates.
pub const NAME: &str = "dns.test";

/// What a server does with a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// Answers it.
    Answer,
    /// Answers it once this many have come on the connection, the latest first.
    AnswerInReverse(usize),
    /// Says nothing.
    Silence,
    /// Closes the connection.
    Close,
    /// Answers with TC and no records.
    Truncate,
}

type Behaviour = Arc<dyn Fn(&str, usize) -> Reaction + Send + Sync>;

/// A running server; it ends with the test's runtime.
#[derive(Clone)]
pub struct Server {
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
    behaviour: Behaviour,
}

/// A certification authority of the test's own.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A server's TLS, with a certificate for this name, valid until this year.
    fn acceptor(&self, name: &str, last_year: i32) -> TlsAcceptor {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(last_year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key.serialize_der().try_into().unwrap())
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

impl Server {
    /// A DNS-over-TLS server that answers everything.
    pub async fn tls(authority: &Authority) -> Self {
        Self::tls_that(authority, |_, _| Reaction::Answer).await
    }

    /// A DNS-over-TLS server that reacts to a name and the number of the query as told.
    pub async fn tls_that(
        authority: &Authority,
        react: impl Fn(&str, usize) -> Reaction + Send + Sync + 'static,
    ) -> Self {
        Self::tls_at("127.0.0.1:0".parse().unwrap(), authority, NAME, 2099, react).await
    }

    /// A DNS-over-TLS server whose certificate is for this name and valid until this year.
    pub async fn tls_with_certificate(authority: &Authority, name: &str, last_year: i32) -> Self {
        Self::tls_at("127.0.0.1:0".parse().unwrap(), authority, name, last_year, |_, _| Reaction::Answer).await
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
        let server = Self::new(listener.local_addr().unwrap(), react);
        let acceptor = authority.acceptor(name, last_year);
        let accepting = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (server, acceptor) = (accepting.clone(), acceptor.clone());
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        server.connections.fetch_add(1, Ordering::SeqCst);
                        server.converse(stream).await;
                    }
                });
            }
        });
        server
    }

    /// A server of plain DNS, UDP and TCP, that reacts as told.
    pub async fn plain(react: impl Fn(&str, usize) -> Reaction + Send + Sync + 'static) -> Self {
        let (socket, listener) = udp_and_tcp().await;
        let server = Self::new(socket.local_addr().unwrap(), react);
        let (datagrams, streams) = (server.clone(), server.clone());
        tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
                let query = Message::from_vec(&buffer[..length]).unwrap();
                let reply = match datagrams.react(&query) {
                    Reaction::Silence | Reaction::Close => continue,
                    Reaction::Truncate => truncated(&query),
                    Reaction::Answer | Reaction::AnswerInReverse(_) => answer(&query),
                };
                socket.send_to(&reply, client).await.unwrap();
            }
        });
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = streams.clone();
                server.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move { server.converse(stream).await });
            }
        });
        server
    }

    fn new(address: SocketAddr, react: impl Fn(&str, usize) -> Reaction + Send + Sync + 'static) -> Self {
        Self { address, asked: Arc::default(), connections: Arc::default(), behaviour: Arc::new(react) }
    }

    /// The names that were asked, in order.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// How many connections came to the point where queries can be asked.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// How the proxy is told of a DNS-over-TLS server.
    pub fn url(&self) -> String {
        format!("tls://{}#{NAME}", self.address)
    }

    fn react(&self, query: &Message) -> Reaction {
        let name = query.queries[0].name().to_string().to_lowercase();
        let mut asked = self.asked.lock().unwrap();
        asked.push(name.clone());
        (self.behaviour)(&name, asked.len())
    }

    async fn converse(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        let mut held: Vec<Vec<u8>> = Vec::new();
        while let Ok(length) = stream.read_u16().await {
            let mut bytes = vec![0; length.into()];
            stream.read_exact(&mut bytes).await.unwrap();
            let query = Message::from_vec(&bytes).unwrap();
            match self.react(&query) {
                Reaction::Answer | Reaction::Truncate => send(&mut stream, &answer(&query)).await,
                Reaction::Silence => {}
                Reaction::Close => return,
                Reaction::AnswerInReverse(count) => {
                    held.push(answer(&query));
                    if held.len() == count {
                        for reply in held.drain(..).rev() {
                            send(&mut stream, &reply).await;
                        }
                    }
                }
            }
        }
    }
}

async fn udp_and_tcp() -> (UdpSocket, TcpListener) {
    for _ in 0..16 {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        if let Ok(listener) = TcpListener::bind(socket.local_addr().unwrap()).await {
            return (socket, listener);
        }
    }
    panic!("no port was free for both UDP and TCP");
}

async fn send(stream: &mut (impl AsyncWrite + Unpin), message: &[u8]) {
    let framed = [&u16::try_from(message.len()).unwrap().to_be_bytes(), message].concat();
    stream.write_all(&framed).await.unwrap();
    stream.flush().await.unwrap();
}

fn reply_to(query: &Message) -> Message {
    let mut reply = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
    reply.metadata.recursion_desired = query.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.add_queries(query.queries.iter().cloned());
    reply
}

fn truncated(query: &Message) -> Vec<u8> {
    let mut reply = reply_to(query);
    reply.metadata.truncation = true;
    reply.to_vec().unwrap()
}

/// One address for A, `large` many of them, an SOA for everything else.
fn answer(query: &Message) -> Vec<u8> {
    let mut reply = reply_to(query);
    let question = &query.queries[0];
    let name = question.name().clone();
    match question.query_type() {
        RecordType::A => {
            let count = if name.to_string().starts_with("large") { 100 } else { 1 };
            for last in 0..count {
                reply.add_answer(Record::from_rdata(name.clone(), 300, RData::A(A::new(192, 0, 2, last))));
            }
        }
        _ => {
            let soa = SOA::new(name.clone(), Name::root(), 1, 2, 3, 4, 60);
            reply.add_authority(Record::from_rdata(name, 60, RData::SOA(soa)));
        }
    }
    reply.to_vec().unwrap()
}
