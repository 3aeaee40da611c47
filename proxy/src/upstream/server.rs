//! One server of a group: its transport, its health, and what is counted and logged of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA256};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{info, warn};

use super::cause::Cause;
use super::command::Command;
use super::connection::Query;
use super::doh::Doh;
use super::doq::Doq;
use super::dot::Dot;
use super::health::Health;
use super::kept::{Standby, Which};
use super::plain::{Plain, StrayLabels, Strays};
use crate::events::{Event, Events};
use crate::panics::Panics;
use crate::wire::request::Question;
use crate::wire::response::{Answer, TtlBounds};

/// While a failure goes on, the log repeats it at most so often.
const LOG_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// How a server is reached.
#[derive(Clone)]
pub enum Transport {
    /// DNS over TLS.
    Dot(Dot),
    /// DNS over HTTPS.
    Doh(Doh),
    /// DNS over QUIC.
    Doq(Doq),
    /// Plain DNS.
    Plain(Plain),
    /// A program of its own.
    Command(Command),
}

impl Transport {
    /// The connection that is kept to the server, if that is how it is reached.
    pub fn standby(&self) -> Option<&dyn Standby> {
        match self {
            Self::Dot(dot) => Some(dot.standby()),
            Self::Doh(doh) => Some(doh.standby()),
            Self::Doq(doq) => Some(doq.standby()),
            Self::Plain(_) | Self::Command(_) => None,
        }
    }
}

/// What is counted and told of servers.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    events: Events,
    queries: Family<ServerLabels, Counter>,
    failures: Family<FailureLabels, Counter>,
    strays: Family<StrayLabels, Counter>,
    panics: Panics,
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

/// A server as it was configured, and what reaches it.
pub struct Configured {
    /// Its URL.
    pub url: String,
    /// How it is reached.
    pub transport: Transport,
    /// All that was configured of it.
    pub definition: Definition,
}

/// All that was configured of a server (its URL, whom to trust, how to prove who we are, how to ask), as a digest: where two are
/// equal, one server with its connection can stand for the other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Definition([u8; 32]);

/// One server of a group.
pub struct Server {
    /// As it was configured.
    pub url: Arc<str>,
    /// All that was configured of it.
    pub definition: Definition,
    /// How it is reached.
    pub transport: Transport,
    /// What is known of it.
    pub health: Arc<Health>,
    /// What counts queries lost to a defect.
    pub panics: Panics,
    queries: Counter,
    failures: Arc<Failures>,
    strays: Strays,
    retirement: Retirement,
}

/// Whether a server is out of use, for good.
#[derive(Debug, Default)]
struct Retirement {
    is_retired: AtomicBool,
    changed: Notify,
}

/// What is counted and logged of a server's failures: of each attempt to connect, whoever may wait for it, and of each query
/// that was sent in vain.
struct Failures {
    group: Arc<str>,
    url: Arc<str>,
    counters: Family<FailureLabels, Counter>,
    events: Events,
    is_logged: AtomicBool,
    logged: Mutex<Log>,
}

#[derive(Debug, Default)]
struct Log {
    last: Option<Logged>,
    /// Nothing is counted any more: the server is out of use, and its counters are gone.
    closed: bool,
}

#[derive(Debug, Clone, Copy)]
struct Logged {
    cause: Cause,
    at: Instant,
    failures_since: u64,
}

impl Metrics {
    /// Counts from zero; events and panics go there.
    pub fn telling(events: Events, panics: Panics) -> Self {
        Self { events, panics, ..Self::default() }
    }

    /// Makes the counters known to the registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("upstream_queries", "Queries sent to upstream servers", self.queries.clone());
        registry.register("upstream_failures", "Exchanges with upstream servers that failed", self.failures.clone());
        registry.register(
            "upstream_strays",
            "Datagrams from plain servers that were not taken for the answer",
            self.strays.clone(),
        );
    }

    /// Forgets what was counted of a server that is retired.
    pub fn forget(&self, server: &Server) {
        let (group, server) = (Arc::clone(&server.failures.group), Arc::clone(&server.url));
        for cause in Cause::ALL {
            self.failures.remove(&FailureLabels { group: Arc::clone(&group), server: Arc::clone(&server), cause });
        }
        for labels in StrayLabels::all(&group, &server) {
            self.strays.remove(&labels);
        }
        self.queries.remove(&ServerLabels { group, server });
    }
}

impl Definition {
    /// The digest of these parts, in this order.
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut context = Context::new(&SHA256);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(context.finish().as_ref());
        Self(digest)
    }

    /// As a part of another.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Server {
    /// A server of this group.
    pub fn new(group: &Arc<str>, configured: Configured, metrics: &Metrics) -> Self {
        let Configured { url, transport, definition } = configured;
        let url: Arc<str> = url.into();
        let labels = ServerLabels { group: Arc::clone(group), server: Arc::clone(&url) };
        let failures = Arc::new(Failures {
            group: Arc::clone(group),
            url: Arc::clone(&url),
            counters: metrics.failures.clone(),
            events: metrics.events.clone(),
            is_logged: AtomicBool::new(false),
            logged: Mutex::default(),
        });
        let health = transport.standby().map_or_else(Arc::default, |standby| {
            let (failures, panics) = (Arc::clone(&failures), metrics.panics.clone());
            standby.tell_failures(Box::new(move |cause| {
                if cause == Cause::InternalError {
                    panics.note("connection");
                }
                failures.note(cause);
            }));
            Arc::clone(standby.health())
        });
        let strays = Strays::of(Arc::clone(group), Arc::clone(&url), metrics.strays.clone(), metrics.events.clone());
        let (panics, queries) = (metrics.panics.clone(), metrics.queries.get_or_create_owned(&labels));
        let retirement = Retirement::default();
        Self { url, definition, transport, health, panics, queries, failures, strays, retirement }
    }

    /// Whether it is of a group of this name.
    pub fn is_of(&self, group: &str) -> bool {
        *self.failures.group == *group
    }

    /// Whether both are counted by the same labels.
    pub fn is_counted_as(&self, other: &Self) -> bool {
        self.url == other.url && self.is_of(&other.failures.group)
    }

    /// Whether it is out of use: nothing is asked of it any more.
    pub fn is_retired(&self) -> bool {
        self.retirement.is_retired.load(Ordering::Acquire)
    }

    /// Completes when it is out of use.
    pub async fn retired(&self) {
        loop {
            let changed = self.retirement.changed.notified();
            if self.is_retired() {
                return;
            }
            changed.await;
        }
    }

    /// Takes it out of use. What was sent may still be answered; then its connection is closed. Its failures are no longer
    /// counted.
    pub fn retire(&self) {
        self.retirement.is_retired.store(true, Ordering::Release);
        self.retirement.changed.notify_waiters();
        self.failures.log().closed = true;
        if let Some(standby) = self.transport.standby() {
            standby.retire();
        }
    }

    /// Asks, and waits for the answer's message.
    pub async fn exchange(&self, query: Query<'_>, which: Which) -> Result<Vec<u8>, Cause> {
        if self.transport.standby().is_some() {
            // Of a connection that is closed when nothing is in flight, answers may still come.
            return if self.is_retired() { Err(Cause::ConnectionClosed) } else { self.ask(query, which).await };
        }
        tokio::select! {
            biased;
            () = self.retired() => Err(Cause::ConnectionClosed),
            outcome = self.ask(query, which) => outcome,
        }
    }

    async fn ask(&self, query: Query<'_>, which: Which) -> Result<Vec<u8>, Cause> {
        let sent = AtomicBool::new(false);
        let asked = || {
            self.asked();
            sent.store(true, Ordering::Relaxed);
        };
        let outcome = match &self.transport {
            Transport::Dot(dot) => dot.exchange(query, which, asked).await,
            Transport::Doh(doh) => doh.exchange(query, which, asked).await,
            Transport::Doq(doq) => doq.exchange(query, which, asked).await,
            Transport::Plain(plain) => {
                asked();
                let began = Instant::now();
                let exchanged = plain.exchange(query.asked, query.question, query.until, &self.strays).await;
                exchanged.map(|message| (message, began.elapsed()))
            }
            Transport::Command(command) => {
                asked();
                command.exchange(query).await
            }
        };
        match outcome {
            Ok((message, latency)) => {
                self.answered(latency, Instant::now());
                Ok(message)
            }
            Err(cause) => {
                // That connecting failed was noted when it did. That it took too long for this query was not.
                if sent.into_inner() || (cause == Cause::ConnectionTimedOut && Instant::now() >= query.until) {
                    self.failed(cause);
                }
                Err(cause)
            }
        }
    }

    /// Asks, and waits for the answer.
    pub async fn resolve(&self, query: Query<'_>, which: Which, bounds: TtlBounds) -> Result<Answer, Cause> {
        let message = self.exchange(query, which).await?;
        self.read(&message, query.question, bounds)
    }

    /// Reads an answer that this server gave.
    pub fn read(&self, message: &[u8], question: Question<'_>, bounds: TtlBounds) -> Result<Answer, Cause> {
        Answer::parse(message, question, bounds).map_err(|_| {
            self.failed(Cause::ResponseMalformed);
            Cause::ResponseMalformed
        })
    }

    /// Opens the connection in the background.
    pub fn connect(self: &Arc<Self>, runtime: &tokio::runtime::Handle) {
        let server = Arc::clone(self);
        runtime.spawn(async move {
            let Some(standby) = server.transport.standby().filter(|_| !server.is_retired()) else { return };
            if standby.make_ready().await.is_ok() {
                server.failures.are_over();
            }
        });
    }

    /// A query was sent.
    pub fn asked(&self) {
        self.queries.inc();
    }

    /// An answer came.
    pub fn answered(&self, latency: Duration, now: Instant) {
        // A connection of DNS over TLS hears for itself, and sooner.
        if !matches!(self.transport, Transport::Dot(_)) {
            self.health.heard(now);
        }
        self.health.measured(latency, now);
        self.failures.are_over();
    }

    /// No answer came, for this cause.
    pub fn failed(&self, cause: Cause) {
        // Of a server to which a connection is kept, what becomes of its connections tells more than what becomes of one query;
        // and what a program cannot ask tells nothing of the server.
        if self.transport.standby().is_none() && cause != Cause::QueryNotCarried {
            self.health.failed(cause, Instant::now());
        }
        self.failures.note(cause);
    }
}

impl Failures {
    fn log(&self) -> MutexGuard<'_, Log> {
        self.logged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn are_over(&self) {
        if self.is_logged.load(Ordering::Relaxed) && self.is_logged.swap(false, Ordering::AcqRel) {
            self.log().last = None;
            info!(server = %self.url, "upstream answers again");
        }
    }

    /// Tells what a security team wants to know.
    fn tell(&self, cause: Cause) {
        let (server, group) = (Arc::clone(&self.url), Arc::clone(&self.group));
        if cause.is_of_the_certificate() {
            self.events.emit(Event::CertificateRefused { server, group, cause });
        } else if cause == Cause::ResponseMalformed {
            self.events.emit(Event::AnswerRefused { server, group, why: cause.as_str() });
        }
    }

    /// Counts a failure, and logs it when it begins, when its cause changes, and now and then while it goes on.
    fn note(&self, cause: Cause) {
        let mut log = self.log();
        if log.closed {
            return;
        }
        let labels = FailureLabels { group: Arc::clone(&self.group), server: Arc::clone(&self.url), cause };
        self.counters.get_or_create(&labels).inc();
        self.tell(cause);
        let now = Instant::now();
        if let Some(logged) = &mut log.last
            && logged.cause == cause
            && now < logged.at + LOG_AGAIN_AFTER
        {
            logged.failures_since += 1;
            return;
        }
        let failures_not_logged = log.last.map_or(0, |logged| logged.failures_since);
        log.last = Some(Logged { cause, at: now, failures_since: 0 });
        self.is_logged.store(true, Ordering::Release);
        warn!(%cause, server = %self.url, group = %self.group, failures_not_logged, "upstream failed");
    }
}
