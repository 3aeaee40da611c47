//! One HTTP/2 connection (RFC 9113), many queries at once.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dot_proxy_config::TlsServer;
use h2::client::{Builder, SendRequest};
use hyper::Request;
use hyper::body::Bytes;
use hyper::http::response::Parts;
use tokio::time::{Instant, timeout};

use super::super::cause::Cause;
use super::super::connect::{Connected, Tls};
use super::super::health::Health;
use super::super::kept::{Ended, Link, Open, Opened, Opening, Usage};

/// The longest message that DNS knows, and the longest body that is taken in.
const LONGEST: usize = 65_535;

/// What all bodies together may take before they are read.
const WINDOW: u32 = 1 << 20;

/// The longest head of a response.
const LONGEST_HEAD: u32 = 16 << 10;

/// How long the end of a connection that nobody needs may take.
const GOODBYE: Duration = Duration::from_secs(1);

/// Reaches a server by HTTP/2 over TLS.
pub(super) struct OverHttps {
    pub(super) tls: Tls,
    pub(super) server: TlsServer,
}

/// A handle to an open connection.
#[derive(Clone)]
pub(super) struct Connection {
    shared: Arc<Shared>,
}

struct Shared {
    /// `None` when it takes no more requests.
    streams: Mutex<Option<SendRequest<Bytes>>>,
    usage: Arc<Usage>,
}

/// A response, and how long it took.
pub(super) struct Received {
    pub(super) head: Parts,
    pub(super) body: Vec<u8>,
    pub(super) latency: Duration,
}

/// Why there is no response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    /// The connection ended before the request was sent.
    NotSent,
    /// The connection ended, or the server will not look at the request any more (GOAWAY).
    Connection,
    /// The server reset the stream.
    Stream,
    /// The body is longer than any message.
    TooLong,
}

impl From<h2::Error> for Lost {
    fn from(error: h2::Error) -> Self {
        if error.is_reset() { Self::Stream } else { Self::Connection }
    }
}

impl Open for OverHttps {
    type Connection = Connection;

    fn open(&self, health: Arc<Health>, idle: Duration) -> Opening<'_, Connection> {
        Box::pin(async move {
            let stream = self.tls.connect(&self.server).await?;
            if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
                return Err(Cause::TlsHandshakeFailed); // it would take the frames for HTTP/1.1
            }
            let handshake = Builder::new()
                .enable_push(false)
                .initial_connection_window_size(WINDOW)
                .max_header_list_size(LONGEST_HEAD)
                .handshake(stream);
            let (streams, connection) = handshake.await.map_err(|_| Cause::ConnectionClosed)?;
            let shared = Arc::new(Shared { streams: Mutex::new(Some(streams)), usage: Usage::new(health) });
            let driver = Box::pin(drive(Arc::clone(&shared), connection, idle));
            Ok(Opened { connection: Connection { shared }, driver })
        })
    }
}

/// Serves the connection until it ends.
async fn drive(shared: Arc<Shared>, connection: h2::client::Connection<Connected, Bytes>, idle: Duration) -> Ended {
    let mut connection = Box::pin(connection);
    let ended = tokio::select! {
        _ = &mut connection => Ended::Broken,
        () = shared.usage.idle_for(idle) => Ended::Idle,
        () = shared.usage.finished() => Ended::Idle,
    };
    shared.close();
    shared.usage.cut_short();
    if ended == Ended::Idle {
        // Without anybody who could send, it says GOAWAY and ends TLS in good order; nobody waits for that here.
        tokio::spawn(timeout(GOODBYE, connection));
    }
    ended
}

impl Connection {
    /// Sends a request and waits for its response; `asked` is called when it is sent. Dropping the future gives it up.
    pub(super) async fn exchange(
        &self,
        request: Request<()>,
        body: Option<Bytes>,
        asked: &impl Fn(),
    ) -> Result<Received, Lost> {
        let _in_flight = self.shared.usage.asks().await;
        let received = self.send_and_receive(request, body, asked).await;
        match received {
            Ok(_) => self.shared.usage.answered(),
            Err(Lost::Connection) => self.shared.usage.cut_short(),
            Err(_) => {}
        }
        received
    }

    async fn send_and_receive(
        &self,
        request: Request<()>,
        body: Option<Bytes>,
        asked: &impl Fn(),
    ) -> Result<Received, Lost> {
        let streams = self.shared.lock().clone().ok_or(Lost::NotSent)?;
        // Waits for room where the server allows no more streams at once.
        let ready = streams.ready().await;
        let sent = ready.and_then(|mut streams| streams.send_request(request, body.is_none()));
        let (response, mut sending) = sent.map_err(|_| {
            self.shared.close();
            Lost::NotSent
        })?;
        if let Some(body) = body {
            sending.send_data(body, true)?;
        }
        asked();
        let sent_at = Instant::now();
        let (head, mut receiving) = response.await?.into_parts();
        let mut body = Vec::new();
        while let Some(chunk) = poll_fn(|context| receiving.poll_data(context)).await {
            let chunk = chunk?;
            if body.len() + chunk.len() > LONGEST {
                return Err(Lost::TooLong);
            }
            body.extend_from_slice(&chunk);
            receiving.flow_control().release_capacity(chunk.len())?;
        }
        Ok(Received { head, body, latency: sent_at.elapsed() })
    }
}

impl Link for Connection {
    fn is_closed(&self) -> bool {
        self.shared.lock().is_none()
    }

    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    fn was_asked(&self) -> bool {
        self.shared.usage.was_asked()
    }

    fn has_answered(&self) -> bool {
        self.shared.usage.has_answered()
    }

    fn finish(&self) {
        self.shared.usage.finish();
        self.shared.close();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Option<SendRequest<Bytes>>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        *self.lock() = None;
    }
}
