//! What is done for a query that no open connection could take, whose answer is late, or whose connection ended: other
//! servers, fresh connections, within its one deadline.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::cause::{Cause, Failure};
use super::connection::{Attempt, Query};
use super::group::Group;
use super::health::Standing;
use super::kept::Which;
use super::server::Server;
use crate::panics::provoked;
use crate::wire::request::{Asked, Question};
use crate::wire::response::Answer;

/// A connection that is no older is a fresh one. An answer is not late before that.
const FRESH: Duration = Duration::from_millis(20);

/// How many connections of servers that answer nobody may end under one query.
const FRUITLESS: u32 = 8;

/// A fresh connection to the same server is worth its handshake after this, or after four times what is late for others.
const SAME_AGAIN: Duration = Duration::from_millis(250);

/// Where another server could not be afforded, after so long that may have changed.
const RECONSIDER: Duration = Duration::from_millis(20);

/// How long before the deadline attempts end, so that their causes are heard.
const LAST_WORDS: Duration = Duration::from_millis(5);

/// How long a busy machine may take to hear them.
const GRACE: Duration = Duration::from_millis(200);

/// What was done already when a rescue takes over.
pub enum Before<F> {
    /// Nothing.
    Nothing,
    /// A server was asked. The future completes when its connection has ended without an answer, or when it has answered
    /// that it cannot resolve the name.
    Asked(Attempt, F),
    /// A server answered that it could not resolve the name: another may, else this is passed on.
    Unresolved(Attempt, Answer),
}

/// A query that is seen to until it is answered or its time is over.
pub struct Rescue<'a> {
    group: &'a Group,
    asked: Asked,
    question: Question<'a>,
    deadline: Instant,
    /// Who is asked next, and by which connection.
    next: VecDeque<(usize, Which)>,
    attempts: JoinSet<(usize, Result<Answer, Cause>)>,
    /// The servers that have been asked and may still answer.
    under_way: Vec<usize>,
    failure: Option<Failure>,
    /// Connections that ended while their server answered nobody.
    fruitless: u32,
    /// What a server answered that could not resolve the name.
    fallback: Option<Answer>,
    /// When a server was asked last.
    asked_at: Instant,
    /// When the next server is asked beside those that were.
    hedge_at: Instant,
    /// From then on a server that is merely slow has been waited for long enough.
    halfway: Instant,
}

impl<'a> Rescue<'a> {
    /// A rescue by the servers of a group.
    pub fn by(group: &'a Group, asked: Asked, question: Question<'a>, deadline: Instant) -> Self {
        let now = Instant::now();
        Self {
            group,
            asked,
            question,
            deadline,
            next: VecDeque::new(),
            attempts: JoinSet::new(),
            under_way: Vec::new(),
            failure: None,
            fruitless: 0,
            fallback: None,
            asked_at: now,
            hedge_at: now,
            halfway: now + deadline.saturating_duration_since(now) / 2,
        }
    }

    /// Asks until a server has answered, all have failed, or the deadline has passed.
    pub async fn run<F>(mut self, before: Before<F>) -> Result<Answer, Failure>
    where
        F: Future<Output = Result<Answer, Cause>> + Send + 'static,
    {
        self.take_over(before);
        if self.under_way.is_empty() {
            return self.give_up(); // there is no server any more
        }
        loop {
            tokio::select! {
                Some(finished) = self.attempts.join_next(), if !self.attempts.is_empty() => {
                    let Ok((server, outcome)) = finished else { continue }; // none is cancelled, and panics are contained
                    if let Some(answer) = self.conclude(server, outcome) {
                        return Ok(answer);
                    }
                    self.ask_next();
                    if self.under_way.is_empty() {
                        return self.give_up();
                    }
                }
                () = sleep_until(self.hedge_at), if !self.next.is_empty() => {
                    self.note_silence();
                    if self.may_hedge() {
                        self.ask_next();
                    } else {
                        self.hedge_at = Instant::now() + RECONSIDER;
                    }
                }
                () = self.group.deserted() => return self.give_up(),
                () = sleep_until(self.deadline + GRACE) => return self.give_up(),
            }
        }
    }

    fn take_over<F>(&mut self, before: Before<F>)
    where
        F: Future<Output = Result<Answer, Cause>> + Send + 'static,
    {
        self.next = self.group.order(self.asked_at).iter().map(|server| (server.index, Which::Any)).collect();
        match before {
            Before::Nothing => {
                let first = self.next.front().map(|(first, _)| *first);
                self.plan_same_again(first);
                self.ask_next();
            }
            Before::Asked(attempt, ended) => {
                self.next.retain(|(index, _)| *index != attempt.server);
                self.plan_same_again(Some(attempt.server));
                let until = last_words(self.deadline);
                self.under_way.push(attempt.server);
                self.attempts.spawn(async move {
                    let ended = timeout_at(until, ended).await;
                    (attempt.server, ended.unwrap_or(Err(Cause::QueryTimedOut)))
                });
                // It is late already, but another connection to the same server has some time yet.
                self.asked_at = attempt.sent;
                self.hedge_at = attempt.sent + self.patience(self.server(attempt.server).health.late_after());
            }
            Before::Unresolved(attempt, answer) => {
                self.next.retain(|(index, _)| *index != attempt.server);
                self.fallback = Some(answer);
                self.ask_next();
                self.next.clear(); // two opinions are enough
            }
        }
    }

    /// At last the one that was asked first again, by a fresh connection.
    fn plan_same_again(&mut self, first: Option<usize>) {
        if let Some(first) = first
            && self.server(first).transport.standby().is_some()
        {
            self.next.push_back((first, Which::YoungerThan(FRESH)));
        }
    }

    fn server(&self, index: usize) -> &'a Arc<Server> {
        &self.group.servers[index]
    }

    fn next_in_use(&mut self) -> Option<(usize, Which)> {
        while let Some(next) = self.next.pop_front() {
            if !self.server(next.0).is_retired() {
                return Some(next);
            }
        }
        None
    }

    fn ask_next(&mut self) {
        let Some((index, which)) = self.next_in_use() else { return };
        let server = Arc::clone(self.server(index));
        self.asked_at = Instant::now();
        self.hedge_at = self.asked_at + self.patience(server.health.late_after());
        self.under_way.push(index);
        let (asked, question): (_, Box<[u8]>) = (self.asked, self.question.as_bytes().into());
        let (until, bounds) = (last_words(self.deadline), self.group.bounds);
        self.attempts.spawn(async move {
            let attempt = async {
                let question = Question::starting(&question).ok_or(Cause::ResponseMalformed)?;
                provoked("attempt", question);
                server.resolve(Query { asked, question, until }, which, bounds).await
            };
            (index, server.panics.contain_task("attempt", attempt).await.unwrap_or(Err(Cause::InternalError)))
        });
    }

    /// After how long the next attempt starts beside those under way.
    fn patience(&self, late_after: Duration) -> Duration {
        match self.next.front() {
            Some((_, Which::YoungerThan(_))) => SAME_AGAIN.max(4 * late_after),
            _ => late_after,
        }
    }

    /// Whether the next server may be asked although the last one may still answer: freely when that one has gone silent or
    /// was waited for long, else out of what queries have earned.
    fn may_hedge(&self) -> bool {
        let is_silent = |index: &usize| self.server(*index).health.is_surely_silent();
        Instant::now() >= self.halfway || self.under_way.iter().any(is_silent) || self.group.affords_hedge()
    }

    /// Servers under way from which nothing was heard since they were asked are silent; they may not even have come to the
    /// point where a connection takes note of it.
    fn note_silence(&self) {
        for server in self.under_way.iter().map(|index| self.server(*index)) {
            if server.health.is_silent_since(self.asked_at) && server.health.standing(self.asked_at) == Standing::Good {
                server.health.late(0, 1);
            }
        }
    }

    /// Takes in how an attempt ended; the answer, if that is the end of the query.
    fn conclude(&mut self, index: usize, outcome: Result<Answer, Cause>) -> Option<Answer> {
        if let Some(at) = self.under_way.iter().position(|under_way| *under_way == index) {
            self.under_way.swap_remove(at);
        }
        let others = !self.next.is_empty() || !self.under_way.is_empty();
        let cause = match outcome {
            Ok(answer) if others && self.group.would_ask_another(&answer) => {
                self.fallback.get_or_insert(answer);
                return None;
            }
            Ok(answer) => return Some(answer),
            Err(cause) => cause,
        };
        let server = self.server(index);
        self.failure = Some(Failure { cause, server: Arc::clone(&server.url) });
        // What was planned in case that it is late.
        self.next.retain(|(planned, which)| *planned != index || *which == Which::Any);
        if cause == Cause::ConnectionClosed && self.fruitless < FRUITLESS {
            // It was the connection, not the server: a fresh one will do. Not without end, if no query gets anything there.
            self.fruitless += u32::from(server.health.standing(Instant::now()) > Standing::Silent);
            self.next.push_back((index, Which::Any));
        }
        None
    }

    fn give_up(self) -> Result<Answer, Failure> {
        let Self { failure, fallback, group, .. } = self;
        let timed_out = || Failure { cause: Cause::QueryTimedOut, server: Arc::clone(&group.name) };
        fallback.ok_or_else(|| failure.unwrap_or_else(timed_out))
    }
}

fn last_words(deadline: Instant) -> Instant {
    deadline.checked_sub(LAST_WORDS).unwrap_or(deadline)
}

#[cfg(test)]
mod tests;
