//! A server reached by DNS over TLS (RFC 7858): one connection, opened ahead of the first query, closed when idle, and
//! opened again at the first sign of life; a fresh one takes its place when it has gone silent.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use dot_proxy_config::TlsServer;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::cause::Cause;
use super::connect::Tls;
use super::connection::{Connection, Ended, Query, Stream};
use super::health::Health;
use crate::memory;
use crate::wire::query::Privacy;

/// Connections in a row that ended without one answer, after which the server counts as failing.
const BARREN: u32 = 3;

/// A pause that a query waits for, rather than to fail.
const SHORT_PAUSE: Duration = Duration::from_millis(20);

/// A server, and the connection to it if there is one.
#[derive(Clone)]
pub struct Dot {
    shared: Arc<Shared>,
}

/// Reaches a server, and has it prove who it is. What it gives reads and writes bytes; tests put memory in its place.
pub trait Connect: Send + Sync {
    /// Connects.
    fn connect(&self) -> Connecting<'_>;
}

/// An attempt to connect.
pub type Connecting<'a> = Pin<Box<dyn Future<Output = Result<Box<dyn Stream>, Cause>> + Send + 'a>>;

/// Reaches a server over TLS.
pub struct OverTls {
    /// Whom to trust.
    pub tls: Tls,
    /// The server.
    pub server: TlsServer,
}

impl Connect for OverTls {
    fn connect(&self) -> Connecting<'_> {
        Box::pin(async {
            let stream = self.tls.connect(&self.server).await?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }
}

struct Shared {
    connect: Box<dyn Connect>,
    /// Is told of each attempt to connect that failed.
    tell_failures: OnceLock<Box<dyn Fn(Cause) + Send + Sync>>,
    idle: Duration,
    health: Arc<Health>,
    /// Set when there is no open connection, so that the next sign of life opens one.
    dormant: AtomicBool,
    /// The last connection was used. One that was opened ahead and closed unused is not opened ahead again.
    worth_opening: AtomicBool,
    state: Mutex<State>,
}

struct State {
    open: Option<Open>,
    connecting: Option<Attempt>,
    /// Connections that ended without one answer, one after the other.
    barren: u32,
    last_failure: Cause,
}

struct Open {
    connection: Connection,
    since: Instant,
}

/// A connection, or an attempt that is under way.
enum Connected {
    Already(Connection),
    Soon(Attempt),
}

/// What an attempt to connect came to; `None` while it is under way.
type Attempt = watch::Receiver<Option<Result<Connection, Cause>>>;

/// Which connection will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The open one.
    Any,
    /// One that is younger than this: the one before has gone silent.
    YoungerThan(Duration),
}

impl Dot {
    /// A server that is not yet connected to. A connection without queries for `idle` is closed.
    pub fn new(connect: impl Connect + 'static, idle: Duration) -> Self {
        let state = State { open: None, connecting: None, barren: 0, last_failure: Cause::ConnectionClosed };
        let shared = Shared {
            connect: Box::new(connect),
            tell_failures: OnceLock::new(),
            idle,
            health: Arc::default(),
            dormant: AtomicBool::new(true),
            worth_opening: AtomicBool::new(true),
            state: Mutex::new(state),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Has each failure to connect told to this, whoever asked for the connection. Only the first call counts.
    pub fn tell_failures(&self, tell: impl Fn(Cause) + Send + Sync + 'static) {
        let _ = self.shared.tell_failures.set(Box::new(tell));
    }

    /// What is known of the server.
    pub fn health(&self) -> &Arc<Health> {
        &self.shared.health
    }

    /// The open connection, if there is one.
    pub fn ready(&self) -> Option<Connection> {
        self.shared.lock().open(Which::Any)
    }

    /// Whether no connection is open or being opened. True once only, until that changes: who is told opens one.
    pub fn wants_connection(&self) -> bool {
        self.shared.dormant.load(Ordering::Relaxed) && self.shared.dormant.swap(false, Ordering::AcqRel)
    }

    /// Whether there is no connection, and a sign of life is reason enough to open one.
    pub fn is_dormant(&self) -> bool {
        self.shared.dormant.load(Ordering::Relaxed) && self.shared.worth_opening.load(Ordering::Relaxed)
    }

    /// Asks, and waits for the answer and how long it took since it was asked; `asked` is called when it is.
    pub async fn exchange(
        &self,
        query: Query<'_>,
        server: usize,
        which: Which,
        asked: impl Fn(),
    ) -> Result<(Vec<u8>, Duration), Cause> {
        loop {
            let connected = timeout_at(query.until, self.connection(which)).await;
            let connection = connected.unwrap_or(Err(Cause::ConnectionTimedOut))?;
            // It may end before the query is sent; then another will do.
            if let Some(answered) = connection.ask(query, server).await? {
                asked();
                return answered.message().await;
            }
        }
    }

    /// The open connection, or one that is being opened. The server is left alone while it is paused after a failure; a
    /// short pause is waited for.
    pub async fn connection(&self, which: Which) -> Result<Connection, Cause> {
        let now = Instant::now();
        if let Some(end) = self.shared.health.paused_until(now)
            && end <= now + SHORT_PAUSE
        {
            sleep_until(end).await;
        }
        let mut attempt = match self.open_or_attempt(which)? {
            Connected::Already(connection) => return Ok(connection),
            Connected::Soon(attempt) => attempt,
        };
        let outcome = attempt.wait_for(Option::is_some).await.map_err(|_| Cause::ConnectionClosed)?;
        outcome.clone().unwrap_or(Err(Cause::ConnectionClosed))
    }

    fn open_or_attempt(&self, which: Which) -> Result<Connected, Cause> {
        let mut state = self.shared.lock();
        if let Some(connection) = state.open(which) {
            return Ok(Connected::Already(connection));
        }
        // An attempt whose task is gone without an outcome must not be waited for for ever.
        let alive = |attempt: &&Attempt| attempt.has_changed().is_ok() || attempt.borrow().is_some();
        if let Some(attempt) = state.connecting.as_ref().filter(alive) {
            return Ok(Connected::Soon(attempt.clone()));
        }
        if self.shared.health.paused_until(Instant::now()).is_some() {
            return Err(self.shared.health.failing().unwrap_or(state.last_failure));
        }
        let attempt = self.attempt();
        state.connecting = Some(attempt.clone());
        Ok(Connected::Soon(attempt))
    }

    /// Connects in a task of its own, so that a query which gives up does not undo the attempt for the others; the task
    /// then serves the connection.
    fn attempt(&self) -> Attempt {
        let (tell, attempt) = watch::channel(None);
        let shared = Arc::clone(&self.shared);
        shared.dormant.store(false, Ordering::Release);
        tokio::spawn(async move {
            match shared.connect.connect().await {
                Ok(stream) => {
                    let (connection, driver) =
                        Connection::open(stream, Privacy::Encrypted, Arc::clone(&shared.health), shared.idle);
                    shared.opened(&connection);
                    let _ = tell.send(Some(Ok(connection.clone()))); // nobody may be waiting any more
                    drop(tell);
                    let ended = driver.await;
                    shared.ended(&connection);
                    if ended == Ended::Idle {
                        memory::let_go();
                    }
                }
                Err(cause) => {
                    shared.failed(cause);
                    let _ = tell.send(Some(Err(cause)));
                }
            }
        });
        attempt
    }
}

impl State {
    fn open(&self, which: Which) -> Option<Connection> {
        let open = self.open.as_ref().filter(|open| !open.connection.is_closed())?;
        let will_do = match which {
            Which::Any => true,
            Which::YoungerThan(age) => open.since.elapsed() < age,
        };
        will_do.then(|| open.connection.clone())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn opened(&self, connection: &Connection) {
        let mut state = self.lock();
        state.connecting = None;
        state.open = Some(Open { connection: connection.clone(), since: Instant::now() });
        if state.barren < BARREN {
            self.health.reached();
        }
    }

    fn failed(&self, cause: Cause) {
        self.health.failed(cause, Instant::now());
        if let Some(tell) = self.tell_failures.get() {
            tell(cause);
        }
        let mut state = self.lock();
        state.connecting = None;
        state.last_failure = cause;
        self.dormant.store(state.open.is_none(), Ordering::Release);
    }

    fn ended(&self, connection: &Connection) {
        self.worth_opening.store(connection.was_asked(), Ordering::Relaxed);
        let mut state = self.lock();
        let fruitless = connection.was_asked() && connection.answers_heard() == 0;
        state.barren = if fruitless { state.barren.saturating_add(1) } else { 0 };
        if state.barren >= BARREN {
            self.health.failed(Cause::ConnectionClosed, Instant::now());
        }
        if state.open.as_ref().is_some_and(|open| open.connection.is(connection)) {
            state.open = None;
            self.dormant.store(state.connecting.is_none(), Ordering::Release);
        }
    }
}
