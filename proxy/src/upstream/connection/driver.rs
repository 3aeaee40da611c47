//! The task behind a connection.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::yield_now;
use tokio::time::{Instant, Sleep, sleep_until};
use tracing::error;

use super::frames::{Delivery, Incoming};
use super::{Asker, Attempt, Cause, Ended, Shared, State, ended_by};
use crate::replies::Outbox;
use crate::wire::response;

/// Reads with answers in them after which it is the turn of others: answers may come faster than they can be handed on, to who
/// asks too much.
const IN_A_ROW: u32 = 4;

/// Room for one read.
const READ: usize = 16 * 1024;

/// What may be kept of a buffer that a long answer has made grow.
const KEEP: usize = 2 * READ;

struct Driver {
    shared: Arc<Shared>,
    incoming: Incoming,
    deliveries: Vec<Delivery>,
    alarm: Pin<Box<Sleep>>,
    waits_for: WaitsFor,
    idle: Duration,
    /// The first answer was looked through for what the server wishes.
    asked_for_keepalive: bool,
    outbox: Outbox,
}

/// What the alarm is set for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WaitsFor {
    LateAnswers,
    Idleness,
}

/// What a turn of the driver came to.
enum Turn {
    /// Answers have come: so many octets have been looked at.
    Answers(usize),
    /// These are late.
    Late(Vec<Late>),
    /// The connection is over.
    Over(Cause),
    /// Nobody has asked for long: it is over, in good order.
    Idle,
}

/// Whose answer is late, and whether nothing else came either.
type Late = (Arc<dyn Asker>, Attempt, bool);

/// Serves the connection until it ends, however that comes about, a panic included; then everybody who waits is told.
pub(super) async fn drive(shared: Arc<Shared>) -> Ended {
    struct Ending(Arc<Shared>, Cause);
    impl Drop for Ending {
        fn drop(&mut self) {
            self.0.end(self.1);
        }
    }
    let mut ending = Ending(Arc::clone(&shared), Cause::ConnectionClosed);
    let idle = shared.idle;
    let alarm = Box::pin(sleep_until(Instant::now() + idle));
    let mut driver = Driver {
        shared,
        incoming: Incoming::default(),
        deliveries: Vec::new(),
        alarm,
        waits_for: WaitsFor::Idleness,
        idle,
        asked_for_keepalive: false,
        outbox: Outbox::new(),
    };
    let mut in_a_row = 0_u32;
    loop {
        match poll_fn(|context| driver.turn(context)).await {
            Turn::Answers(read) => {
                driver.deliver(read);
                in_a_row = (in_a_row + 1) % IN_A_ROW;
                if in_a_row == 0 {
                    yield_now().await;
                }
            }
            Turn::Late(late) => late.into_iter().for_each(|(asker, attempt, _)| asker.late(attempt)),
            Turn::Over(cause) => {
                ending.1 = cause;
                return Ended::Broken;
            }
            Turn::Idle => {
                driver.say_goodbye().await;
                return Ended::Idle;
            }
        }
    }
}

impl Driver {
    fn turn(&mut self, context: &mut Context<'_>) -> Poll<Turn> {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.lock();
        if state.has_to_write()
            && state.broken.is_none()
            && let Poll::Ready(Err(error)) = state.write(context)
        {
            state.broken = Some(ended_by(&error));
        }
        // Answers may have come before the connection broke.
        if let Poll::Ready(turn) = self.read(&mut state, context) {
            return Poll::Ready(turn);
        }
        if let Some(cause) = state.broken {
            return Poll::Ready(Turn::Over(cause));
        }
        if state.wants_alarm {
            state.wants_alarm = false;
            state.alarm_is_set = true;
            self.set_alarm(WaitsFor::LateAnswers, Instant::now() + self.shared.health.late_after());
        }
        while self.alarm.as_mut().poll(context).is_ready() {
            if let Some(turn) = self.look_at_the_clock(&mut state) {
                return Poll::Ready(turn);
            }
        }
        if state.finishing && state.in_flight.is_empty() && !state.has_to_write() {
            return Poll::Ready(Turn::Idle);
        }
        if !state.driver.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            state.driver = Some(context.waker().clone());
        }
        Poll::Pending
    }

    fn read(&mut self, state: &mut State, context: &mut Context<'_>) -> Poll<Turn> {
        let Some(stream) = state.stream.as_mut() else { return Poll::Ready(Turn::Over(Cause::ConnectionClosed)) };
        self.incoming.bytes.reserve(READ);
        match pin!(stream.read_buf(&mut self.incoming.bytes)).poll(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(0)) => Poll::Ready(Turn::Over(Cause::ConnectionClosed)),
            Poll::Ready(Err(error)) => Poll::Ready(Turn::Over(ended_by(&error))),
            Poll::Ready(Ok(_)) => {
                let (read, answers) = self.incoming.match_up(state, &mut self.deliveries);
                if answers > 0 {
                    let before = self.shared.answers_heard.fetch_add(answers, Ordering::Relaxed);
                    self.shared.health.heard(Instant::now());
                    let not_the_first = if before == 0 { answers - 1 } else { answers };
                    self.shared.health.widen(usize::try_from(not_the_first).unwrap_or(usize::MAX));
                    self.shared.room.notify_waiters();
                }
                Poll::Ready(Turn::Answers(read))
            }
        }
    }

    /// The alarm has gone off: who waits too long, or whether nobody has asked for long.
    fn look_at_the_clock(&mut self, state: &mut State) -> Option<Turn> {
        let now = Instant::now();
        let late_after = self.shared.health.late_after();
        // First, so that who waits is told even where this machine slept until the query's time was over.
        let late = self.take_late(state, now, late_after);
        self.shared.health.late(late.len(), late.iter().filter(|(_, _, silent)| *silent).count());
        // Who was told has a clock of its own.
        state.in_flight.retain(|_, waiting| now < waiting.until);
        if self.waits_for == WaitsFor::LateAnswers {
            let not_told = state.in_flight.values().filter(|waiting| !waiting.told_late);
            let next_late = not_told.map(|waiting| waiting.attempt.sent + late_after).min();
            // An alarm for those alone who were told would come too late for who asks next.
            state.alarm_is_set = next_late.is_some();
            let next = next_late.or_else(|| state.in_flight.values().map(|waiting| waiting.until).min());
            match next {
                Some(next) => self.set_alarm(WaitsFor::LateAnswers, next.max(now + Duration::from_millis(1))),
                None => self.set_alarm(WaitsFor::Idleness, state.last_asked + self.idle),
            }
            return (!late.is_empty()).then_some(Turn::Late(late));
        }
        if state.in_flight.is_empty() && state.outgoing.is_empty() && state.last_asked + self.idle <= now {
            self.shared.closed.store(true, Ordering::Release);
            return Some(Turn::Idle);
        }
        self.set_alarm(WaitsFor::Idleness, (state.last_asked + self.idle).max(now + Duration::from_millis(1)));
        None
    }

    fn set_alarm(&mut self, waits_for: WaitsFor, at: Instant) {
        self.waits_for = waits_for;
        self.alarm.as_mut().reset(at);
    }

    /// Hands answers to who waits, then sends the replies that followed from all of them together.
    fn deliver(&mut self, read: usize) {
        let now = Instant::now();
        for Delivery { waiting, message } in self.deliveries.drain(..) {
            let message = &self.incoming.bytes[message];
            if !std::mem::replace(&mut self.asked_for_keepalive, true)
                && let Some(wished) = response::keepalive(message)
            {
                // RFC 7828 §3.4: the server says how long it keeps an idle connection.
                self.idle = self.shared.idle.min(wished);
            }
            let outbox = &mut self.outbox;
            let handed = AssertUnwindSafe(|| waiting.asker.answered(waiting.attempt, message, now, outbox));
            if catch_unwind(handed).is_err() {
                error!("an answer could not be handled: this is a defect; other queries go on");
            }
        }
        self.outbox.flush();
        self.incoming.bytes.drain(..read);
        if self.incoming.bytes.is_empty() && self.incoming.bytes.capacity() > KEEP {
            self.incoming.bytes = Vec::new();
        }
    }

    /// Ends TLS in good order (RFC 8446 §6.1). Nothing is in flight, so nobody waits for it.
    async fn say_goodbye(&mut self) {
        let stream = self.shared.lock().stream.take();
        if let Some(mut stream) = stream {
            let _ = tokio::time::timeout(Duration::from_secs(1), stream.shutdown()).await; // it is over either way
        }
    }

    /// Who is told now that the answer is late.
    fn take_late(&self, state: &mut State, now: Instant, late_after: Duration) -> Vec<Late> {
        let late = |waiting: &&mut super::InFlight| !waiting.told_late && waiting.attempt.sent + late_after <= now;
        let told = state.in_flight.values_mut().filter(late).map(|waiting| {
            waiting.told_late = true;
            let silent = self.shared.health.is_silent_since(waiting.attempt.sent);
            (Arc::clone(&waiting.asker), waiting.attempt, silent)
        });
        told.collect()
    }
}
