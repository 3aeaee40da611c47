//! What is known of a server: how fast it answers, whether it has gone silent, whether it fails and when to try it again.
//!
//! Pure: `now` is an argument.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::cause::Cause;

/// Before anything was measured, an answer is late after this.
const LATE_UNMEASURED: Duration = Duration::from_millis(60);

/// However steady a server is, an answer is not late before it is late by this: a busy machine is not a silent server.
const LATE_LEAST: Duration = Duration::from_millis(25);

/// However slow a server is, an answer is late after this.
const LATE_MOST: Duration = Duration::from_millis(800);

/// A refused connection costs nobody much: while an outage is fresh, it is tried again after this.
const REFUSED_BACKOFF: Duration = Duration::from_millis(4);

/// An outage is fresh for so long.
const FRESH_OUTAGE: Duration = Duration::from_secs(5);

/// The first pause after another failure; it doubles from failure to failure.
const BACKOFF: Duration = Duration::from_millis(100);

/// The longest pause.
const BACKOFF_MOST: Duration = Duration::from_secs(5);

/// So many late answers are no slow resolution, but a server that has gone silent.
const SURELY_SILENT: usize = 4;

/// Of how many queries the share of late answers is taken.
const LATE_AMONG: f32 = 32.0;

/// So many answers tell how fast a server is.
const ENOUGH_SAMPLES: u32 = 3;

/// A server of whose answers a larger share is late loses messages.
const UNSTEADY: f32 = 0.15;

/// With so many queries in flight there is no reason to count them.
const WIDE: usize = 1_024;

/// A server's health; shared by its connections and its group.
#[derive(Debug, Default)]
pub struct Health {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    latency: Option<Latency>,
    measured_at: Option<Instant>,
    samples: u32,
    /// Queries that may be in flight on one connection; unlimited until a connection ended with some.
    window: Option<usize>,
    /// Answers that are late, since something was heard.
    late: usize,
    /// The share of late answers, lately.
    late_share: f32,
    heard_at: Option<Instant>,
    failing: Option<Failing>,
}

/// Smoothed latency and its deviation, in microseconds (as RFC 6298 does for TCP).
#[derive(Debug, Clone, Copy)]
struct Latency {
    smoothed: f32,
    deviation: f32,
}

/// A failure that has not ended.
#[derive(Debug, Clone, Copy)]
struct Failing {
    cause: Cause,
    since: Instant,
    failures: u32,
    retry_at: Instant,
}

/// How much a server can be relied on, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It answers, or nothing else is known.
    Good,
    /// Too many of its answers are late or missing.
    Unsteady,
    /// What was asked last is late, and nothing at all was heard since.
    Silent,
    /// It failed; its pause is over.
    Retry,
    /// It failed; it is to be left alone for now.
    Paused,
}

impl Health {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An answer came from the server, to whatever question.
    pub fn heard(&self, now: Instant) {
        let mut state = self.state();
        state.heard_at = Some(now);
        state.late = 0;
        state.failing = None;
    }

    /// A connection was closed by the server with so many queries in flight, after so many answers. A server that closes
    /// with queries unread resets the connection, and so takes back answers that were on their way: fewer next time.
    pub fn cut_short(&self, in_flight: usize) {
        let mut state = self.state();
        let window = state.window.unwrap_or(in_flight).min(in_flight);
        state.window = Some((window / 4).max(1));
    }

    /// How many queries may be in flight on one connection.
    pub fn window(&self) -> usize {
        self.state().window.unwrap_or(usize::MAX)
    }

    /// So many answers came, and not the connection's first: as many more queries may be in flight.
    pub fn widen(&self, answers: usize) {
        let mut state = self.state();
        state.window = state.window.map(|window| window.saturating_add(answers)).filter(|window| *window < WIDE);
    }

    /// The server could be reached. Whether it answers is another matter.
    pub fn reached(&self) {
        self.state().failing = None;
    }

    /// An answer came after so long.
    pub fn measured(&self, latency: Duration, now: Instant) {
        let mut state = self.state();
        state.measured_at = Some(now);
        state.samples = state.samples.saturating_add(1);
        state.late_share -= state.late_share / LATE_AMONG;
        // One answer that took the resolver seconds says little about the next one.
        let sample = latency.as_secs_f32() * 1e6;
        state.latency = Some(match state.latency {
            None => Latency { smoothed: sample, deviation: sample / 2.0 },
            Some(Latency { smoothed, deviation }) => {
                let sample = sample.min(smoothed + 4.0 * deviation + 1_000.0);
                let error = sample - smoothed;
                Latency { smoothed: smoothed + error / 8.0, deviation: deviation + (error.abs() - deviation) / 4.0 }
            }
        });
    }

    /// The server is being measured: no other query need do that for now.
    pub fn being_measured(&self, now: Instant) {
        self.state().measured_at = Some(now);
    }

    /// So many answers are late. `silent` of them: nothing was heard from the server since they were asked for.
    pub fn late(&self, answers: usize, silent: usize) {
        let mut state = self.state();
        state.late += silent;
        for _ in 0..answers {
            state.late_share += (1.0 - state.late_share) / LATE_AMONG;
        }
    }

    /// Whether nothing was heard since then.
    pub fn is_silent_since(&self, then: Instant) -> bool {
        self.state().heard_at.is_none_or(|heard_at| heard_at < then)
    }

    /// Whether it is not just one question that takes long.
    pub fn is_surely_silent(&self) -> bool {
        self.state().late >= SURELY_SILENT
    }

    /// The server could not be reached, or did not answer. Tells until when it is left alone.
    pub fn failed(&self, cause: Cause, now: Instant) -> Instant {
        let mut state = self.state();
        let (since, failures) = state.failing.map_or((now, 0), |failing| (failing.since, failing.failures));
        let retry_at = now + pause(cause, failures, now.saturating_duration_since(since));
        state.failing = Some(Failing { cause, since, failures: failures.saturating_add(1), retry_at });
        retry_at
    }

    /// The server asked to be left alone until then.
    pub fn asked_to_wait(&self, cause: Cause, until: Instant, now: Instant) {
        let mut state = self.state();
        let (since, failures) = state.failing.map_or((now, 0), |failing| (failing.since, failing.failures));
        state.failing = Some(Failing { cause, since, failures: failures.saturating_add(1), retry_at: until });
    }

    /// When a pause ends, if there is one.
    pub fn paused_until(&self, now: Instant) -> Option<Instant> {
        self.state().failing.map(|failing| failing.retry_at).filter(|retry_at| now < *retry_at)
    }

    /// Why it fails, if it does.
    pub fn failing(&self) -> Option<Cause> {
        self.state().failing.map(|failing| failing.cause)
    }

    /// How much it can be relied on.
    pub fn standing(&self, now: Instant) -> Standing {
        let state = self.state();
        match state.failing {
            Some(failing) if now < failing.retry_at => Standing::Paused,
            Some(_) => Standing::Retry,
            None if state.late > 0 => Standing::Silent,
            None if state.late_share > UNSTEADY => Standing::Unsteady,
            None => Standing::Good,
        }
    }

    /// Smoothed latency, if it was ever measured.
    pub fn latency(&self) -> Option<Duration> {
        self.state().latency.map(|latency| Duration::from_secs_f32(latency.smoothed.max(0.0) / 1e6))
    }

    /// Whether too few answers were measured to tell how fast it is.
    pub fn is_hardly_measured(&self) -> bool {
        self.state().samples < ENOUGH_SAMPLES
    }

    /// When it was measured last.
    pub fn measured_at(&self) -> Option<Instant> {
        self.state().measured_at
    }

    /// After how long an answer is later than usual.
    pub fn late_after(&self) -> Duration {
        self.state().latency.map_or(LATE_UNMEASURED, |Latency { smoothed, deviation }| {
            let micros = |micros: f32| Duration::from_secs_f32(micros.max(0.0) / 1e6);
            (micros(smoothed) + micros(4.0 * deviation).max(LATE_LEAST)).min(LATE_MOST)
        })
    }
}

/// How long a server is left alone after a failure, when so many went before it.
fn pause(cause: Cause, failures: u32, outage: Duration) -> Duration {
    if matches!(cause, Cause::ConnectionRefused | Cause::ConnectionClosed) && outage < FRESH_OUTAGE {
        return REFUSED_BACKOFF;
    }
    BACKOFF.saturating_mul(1 << failures.min(6)).min(BACKOFF_MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_late_when_it_takes_longer_than_answers_usually_do() {
        let (health, now) = (Health::default(), Instant::now());
        assert_eq!(health.late_after(), LATE_UNMEASURED);
        for _ in 0..50 {
            health.measured(Duration::from_millis(40), now);
        }
        let late = health.late_after();
        assert!(late >= Duration::from_millis(40) && late < Duration::from_millis(70), "{late:?}");
        for _ in 0..50 {
            health.measured(Duration::from_micros(80), now);
        }
        assert!(health.late_after() < LATE_LEAST + Duration::from_millis(1), "{:?}", health.late_after());
    }

    #[test]
    fn one_slow_answer_does_not_make_the_next_late_one_usual() {
        let (health, now) = (Health::default(), Instant::now());
        for _ in 0..50 {
            health.measured(Duration::from_millis(40), now);
        }
        health.measured(Duration::from_secs(3), now);
        assert!(health.late_after() < Duration::from_millis(80), "{:?}", health.late_after());
    }

    #[test]
    fn a_failing_server_is_paused_longer_from_failure_to_failure_and_good_once_heard() {
        let (health, mut now) = (Health::default(), Instant::now());
        let mut last = Duration::ZERO;
        for _ in 0..8 {
            let retry_at = health.failed(Cause::CertificateExpired, now);
            assert_eq!(health.standing(now), Standing::Paused);
            assert_eq!(health.standing(retry_at), Standing::Retry);
            assert!(retry_at - now >= last && retry_at - now <= BACKOFF_MOST);
            last = retry_at - now;
            now = retry_at;
        }
        health.reached();
        assert_eq!(health.standing(now), Standing::Good);
    }

    #[test]
    fn a_refused_connection_is_tried_again_at_once_while_the_outage_is_fresh_and_rarely_later() {
        let (health, now) = (Health::default(), Instant::now());
        assert_eq!(health.failed(Cause::ConnectionRefused, now) - now, REFUSED_BACKOFF);
        let later = now + Duration::from_secs(60);
        assert!(health.failed(Cause::ConnectionRefused, later) - later > REFUSED_BACKOFF);
    }

    #[test]
    fn a_server_that_loses_a_third_of_what_it_is_asked_is_unsteady_until_it_does_better() {
        let (health, now) = (Health::default(), Instant::now());
        for _ in 0..20 {
            health.late(1, 0);
            health.measured(Duration::from_millis(1), now);
            health.measured(Duration::from_millis(1), now);
        }
        assert_eq!(health.standing(now), Standing::Unsteady);
        for _ in 0..40 {
            health.measured(Duration::from_millis(1), now);
        }
        assert_eq!(health.standing(now), Standing::Good);
    }

    #[test]
    fn a_server_that_closes_with_queries_in_flight_gets_fewer_at_once_until_it_answers_many() {
        let health = Health::default();
        assert_eq!(health.window(), usize::MAX);
        health.cut_short(40);
        assert_eq!(health.window(), 10);
        health.cut_short(10);
        health.cut_short(2);
        assert_eq!(health.window(), 1);
        health.widen(5);
        assert_eq!(health.window(), 6);
        health.widen(WIDE);
        assert_eq!(health.window(), usize::MAX);
    }

    #[test]
    fn a_server_that_asks_to_be_left_alone_is_until_then_or_until_it_answers() {
        let (health, now) = (Health::default(), Instant::now());
        let until = now + Duration::from_secs(20);
        health.asked_to_wait(Cause::ServerBusy, until, now);
        assert_eq!((health.standing(now), health.paused_until(now)), (Standing::Paused, Some(until)));
        assert_eq!(health.standing(until), Standing::Retry);
        health.heard(now);
        assert_eq!(health.standing(now), Standing::Good);
    }

    #[test]
    fn a_silent_server_is_silent_until_it_is_heard() {
        let (health, now) = (Health::default(), Instant::now());
        health.late(1, 1);
        health.reached();
        assert_eq!(health.standing(now), Standing::Silent);
        health.heard(now);
        assert_eq!(health.standing(now), Standing::Good);
    }
}
