//! A server reached by DNS over TLS (RFC 7858): one connection, opened ahead of the first query, kept open, and opened
//! again when it has ended.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dot_proxy_config::TlsServer;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::cause::Cause;
use super::connect::Tls;
use super::connection::Connection;
use crate::wire::query::Privacy;
use crate::wire::request::{Asked, Question};

/// After a failed attempt to connect, queries fail at once for so long, so that an outage is not a storm of handshakes.
const BACKOFF: Duration = Duration::from_millis(200);

/// A server, and the connection to it if there is one.
#[derive(Clone)]
pub struct Dot {
    shared: Arc<Shared>,
}

struct Shared {
    server: TlsServer,
    tls: Tls,
    state: Mutex<State>,
}

/// What an attempt to connect came to; `None` while it is under way.
type Attempt = watch::Receiver<Option<Result<Connection, Cause>>>;

enum State {
    Closed,
    Connecting(Attempt),
    Open(Connection),
    Failed { cause: Cause, until: Instant },
}

impl Dot {
    /// A server that is not yet connected to.
    pub fn new(server: TlsServer, tls: Tls) -> Self {
        Self { shared: Arc::new(Shared { server, tls, state: Mutex::new(State::Closed) }) }
    }

    /// Opens the connection ahead of the first query; what comes of it is for the first query to find.
    pub fn warm_up(&self) {
        let dot = self.clone();
        tokio::spawn(async move { dot.connection().await.map(drop) });
    }

    /// Asks, on the open connection or a fresh one, and waits for the answer until then.
    pub async fn exchange(&self, asked: Asked, question: Question<'_>, until: Instant) -> Result<Vec<u8>, Cause> {
        let connection = timeout_at(until, self.connection()).await.unwrap_or(Err(Cause::ConnectionTimedOut))?;
        let heard_before = connection.frames_heard();
        let exchanged = timeout_at(until, connection.exchange(asked, question)).await;
        if exchanged.is_err() && connection.frames_heard() == heard_before {
            // Nothing at all came in: the connection is dead, and the next query gets a fresh one.
            connection.retire();
        }
        exchanged.unwrap_or(Err(Cause::QueryTimedOut))
    }

    async fn connection(&self) -> Result<Connection, Cause> {
        let mut attempt = {
            let mut state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
            match &*state {
                State::Open(connection) if !connection.is_closed() => return Ok(connection.clone()),
                State::Failed { cause, until } if Instant::now() < *until => return Err(*cause),
                State::Connecting(attempt) if attempt.has_changed().is_ok() => attempt.clone(),
                // An attempt whose task is gone without an outcome has panicked: it must not be waited for for ever.
                State::Open(_) | State::Failed { .. } | State::Connecting(_) | State::Closed => {
                    let attempt = self.attempt();
                    *state = State::Connecting(attempt.clone());
                    attempt
                }
            }
        };
        let outcome = attempt.wait_for(Option::is_some).await.map_err(|_| Cause::ConnectionClosed)?;
        outcome.clone().unwrap_or(Err(Cause::ConnectionClosed))
    }

    /// Connects in a task of its own, so that a query which gives up does not undo the attempt for the others.
    fn attempt(&self) -> Attempt {
        let (tell, attempt) = watch::channel(None);
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            let connected = shared.tls.connect(&shared.server).await;
            let outcome = connected.map(|stream| Connection::open(stream, Privacy::Encrypted));
            let state = match &outcome {
                Ok(connection) => State::Open(connection.clone()),
                Err(cause) => State::Failed { cause: *cause, until: Instant::now() + BACKOFF },
            };
            *shared.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
            let _ = tell.send(Some(outcome)); // nobody may be waiting any more
        });
        attempt
    }
}
