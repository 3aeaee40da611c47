//! Health and metrics over plain HTTP: `/livez`, `/readyz`, `/metrics`. Nothing here reveals what pods ask.

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tracing::error;

use crate::metrics::Metrics;
use crate::readiness::Readiness;
use crate::server::{Answer, text};

/// What the admin endpoint shows.
#[derive(Clone)]
pub struct Admin {
    /// For `/readyz`.
    pub readiness: Readiness,
    /// For `/metrics`.
    pub metrics: Metrics,
}

impl Admin {
    /// Answers one HTTP request.
    pub async fn handle(self, request: Request<Incoming>) -> Answer {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "GET /livez, /readyz or /metrics");
        }
        match request.uri().path() {
            "/livez" => text(StatusCode::OK, "ok"),
            "/readyz" => match self.readiness.check() {
                Ok(()) => text(StatusCode::OK, "ok"),
                Err(missing) => text(StatusCode::SERVICE_UNAVAILABLE, missing),
            },
            "/metrics" => self.metrics(),
            _ => text(StatusCode::NOT_FOUND, "not found: there are /livez, /readyz and /metrics"),
        }
    }

    fn metrics(&self) -> Answer {
        match self.metrics.encoded() {
            Ok(metrics) => {
                let mut answer = Response::new(Full::new(Bytes::from(metrics)));
                let open_metrics = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(open_metrics));
                answer
            }
            Err(error) => {
                error!(%error, "metrics could not be written");
                text(StatusCode::INTERNAL_SERVER_ERROR, "metrics could not be written")
            }
        }
    }
}
