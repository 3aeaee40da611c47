//! Servers that stand in for each other: which is asked, for how long, and what happens when it fails.
//!
//! A query outlives its connection: when that dies, or a server stays silent, it is asked again on a fresh connection or
//! of the next server, within the query's one deadline.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::time::Instant;
use tracing::{info, warn};

use super::cause::{Cause, Failure};
use super::dot::Dot;
use super::plain::Plain;
use crate::wire::request::{Asked, Question};
use crate::wire::response::{Answer, TtlBounds};

/// A server is given at least so long, if the deadline allows, before the next one is tried.
const LEAST_PATIENCE: Duration = Duration::from_millis(500);

/// While a failure goes on, the log repeats it at most so often.
const LOG_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// How a server is reached.
#[derive(Clone)]
pub enum Transport {
    /// DNS over TLS.
    Dot(Dot),
    /// Plain DNS.
    Plain(Plain),
}

/// What upstream groups count.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    queries: Family<ServerLabels, Counter>,
    failures: Family<FailureLabels, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServerLabels {
    group: Arc<str>,
    server: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    group: Arc<str>,
    server: Arc<str>,
    cause: Cause,
}

/// A group of servers.
pub struct Group {
    name: Arc<str>,
    servers: Vec<Server>,
    /// The server that answered last: who fails is not asked first again until all have failed.
    preferred: AtomicUsize,
    bounds: TtlBounds,
    metrics: Metrics,
}

struct Server {
    url: Arc<str>,
    transport: Transport,
    queries: Counter,
    health: Mutex<Health>,
}

/// What is known of a server from its last exchange.
#[derive(Debug, Default, Clone, Copy)]
struct Health {
    failing: Option<Failing>,
}

#[derive(Debug, Clone, Copy)]
struct Failing {
    cause: Cause,
    logged: Instant,
    unlogged: u64,
}

impl Metrics {
    /// Makes the counters known to the registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("upstream_queries", "Queries sent to upstream servers", self.queries.clone());
        registry.register("upstream_failures", "Exchanges with upstream servers that failed", self.failures.clone());
    }
}

impl Group {
    /// A group of servers, each with its URL, in the order in which they are tried.
    pub fn new(name: &str, servers: Vec<(String, Transport)>, bounds: TtlBounds, metrics: Metrics) -> Self {
        let name: Arc<str> = name.into();
        let server = |(url, transport): (String, Transport)| {
            let url: Arc<str> = url.into();
            let labels = ServerLabels { group: Arc::clone(&name), server: Arc::clone(&url) };
            let queries = metrics.queries.get_or_create_owned(&labels);
            Server { url, transport, queries, health: Mutex::default() }
        };
        let servers = servers.into_iter().map(server).collect();
        Self { name, servers, preferred: AtomicUsize::new(0), bounds, metrics }
    }

    /// Opens the connection to the server that will be asked first.
    pub fn warm_up(&self) {
        if let Some(Server { transport: Transport::Dot(dot), .. }) = self.servers.first() {
            dot.warm_up();
        }
    }

    /// Why the group cannot answer now, as far as the last exchanges tell; `None` while some server is not failing.
    pub fn failing(&self) -> Option<Failure> {
        let mut last = None;
        for server in &self.servers {
            let failing = server.health().failing?;
            last = Some(Failure { cause: failing.cause, server: Arc::clone(&server.url) });
        }
        last
    }

    /// Asks until a server has answered, all have failed, or the deadline has passed.
    pub async fn ask(&self, asked: Asked, question: Question<'_>, deadline: Instant) -> Result<Answer, Failure> {
        let first = self.preferred.load(Ordering::Relaxed);
        let mut failure = None;
        for turn in 0..self.servers.len() {
            let index = (first + turn) % self.servers.len();
            let server = &self.servers[index];
            let left = self.servers.len() - turn;
            match self.ask_server(server, asked, question, patience(deadline, left)).await {
                Ok(answer) => {
                    self.preferred.store(index, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(cause) => failure = Some(Failure { cause, server: Arc::clone(&server.url) }),
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        Err(failure.unwrap_or_else(|| Failure { cause: Cause::QueryTimedOut, server: Arc::clone(&self.name) }))
    }

    /// Asks one server; once more on a fresh connection when the open one has ended under the query.
    async fn ask_server(
        &self,
        server: &Server,
        asked: Asked,
        question: Question<'_>,
        until: Instant,
    ) -> Result<Answer, Cause> {
        let mut outcome = self.exchange(server, asked, question, until).await;
        if outcome == Err(Cause::ConnectionClosed) {
            outcome = self.exchange(server, asked, question, until).await;
        }
        match &outcome {
            Ok(_) => server.recovered(),
            Err(cause) => server.failed(*cause, &self.name),
        }
        outcome
    }

    async fn exchange(
        &self,
        server: &Server,
        asked: Asked,
        question: Question<'_>,
        until: Instant,
    ) -> Result<Answer, Cause> {
        server.queries.inc();
        let response = match &server.transport {
            Transport::Dot(dot) => dot.exchange(asked, question, until).await,
            Transport::Plain(plain) => plain.exchange(asked, question, until).await,
        };
        let answer = response
            .and_then(|message| Answer::parse(&message, question, self.bounds).map_err(|_| Cause::ResponseMalformed));
        if let Err(cause) = &answer {
            let labels =
                FailureLabels { group: Arc::clone(&self.name), server: Arc::clone(&server.url), cause: *cause };
            self.metrics.failures.get_or_create(&labels).inc();
        }
        answer
    }
}

/// Until when a server is waited for: the time that is left, shared among the servers that are left.
fn patience(deadline: Instant, servers_left: usize) -> Instant {
    let now = Instant::now();
    let share = deadline.saturating_duration_since(now) / u32::try_from(servers_left).unwrap_or(1).max(1);
    deadline.min(now + share.max(LEAST_PATIENCE))
}

impl Server {
    fn health(&self) -> Health {
        *self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn recovered(&self) {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        if health.failing.take().is_some() {
            info!(server = %self.url, "upstream answers again");
        }
    }

    /// Logs a failure when it begins, when its cause changes, and now and then while it goes on.
    fn failed(&self, cause: Cause, group: &str) {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some(failing) = &mut health.failing
            && failing.cause == cause
            && now < failing.logged + LOG_AGAIN_AFTER
        {
            failing.unlogged += 1;
            return;
        }
        let unlogged = health.failing.map_or(0, |failing| failing.unlogged);
        health.failing = Some(Failing { cause, logged: now, unlogged: 0 });
        warn!(%cause, server = %self.url, group, failures_not_logged = unlogged, "upstream failed");
    }
}
