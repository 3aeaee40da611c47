//! A server of DNS over HTTPS on loopback that does what a test tells it.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use h2::Reason;
use h2::server::{Connection, SendResponse};
use hickory_proto::op::Message;
use hyper::body::Bytes;
use hyper::{Method, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::answers::answer;
use crate::authority::{Authority, LAST_YEAR, NAME};

/// What a server does with a request.
#[derive(Debug, Clone, Copy)]
pub enum Act {
    /// Answers it.
    Answer,
    /// Answers it so much later, and other requests meanwhile.
    Late(Duration),
    /// Answers it, with these headers beside.
    With(&'static [(&'static str, &'static str)]),
    /// Sends the answer under this status, with these headers beside.
    Status(u16, &'static [(&'static str, &'static str)]),
    /// Sends the answer as this media type.
    As(&'static str),
    /// Sends what this makes of the answer.
    Altered(fn(&mut Message)),
    /// Sends so many octets.
    Octets(usize),
    /// Says nothing.
    Silence,
    /// Resets the stream.
    Reset(Reason),
    /// Says that it will look at no open stream any more, and closes the connection.
    GoAway,
    /// Says that it takes no more streams, answers those that are open, and closes the connection.
    GoAwayInPeace,
    /// Closes the connection without a word.
    Close,
}

type React = dyn Fn(&str, usize) -> Act + Send + Sync;

/// A running server; it ends with the test's runtime.
#[derive(Clone)]
pub struct HttpsServer {
    pub address: SocketAddr,
    seen: Arc<Seen>,
}

struct Seen {
    requests: Mutex<Vec<Asked>>,
    connections: AtomicUsize,
    open: AtomicUsize,
    react: Box<React>,
}

/// A request, and the message in it.
#[derive(Debug, Clone)]
pub struct Asked {
    pub head: Request<()>,
    pub message: Vec<u8>,
}

impl HttpsServer {
    /// A server that reacts to a name, in lower case, and the number of the request, from 1, as told.
    pub async fn that(authority: &Authority, react: impl Fn(&str, usize) -> Act + Send + Sync + 'static) -> Self {
        Self::with_tls(authority.tls(NAME, LAST_YEAR, &["h2"]), react).await
    }

    /// The same with TLS of the test's own.
    pub async fn with_tls(
        tls: rustls::ServerConfig,
        react: impl Fn(&str, usize) -> Act + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let seen = Seen {
            requests: Mutex::default(),
            connections: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            react: Box::new(react),
        };
        let server = Self { address: listener.local_addr().unwrap(), seen: Arc::new(seen) };
        let (seen, acceptor) = (Arc::clone(&server.seen), TlsAcceptor::from(Arc::new(tls)));
        tokio::spawn(async move {
            let mut clients = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                clients.spawn(hold(stream, acceptor.clone(), Arc::clone(&seen)));
            }
        });
        server
    }

    /// How the proxy is told of it.
    pub fn url(&self) -> String {
        format!("https://{}/dns-query#{NAME}", self.address)
    }

    /// The requests as they came.
    pub fn asked(&self) -> Vec<Asked> {
        self.seen.requests.lock().unwrap().clone()
    }

    /// How many connections came to the point where requests can be made.
    pub fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    /// How many of them are open.
    pub fn open_connections(&self) -> usize {
        self.seen.open.load(Ordering::SeqCst)
    }
}

async fn hold(stream: TcpStream, acceptor: TlsAcceptor, seen: Arc<Seen>) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    seen.connections.fetch_add(1, Ordering::SeqCst);
    seen.open.fetch_add(1, Ordering::SeqCst);
    serve(&mut connection, &seen).await;
    seen.open.fetch_sub(1, Ordering::SeqCst);
}

async fn serve(connection: &mut Connection<TlsStream<TcpStream>, Bytes>, seen: &Arc<Seen>) {
    let (answered, mut acts) = mpsc::channel(1024);
    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            accepted = connection.accept() => {
                let Some(Ok((request, respond))) = accepted else { return };
                streams.spawn(respond_to(request, respond, Arc::clone(seen), answered.clone()));
            }
            Some(act) = acts.recv() => match act {
                Act::GoAway => connection.abrupt_shutdown(Reason::NO_ERROR),
                Act::GoAwayInPeace => connection.graceful_shutdown(),
                _ => return,
            }
        }
    }
}

async fn respond_to(
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    seen: Arc<Seen>,
    of_the_connection: mpsc::Sender<Act>,
) {
    let Some(message) = message_in(request).await.map(|asked| seen.take(asked)) else { return };
    let (query, act) = message;
    let right = || answer(&query).to_vec().unwrap();
    let mut response = Response::builder().status(200).header("content-type", "application/dns-message");
    let body = match act {
        Act::Answer => right(),
        Act::GoAwayInPeace => {
            let _ = of_the_connection.send(act).await;
            right()
        }
        Act::Late(delay) => {
            tokio::time::sleep(delay).await;
            right()
        }
        Act::With(headers) => {
            response = headers.iter().fold(response, |response, (name, value)| response.header(*name, *value));
            right()
        }
        Act::Status(status, headers) => {
            response = response.status(status);
            response = headers.iter().fold(response, |response, (name, value)| response.header(*name, *value));
            right()
        }
        Act::As(media_type) => {
            response = Response::builder().status(200).header("content-type", media_type);
            right()
        }
        Act::Altered(alter) => {
            let mut reply = answer(&query);
            alter(&mut reply);
            reply.to_vec().unwrap()
        }
        Act::Octets(count) => vec![0; count],
        Act::Silence => return std::future::pending().await,
        Act::Reset(reason) => return respond.send_reset(reason),
        Act::GoAway | Act::Close => {
            let _ = of_the_connection.send(act).await;
            return std::future::pending().await;
        }
    };
    // A client that has left already needs no answer.
    let Ok(mut sending) = respond.send_response(response.body(()).unwrap(), false) else { return };
    let _ = sending.send_data(body.into(), true);
    let _ = poll_fn(|context| sending.poll_reset(context)).await; // held open until it is sent
}

async fn message_in(request: Request<h2::RecvStream>) -> Option<Asked> {
    let (parts, mut body) = request.into_parts();
    let mut message = Vec::new();
    while let Some(chunk) = body.data().await {
        message.extend(chunk.ok()?);
    }
    if parts.method == Method::GET {
        let encoded = parts.uri.query()?.strip_prefix("dns=")?;
        message = data_encoding::BASE64URL_NOPAD.decode(encoded.as_bytes()).unwrap();
    }
    Some(Asked { head: Request::from_parts(parts, ()), message })
}

impl Seen {
    /// Takes a request down, and tells what is to be done with it.
    fn take(&self, asked: Asked) -> (Message, Act) {
        let query = Message::from_vec(&asked.message).unwrap();
        let mut requests = self.requests.lock().unwrap();
        requests.push(asked);
        let act = (self.react)(&query.queries[0].name().to_string().to_lowercase(), requests.len());
        (query, act)
    }
}
