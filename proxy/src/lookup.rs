//! Questions on their way to an upstream, who waits for each, and how each comes to its end. Equal questions that are
//! asked at the same time are one lookup.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use crate::cache::Key;
use crate::panics::provoked;
use crate::replies::{Outbox, Recipient};
use crate::resolve::{Destination, Place, Resolver};
use crate::router::{DEFAULT, ROUTE_UNAVAILABLE};
use crate::upstream::cause::{Cause, Failure};
use crate::upstream::connection::{Asker, Attempt, Query};
use crate::upstream::group::{Batch, Group};
use crate::upstream::rescue::{Before, Rescue};
use crate::wire::reply;
use crate::wire::request::{Asked, Question};
use crate::wire::response::Answer;
use crate::wire::{Rcode, flag};

/// A client that could be answered stale waits so long for the fresh answer (RFC 8767 §5, the client response timer).
const STALE_AFTER: Duration = Duration::from_millis(500);

/// So long after its deadline a lookup has come to its end, or never will.
const OVERDUE: Duration = Duration::from_secs(1);

/// A question on its way.
pub struct Lookup {
    resolver: Arc<Resolver>,
    asked: Asked,
    question: Box<[u8]>,
    /// The hash of its key.
    hash: u64,
    destination: Destination,
    began: Instant,
    deadline: Instant,
    state: Mutex<State>,
    changed: Notify,
}

/// What a lookup is of.
pub struct Subject<'a> {
    /// What of the first client's query goes with the question.
    pub asked: Asked,
    /// The question.
    pub question: Question<'a>,
    /// Who is asked.
    pub destination: Destination,
    /// What the cache has that is too old, if anything.
    pub stale: Option<Answer>,
}

#[derive(Default)]
struct State {
    waiters: Vec<Waiter>,
    stale: Option<Answer>,
    /// A task sees to the lookup.
    rescued: bool,
    /// How the attempt that was made at first ended, if not by the answer.
    first_ended: Option<Result<Answer, Cause>>,
    over: bool,
    /// Holds a place among the queries in flight for a lookup that nobody waits for.
    _place: Option<Place>,
}

/// How far a lookup had come when a task had to see to it.
enum Stage {
    NotAsked,
    Asked(Attempt),
    Unresolved(Attempt, Answer),
}

/// A client that waits.
pub struct Waiter {
    /// How its query was asked.
    pub asked: Asked,
    /// Its question, if that is not in the same letter case as the lookup's.
    pub question: Option<Box<[u8]>>,
    /// The longest reply that it takes, in bytes.
    pub limit: usize,
    /// Where its reply goes.
    pub recipient: Recipient,
    /// Its place among the queries in flight.
    pub place: Place,
}

/// The lookups under way, by the hash of their keys.
#[derive(Default)]
pub struct Lookups {
    by_key: Mutex<HashMap<u64, Arc<Lookup>>>,
}

impl Lookups {
    /// Has a client wait for a lookup: that of the same question if there is one, else a new one, which is returned and
    /// has to be started.
    pub fn join(&self, resolver: &Arc<Resolver>, subject: Subject<'_>, waiter: Waiter) -> Option<Arc<Lookup>> {
        let mut by_key = self.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        match by_key.entry(Key::of(subject.asked, subject.question).hash()) {
            Entry::Occupied(lookup) if lookup.get().is_of(&subject) && !lookup.get().is_overdue() => {
                lookup.get().wait(waiter, subject.question);
                None
            }
            // Two keys of one hash, or a lookup that a defect has left behind: nobody is to wait for that one.
            Entry::Occupied(mut other) => {
                let lookup = Lookup::new(resolver, subject, Some(waiter), None);
                other.insert(Arc::clone(&lookup));
                Some(lookup)
            }
            Entry::Vacant(vacant) => {
                Some(Arc::clone(vacant.insert(Lookup::new(resolver, subject, Some(waiter), None))))
            }
        }
    }

    /// A lookup that nobody waits for, unless the same is under way; it takes a place all the same.
    pub fn refresh(&self, resolver: &Arc<Resolver>, subject: Subject<'_>, place: Place) -> Option<Arc<Lookup>> {
        let mut by_key = self.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        match by_key.entry(Key::of(subject.asked, subject.question).hash()) {
            Entry::Occupied(_) => None,
            Entry::Vacant(vacant) => Some(Arc::clone(vacant.insert(Lookup::new(resolver, subject, None, Some(place))))),
        }
    }

    fn remove(&self, lookup: &Lookup) {
        let mut by_key = self.by_key.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(entry) = by_key.entry(lookup.hash)
            && std::ptr::eq(Arc::as_ptr(entry.get()), lookup)
        {
            entry.remove();
        }
    }
}

impl Lookup {
    fn new(resolver: &Arc<Resolver>, subject: Subject<'_>, waiter: Option<Waiter>, place: Option<Place>) -> Arc<Self> {
        let Subject { asked, question, destination, stale } = subject;
        let began = Instant::now();
        let deadline = began + destination.deadline;
        let waiters = waiter.into_iter().collect();
        Arc::new(Self {
            resolver: Arc::clone(resolver),
            asked,
            question: question.as_bytes().into(),
            hash: Key::of(asked, question).hash(),
            destination,
            began,
            deadline,
            state: Mutex::new(State { waiters, stale, _place: place, ..State::default() }),
            changed: Notify::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn question(&self) -> Question<'_> {
        Question::starting(&self.question).expect("it was a question when the lookup was made")
    }

    fn group(&self) -> &Arc<Group> {
        &self.destination.group
    }

    fn is_of(&self, subject: &Subject<'_>) -> bool {
        let recursive = |asked: Asked| asked.has(flag::RD);
        // What the servers before a change of the configuration answer is for those who asked before it.
        self.group().lineage() == subject.destination.group.lineage()
            && recursive(self.asked) == recursive(subject.asked)
            && Key::of(self.asked, self.question()).is_of(subject.asked, subject.question)
    }

    /// Whether it should have come to its end by now.
    fn is_overdue(&self) -> bool {
        Instant::now() > self.deadline + OVERDUE
    }

    fn wait(&self, mut waiter: Waiter, question: Question<'_>) {
        if question.as_bytes() != &*self.question {
            waiter.question = Some(question.as_bytes().into());
        }
        self.state().waiters.push(waiter);
    }

    /// Asks at once if a server has an open connection, else in a task.
    pub fn start(self: &Arc<Self>, now: Instant, batch: &mut Batch) {
        let query = Query { asked: self.asked, question: self.question(), until: self.deadline };
        let asker: Arc<dyn Asker> = Arc::<Self>::clone(self);
        if !self.group().start(query, &asker, now, batch) {
            self.rescue(Stage::NotAsked);
        }
    }

    /// Sees to the lookup in a task from now on, unless one does already.
    fn rescue(self: &Arc<Self>, before: Stage) {
        if std::mem::replace(&mut self.state().rescued, true) {
            return;
        }
        let lookup = Arc::clone(self);
        self.resolver.runtime().spawn(async move {
            let rescued = lookup.resolver.panics().contain_task("lookup", Arc::clone(&lookup).see_to(before)).await;
            if rescued.is_none() {
                lookup.lost();
            }
        });
    }

    async fn see_to(self: Arc<Self>, before: Stage) {
        provoked("rescue", self.question());
        let mut outbox = Outbox::new();
        let before = match before {
            Stage::NotAsked => Before::Nothing,
            Stage::Asked(attempt) => Before::Asked(attempt, Arc::clone(&self).first_ended()),
            Stage::Unresolved(attempt, answer) => Before::Unresolved(attempt, answer),
        };
        let mut asking = std::pin::pin!(self.ask_whoever_is_in_charge(before));
        let (outcome, group) = tokio::select! {
            outcome = &mut asking => outcome,
            () = self.is_over() => return,
            () = self.time_for_stale() => {
                self.answer_stale(&mut outbox);
                tokio::select! {
                    outcome = asking => outcome,
                    () = self.is_over() => return,
                }
            }
        };
        self.conclude(&outcome, &group, &mut outbox);
        outbox.flush();
    }

    /// Asks the group that the name goes to; another one, from the start, if it goes there when the first has come to nothing.
    async fn ask_whoever_is_in_charge<F>(&self, before: Before<F>) -> (Result<Answer, Failure>, Arc<Group>)
    where
        F: Future<Output = Result<Answer, Cause>> + Send + 'static,
    {
        let mut group = Arc::clone(self.group());
        let mut before = before;
        loop {
            let rescue = Rescue::by(&group, self.asked, self.question(), self.deadline);
            let outcome = rescue.run(before).await;
            let answered = outcome.as_ref().is_ok_and(|answer| !answer.is_failure());
            let in_charge = self.resolver.forwarded(self.question()).map(|destination| destination.group);
            match in_charge {
                Some(other) if !answered && !Arc::ptr_eq(&other, &group) && Instant::now() < self.deadline => {
                    (group, before) = (other, Before::Nothing);
                }
                _ => return (outcome, group),
            }
        }
    }

    /// A defect has ended the work for it: who waits is told, and nobody waits for it any more.
    fn lost(&self) {
        let failure = Failure { cause: Cause::InternalError, server: self.group().name() };
        self.resolver.panics().contain("lookup", || {
            let mut outbox = Outbox::new();
            self.conclude(&Err(failure), self.group(), &mut outbox);
            outbox.flush();
        });
    }

    /// Does what an attempt's end asks for. A panic loses this lookup alone.
    fn contained(self: &Arc<Self>, work: impl FnOnce()) {
        if self.resolver.panics().contain("lookup", work).is_none() {
            self.lost();
        }
    }

    /// Completes when the first attempt has ended otherwise than by the answer.
    async fn first_ended(self: Arc<Self>) -> Result<Answer, Cause> {
        loop {
            let changed = self.changed.notified();
            if let Some(ended) = self.state().first_ended.clone() {
                return ended;
            }
            changed.await;
        }
    }

    async fn is_over(&self) {
        loop {
            let changed = self.changed.notified();
            if self.state().over {
                return;
            }
            changed.await;
        }
    }

    async fn time_for_stale(&self) {
        if self.state().stale.is_none() {
            std::future::pending::<()>().await;
        }
        sleep_until(self.began + STALE_AFTER).await;
    }

    /// Answers those who wait with what is too old; the lookup goes on, for those who ask next.
    fn answer_stale(&self, outbox: &mut Outbox) {
        let (waiters, stale) = {
            let mut state = self.state();
            (std::mem::take(&mut state.waiters), state.stale.clone())
        };
        if let Some(stale) = stale {
            self.reply_to(&waiters, outbox, |out, waiter, question| {
                reply::stale(out, waiter.asked, question, &stale, waiter.limit);
            });
        }
        outbox.flush();
    }

    /// Ends the lookup: keeps what came of it, and replies to those who wait. Only the first outcome counts.
    fn conclude(&self, outcome: &Result<Answer, Failure>, group: &Group, outbox: &mut Outbox) {
        self.resolver.lookups().remove(self);
        let (waiters, stale) = {
            let mut state = self.state();
            if std::mem::replace(&mut state.over, true) {
                return;
            }
            (std::mem::take(&mut state.waiters), state.stale.take())
        };
        self.changed.notify_waiters();
        self.log(outcome);
        self.keep(outcome, group);
        if outcome.is_err() && self.destination.index != DEFAULT {
            self.resolver.events().name_withheld(None, ROUTE_UNAVAILABLE, self.question());
        }
        let stale = stale.filter(|_| outcome.as_ref().map_or(true, Answer::is_failure));
        self.reply_to(&waiters, outbox, |out, waiter, question| match (outcome, &stale) {
            (_, Some(stale)) => reply::stale(out, waiter.asked, question, stale, waiter.limit),
            (Ok(answer), None) => reply::answer(out, waiter.asked, question, answer, 0, waiter.limit),
            (Err(failure), None) => {
                let cause = failure.extended_error();
                reply::failure(out, waiter.asked, question, Rcode::SERVFAIL, Some(&cause));
            }
        });
    }

    fn keep(&self, outcome: &Result<Answer, Failure>, group: &Group) {
        match outcome {
            Ok(answer) => self.resolver.keep(group, self.asked, self.question(), answer),
            // It is this question that gets no answer: not to be asked for again at once (RFC 9520). That a server cannot be
            // reached is remembered of the server.
            Err(failure) if failure.cause == Cause::QueryTimedOut && group.failing().is_none() => {
                let answer = Answer::failed(self.question(), Rcode::SERVFAIL, &failure.extended_error());
                self.resolver.keep_failure(self.asked, self.question(), &answer);
            }
            Err(_) => {}
        }
    }

    fn reply_to(&self, waiters: &[Waiter], outbox: &mut Outbox, write: impl Fn(&mut Vec<u8>, &Waiter, Question<'_>)) {
        for waiter in waiters {
            let bytes = waiter.question.as_deref().unwrap_or(&self.question);
            let Some(question) = Question::starting(bytes) else { continue };
            let reply = |out: &mut Vec<u8>| {
                let start = out.len();
                provoked("reply", question);
                write(out, waiter, question);
                self.resolver.count_response(&out[start..]);
            };
            // Each waits for a query of its own.
            self.resolver.panics().contain("reply", || outbox.push(&waiter.recipient, reply));
        }
    }

    fn log(&self, outcome: &Result<Answer, Failure>) {
        let question = self.question();
        match outcome {
            Ok(answer) => {
                debug!(name = %question.name(), qtype = question.qtype(), rcode = answer.rcode().as_str(), milliseconds = self.began.elapsed().as_millis(), "answered");
            }
            Err(failure) => {
                debug!(name = %question.name(), qtype = question.qtype(), cause = %failure.cause, server = %failure.server, "not answered");
            }
        }
    }
}

impl Asker for Lookup {
    fn answered(self: Arc<Self>, attempt: Attempt, message: &[u8], now: Instant, outbox: &mut Outbox) {
        self.contained(|| {
            provoked("answer", self.question());
            match self.group().read(attempt, message, self.question(), now) {
                Ok(answer) if self.group().would_ask_another(&answer) => self.first_has_ended(attempt, Ok(answer)),
                Ok(answer) => self.conclude(&Ok(answer), self.group(), outbox),
                Err(cause) => self.first_has_ended(attempt, Err(cause)),
            }
        });
    }

    fn late(self: Arc<Self>, attempt: Attempt) {
        self.contained(|| {
            if !self.state().over {
                self.rescue(Stage::Asked(attempt));
            }
        });
    }

    fn failed(self: Arc<Self>, attempt: Attempt, cause: Cause) {
        self.contained(|| {
            self.group().failed(attempt, cause);
            self.first_has_ended(attempt, Err(cause));
        });
    }
}

impl Lookup {
    /// The first attempt came to nothing: another has to be made, unless that is under way.
    fn first_has_ended(self: &Arc<Self>, attempt: Attempt, how: Result<Answer, Cause>) {
        {
            let mut state = self.state();
            if state.over {
                return;
            }
            state.first_ended = Some(how.clone());
        }
        self.changed.notify_waiters();
        self.rescue(match how {
            Ok(answer) => Stage::Unresolved(attempt, answer),
            Err(_) => Stage::Asked(attempt),
        });
    }
}
