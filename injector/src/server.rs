//! HTTP/1.1 and HTTP/2 on a listener, with or without TLS: bounded in connections, time and size, drained when stopped.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

/// An answer that is whole in memory.
pub type Answer = Response<Full<Bytes>>;

/// Connections at once; the API server needs a handful.
const MOST_CONNECTIONS: usize = 512;
/// Requests at once on one HTTP/2 connection.
const MOST_STREAMS: u32 = 128;
/// A handshake or a request's head that takes longer is given up.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// A silent HTTP/2 connection is asked whether it lives, and closed when it does not answer.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// After a failure to accept (no file descriptors), wait for some to be free again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What is being answered when the server stops has so long to be done.
const DRAIN: Duration = Duration::from_secs(15);

/// Serves until `shutdown`, then finishes what was begun.
pub async fn serve<Handler, Answering>(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    handler: Handler,
    shutdown: impl Future<Output = ()>,
) where
    Handler: Fn(Request<Incoming>) -> Answering + Clone + Send + 'static,
    Answering: Future<Output = Answer> + Send + 'static,
{
    let graceful = GracefulShutdown::new();
    let slots = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = accept(&listener, &slots) => accepted,
        };
        let Some((stream, slot)) = accepted else { continue };
        let connection = Connection { tls: tls.clone(), watcher: graceful.watcher(), _slot: slot };
        tokio::spawn(connection.serve(stream, handler.clone()));
    }
    drop(listener);
    if timeout(DRAIN, graceful.shutdown()).await.is_err() {
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
    watcher: Watcher,
    _slot: OwnedSemaphorePermit,
}

impl Connection {
    async fn serve<Handler, Answering>(self, stream: TcpStream, handler: Handler)
    where
        Handler: Fn(Request<Incoming>) -> Answering + Clone + Send + 'static,
        Answering: Future<Output = Answer> + Send + 'static,
    {
        let Some(tls) = &self.tls else { return self.speak_http(stream, handler).await };
        match timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
            Ok(Ok(stream)) => self.speak_http(stream, handler).await,
            Ok(Err(error)) => debug!(%error, "a TLS handshake failed"),
            Err(_) => debug!("a TLS handshake took too long"),
        }
    }

    async fn speak_http<Stream, Handler, Answering>(self, stream: Stream, handler: Handler)
    where
        Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        Handler: Fn(Request<Incoming>) -> Answering + Clone + Send + 'static,
        Answering: Future<Output = Answer> + Send + 'static,
    {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HANDSHAKE_TIMEOUT);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(MOST_STREAMS)
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(HANDSHAKE_TIMEOUT);
        let service = service_fn(move |request| {
            let answering = handler(request);
            async move { Ok::<_, Infallible>(answering.await) }
        });
        let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
        if let Err(error) = self.watcher.watch(connection).await {
            debug!(%error, "a connection broke");
        }
    }
}

/// The next connection, once there is room for it.
async fn accept(listener: &TcpListener, slots: &Arc<Semaphore>) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => {
            // Answers are small and awaited: nothing is gained by gathering them.
            if let Err(error) = stream.set_nodelay(true) {
                debug!(%error, "TCP_NODELAY could not be set");
            }
            Some((stream, slot))
        }
        Err(error) => {
            warn!(%error, "a connection could not be accepted");
            sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}
