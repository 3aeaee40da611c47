//! Servers that stand in for each other: which is asked, when another is asked beside it, and what is done when one fails.
//!
//! [`Group::start`] asks at once, on the caller's thread, if a good server has an open connection. Whatever else may be
//! needed, a connection, another server, a second try, [`Group::ask`] does in a task, within the query's one deadline.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::time::Duration;

use dot_proxy_config::Strategy;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::cause::{Cause, Failure};
use super::choice::{self, Candidate};
use super::connection::{Asker, Attempt, Connection, Query};
use super::dot::Which;
use super::health::Standing;
use super::server::{Metrics, Server, Transport};
use crate::wire::Rcode;
use crate::wire::request::{Asked, Question};
use crate::wire::response::{Answer, TtlBounds};

/// Of the fastest strategy's servers, each is measured so often, by a copy of a client's query.
const MEASURE_EVERY: Duration = Duration::from_secs(60);

/// A server that has gone silent, or whose pause is over, gets a copy of a client's query so often.
const LOOK_AFTER: Duration = Duration::from_secs(1);

/// A connection on which a server has been silent for so long is replaced.
const GIVE_UP_SILENT: Duration = Duration::from_secs(3);

/// A connection that is no older is a fresh one. An answer is not late before that.
const FRESH: Duration = Duration::from_millis(20);

/// How many connections of servers that answer nobody may end under one lookup.
const FRUITLESS: u32 = 8;

/// A fresh connection to the same server is worth its handshake after this, or after four times what is late for others.
const SAME_AGAIN: Duration = Duration::from_millis(250);

/// How long before a lookup its attempts end, so that their causes are heard.
const LAST_WORDS: Duration = Duration::from_millis(5);

/// How long a busy machine may take to hear them.
const GRACE: Duration = Duration::from_millis(200);

/// What asking a second server because the first is late costs, in what a query earns: one in ten may.
const HEDGE_COST: i32 = 10;

/// What there is to spend at first, and at most.
const HEDGE_RESERVE: i32 = 50 * HEDGE_COST;

/// A group of servers.
pub struct Group {
    name: Arc<str>,
    servers: Vec<Arc<Server>>,
    strategy: Strategy,
    bounds: TtlBounds,
    turn: AtomicUsize,
    hedges: AtomicI32,
    runtime: Handle,
}

/// Connections that a batch of queries was put into.
#[derive(Default)]
pub struct Batch {
    connections: Vec<Connection>,
}

/// What was done already when [`Group::ask`] takes over from [`Group::start`].
pub enum Before<F> {
    /// Nothing.
    Nothing,
    /// A server was asked. The future completes when its connection has ended without an answer.
    Asked(Attempt, F),
    /// A server answered that it could not resolve the name: another may, else this is passed on.
    Unresolved(Attempt, Answer),
}

/// What is still to be tried of a lookup, and what was learnt.
struct Plan {
    next: VecDeque<(usize, Which)>,
    /// The servers that have been asked and may still answer.
    under_way: Vec<usize>,
    failure: Option<Failure>,
    /// Connections that ended while their server answered nobody.
    fruitless: u32,
    /// What a server answered that could not resolve the name: another may, else this is passed on.
    fallback: Option<Answer>,
    /// When a server was asked last.
    asked_at: Instant,
    /// When the next server is asked beside those that were.
    hedge_at: Instant,
    /// Another server could not be afforded yet: it is asked at the next time in any case.
    patient: bool,
}

impl Batch {
    fn touch(&mut self, connection: Connection) {
        if !self.connections.iter().any(|touched| touched.is(&connection)) {
            self.connections.push(connection);
        }
    }

    /// Writes what the connections were given.
    pub fn flush(&mut self) {
        for connection in self.connections.drain(..) {
            connection.flush();
        }
    }
}

impl Group {
    /// A group of servers, each with its URL. Its tasks run on the runtime.
    pub fn new(
        name: &str,
        servers: Vec<(String, Transport)>,
        strategy: Strategy,
        bounds: TtlBounds,
        metrics: &Metrics,
        runtime: Handle,
    ) -> Self {
        let name: Arc<str> = name.into();
        let numbered = servers.into_iter().enumerate();
        let servers =
            numbered.map(|(index, (url, transport))| Arc::new(Server::new(&name, index, &url, transport, metrics)));
        let servers = servers.collect();
        let hedges = AtomicI32::new(HEDGE_RESERVE);
        Self { name, servers, strategy, bounds, turn: AtomicUsize::new(0), hedges, runtime }
    }

    /// Opens the connection to the server that will be asked first.
    pub fn warm_up(&self) {
        let order = self.order(Instant::now());
        if let Some(first) = order.first()
            && first.standing != Standing::Paused
            && let server = &self.servers[first.index]
            && let Transport::Dot(dot) = &server.transport
            && dot.wants_connection()
        {
            server.connect(&self.runtime);
        }
    }

    /// Somebody is asking something, be it answered from the cache: a connection that was closed when idle is opened again
    /// before it is missed.
    pub fn sign_of_life(&self) {
        let is_dormant = |server: &Arc<Server>| matches!(&server.transport, Transport::Dot(dot) if dot.is_dormant());
        if self.servers.iter().all(is_dormant) {
            self.warm_up();
        }
    }

    /// Why the group cannot answer now, as far as the last exchanges tell; `None` while some server is not failing.
    pub fn failing(&self) -> Option<Failure> {
        let now = Instant::now();
        let mut last = None;
        for server in &self.servers {
            let cause = match server.health.standing(now) {
                Standing::Good | Standing::Unsteady => return None,
                Standing::Silent => Cause::QueryTimedOut,
                Standing::Retry | Standing::Paused => server.health.failing().unwrap_or(Cause::QueryTimedOut),
            };
            last = Some(Failure { cause, server: Arc::clone(&server.url) });
        }
        last
    }

    fn order(&self, now: Instant) -> Vec<Candidate> {
        let turn = if self.strategy == Strategy::RoundRobin { self.turn.fetch_add(1, Ordering::Relaxed) } else { 0 };
        let candidate = |server: &Arc<Server>| Candidate {
            index: server.index,
            standing: server.health.standing(now),
            latency: server.health.latency(),
        };
        let mut candidates: Vec<_> = self.servers.iter().map(candidate).collect();
        choice::order(self.strategy, &mut candidates, turn);
        candidates
    }

    /// Puts the query into the open connection of the best server that has one; the batch is to be flushed. False where
    /// there is none: [`Group::ask`] is to be used.
    pub fn start(&self, query: Query<'_>, asker: &Arc<dyn Asker>, now: Instant, batch: &mut Batch) -> bool {
        self.earn();
        let candidates = self.order(now);
        let chosen = candidates.iter().find(|candidate| self.put_in(candidate, query, asker, now, batch));
        self.look_after_others(&candidates, chosen.map(|candidate| candidate.index), query, now);
        chosen.is_some()
    }

    fn put_in(
        &self,
        candidate: &Candidate,
        query: Query<'_>,
        asker: &Arc<dyn Asker>,
        now: Instant,
        batch: &mut Batch,
    ) -> bool {
        let server = &self.servers[candidate.index];
        let Transport::Dot(dot) = &server.transport else { return false };
        if candidate.standing > Standing::Silent {
            return false;
        }
        let Some(connection) = dot.ready() else {
            if dot.wants_connection() {
                server.connect(&self.runtime);
            }
            return false;
        };
        let attempt = Attempt { server: candidate.index, sent: now };
        if connection.enqueue(query, attempt, Arc::clone(asker)).is_err() {
            return false;
        }
        server.asked();
        batch.touch(connection);
        true
    }

    /// Sends a copy of the query to a server of which it is time to know more: one that may be faster, or back.
    fn look_after_others(&self, candidates: &[Candidate], chosen: Option<usize>, query: Query<'_>, now: Instant) {
        let due = |candidate: &&Candidate| {
            let every = match candidate.standing {
                Standing::Good if self.strategy == Strategy::Fastest => MEASURE_EVERY,
                Standing::Unsteady | Standing::Silent | Standing::Retry => LOOK_AFTER,
                Standing::Good | Standing::Paused => return false,
            };
            let measured = self.servers[candidate.index].health.measured_at();
            measured.is_none_or(|at| now.saturating_duration_since(at) >= every)
        };
        // Without a chosen server the query itself finds out.
        let Some(chosen) = chosen else { return };
        let Some(candidate) = candidates.iter().filter(|candidate| candidate.index != chosen).find(due) else { return };
        let server = Arc::clone(&self.servers[candidate.index]);
        server.health.being_measured(now);
        let (asked, question): (_, Box<[u8]>) = (query.asked, query.question.as_bytes().into());
        let silent = candidate.standing == Standing::Silent;
        let which = if silent { Which::YoungerThan(GIVE_UP_SILENT) } else { Which::Any };
        let until = query.until;
        self.runtime.spawn(async move {
            let Some(question) = Question::starting(&question) else { return };
            // Only how it ends is of interest, and the server keeps that.
            let _ = server.exchange(Query { asked, question, until }, which).await;
        });
    }

    /// Reads the answer to an attempt of [`Group::start`].
    pub fn read(
        &self,
        attempt: Attempt,
        message: &[u8],
        question: Question<'_>,
        now: Instant,
    ) -> Result<Answer, Cause> {
        let server = &self.servers[attempt.server];
        match Answer::parse(message, question, self.bounds) {
            Ok(answer) => {
                server.answered(now.saturating_duration_since(attempt.sent), now);
                Ok(answer)
            }
            Err(_) => {
                server.failed(Cause::ResponseMalformed);
                Err(Cause::ResponseMalformed)
            }
        }
    }

    /// An attempt of [`Group::start`] failed.
    pub fn failed(&self, attempt: Attempt, cause: Cause) {
        self.servers[attempt.server].failed(cause);
    }

    /// Whether another server may know better what one could not resolve.
    pub fn would_ask_another(&self, answer: &Answer) -> bool {
        self.servers.len() > 1 && is_of_the_server(answer)
    }

    /// Asks until a server has answered, all have failed, or the deadline has passed.
    pub async fn ask<F>(
        &self,
        asked: Asked,
        question: Question<'_>,
        deadline: Instant,
        before: Before<F>,
    ) -> Result<Answer, Failure>
    where
        F: Future<Output = Cause> + Send + 'static,
    {
        let mut plan = self.plan(&before);
        let mut attempts = JoinSet::new();
        match before {
            Before::Asked(attempt, failed) => {
                plan.under_way.push(attempt.server);
                let until = last_words(deadline);
                attempts.spawn(async move {
                    let failed = tokio::time::timeout_at(until, failed).await;
                    (attempt.server, Err(failed.unwrap_or(Cause::QueryTimedOut)))
                });
                // It is late already, but another connection to the same server has some time yet.
                let late_after = self.servers[attempt.server].health.late_after();
                plan.hedge_at = attempt.sent + self.lateness(&plan, late_after);
            }
            Before::Nothing => self.ask_next(&mut plan, &mut attempts, asked, question, deadline),
            Before::Unresolved(_, answer) => {
                plan.fallback = Some(answer);
                self.ask_next(&mut plan, &mut attempts, asked, question, deadline);
                plan.next.clear();
            }
        }
        loop {
            tokio::select! {
                Some(finished) = attempts.join_next(), if !attempts.is_empty() => {
                    let Ok((server, outcome)) = finished else { continue }; // a panic is that attempt's alone
                    plan.is_over(server);
                    if let Some(answer) = self.conclude(&mut plan, server, outcome, question) {
                        return Ok(answer);
                    }
                    self.ask_next(&mut plan, &mut attempts, asked, question, deadline);
                    if plan.under_way.is_empty() {
                        return plan.give_up(&self.name);
                    }
                }
                () = sleep_until(plan.hedge_at), if !plan.next.is_empty() => {
                    self.note_silence(&plan);
                    if self.may_hedge(&plan) {
                        self.ask_next(&mut plan, &mut attempts, asked, question, deadline);
                    } else {
                        plan.hedge_at = halfway_to(deadline);
                        plan.patient = true;
                    }
                }
                () = sleep_until(deadline + GRACE) => return plan.give_up(&self.name),
            }
        }
    }

    /// All servers, best first; at last the one that was asked first again, by a fresh connection.
    fn plan<F>(&self, before: &Before<F>) -> Plan {
        let now = Instant::now();
        let mut next: VecDeque<_> = self.order(now).iter().map(|candidate| (candidate.index, Which::Any)).collect();
        if let Before::Asked(attempt, _) | Before::Unresolved(attempt, _) = before {
            next.retain(|(index, _)| *index != attempt.server);
            next.push_front((attempt.server, Which::Any));
        }
        if let Some((first, _)) = next.front()
            && let Transport::Dot(_) = self.servers[*first].transport
        {
            next.push_back((*first, Which::YoungerThan(FRESH)));
        }
        if !matches!(before, Before::Nothing) {
            next.pop_front();
        }
        Plan {
            next,
            under_way: Vec::new(),
            failure: None,
            fruitless: 0,
            fallback: None,
            asked_at: now,
            hedge_at: now,
            patient: false,
        }
    }

    /// Whether the next server may be asked although the last one may still answer: freely when that one has gone silent or
    /// was waited for long, else out of what queries have earned.
    fn may_hedge(&self, plan: &Plan) -> bool {
        let is_silent = |index: &usize| self.servers[*index].health.is_surely_silent();
        plan.patient || plan.under_way.iter().any(is_silent) || self.spend()
    }

    /// After how long the next attempt of the plan starts beside those under way.
    fn lateness(&self, plan: &Plan, late_after: Duration) -> Duration {
        match plan.next.front() {
            Some((_, Which::YoungerThan(_))) => SAME_AGAIN.max(4 * late_after),
            _ => late_after,
        }
    }

    /// Servers under way from which nothing was heard since they were asked are silent; they may not even have come to the
    /// point where a connection takes note of it.
    fn note_silence(&self, plan: &Plan) {
        for server in plan.under_way.iter().map(|index| &self.servers[*index]) {
            if server.health.is_silent_since(plan.asked_at) && server.health.standing(plan.asked_at) == Standing::Good {
                server.health.late(0, 1);
            }
        }
    }

    fn earn(&self) {
        if self.hedges.load(Ordering::Relaxed) < HEDGE_RESERVE {
            self.hedges.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn spend(&self) -> bool {
        let less = |left: i32| (left >= HEDGE_COST).then_some(left - HEDGE_COST);
        self.hedges.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    fn ask_next(
        &self,
        plan: &mut Plan,
        attempts: &mut JoinSet<(usize, Result<Vec<u8>, Cause>)>,
        asked: Asked,
        question: Question<'_>,
        until: Instant,
    ) {
        let Some((index, which)) = plan.next.pop_front() else { return };
        let until = last_words(until);
        let server = Arc::clone(&self.servers[index]);
        let now = Instant::now();
        plan.asked_at = now;
        plan.hedge_at = now + self.lateness(plan, server.health.late_after());
        plan.under_way.push(index);
        let question: Box<[u8]> = question.as_bytes().into();
        attempts.spawn(async move {
            let Some(question) = Question::starting(&question) else { return (index, Err(Cause::ResponseMalformed)) };
            (index, server.exchange(Query { asked, question, until }, which).await)
        });
    }

    /// Takes in how an attempt ended; the answer, if that is the end of the lookup.
    fn conclude(
        &self,
        plan: &mut Plan,
        server: usize,
        outcome: Result<Vec<u8>, Cause>,
        question: Question<'_>,
    ) -> Option<Answer> {
        let server = &self.servers[server];
        let cause = match outcome {
            Ok(message) => match Answer::parse(&message, question, self.bounds) {
                Ok(answer) if self.would_ask_another(&answer) && !plan.next.is_empty() => {
                    plan.fallback.get_or_insert(answer);
                    return None;
                }
                Ok(answer) => return Some(answer),
                Err(_) => {
                    server.failed(Cause::ResponseMalformed);
                    Cause::ResponseMalformed
                }
            },
            Err(cause) => cause,
        };
        plan.failure = Some(Failure { cause, server: Arc::clone(&server.url) });
        // What was planned in case that it is late.
        plan.next.retain(|(index, which)| *index != server.index || *which == Which::Any);
        if cause == Cause::ConnectionClosed && plan.fruitless < FRUITLESS {
            // It was the connection, not the server: a fresh one will do. Not without end, if no query gets anything there.
            plan.fruitless += u32::from(server.health.standing(Instant::now()) > Standing::Silent);
            plan.next.push_back((server.index, Which::Any));
        }
        None
    }
}

impl Plan {
    fn is_over(&mut self, server: usize) {
        if let Some(at) = self.under_way.iter().position(|index| *index == server) {
            self.under_way.swap_remove(at);
        }
    }

    fn give_up(self, group: &Arc<str>) -> Result<Answer, Failure> {
        let Self { failure, fallback, .. } = self;
        let timed_out = || Failure { cause: Cause::QueryTimedOut, server: Arc::clone(group) };
        fallback.ok_or_else(|| failure.unwrap_or_else(timed_out))
    }
}

/// Whether a failure may be the server's own, rather than the name's: SERVFAIL and REFUSED are, unless the server says
/// that validation failed (RFC 8914 §4: codes 1, 2, 5 to 12, and 27), which another should not be asked to overlook.
fn is_of_the_server(answer: &Answer) -> bool {
    let of_validation = |code: u16| matches!(code, 1 | 2 | 5..=12 | 27);
    matches!(answer.rcode(), Rcode::SERVFAIL | Rcode::REFUSED) && !answer.error_codes().any(of_validation)
}

fn last_words(deadline: Instant) -> Instant {
    deadline.checked_sub(LAST_WORDS).unwrap_or(deadline)
}

/// When a server that is merely slow has been waited for long enough.
fn halfway_to(deadline: Instant) -> Instant {
    let now = Instant::now();
    now + deadline.saturating_duration_since(now) / 2
}

#[cfg(test)]
mod tests;
