//! The path of a query: wire → policy → cache → router → upstream.
//!
//! [`Resolver::begin`] answers at once what it can, on the reader's own stack; [`Resolver::flush`] asks upstreams.
//! Stages never call each other: they are called here.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tracing::debug;

use crate::cache::{Cache, Found, Key};
use crate::clients::Access;
use crate::policy::{Policy, Verdict};
use crate::replies::{Outbox, Recipient};
use crate::router::{GroupIndex, Router};
use crate::upstream::cause::Failure;
use crate::upstream::group::Group;
use crate::wire::name::LowerName;
use crate::wire::reply;
use crate::wire::request::{self, Asked, Invalid, Question};
use crate::wire::{ExtendedError, Rcode, flag, read_u16};

/// Queries that wait for an upstream; the next one is answered SERVFAIL at once, so that those can be finished.
pub const MAX_IN_FLIGHT: usize = 4096;

/// Longest message over TCP (RFC 1035 §4.2.2).
const TCP_LIMIT: usize = 65_535;

/// How a query came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// In a datagram.
    Udp,
    /// On a connection.
    Tcp,
}

/// What came of a message.
#[derive(Debug)]
pub enum Step {
    /// The reply is in the buffer.
    Reply,
    /// The message is no valid query; the reply that says so is in the buffer.
    ReplyInvalid,
    /// The message is nothing that could be answered.
    Ignore,
    /// The reply goes to the recipient later; what is asked has to be flushed.
    Waiting,
}

/// What a batch of messages asks of upstreams, until it is flushed.
#[derive(Default)]
pub struct Asking(Vec<(Box<Lookup>, Recipient)>);

enum Begun {
    Reply,
    Ask(Box<Lookup>),
}

/// A query on its way to an upstream.
struct Lookup {
    asked: Asked,
    question: Box<[u8]>,
    group: GroupIndex,
    limit: usize,
    _permit: OwnedSemaphorePermit,
}

/// Why a datagram or a connection was not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// The source is not served.
    Source,
    /// There are as many TCP clients as are allowed.
    Connections,
    /// No query at all.
    NotAQuery,
    /// As many queries wait for upstreams as are allowed (answered SERVFAIL).
    Overload,
}

/// Everything that answering takes.
pub struct Resolver {
    policy: Policy,
    cache: Cache,
    router: Router,
    groups: Vec<Group>,
    access: Access,
    deadline: Duration,
    in_flight: Arc<Semaphore>,
    runtime: tokio::runtime::Handle,
    metrics: Metrics,
}

/// What the stages are; [`Resolver::new`] puts them together.
pub struct Stages {
    /// Which questions leave.
    pub policy: Policy,
    /// Answers kept.
    pub cache: Cache,
    /// Which group answers which names.
    pub router: Router,
    /// The groups; the first answers what no route covers.
    pub groups: Vec<Group>,
    /// Who may ask.
    pub access: Access,
    /// How long a query may take.
    pub deadline: Duration,
}

struct Metrics {
    udp: Counter,
    tcp: Counter,
    responses: Family<RcodeLabel, Counter>,
    dropped: Family<ReasonLabel, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProtocolLabel {
    protocol: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RcodeLabel {
    rcode: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

impl Metrics {
    fn new(registry: &mut Registry) -> Self {
        let queries = Family::<ProtocolLabel, Counter>::default();
        let metrics = Self {
            udp: queries.get_or_create_owned(&ProtocolLabel { protocol: "udp" }),
            tcp: queries.get_or_create_owned(&ProtocolLabel { protocol: "tcp" }),
            responses: Family::default(),
            dropped: Family::default(),
        };
        registry.register("queries", "Messages taken from clients", queries);
        registry.register("responses", "Replies to clients", metrics.responses.clone());
        registry.register("dropped", "Messages and connections not served", metrics.dropped.clone());
        metrics
    }
}

impl Resolver {
    /// Puts the stages together; to be called on the runtime that asks upstreams.
    pub fn new(stages: Stages, registry: &mut Registry) -> Self {
        let Stages { policy, cache, router, groups, access, deadline } = stages;
        let in_flight = Arc::new(Semaphore::new(MAX_IN_FLIGHT));
        let runtime = tokio::runtime::Handle::current();
        Self { policy, cache, router, groups, access, deadline, in_flight, runtime, metrics: Metrics::new(registry) }
    }

    /// Opens connections ahead of the first query.
    pub fn warm_up(&self) {
        self.groups.iter().for_each(Group::warm_up);
    }

    /// Why names that no route covers cannot be answered now, as far as the last exchanges tell.
    pub fn failing(&self) -> Option<Failure> {
        self.groups.first().and_then(Group::failing)
    }

    /// Whether a source is served; who is not is counted.
    pub fn admits(&self, source: IpAddr) -> bool {
        let admitted = self.access.admits(source);
        if !admitted {
            self.count_dropped(Dropped::Source);
        }
        admitted
    }

    /// Counts what is not served.
    pub fn count_dropped(&self, dropped: Dropped) {
        let reason = match dropped {
            Dropped::Source => "source",
            Dropped::Connections => "connections",
            Dropped::NotAQuery => "not-a-query",
            Dropped::Overload => "overload",
        };
        self.metrics.dropped.get_or_create(&ReasonLabel { reason }).inc();
    }

    /// Waits until no query waits for an upstream.
    pub async fn drained(&self) {
        let all = u32::try_from(MAX_IN_FLIGHT).expect("the bound is small");
        let _ = self.in_flight.acquire_many(all).await; // the semaphore is never closed
    }

    /// Reads a message and answers it if that needs no upstream; the reply is appended to the buffer.
    pub fn begin(
        &self,
        message: &[u8],
        protocol: Protocol,
        now: Instant,
        out: &mut Vec<u8>,
        asking: &mut Asking,
        recipient: impl FnOnce() -> Recipient,
    ) -> Step {
        match protocol {
            Protocol::Udp => self.metrics.udp.inc(),
            Protocol::Tcp => self.metrics.tcp.inc(),
        };
        let start = out.len();
        let step = match request::parse(message) {
            Ok((asked, question)) => match self.begin_valid(asked, question, protocol, now, out) {
                Begun::Reply => Step::Reply,
                Begun::Ask(lookup) => {
                    asking.0.push((lookup, recipient()));
                    Step::Waiting
                }
            },
            Err(Invalid::Answered(asked, rcode)) => {
                reply::bare_failure(out, asked, rcode);
                if rcode == Rcode::FORMERR { Step::ReplyInvalid } else { Step::Reply }
            }
            Err(Invalid::Ignored) => Step::Ignore,
        };
        match step {
            Step::Ignore => self.count_dropped(Dropped::NotAQuery),
            Step::Reply | Step::ReplyInvalid => self.count_response(&out[start..]),
            Step::Waiting => {}
        }
        step
    }

    /// Asks what a batch asks.
    pub fn flush(self: &Arc<Self>, asking: &mut Asking) {
        for (lookup, recipient) in asking.0.drain(..) {
            let resolver = Arc::clone(self);
            self.runtime.spawn(async move {
                let mut reply = Vec::new();
                resolver.finish(&lookup, &mut reply).await;
                let mut outbox = Outbox::new();
                outbox.push(&recipient, |out| out.extend(&reply));
                outbox.flush();
            });
        }
    }

    fn begin_valid(
        &self,
        asked: Asked,
        question: Question<'_>,
        protocol: Protocol,
        now: Instant,
        out: &mut Vec<u8>,
    ) -> Begun {
        if asked.edns.is_some_and(|edns| edns.version != 0) {
            reply::failure(out, asked, question, Rcode::BADVERS, None);
            return Begun::Reply;
        }
        let lower = LowerName::of(question.name());
        match self.policy.judge(question, lower.name()) {
            Verdict::Answer(own) => {
                reply::own(out, asked, question, &own);
                return Begun::Reply;
            }
            Verdict::Refuse(rcode) => {
                reply::failure(out, asked, question, rcode, None);
                return Begun::Reply;
            }
            Verdict::Forward => {}
        }
        let limit = match protocol {
            Protocol::Udp => asked.udp_limit(),
            Protocol::Tcp => TCP_LIMIT,
        };
        let key = Key::of(asked, question);
        if let Found::Fresh(hit) | Found::Failed(hit) = self.cache.get(&key, now.into_std()) {
            reply::answer(out, asked, question, &hit.answer, hit.age, limit);
            return Begun::Reply;
        }
        let Ok(permit) = Arc::clone(&self.in_flight).try_acquire_owned() else {
            let cause = ExtendedError { code: ExtendedError::OTHER, text: "overload".to_owned() };
            reply::failure(out, asked, question, Rcode::SERVFAIL, Some(&cause));
            self.count_dropped(Dropped::Overload);
            return Begun::Reply;
        };
        let group = self.router.route(lower.name());
        Begun::Ask(Box::new(Lookup { asked, question: question.as_bytes().into(), group, limit, _permit: permit }))
    }

    /// Asks the upstream and appends the reply, whatever came of it, to the buffer.
    async fn finish(&self, lookup: &Lookup, out: &mut Vec<u8>) {
        let Some(question) = Question::starting(&lookup.question) else { return };
        let start = out.len();
        let began = Instant::now();
        let outcome = self.groups[lookup.group.0].ask(lookup.asked, question, began + self.deadline).await;
        match outcome {
            Ok(answer) => {
                self.cache.put(&Key::of(lookup.asked, question), lookup.asked, &answer, Instant::now().into_std());
                reply::answer(out, lookup.asked, question, &answer, 0, lookup.limit);
                debug!(name = %question.name(), qtype = question.qtype(), rcode = answer.rcode().as_str(), milliseconds = began.elapsed().as_millis(), "answered");
            }
            Err(failure) => {
                reply::failure(out, lookup.asked, question, Rcode::SERVFAIL, Some(&failure.extended_error()));
                debug!(name = %question.name(), qtype = question.qtype(), cause = %failure.cause, server = %failure.server, "not answered");
            }
        }
        self.count_response(&out[start..]);
    }

    fn count_response(&self, reply: &[u8]) {
        let rcode = Rcode(read_u16(reply, 2).unwrap_or_default() & flag::RCODE).as_str();
        self.metrics.responses.get_or_create(&RcodeLabel { rcode }).inc();
    }
}
