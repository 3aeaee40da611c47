//! Health and metrics over HTTP: `/livez`, `/readyz`, `/metrics`, which tell neither a name that was asked nor a client, and,
//! on loopback alone, `/debug/clients` and `/debug/config`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use crate::clients::{Clients, report};
use crate::reload::State;
use crate::resolve::Resolver;

/// Connections at once; the next ones wait in the kernel.
const CONNECTIONS: usize = 16;

/// A connection that has not sent its request by then is closed.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection older than this is closed, whatever it does.
const LIFETIME: Duration = Duration::from_secs(30);

/// What the endpoints tell of.
pub struct Admin {
    /// The metrics.
    pub registry: Registry,
    /// Asked whether upstreams answer.
    pub resolver: Arc<Resolver>,
    /// Asked who misbehaved.
    pub clients: Arc<Clients>,
    /// Asked which configuration is in force, if it comes from a file.
    pub configuration: Option<Arc<State>>,
}

/// Serves until told to stop.
pub async fn serve(listener: TcpListener, admin: Arc<Admin>, mut stop: watch::Receiver<bool>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let admin = Arc::clone(&admin);
                tokio::spawn(async move {
                    // An endless or broken connection is closed here; nothing is owed to it.
                    let resolver = Arc::clone(&admin.resolver);
                    let _ =
                        resolver.panics().contain_task("admin", timeout(LIFETIME, converse(stream, peer, admin))).await;
                    drop(slot);
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn converse(stream: TcpStream, peer: SocketAddr, admin: Arc<Admin>) -> hyper::Result<()> {
    let answer = service_fn(move |request| {
        let response = admin.answer(&request, peer);
        async { Ok::<_, Infallible>(response) }
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .serve_connection(TokioIo::new(stream), answer)
        .await
}

impl Admin {
    fn answer(&self, request: &Request<Incoming>, peer: SocketAddr) -> Response<Full<Bytes>> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here\n".to_owned());
        }
        match request.uri().path() {
            // That this is answered at all shows that the event loop turns.
            "/livez" => text(StatusCode::OK, "ok\n".to_owned()),
            "/readyz" => match self.resolver.failing() {
                None => text(StatusCode::OK, "ok\n".to_owned()),
                Some(failure) => text(StatusCode::SERVICE_UNAVAILABLE, format!("no upstream answers: {failure}\n")),
            },
            "/metrics" => self.metrics(),
            "/debug/clients" | "/debug/config" if !peer.ip().to_canonical().is_loopback() => {
                let remedy = "this is told on loopback alone: use kubectl port-forward, or ask on the machine itself\n";
                text(StatusCode::FORBIDDEN, remedy.to_owned())
            }
            "/debug/config" => match &self.configuration {
                Some(state) => text(StatusCode::OK, state.to_string()),
                None => text(StatusCode::NOT_FOUND, "there is no configuration file (--config)\n".to_owned()),
            },
            "/debug/clients" => text(StatusCode::OK, report::table(&self.clients.rows())),
            _ => text(
                StatusCode::NOT_FOUND,
                "there are /livez, /readyz, /metrics, /debug/clients and /debug/config\n".to_owned(),
            ),
        }
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        let mut body = String::new();
        if prometheus_client::encoding::text::encode(&mut body, &self.registry).is_err() {
            return text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written\n".to_owned());
        }
        let mut response = text(StatusCode::OK, body);
        let openmetrics = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, openmetrics);
        response
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
