//! One connection with many queries in flight (RFC 7766 §6.2.1.1): answers come in any order and are matched by id and
//! question. Anything that reads and writes bytes will do, so that it can be tested in memory.
//!
//! Who asks writes: a query is framed and sent on the thread that has it, under a lock, without waking anybody. A task on
//! the runtime, the driver, reads answers, finishes writes that the network would not take at once, tells who waits when
//! an answer is late, and closes the connection when it is idle or the server has.

mod driver;
mod frames;

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout_at};

use super::cause::Cause;
use super::health::Health;
use super::kept::Ended;
use crate::replies::Outbox;
use crate::wire::query::Privacy;
use crate::wire::request::{Asked, Question};

/// Queries that wait for an answer on one connection; far below the 65,536 ids, so that a free one is found at once.
const MAX_IN_FLIGHT: usize = 8_192;

/// What may wait to be written; with more, the server is not reading and takes no further query.
const MAX_UNWRITTEN: usize = 2 << 20;

/// Bytes in both directions.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Who waits for an answer.
pub trait Asker: Send + Sync {
    /// The answer came. Replies to clients that follow from it go into the outbox.
    fn answered(self: Arc<Self>, attempt: Attempt, message: &[u8], now: Instant, outbox: &mut Outbox);
    /// The answer is later than answers usually are; it may still come.
    fn late(self: Arc<Self>, attempt: Attempt);
    /// The connection ended without an answer.
    fn failed(self: Arc<Self>, attempt: Attempt, cause: Cause);
}

/// One query to one server.
#[derive(Debug, Clone, Copy)]
pub struct Attempt {
    /// The server's place in its group.
    pub server: usize,
    /// When it was asked.
    pub sent: Instant,
}

/// A query to be sent.
#[derive(Clone, Copy)]
pub struct Query<'a> {
    /// What of the client's query goes with the question.
    pub asked: Asked,
    /// The question.
    pub question: Question<'a>,
    /// When nobody waits for the answer any more.
    pub until: Instant,
}

/// Why a connection does not take a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotTaken {
    /// It has ended.
    Closed,
    /// As many queries wait for an answer as may, or too much waits to be written.
    Full,
}

/// A handle to an open connection.
#[derive(Clone)]
pub struct Connection {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    closed: AtomicBool,
    was_asked: AtomicBool,
    answers_heard: AtomicU64,
    health: Arc<Health>,
    idle: Duration,
    /// An answer has come, or the connection has ended: who waits for room looks again.
    room: Notify,
}

/// What asking and driving share.
struct State {
    /// `None` once the connection has ended.
    stream: Option<Box<dyn Stream>>,
    privacy: Privacy,
    in_flight: HashMap<u16, InFlight, BuildHasherDefault<IdHasher>>,
    next_id: u16,
    outgoing: Vec<u8>,
    /// TLS holds back what the network did not take.
    unflushed: bool,
    /// A write failed; the driver ends the connection.
    broken: Option<Cause>,
    /// The driver is to look for late answers.
    wants_alarm: bool,
    /// The driver looks for late answers already.
    alarm_is_set: bool,
    last_asked: Instant,
    /// No more queries are taken; the driver ends the connection when the last one is answered.
    finishing: bool,
    driver: Option<Waker>,
}

struct InFlight {
    asker: Arc<dyn Asker>,
    question: Box<[u8]>,
    attempt: Attempt,
    until: Instant,
    told_late: bool,
}

/// Ids are unique and dense: they are their own hash.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u16(u16::from(*byte));
        }
    }

    fn write_u16(&mut self, id: u16) {
        // The table takes its control bits from the top, its place from the bottom.
        self.0 = (self.0 << 16 | u64::from(id)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

impl Connection {
    /// Takes over a stream on which TLS is done. The future drives the connection until it ends; it has to be spawned.
    /// After `idle` without a query the connection is closed; a server may wish for less (RFC 7828).
    pub fn open(
        stream: impl Stream + 'static,
        privacy: Privacy,
        health: Arc<Health>,
        idle: Duration,
    ) -> (Self, impl Future<Output = Ended> + Send + 'static) {
        let state = State {
            stream: Some(Box::new(stream)),
            privacy,
            in_flight: HashMap::default(),
            next_id: super::random_id(),
            outgoing: Vec::new(),
            unflushed: false,
            broken: None,
            wants_alarm: false,
            alarm_is_set: false,
            last_asked: Instant::now(),
            finishing: false,
            driver: None,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            closed: AtomicBool::new(false),
            was_asked: AtomicBool::new(false),
            answers_heard: AtomicU64::new(0),
            health,
            idle,
            room: Notify::new(),
        });
        (Self { shared: Arc::clone(&shared) }, driver::drive(shared))
    }

    /// Whether the connection can take no more queries.
    pub fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::Acquire)
    }

    /// Whether both are handles to one connection.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Whether any query was put in.
    pub fn was_asked(&self) -> bool {
        self.shared.was_asked.load(Ordering::Relaxed)
    }

    /// How many answers have come in.
    pub fn answers_heard(&self) -> u64 {
        self.shared.answers_heard.load(Ordering::Relaxed)
    }

    /// Takes no more queries, and ends the connection once nothing waits for an answer on it.
    pub fn finish(&self) {
        self.shared.closed.store(true, Ordering::Release);
        let mut state = self.shared.lock();
        state.finishing = true;
        let waker = state.driver.take();
        drop(state);
        self.shared.room.notify_waiters();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Puts a query into the next write. Once taken, the asker hears of it exactly once: answered or failed, unless the
    /// query's time is over first.
    pub fn enqueue(&self, query: Query<'_>, attempt: Attempt, asker: Arc<dyn Asker>) -> Result<(), NotTaken> {
        let window = self.shared.health.window();
        let taken = self.shared.lock().enqueue(query, attempt, asker, window);
        if matches!(taken, Err(NotTaken::Closed)) {
            self.shared.closed.store(true, Ordering::Release);
        }
        let waker = taken?;
        self.shared.was_asked.store(true, Ordering::Relaxed);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
    }

    /// Writes what was put in: everything in one TLS record, as far as that is long enough, and in one write.
    pub fn flush(&self) {
        let mut state = self.shared.lock();
        let written = state.write(&mut Context::from_waker(Waker::noop()));
        let needs_driver = match written {
            Poll::Ready(Ok(())) => false,
            Poll::Ready(Err(error)) => {
                state.broken = Some(ended_by(&error));
                true
            }
            Poll::Pending => true,
        };
        let waker = if needs_driver { state.driver.take() } else { None };
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Asks, once there is room. `None` where the connection ended before the query was sent.
    pub async fn ask(&self, query: Query<'_>) -> Result<Option<Answered>, Cause> {
        let (answer, answered) = oneshot::channel();
        let asker = Arc::new(Waiting(Mutex::new(Some(answer))));
        loop {
            let room = self.shared.room.notified();
            let attempt = Attempt { server: 0, sent: Instant::now() };
            match self.enqueue(query, attempt, Arc::<Waiting>::clone(&asker)) {
                Ok(()) => break,
                Err(NotTaken::Closed) => return Ok(None),
                Err(NotTaken::Full) => timeout_at(query.until, room).await.map_err(|_| Cause::QueryTimedOut)?,
            }
        }
        self.flush();
        Ok(Some(Answered { answered, until: query.until }))
    }
}

/// An answer that a task waits for. Dropping it gives the question up.
pub struct Answered {
    answered: oneshot::Receiver<Outcome>,
    until: Instant,
}

/// An answer's message and how long it took, or why there is none.
type Outcome = Result<(Vec<u8>, Duration), Cause>;

impl Answered {
    /// Waits for the message, and tells how long it took.
    pub async fn message(self) -> Outcome {
        match timeout_at(self.until, self.answered).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) | Err(_) => Err(Cause::QueryTimedOut),
        }
    }
}

/// One who waits in a task.
struct Waiting(Mutex<Option<oneshot::Sender<Outcome>>>);

impl Waiting {
    fn tell(&self, outcome: Outcome) {
        if let Some(answer) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = answer.send(outcome); // who gave up waiting needs no answer
        }
    }
}

impl Asker for Waiting {
    fn answered(self: Arc<Self>, attempt: Attempt, message: &[u8], now: Instant, _: &mut Outbox) {
        self.tell(Ok((message.to_vec(), now.saturating_duration_since(attempt.sent))));
    }

    fn late(self: Arc<Self>, _: Attempt) {}

    fn failed(self: Arc<Self>, _: Attempt, cause: Cause) {
        self.tell(Err(cause));
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the connection and tells everybody who waits.
    fn end(&self, cause: Cause) {
        self.closed.store(true, Ordering::Release);
        let (stream, in_flight) = {
            let mut state = self.lock();
            (state.stream.take(), std::mem::take(&mut state.in_flight))
        };
        drop(stream);
        self.room.notify_waiters();
        if !in_flight.is_empty() {
            self.health.cut_short(in_flight.len());
        }
        for waiting in in_flight.into_values() {
            waiting.asker.failed(waiting.attempt, cause);
        }
    }
}

impl State {
    /// Frames a query. The driver's waker comes back when it has to look for late answers from now on.
    fn enqueue(
        &mut self,
        query: Query<'_>,
        attempt: Attempt,
        asker: Arc<dyn Asker>,
        window: usize,
    ) -> Result<Option<Waker>, NotTaken> {
        if self.stream.is_none() || self.broken.is_some() || self.finishing {
            return Err(NotTaken::Closed);
        }
        if self.in_flight.len() >= window.min(MAX_IN_FLIGHT) || self.outgoing.len() >= MAX_UNWRITTEN {
            return Err(NotTaken::Full);
        }
        while self.in_flight.contains_key(&self.next_id) {
            self.next_id = self.next_id.wrapping_add(1);
        }
        frames::write(&mut self.outgoing, self.next_id, query, self.privacy);
        let question = query.question.as_bytes().into();
        let waiting = InFlight { asker, question, attempt, until: query.until, told_late: false };
        self.in_flight.insert(self.next_id, waiting);
        self.next_id = self.next_id.wrapping_add(1);
        self.last_asked = attempt.sent;
        if self.alarm_is_set || self.wants_alarm {
            return Ok(None);
        }
        self.wants_alarm = true;
        Ok(self.driver.take())
    }

    /// Writes what waits, as far as the network takes it.
    fn write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(stream) = self.stream.as_mut() else { return Poll::Ready(Ok(())) };
        let mut written = 0;
        let outcome = loop {
            if written == self.outgoing.len() {
                break Poll::Ready(Ok(()));
            }
            match Pin::new(&mut *stream).poll_write(context, &self.outgoing[written..]) {
                Poll::Ready(Ok(0)) => break Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => {
                    written += count;
                    self.unflushed = true;
                }
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                Poll::Pending => break Poll::Pending,
            }
        };
        self.outgoing.drain(..written);
        if !self.unflushed || matches!(outcome, Poll::Ready(Err(_))) {
            return outcome;
        }
        match Pin::new(stream).poll_flush(context) {
            Poll::Ready(Ok(())) => {
                self.unflushed = false;
                outcome
            }
            other => other,
        }
    }

    fn has_to_write(&self) -> bool {
        self.unflushed || !self.outgoing.is_empty()
    }
}

fn ended_by(error: &io::Error) -> Cause {
    match Cause::of_connecting(error) {
        // A certificate or handshake problem can still come after TLS 1.3 lets us write; other errors end what was open.
        cause @ (Cause::TlsHandshakeFailed | Cause::CertificateInvalid) => cause,
        _ => Cause::ConnectionClosed,
    }
}

#[cfg(test)]
mod tests;
