//! A server reached by DNS over HTTPS (RFC 8484): every query a stream of one HTTP/2 connection.
//!
//! `h2` is used directly: its errors tell what a GOAWAY or a reset has left undone, which decides whether a query may be
//! asked again. Nothing tells the client from others: no cookies, no User-Agent, message id 0, padded queries.

mod connection;
pub(super) mod request;
pub(super) mod response;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dot_proxy_config::{HttpMethod, HttpsServer};
use hyper::body::Bytes;
use tokio::time::{Instant, timeout_at};

use self::connection::{Connection, Lost, OverHttps, Received};
use self::request::Requests;
use self::response::Verdict;
use super::cause::Cause;
use super::connect::Tls;
use super::connection::Query;
use super::kept::{Kept, Standby, Which};
use crate::wire::query::{self, Privacy};

/// How often a query is put into a stream when the server resets it.
const STREAMS: usize = 3;

/// A server, and the connection to it if there is one.
#[derive(Clone)]
pub struct Doh {
    kept: Kept<Connection>,
    requests: Arc<Requests>,
    /// Whether the question is asked for in the URL. A server that takes no POST is asked by GET from then on.
    by_get: Arc<AtomicBool>,
}

impl Doh {
    /// A server that is not yet connected to. A connection without queries for `idle` is closed.
    pub fn new(tls: &Tls, server: &HttpsServer, method: HttpMethod, idle: Duration) -> Self {
        let open = OverHttps { tls: tls.speaking(&[b"h2"]), server: server.server.clone() };
        Self {
            kept: Kept::new(open, idle),
            requests: Arc::new(Requests::to(server)),
            by_get: Arc::new(AtomicBool::new(method == HttpMethod::Get)),
        }
    }

    /// The connection that is kept.
    pub fn standby(&self) -> &dyn Standby {
        &self.kept
    }

    /// Asks, and waits for the answer and how long it took; `asked` is called whenever a query is sent.
    pub async fn exchange(
        &self,
        query: Query<'_>,
        which: Which,
        asked: impl Fn(),
    ) -> Result<(Vec<u8>, Duration), Cause> {
        self.leave_alone_if_busy()?;
        let mut message = Vec::new();
        // RFC 8484 §4.1: id 0, so that equal questions are equal requests.
        query::write(&mut message, 0, query.asked, query.question, Privacy::Multiplexed);
        let message = Bytes::from(message);
        loop {
            let by_get = self.by_get.load(Ordering::Relaxed);
            let received = self.ask(&message, by_get, query.until, which, &asked).await?;
            match response::judge(&received.head) {
                Verdict::Answer { age, fresh_for } => {
                    let Received { body: mut message, latency, .. } = received;
                    if !response::take_answer(&mut message, query.question, age, fresh_for) {
                        return Err(self.fails(Cause::ResponseMalformed));
                    }
                    return Ok((message, latency));
                }
                Verdict::NoSuchMethod if !by_get => self.by_get.store(true, Ordering::Relaxed),
                Verdict::NoSuchMethod | Verdict::OtherStatus => return Err(self.fails(Cause::HttpStatusUnexpected)),
                Verdict::NoMessage => return Err(self.fails(Cause::ResponseMalformed)),
                Verdict::Busy { pause } => {
                    let now = Instant::now();
                    self.kept.health().asked_to_wait(Cause::ServerBusy, now + pause, now);
                    return Err(Cause::ServerBusy);
                }
            }
        }
    }

    /// Puts the query into a stream, of another connection where the open one ends before it is sent, and once more where the
    /// server resets the stream.
    async fn ask(
        &self,
        message: &Bytes,
        by_get: bool,
        until: Instant,
        which: Which,
        asked: &impl Fn(),
    ) -> Result<Received, Cause> {
        let mut resets = 0;
        loop {
            let connection = self.kept.connection_until(which, until).await?;
            let (request, body) = if by_get {
                (self.requests.get(message), None)
            } else {
                (self.requests.post(message), Some(message.clone()))
            };
            let exchanged = timeout_at(until, connection.exchange(request, body, asked)).await;
            match exchanged.map_err(|_| Cause::QueryTimedOut)? {
                Ok(received) => return Ok(received),
                Err(Lost::NotSent) => {}
                Err(Lost::Stream) => {
                    resets += 1;
                    if resets == STREAMS {
                        return Err(self.fails(Cause::StreamReset));
                    }
                }
                Err(Lost::TooLong) => return Err(self.fails(Cause::ResponseMalformed)),
                Err(Lost::Connection) => return Err(Cause::ConnectionClosed),
            }
        }
    }

    /// RFC 9110 §10.2.3: a server that asks to be left alone for a while is.
    fn leave_alone_if_busy(&self) -> Result<(), Cause> {
        let health = self.kept.health();
        let is_busy = health.failing() == Some(Cause::ServerBusy) && health.paused_until(Instant::now()).is_some();
        if is_busy { Err(Cause::ServerBusy) } else { Ok(()) }
    }

    fn fails(&self, cause: Cause) -> Cause {
        self.kept.health().failed(cause, Instant::now());
        cause
    }
}

/// What the fuzz targets reach of this module; there is none of it in a build of another kind.
#[cfg(fuzzing)]
pub mod fuzzing {
    use hyper::http::response::Parts;

    use super::response::{Verdict, judge, take_answer};
    use crate::wire::request::Question;

    /// The answer in a response, if there is one.
    pub fn answer(head: &Parts, mut body: Vec<u8>, question: Question<'_>) -> Option<Vec<u8>> {
        match judge(head) {
            Verdict::Answer { age, fresh_for } => take_answer(&mut body, question, age, fresh_for).then_some(body),
            _ => None,
        }
    }
}
