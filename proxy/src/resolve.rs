//! The path of a query: wire → cache → policy → router → lookup → upstream.
//!
//! [`Resolver::begin`] answers at once what it can, on the reader's own stack; what an upstream has to be asked for becomes
//! a lookup, whose answer goes to the client later. Stages never call each other: they are called here.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::cache::{Cache, Found, Hit, Key};
use crate::clients::Access;
use crate::events::Events;
use crate::lookup::{Lookups, Subject, Waiter};
use crate::panics::{Panics, provoked};
use crate::policy::{Policy, Verdict};
use crate::replies::Recipient;
use crate::router::{DEFAULT, GroupIndex, Router};
use crate::upstream::cause::Failure;
use crate::upstream::group::{Batch, Group};
use crate::wire::name::{LowerName, Name};
use crate::wire::reply;
use crate::wire::request::{self, Asked, Invalid, Question};
use crate::wire::response::Answer;
use crate::wire::{ExtendedError, Rcode, flag, read_u16};

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The reply is in the buffer.
    Reply,
    /// The message is no valid query; the reply that says so is in the buffer.
    ReplyInvalid,
    /// The message is nothing that could be answered.
    Ignore,
    /// An upstream is asked; the reply will go to the recipient.
    Waiting,
}

/// What a batch of messages has to ask upstreams, to be flushed at the end of the batch.
#[derive(Default)]
pub struct Asking {
    batch: Batch,
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
    events: Events,
    panics: Panics,
    deadline: Duration,
    lookups: Lookups,
    places: Arc<Semaphore>,
    in_flight: usize,
    runtime: Handle,
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
    /// Where what a security team wants to know is told.
    pub events: Events,
    /// What counts queries lost to a defect.
    pub panics: Panics,
    /// How long a query may take.
    pub deadline: Duration,
    /// Queries that may wait for an upstream; the next one is answered SERVFAIL at once, so that those can be finished.
    pub in_flight: usize,
}

struct Metrics {
    udp: Counter,
    tcp: Counter,
    /// By the four low bits of the response code.
    responses: [Counter; 16],
    source: Counter,
    connections: Counter,
    not_a_query: Counter,
    overload: Counter,
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
        let responses = Family::<RcodeLabel, Counter>::default();
        let dropped = Family::<ReasonLabel, Counter>::default();
        let rcode = |code| responses.get_or_create_owned(&RcodeLabel { rcode: Rcode(code).as_str() });
        let mut code = 0;
        let metrics = Self {
            udp: queries.get_or_create_owned(&ProtocolLabel { protocol: "udp" }),
            tcp: queries.get_or_create_owned(&ProtocolLabel { protocol: "tcp" }),
            responses: [(); 16].map(|()| {
                code += 1;
                rcode(code - 1)
            }),
            source: dropped.get_or_create_owned(&ReasonLabel { reason: "source" }),
            connections: dropped.get_or_create_owned(&ReasonLabel { reason: "connections" }),
            not_a_query: dropped.get_or_create_owned(&ReasonLabel { reason: "not-a-query" }),
            overload: dropped.get_or_create_owned(&ReasonLabel { reason: "overload" }),
        };
        registry.register("queries", "Messages taken from clients", queries);
        registry.register("responses", "Replies to clients", responses);
        registry.register("dropped", "Messages and connections not served", dropped);
        metrics
    }
}

impl Resolver {
    /// Puts the stages together; lookups run on the runtime.
    pub fn new(stages: Stages, runtime: Handle, registry: &mut Registry) -> Self {
        let Stages { policy, cache, router, groups, access, events, panics, deadline, in_flight } = stages;
        let places = Arc::new(Semaphore::new(in_flight));
        let metrics = Metrics::new(registry);
        let lookups = Lookups::default();
        Self {
            policy,
            cache,
            router,
            groups,
            access,
            events,
            panics,
            deadline,
            lookups,
            places,
            in_flight,
            runtime,
            metrics,
        }
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
        match dropped {
            Dropped::Source => &self.metrics.source,
            Dropped::Connections => &self.metrics.connections,
            Dropped::NotAQuery => &self.metrics.not_a_query,
            Dropped::Overload => &self.metrics.overload,
        }
        .inc();
    }

    /// Counts a reply to a client.
    pub fn count_response(&self, reply: &[u8]) {
        let rcode = read_u16(reply, 2).unwrap_or_default() & flag::RCODE;
        self.metrics.responses[usize::from(rcode)].inc();
    }

    /// Waits until no query waits for an upstream.
    pub async fn drained(&self) {
        let all = u32::try_from(self.in_flight).unwrap_or(u32::MAX);
        let _ = self.places.acquire_many(all).await; // the semaphore is never closed
    }

    /// Reads a message, and answers it if that needs no upstream: the reply is appended to the buffer. Else it is asked
    /// with the rest of the batch, and the reply will go to the recipient.
    pub fn begin(
        self: &Arc<Self>,
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
            Ok((asked, question)) => self.begin_valid(asked, question, protocol, now, out, asking, recipient),
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

    #[expect(clippy::too_many_arguments, reason = "what a query is and what its answering needs, on one screen")]
    fn begin_valid(
        self: &Arc<Self>,
        asked: Asked,
        question: Question<'_>,
        protocol: Protocol,
        now: Instant,
        out: &mut Vec<u8>,
        asking: &mut Asking,
        recipient: impl FnOnce() -> Recipient,
    ) -> Step {
        if asked.edns.is_some_and(|edns| edns.version != 0) {
            reply::failure(out, asked, question, Rcode::BADVERS, None);
            return Step::Reply;
        }
        let limit = match protocol {
            Protocol::Udp => asked.udp_limit(),
            Protocol::Tcp => TCP_LIMIT,
        };
        provoked("begin", question);
        let key = Key::of(asked, question);
        let stale = match self.cache.get(&key, now.into_std()) {
            Found::Fresh(hit) => {
                reply::answer(out, asked, question, &hit.answer, hit.age, limit);
                self.groups[DEFAULT.0].sign_of_life();
                if hit.refresh {
                    self.refresh(asked, question, None, now, asking);
                }
                return Step::Reply;
            }
            Found::Failed(hit) => {
                reply::answer(out, asked, question, &hit.answer, hit.age, limit);
                return Step::Reply;
            }
            Found::Stale(hit) if !hit.refresh => {
                reply::stale(out, asked, question, &hit.answer, limit);
                return Step::Reply;
            }
            Found::Stale(hit) => Some(hit.answer),
            Found::Missing => None,
        };
        let lower = LowerName::of(question.name());
        let group = self.router.route(lower.name());
        if let Some(step) = self.answer_here(asked, question, lower.name(), group, now, out, limit) {
            return step;
        }
        if let Some(stale) = &stale
            && self.groups[group.0].failing().is_some()
        {
            reply::stale(out, asked, question, stale, limit);
            self.refresh(asked, question, Some(stale.clone()), now, asking);
            return Step::Reply;
        }
        let Some(place) = self.place() else {
            let cause = ExtendedError { code: ExtendedError::OTHER, text: "overload".to_owned() };
            reply::failure(out, asked, question, Rcode::SERVFAIL, Some(&cause));
            self.count_dropped(Dropped::Overload);
            return Step::Reply;
        };
        let subject = Subject { asked, question, group, stale };
        let waiter = Waiter { asked, question: None, limit, recipient: recipient(), place };
        if let Some(lookup) = self.lookups.join(self, subject, waiter) {
            lookup.start(now, &mut asking.batch);
        }
        Step::Waiting
    }

    /// Sends what a batch has to ask.
    pub fn flush(&self, asking: &mut Asking) {
        asking.batch.flush();
    }

    /// What policy answers, and names below one that is known not to exist.
    #[expect(clippy::too_many_arguments, reason = "what a reply takes")]
    fn answer_here(
        &self,
        asked: Asked,
        question: Question<'_>,
        lower: Name<'_>,
        group: GroupIndex,
        now: Instant,
        out: &mut Vec<u8>,
        limit: usize,
    ) -> Option<Step> {
        match self.policy.judge(question, lower) {
            Verdict::Answer(own) => reply::own(out, asked, question, &own),
            Verdict::Withhold(own, rule) => {
                reply::own(out, asked, question, &own);
                self.events.name_withheld(None, rule, question);
            }
            Verdict::Refuse(rcode) => reply::failure(out, asked, question, rcode, None),
            // RFC 8020 for public names alone: what a route's servers say of a name says nothing of those below it.
            Verdict::Forward if group != DEFAULT => return None,
            Verdict::Forward => {
                let key = Key::of(asked, question);
                let Hit { answer, age, .. } = self.cache.nothing_below(&key, now.into_std())?;
                reply::answer(out, asked, question, &answer, age, limit);
            }
        }
        Some(Step::Reply)
    }

    /// Asks for what the cache has, although nobody waits for it.
    fn refresh(
        self: &Arc<Self>,
        asked: Asked,
        question: Question<'_>,
        stale: Option<Answer>,
        now: Instant,
        asking: &mut Asking,
    ) {
        let Some(place) = self.place() else { return };
        // What is kept is what recursion finds, whoever the client was that showed that it is in use.
        let asked = Asked { flags: asked.flags | flag::RD, ..asked };
        let group = self.router.route(LowerName::of(question.name()).name());
        let subject = Subject { asked, question, group, stale };
        if let Some(lookup) = self.lookups.refresh(self, subject, place) {
            lookup.start(now, &mut asking.batch);
        }
    }

    fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).try_acquire_owned().ok()
    }

    /// Where what happens to queries is told.
    pub(crate) fn events(&self) -> &Events {
        &self.events
    }

    /// What counts queries lost to a defect.
    pub fn panics(&self) -> &Panics {
        &self.panics
    }

    pub(crate) fn deadline(&self) -> Duration {
        self.deadline
    }

    pub(crate) fn group(&self, index: GroupIndex) -> &Group {
        &self.groups[index.0]
    }

    pub(crate) fn lookups(&self) -> &Lookups {
        &self.lookups
    }

    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Keeps an answer for those who ask later.
    pub(crate) fn keep(&self, asked: Asked, question: Question<'_>, answer: &Answer) {
        self.cache.put(&Key::of(asked, question), asked, answer, Instant::now().into_std());
    }

    /// Remembers for a while that a question got no answer.
    pub(crate) fn keep_failure(&self, asked: Asked, question: Question<'_>, failure: &Answer) {
        self.cache.put_failure(&Key::of(asked, question), failure, Instant::now().into_std());
    }
}
