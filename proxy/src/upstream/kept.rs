//! One connection kept to a server: opened ahead of the first query, closed when idle, and opened again at the first sign of
//! life; a fresh one takes its place when it has gone silent. What travels over it is the transport's affair.

mod usage;

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};

pub use self::usage::{InFlight, Usage};
use super::cause::Cause;
use super::health::Health;
use crate::memory;
use crate::panics::caught;

/// Connections in a row that ended without one answer, after which the server counts as failing.
const BARREN: u32 = 3;

/// A pause that a query waits for, rather than to fail.
const SHORT_PAUSE: Duration = Duration::from_millis(20);

/// A server, and the connection to it if there is one.
pub struct Kept<C> {
    shared: Arc<Shared<C>>,
}

/// A handle to an open connection.
pub trait Link: Clone + Send + Sync + 'static {
    /// Whether it can take no more queries.
    fn is_closed(&self) -> bool;

    /// Whether both are handles to one connection.
    fn is(&self, other: &Self) -> bool;

    /// Whether any query was put in.
    fn was_asked(&self) -> bool;

    /// Whether any answer has come.
    fn has_answered(&self) -> bool;

    /// Takes no more queries, and ends once nothing waits for an answer.
    fn finish(&self);
}

/// Opens connections to a server, and has it prove who it is.
pub trait Open: Send + Sync + 'static {
    /// What is opened.
    type Connection: Link;

    /// Opens one. Without queries for `idle` it is to be closed.
    fn open(&self, health: Arc<Health>, idle: Duration) -> Opening<'_, Self::Connection>;
}

/// An attempt to open a connection.
pub type Opening<'a, C> = Pin<Box<dyn Future<Output = Result<Opened<C>, Cause>> + Send + 'a>>;

/// An open connection.
pub struct Opened<C> {
    /// The handle.
    pub connection: C,
    /// Serves the connection to its end.
    pub driver: Pin<Box<dyn Future<Output = Ended> + Send>>,
}

/// How a connection came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Nobody had asked for long.
    Idle,
    /// The server ended it, or the network.
    Broken,
}

/// What a group does with a connection that is kept, whatever travels over it.
pub trait Standby: Send + Sync {
    /// What is known of the server.
    fn health(&self) -> &Arc<Health>;

    /// Whether no connection is open or being opened. True once only, until that changes: who is told opens one.
    fn wants_connection(&self) -> bool;

    /// Whether there is no connection, and a sign of life is reason enough to open one.
    fn is_dormant(&self) -> bool;

    /// Has each failure to connect told to this, whoever asked for the connection. Only the first call counts.
    fn tell_failures(&self, tell: TellFailure);

    /// Opens no connection any more, and has the open one end once nothing waits for an answer on it.
    fn retire(&self);

    /// Waits for a connection, which is opened where there is none.
    fn make_ready(&self) -> Pin<Box<dyn Future<Output = Result<(), Cause>> + Send + '_>>;
}

/// Is told of each attempt to connect that failed.
pub type TellFailure = Box<dyn Fn(Cause) + Send + Sync>;

struct Shared<C> {
    open: Box<dyn Open<Connection = C>>,
    tell_failures: OnceLock<TellFailure>,
    idle: Duration,
    health: Arc<Health>,
    /// Set when there is no open connection, so that the next sign of life opens one.
    dormant: AtomicBool,
    /// The last connection was used. One that was opened ahead and closed unused is not opened ahead again.
    worth_opening: AtomicBool,
    state: Mutex<State<C>>,
}

struct State<C> {
    open: Option<Current<C>>,
    connecting: Option<Attempt<C>>,
    /// No connection is wanted any more, for good.
    retired: bool,
    /// Connections that ended without one answer, one after the other.
    barren: u32,
    last_failure: Cause,
}

struct Current<C> {
    connection: C,
    since: Instant,
}

/// A connection, or an attempt that is under way.
enum Connected<C> {
    Already(C),
    Soon(Attempt<C>),
}

/// What an attempt to connect came to; `None` while it is under way.
type Attempt<C> = watch::Receiver<Option<Result<C, Cause>>>;

/// Which connection will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The open one.
    Any,
    /// One that is younger than this: the one before has gone silent.
    YoungerThan(Duration),
}

impl<C> Clone for Kept<C> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<C: Link> Kept<C> {
    /// A server that is not yet connected to. A connection without queries for `idle` is closed.
    pub fn new(open: impl Open<Connection = C>, idle: Duration) -> Self {
        let state =
            State { open: None, connecting: None, retired: false, barren: 0, last_failure: Cause::ConnectionClosed };
        let shared = Shared {
            open: Box::new(open),
            tell_failures: OnceLock::new(),
            idle,
            health: Arc::default(),
            dormant: AtomicBool::new(true),
            worth_opening: AtomicBool::new(true),
            state: Mutex::new(state),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The open connection, if there is one.
    pub fn ready(&self) -> Option<C> {
        self.shared.lock().open(Which::Any)
    }

    /// The same as [`Kept::connection`], if it comes about before a query's time is over.
    pub async fn connection_until(&self, which: Which, until: Instant) -> Result<C, Cause> {
        timeout_at(until, self.connection(which)).await.unwrap_or(Err(Cause::ConnectionTimedOut))
    }

    /// The open connection, or one that is being opened. The server is left alone while it is paused after a failure; a
    /// short pause is waited for.
    pub async fn connection(&self, which: Which) -> Result<C, Cause> {
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

    fn open_or_attempt(&self, which: Which) -> Result<Connected<C>, Cause> {
        let mut state = self.shared.lock();
        if state.retired {
            return Err(Cause::ConnectionClosed);
        }
        if let Some(connection) = state.open(which) {
            return Ok(Connected::Already(connection));
        }
        // An attempt whose task is gone without an outcome must not be waited for for ever.
        let alive = |attempt: &&Attempt<C>| attempt.has_changed().is_ok() || attempt.borrow().is_some();
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
    fn attempt(&self) -> Attempt<C> {
        let (tell, attempt) = watch::channel(None);
        let shared = Arc::clone(&self.shared);
        shared.dormant.store(false, Ordering::Release);
        tokio::spawn(async move {
            let opening = caught(shared.open.open(Arc::clone(&shared.health), shared.idle)).await;
            match opening.unwrap_or(Err(Cause::InternalError)) {
                Ok(Opened { connection, driver }) => {
                    shared.opened(&connection);
                    let _ = tell.send(Some(Ok(connection.clone()))); // nobody may be waiting any more
                    drop(tell);
                    let ended = caught(driver).await.unwrap_or_else(|| {
                        shared.tell(Cause::InternalError);
                        Ended::Broken
                    });
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

impl<C: Link> Standby for Kept<C> {
    fn health(&self) -> &Arc<Health> {
        &self.shared.health
    }

    fn wants_connection(&self) -> bool {
        self.shared.dormant.load(Ordering::Relaxed) && self.shared.dormant.swap(false, Ordering::AcqRel)
    }

    fn is_dormant(&self) -> bool {
        self.shared.dormant.load(Ordering::Relaxed) && self.shared.worth_opening.load(Ordering::Relaxed)
    }

    fn tell_failures(&self, tell: TellFailure) {
        let _ = self.shared.tell_failures.set(tell);
    }

    fn retire(&self) {
        let open = {
            let mut state = self.shared.lock();
            state.retired = true;
            self.shared.dormant.store(false, Ordering::Release);
            state.open.take()
        };
        if let Some(open) = open {
            open.connection.finish();
        }
    }

    fn make_ready(&self) -> Pin<Box<dyn Future<Output = Result<(), Cause>> + Send + '_>> {
        Box::pin(async { self.connection(Which::Any).await.map(|_| ()) })
    }
}

impl<C: Link> State<C> {
    fn open(&self, which: Which) -> Option<C> {
        let open = self.open.as_ref().filter(|open| !open.connection.is_closed())?;
        let will_do = match which {
            Which::Any => true,
            Which::YoungerThan(age) => open.since.elapsed() < age,
        };
        will_do.then(|| open.connection.clone())
    }
}

impl<C: Link> Shared<C> {
    fn lock(&self) -> MutexGuard<'_, State<C>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn opened(&self, connection: &C) {
        let mut state = self.lock();
        state.connecting = None;
        if state.retired {
            drop(state);
            return connection.finish();
        }
        state.open = Some(Current { connection: connection.clone(), since: Instant::now() });
        if state.barren < BARREN {
            self.health.reached();
        }
    }

    fn failed(&self, cause: Cause) {
        self.health.failed(cause, Instant::now());
        self.tell(cause);
        let mut state = self.lock();
        state.connecting = None;
        state.last_failure = cause;
        self.dormant.store(state.open.is_none() && !state.retired, Ordering::Release);
    }

    fn tell(&self, cause: Cause) {
        if let Some(tell) = self.tell_failures.get() {
            tell(cause);
        }
    }

    fn ended(&self, connection: &C) {
        self.worth_opening.store(connection.was_asked(), Ordering::Relaxed);
        let mut state = self.lock();
        let fruitless = connection.was_asked() && !connection.has_answered();
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
