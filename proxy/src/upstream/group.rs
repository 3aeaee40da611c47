//! Servers that stand in for each other: which is asked, when another is asked beside it, and what is done when one fails.
//!
//! [`Group::start`] asks at once, on the caller's thread, if a good server has an open connection. Whatever else may be
//! needed, a connection, another server, a second try, a [`Rescue`](super::rescue::Rescue) does in a task, within the query's one deadline.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use dot_proxy_config::Strategy;
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::cause::{Cause, Failure};
use super::choice::{self, Candidate};
use super::connection::{Asker, Attempt, Connection, Query};
use super::health::Standing;
use super::kept::{Standby, Which};
use super::server::{Configured, Metrics, Server, Transport};
use crate::wire::Rcode;
use crate::wire::request::Question;
use crate::wire::response::{Answer, TtlBounds};

/// Of the fastest strategy's servers, each is measured so often, by a copy of a client's query.
const MEASURE_EVERY: Duration = Duration::from_secs(60);

/// At first more often: one sample says little.
const MEASURE_FIRST: Duration = Duration::from_millis(200);

/// A server that has gone silent, or whose pause is over, gets a copy of a client's query so often.
const LOOK_AFTER: Duration = Duration::from_secs(1);

/// A connection on which a server has been silent for so long is replaced.
const GIVE_UP_SILENT: Duration = Duration::from_secs(3);

/// What asking a second server because the first is late costs, in what a query earns: one in ten may.
const HEDGE_COST: i32 = 10;

/// What there is to spend at first, and at most.
const HEDGE_RESERVE: i32 = 50 * HEDGE_COST;

/// A group of servers.
pub struct Group {
    pub(super) name: Arc<str>,
    pub(super) servers: Vec<Arc<Server>>,
    pub(super) bounds: TtlBounds,
    strategy: Strategy,
    lineage: Lineage,
    turn: AtomicUsize,
    hedges: AtomicI32,
    runtime: Handle,
}

/// What answers of a group are worth when another takes its place: of one lineage, they are answers of both. A group that lacks
/// a server of the one before it is of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lineage(u64);

/// Connections that a batch of queries was put into.
#[derive(Default)]
pub struct Batch {
    connections: Vec<Connection>,
}

/// What became of a query that was to be put into a server's open connection.
#[derive(PartialEq, Eq)]
enum Put {
    /// It is in.
    In,
    /// The server is good, but its transport asks in a task: a rescue asks it first.
    Aside,
    /// The server has no connection that takes it now.
    Nowhere,
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

impl Lineage {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl Group {
    /// A group of servers as they were configured. Its tasks run on the runtime.
    pub fn new(
        name: &str,
        servers: Vec<Configured>,
        strategy: Strategy,
        bounds: TtlBounds,
        metrics: &Metrics,
        runtime: Handle,
    ) -> Self {
        let name: Arc<str> = name.into();
        let servers = servers.into_iter().map(|server| Arc::new(Server::new(&name, server, metrics))).collect();
        Self::of(name, servers, strategy, bounds, runtime)
    }

    /// A group of servers that there are already.
    pub fn of(
        name: Arc<str>,
        servers: Vec<Arc<Server>>,
        strategy: Strategy,
        bounds: TtlBounds,
        runtime: Handle,
    ) -> Self {
        let (turn, hedges) = (AtomicUsize::new(0), AtomicI32::new(HEDGE_RESERVE));
        Self { name, servers, bounds, strategy, lineage: Lineage::new(), turn, hedges, runtime }
    }

    /// The group that takes this one's place, of the same name.
    pub fn succeeded_by(&self, servers: Vec<Arc<Server>>, strategy: Strategy, bounds: TtlBounds) -> Self {
        let stays = |server: &Arc<Server>| servers.iter().any(|other| Arc::ptr_eq(server, other));
        let lineage = if self.servers.iter().all(stays) { self.lineage } else { Lineage::new() };
        Self { lineage, ..Self::of(Arc::clone(&self.name), servers, strategy, bounds, self.runtime.clone()) }
    }

    /// The group itself, or the one that takes its place with these of its servers alone.
    pub fn without_others_than(self: &Arc<Self>, servers: Vec<Arc<Server>>) -> Arc<Self> {
        if self.is_the_same_with(&servers, self.strategy, self.bounds) {
            return Arc::clone(self);
        }
        Arc::new(self.succeeded_by(servers, self.strategy, self.bounds))
    }

    /// Its servers, in the order of the configuration.
    pub fn servers(&self) -> &[Arc<Server>] {
        &self.servers
    }

    /// What its answers are worth to a group that takes its place.
    pub fn lineage(&self) -> Lineage {
        self.lineage
    }

    /// Whether it differs from a group of these servers in nothing.
    pub fn is_the_same_with(&self, servers: &[Arc<Server>], strategy: Strategy, bounds: TtlBounds) -> bool {
        let same = |(one, other): (&Arc<Server>, &Arc<Server>)| Arc::ptr_eq(one, other);
        self.servers.len() == servers.len()
            && self.servers.iter().zip(servers).all(same)
            && (self.strategy, self.bounds) == (strategy, bounds)
    }

    /// Completes when all its servers are out of use.
    pub(super) async fn deserted(&self) {
        for server in &self.servers {
            server.retired().await;
        }
    }

    /// Its name.
    pub fn name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    /// Opens the connection to the server that will be asked first.
    pub fn warm_up(&self) {
        let order = self.order(Instant::now());
        if let Some(first) = order.first()
            && first.standing != Standing::Paused
            && let server = &self.servers[first.index]
            && server.transport.standby().is_some_and(Standby::wants_connection)
        {
            server.connect(&self.runtime);
        }
    }

    /// Somebody is asking something, be it answered from the cache: a connection that was closed when idle is opened again
    /// before it is missed.
    pub fn sign_of_life(&self) {
        let is_dormant = |server: &Arc<Server>| server.transport.standby().is_some_and(Standby::is_dormant);
        if self.servers.iter().all(is_dormant) {
            self.warm_up();
        }
    }

    /// Why the group cannot answer now, as far as the last exchanges tell; `None` while some server is not failing.
    pub fn failing(&self) -> Option<Failure> {
        let now = Instant::now();
        let mut last = None;
        for server in self.servers.iter().filter(|server| !server.is_retired()) {
            let cause = match server.health.standing(now) {
                Standing::Good | Standing::Unsteady => return None,
                Standing::Silent => Cause::QueryTimedOut,
                Standing::Retry | Standing::Paused => server.health.failing().unwrap_or(Cause::QueryTimedOut),
            };
            last = Some(Failure { cause, server: Arc::clone(&server.url) });
        }
        last
    }

    /// The servers, in the order in which they are to be asked.
    pub(super) fn order(&self, now: Instant) -> Vec<Candidate> {
        let turn = if self.strategy == Strategy::RoundRobin { self.turn.fetch_add(1, Ordering::Relaxed) } else { 0 };
        let in_use = self.servers.iter().enumerate().filter(|(_, server)| !server.is_retired());
        let candidate = |(index, server): (usize, &Arc<Server>)| Candidate {
            index,
            standing: server.health.standing(now),
            latency: server.health.latency(),
        };
        let mut candidates: Vec<_> = in_use.map(candidate).collect();
        choice::order(self.strategy, &mut candidates, turn);
        candidates
    }

    /// Puts the query into the open connection of the best server that has one; the batch is to be flushed. False where
    /// there is none: a [`Rescue`](super::rescue::Rescue) is needed.
    pub fn start(&self, query: Query<'_>, asker: &Arc<dyn Asker>, now: Instant, batch: &mut Batch) -> bool {
        self.earn();
        let candidates = self.order(now);
        for candidate in &candidates {
            let put = self.put_in(candidate, query, asker, now, batch);
            if put == Put::Nowhere {
                continue;
            }
            self.look_after_others(&candidates, candidate.index, query, now);
            return put == Put::In;
        }
        false
    }

    fn put_in(
        &self,
        candidate: &Candidate,
        query: Query<'_>,
        asker: &Arc<dyn Asker>,
        now: Instant,
        batch: &mut Batch,
    ) -> Put {
        let server = &self.servers[candidate.index];
        if candidate.standing > Standing::Silent {
            return Put::Nowhere;
        }
        let Transport::Dot(dot) = &server.transport else { return Put::Aside };
        let Some(connection) = dot.ready() else {
            if dot.standby().wants_connection() {
                server.connect(&self.runtime);
            }
            return Put::Nowhere;
        };
        let attempt = Attempt { server: candidate.index, sent: now };
        if connection.enqueue(query, attempt, Arc::clone(asker)).is_err() {
            return Put::Nowhere;
        }
        server.asked();
        batch.touch(connection);
        Put::In
    }

    /// Sends a copy of the query to a server of which it is time to know more: one that may be faster, or back.
    fn look_after_others(&self, candidates: &[Candidate], chosen: usize, query: Query<'_>, now: Instant) {
        let due = |candidate: &&Candidate| {
            let health = &self.servers[candidate.index].health;
            let every = match candidate.standing {
                Standing::Good if self.strategy == Strategy::Fastest && health.is_hardly_measured() => MEASURE_FIRST,
                Standing::Good if self.strategy == Strategy::Fastest => MEASURE_EVERY,
                Standing::Unsteady | Standing::Silent | Standing::Retry => LOOK_AFTER,
                Standing::Good | Standing::Paused => return false,
            };
            health.measured_at().is_none_or(|at| now.saturating_duration_since(at) >= every)
        };
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
            let _ =
                server.panics.contain_task("attempt", server.exchange(Query { asked, question, until }, which)).await;
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
        let answer = server.read(message, question, self.bounds)?;
        server.answered(now.saturating_duration_since(attempt.sent), now);
        Ok(answer)
    }

    /// An attempt of [`Group::start`] failed.
    pub fn failed(&self, attempt: Attempt, cause: Cause) {
        self.servers[attempt.server].failed(cause);
    }

    /// Whether another server may know better what one could not resolve.
    pub fn would_ask_another(&self, answer: &Answer) -> bool {
        self.servers.len() > 1 && is_of_the_server(answer)
    }

    fn earn(&self) {
        if self.hedges.load(Ordering::Relaxed) < HEDGE_RESERVE {
            self.hedges.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether a second server may be asked because the first is late; it is paid for at once.
    pub(super) fn affords_hedge(&self) -> bool {
        let less = |left: i32| (left >= HEDGE_COST).then_some(left - HEDGE_COST);
        self.hedges.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }
}

/// Whether a failure may be the server's own, rather than the name's: SERVFAIL and REFUSED are, unless the server says
/// that validation failed (RFC 8914 §4: codes 1, 2, 5 to 12, and 27), which another should not be asked to overlook.
fn is_of_the_server(answer: &Answer) -> bool {
    let of_validation = |code: u16| matches!(code, 1 | 2 | 5..=12 | 27);
    matches!(answer.rcode(), Rcode::SERVFAIL | Rcode::REFUSED) && !answer.error_codes().any(of_validation)
}
