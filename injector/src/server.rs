//! HTTP/1.1 and HTTP/2 on a listener, with or without TLS: bounded in connections, in all and for each address, in time and
//! in size; drained when stopped. What is refused is counted by its reason.

mod sources;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

pub use self::sources::Share;
use self::sources::{Evicted, Over, Place, Sources};
use crate::metrics::Metrics;

/// An answer that is whole in memory.
pub type Answer = Response<Full<Bytes>>;

/// What clients may take.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at once; the API server needs a handful. The next one takes the place of the longest idle one.
    pub connections: usize,
    /// Of them from one address.
    pub connections_of_one: usize,
    /// Reviews in memory at once; more wait.
    pub reviews: usize,
    /// Of them from one address.
    pub reviews_of_one: usize,
    /// So long a review waits for room in memory before it is told to come again.
    pub room: Duration,
    /// A handshake or the first request's head that takes longer is given up.
    pub head: Duration,
    /// A body that takes longer is given up; the API server itself waits 10 s for the answer.
    pub body: Duration,
    /// A connection that asks nothing for so long is closed; the API server closes its own after 90 s.
    pub idle: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 512,
            connections_of_one: 128,
            reviews: 32,
            reviews_of_one: 24,
            room: Duration::from_secs(2),
            head: Duration::from_secs(5),
            body: Duration::from_secs(5),
            idle: Duration::from_secs(120),
        }
    }
}

/// Requests at once on one HTTP/2 connection.
const MOST_STREAMS: u32 = 128;
/// The longest head of a request, in bytes; the API server's has some hundreds.
const LONGEST_HEAD: usize = 16 << 10;
/// A silent HTTP/2 connection is asked whether it lives, and closed when it does not answer.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// After a failure to accept (no file descriptors), wait for some to be free again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What is being answered when the server stops has so long to be done.
const DRAIN: Duration = Duration::from_secs(15);
/// A connection that is closed has so long to take what it is owed.
const GOODBYE: Duration = Duration::from_secs(1);

/// Serves until `shutdown`, then finishes what was begun.
pub async fn serve<Handler, Answering>(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    limits: &Limits,
    metrics: Metrics,
    handler: Handler,
    shutdown: impl Future<Output = ()>,
) where
    Handler: Fn(Request<Incoming>) -> Answering + Clone + Send + 'static,
    Answering: Future<Output = Answer> + Send + 'static,
{
    let sources = Sources::new(limits.connections, limits.connections_of_one, limits.reviews_of_one);
    let sources = Arc::new(sources);
    let (stop, stopped) = watch::channel(false);
    let (alive, mut all_gone) = mpsc::channel(1);
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = accept(&listener, &sources, &metrics) => accepted,
        };
        let Some((stream, place)) = accepted else { continue };
        let connection = Connection {
            tls: tls.clone(),
            place,
            limits: limits.clone(),
            metrics: metrics.clone(),
            stopped: stopped.clone(),
            _alive: alive.clone(),
        };
        tokio::spawn(connection.serve(stream, handler.clone()));
    }
    drop(listener);
    drop(alive);
    stop.send_replace(true);
    // Nothing is ever sent: it ends when the last connection is gone.
    if timeout(DRAIN, all_gone.recv()).await.is_err() {
        warn!("some connections were still busy when the time to drain was over");
    }
}

/// A short answer as text.
pub fn text(status: StatusCode, text: impl Into<String>) -> Answer {
    let mut text: String = text.into();
    text.push('\n');
    let mut answer = Response::new(Full::new(Bytes::from(text)));
    *answer.status_mut() = status;
    let plain = hyper::header::HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(hyper::header::CONTENT_TYPE, plain);
    answer
}

struct Connection {
    tls: Option<TlsAcceptor>,
    place: Place,
    limits: Limits,
    metrics: Metrics,
    stopped: watch::Receiver<bool>,
    _alive: mpsc::Sender<Infallible>,
}

impl Connection {
    async fn serve<Handler, Answering>(self, stream: TcpStream, handler: Handler)
    where
        Handler: Fn(Request<Incoming>) -> Answering + Clone + Send + 'static,
        Answering: Future<Output = Answer> + Send + 'static,
    {
        let Some(tls) = &self.tls else { return self.speak_http(stream, handler).await };
        let handshake = async {
            tokio::select! {
                handshake = timeout(self.limits.head, tls.accept(stream)) => Some(handshake),
                // Its place is another's already.
                _ = self.place.activity.over(self.limits.idle, self.limits.idle) => None,
            }
        };
        match handshake.await {
            Some(Ok(Ok(stream))) => self.speak_http(stream, handler).await,
            Some(Ok(Err(error))) => {
                debug!(%error, "a TLS handshake failed");
                self.metrics.refused(if is_of_certificate(&error) { "client-certificate" } else { "tls-failed" });
            }
            Some(Err(_)) => self.metrics.refused("tls-slow"),
            None => {}
        }
    }

    async fn speak_http<Stream, Handler, Answering>(self, stream: Stream, handler: Handler)
    where
        Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        Handler: Fn(Request<Incoming>) -> Answering + Clone + Send + 'static,
        Answering: Future<Output = Answer> + Send + 'static,
    {
        let (activity, share) = (Arc::clone(&self.place.activity), self.place.share.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            let busy = activity.begins();
            request.extensions_mut().insert(share.clone());
            let answering = handler(request);
            async move {
                let answer = answering.await;
                drop(busy);
                Ok::<_, Infallible>(answer)
            }
        });
        let builder = http(&self.limits);
        let graceful = GracefulShutdown::new();
        let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
        let mut served = std::pin::pin!(graceful.watch(connection));
        let (activity, limits, mut stopped) = (Arc::clone(&self.place.activity), &self.limits, self.stopped.clone());
        let patience = tokio::select! {
            ended = &mut served => return self.ended(ended),
            over = activity.over(limits.head, limits.idle) => {
                if over == Over::Idle && !activity.was_asked() {
                    self.metrics.refused("silent");
                }
                GOODBYE
            }
            _ = stopped.wait_for(|stopped| *stopped) => DRAIN,
        };
        // The first tells the connection to finish, and completes after the second alone.
        let _ = timeout(patience, async {
            tokio::select! {
                () = graceful.shutdown() => {}
                _ = &mut served => {}
            }
        })
        .await;
    }

    fn ended(&self, ended: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
        let Err(error) = ended else { return };
        debug!(%error, "a connection broke");
        match error.downcast_ref::<hyper::Error>() {
            Some(error) if error.is_timeout() => self.metrics.refused("head-slow"),
            Some(error) if error.is_parse_too_large() => self.metrics.refused("head-too-long"),
            Some(error) if error.is_parse() => self.metrics.refused("no-http"),
            _ => {} // it went away
        }
    }
}

fn http(limits: &Limits) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // hyper's time for a head begins when the last answer is done: anything shorter would close connections that are kept for the next
    // review, which could meet that. Who sends the first head slowly is closed as one who asks nothing, after `limits.head`.
    builder.http1().timer(TokioTimer::new()).header_read_timeout(limits.idle).max_buf_size(LONGEST_HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MOST_STREAMS)
        .max_header_list_size(u32::try_from(LONGEST_HEAD).unwrap_or(u32::MAX))
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(limits.head);
    builder
}

/// Whether a handshake failed because the client did not prove that it may call.
fn is_of_certificate(error: &io::Error) -> bool {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(tls, Some(rustls::Error::NoCertificatesPresented | rustls::Error::InvalidCertificate(_)))
}

/// The next connection, if there is room for it.
async fn accept(listener: &TcpListener, sources: &Arc<Sources>, metrics: &Metrics) -> Option<(TcpStream, Place)> {
    match listener.accept().await {
        Ok((stream, client)) => {
            let Some((place, evicted)) = sources.admit(client.ip()) else {
                metrics.refused("too-many-connections");
                return None;
            };
            if evicted == Evicted(true) {
                metrics.refused("evicted");
            }
            // Answers are small and awaited: nothing is gained by gathering them.
            if let Err(error) = stream.set_nodelay(true) {
                debug!(%error, "TCP_NODELAY could not be set");
            }
            Some((stream, place))
        }
        Err(error) => {
            warn!(%error, "a connection could not be accepted");
            sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}
