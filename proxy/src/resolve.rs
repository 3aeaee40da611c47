//! The path of a query: wire → cache → policy → router → lookup → upstream.
//!
//! [`Resolver::begin`] answers at once what it can, on the reader's own stack; what an upstream has to be asked for becomes
//! a lookup, whose answer goes to the client later. Stages never call each other: they are called here.

mod metrics;
mod places;
mod proof;
mod routing;

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};

use crate::cache::{self, Cache, Found, Hit, Key};
use crate::clients::cookies::Cookies;
use crate::clients::responses::{Grant, ResponseLimit};
use crate::clients::who::Who;
use crate::drops::{Dropped, Drops};
use crate::events::Events;
use crate::lookup::{Lookups, Subject, Waiter};
use crate::memory;
use crate::panics::{Panics, provoked};
use crate::policy::{self, Policy, Verdict};
use crate::replies::Recipient;
use crate::router::{DEFAULT, Router};
use crate::upstream::cause::Failure;
use crate::upstream::group::{Batch, Group};
use crate::upstream::server::Server;
use crate::wire::name::{LowerName, Name};
use crate::wire::reply;
use crate::wire::request::{self, Asked, Invalid, Question};
use crate::wire::response::Answer;
use crate::wire::{ExtendedError, Rcode, flag, read_u16, rtype};

use self::metrics::Metrics;
pub use self::places::Place;
use self::places::{NoPlace, Places};
pub use self::routing::{Destination, Routing};

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

/// How a message came, and from whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sender {
    /// How.
    pub protocol: Protocol,
    /// From where; who sent a datagram may have forged it.
    pub address: SocketAddr,
    /// Whether that matters.
    pub trust: Trust,
}

/// What a query must show to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Nothing.
    Usual,
    /// A DNS cookie that proves where it came from (RFC 7873), or it is answered within the limit of responses.
    Unproven {
        /// There is no answer without a cookie.
        cookie_required: bool,
    },
}

/// What came of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The reply is in the buffer.
    Reply,
    /// The message is no valid query; the reply that says so is in the buffer.
    ReplyInvalid,
    /// The client has as many queries in flight as is its share; the reply that says so is in the buffer.
    ReplyOverShare,
    /// The message is nothing that could be answered.
    Ignore,
    /// The query is valid, and is not answered.
    Withheld,
    /// An upstream is asked; the reply will go to the recipient.
    Waiting,
}

/// What a batch of messages has to ask upstreams, to be flushed at the end of the batch.
#[derive(Default)]
pub struct Asking {
    batch: Batch,
}

/// Everything that answering takes.
pub struct Resolver {
    /// Locked for as long as it takes to look at it: nothing that could come back here is called meanwhile.
    routing: RwLock<Arc<Routing>>,
    cache: Cache,
    events: Events,
    panics: Panics,
    lookups: Lookups,
    places: Places,
    runtime: Handle,
    cookies: Option<Cookies>,
    responses: Arc<ResponseLimit>,
    metrics: Metrics,
    drops: Drops,
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
    /// Where what a security team wants to know is told.
    pub events: Events,
    /// What counts queries lost to a defect.
    pub panics: Panics,
    /// How long a query may take.
    pub deadline: Duration,
    /// Queries that may wait for an upstream; the next one is answered SERVFAIL at once, so that those can be finished.
    pub in_flight: usize,
    /// How many of them may be of one client.
    pub in_flight_of_one: u32,
    /// What makes and knows DNS cookies.
    pub cookies: Option<Cookies>,
    /// What strangers are answered.
    pub responses: Arc<ResponseLimit>,
    /// Where is counted what is not served.
    pub drops: Drops,
}

impl Resolver {
    /// Puts the stages together; lookups run on the runtime.
    pub fn new(stages: Stages, runtime: Handle, registry: &mut Registry) -> Self {
        let Stages {
            policy,
            cache,
            router,
            groups,
            events,
            panics,
            deadline,
            in_flight,
            in_flight_of_one,
            cookies,
            responses,
            drops,
        } = stages;
        let places = Places::new(in_flight, in_flight_of_one);
        let metrics = Metrics::new(registry);
        let lookups = Lookups::default();
        let routing = Routing {
            policy: Arc::new(policy),
            router: Arc::new(router),
            groups: groups.into_iter().map(Arc::new).collect(),
            deadline,
        };
        Self {
            routing: RwLock::new(Arc::new(routing)),
            cache,
            events,
            panics,
            lookups,
            places,
            runtime,
            cookies,
            responses,
            metrics,
            drops,
        }
    }

    /// Opens connections ahead of the first query.
    pub fn warm_up(&self) {
        self.routing().groups.iter().for_each(|group| group.warm_up());
    }

    /// Where names go at this time.
    pub fn routing(&self) -> Arc<Routing> {
        Arc::clone(&self.read_routing())
    }

    fn read_routing(&self) -> RwLockReadGuard<'_, Arc<Routing>> {
        self.routing.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has names go elsewhere from now on, and keeps what of the cache is still true. Servers that are in use no longer are
    /// returned: they are to be retired.
    pub fn reroute(&self, next: &Arc<Routing>) -> Vec<Arc<Server>> {
        let before = {
            let mut routing = self.routing.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *routing, Arc::clone(next))
        };
        if !before.answers_like(next) {
            self.cache.retain(|name| before.answers_name_like(next, name), Instant::now().into_std());
        }
        let servers = |routing: &Routing| -> Vec<_> {
            routing.groups.iter().flat_map(|group| group.servers()).map(Arc::clone).collect()
        };
        let stays = servers(next);
        let is_gone = |server: &Arc<Server>| !stays.iter().any(|other| Arc::ptr_eq(server, other));
        servers(&before).into_iter().filter(is_gone).collect()
    }

    /// Has the cache keep otherwise from now on.
    pub fn configure_cache(&self, settings: cache::Settings) {
        self.cache.configure(settings, Instant::now().into_std());
    }

    /// Why names that no route covers cannot be answered now, as far as the last exchanges tell.
    pub fn failing(&self) -> Option<Failure> {
        self.routing().groups.first().and_then(|group| group.failing())
    }

    /// Counts a reply to a client.
    pub fn count_response(&self, reply: &[u8]) {
        let rcode = read_u16(reply, 2).unwrap_or_default() & flag::RCODE;
        self.metrics.responses[usize::from(rcode)].inc();
    }

    /// Where is counted what is not served.
    pub fn drops(&self) -> &Drops {
        &self.drops
    }

    /// What strangers are answered.
    pub fn responses(&self) -> &Arc<ResponseLimit> {
        &self.responses
    }

    /// Waits until no query waits for an upstream.
    pub async fn drained(&self) {
        self.places.all_free().await;
    }

    /// Reads a message, and answers it if that needs no upstream: the reply is appended to the buffer. Else it is asked
    /// with the rest of the batch, and the reply will go to the recipient.
    pub fn begin(
        self: &Arc<Self>,
        message: &[u8],
        sender: Sender,
        now: Instant,
        out: &mut Vec<u8>,
        asking: &mut Asking,
        recipient: impl FnOnce() -> Recipient,
    ) -> Step {
        match sender.protocol {
            Protocol::Udp => self.metrics.udp.inc(),
            Protocol::Tcp => self.metrics.tcp.inc(),
        };
        let start = out.len();
        let step = match request::parse(message) {
            Ok((mut asked, question)) => {
                let worth = self.judge_cookie(&mut asked, sender, now);
                match self.grant(sender, worth, now) {
                    Grant::Response => self.begin_valid(asked, question, sender, now, out, asking, recipient),
                    Grant::Told => self.tell_unproven(asked, question, message.len(), out),
                    Grant::Nothing => Step::Withheld,
                }
            }
            Err(Invalid::Answered(asked, rcode)) if self.grant(sender, None, now) == Grant::Response => {
                reply::bare_failure(out, asked, rcode);
                if rcode == Rcode::FORMERR { Step::ReplyInvalid } else { Step::Reply }
            }
            Err(Invalid::Answered(..) | Invalid::Ignored) => Step::Ignore,
        };
        match step {
            Step::Ignore => self.drops.count(Dropped::NotAQuery),
            Step::Reply | Step::ReplyInvalid | Step::ReplyOverShare => self.count_response(&out[start..]),
            Step::Waiting | Step::Withheld => {}
        }
        step
    }

    #[expect(clippy::too_many_arguments, reason = "what a query is and what its answering needs, on one screen")]
    fn begin_valid(
        self: &Arc<Self>,
        asked: Asked,
        question: Question<'_>,
        sender: Sender,
        now: Instant,
        out: &mut Vec<u8>,
        asking: &mut Asking,
        recipient: impl FnOnce() -> Recipient,
    ) -> Step {
        if asked.edns.is_some_and(|edns| edns.version != 0) {
            reply::failure(out, asked, question, Rcode::BADVERS, None);
            return Step::Reply;
        }
        let limit = match sender.protocol {
            Protocol::Udp => asked.udp_limit(),
            Protocol::Tcp => TCP_LIMIT,
        };
        provoked("begin", question);
        if question.qtype() == rtype::ANY && sender.protocol == Protocol::Udp && question.is_internet() {
            return self.answer_any(asked, question, now, out);
        }
        let key = Key::of(asked, question);
        let stale = match self.cache.get(&key, now.into_std()) {
            Found::Fresh(hit) => {
                reply::answer(out, asked, question, &hit.answer, hit.age, limit);
                self.read_routing().groups[DEFAULT.0].sign_of_life();
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
        let routing = self.routing();
        let destination = routing.destination(lower.name());
        if let Some(step) = self.answer_here(asked, question, lower.name(), &routing, now, out, limit) {
            return step;
        }
        if let Some(stale) = &stale
            && destination.group.failing().is_some()
        {
            reply::stale(out, asked, question, stale, limit);
            self.refresh(asked, question, Some(stale.clone()), now, asking);
            return Step::Reply;
        }
        let place = match self.places.take(Who::sending(sender.address), sender.protocol) {
            Ok(place) => place,
            Err(none) => return self.answer_overload(asked, question, none, out),
        };
        if self.places.have_become_scarce() {
            self.give_memory_back_afterwards();
        }
        let subject = Subject { asked, question, destination, stale };
        let waiter = Waiter { asked, question: None, limit, recipient: recipient(), place };
        if let Some(lookup) = self.lookups.join(self, subject, waiter) {
            lookup.start(now, &mut asking.batch);
        }
        Step::Waiting
    }

    /// Very many queries wait: once they no longer do, what they took is given back to the system.
    #[cold]
    fn give_memory_back_afterwards(self: &Arc<Self>) {
        const PAUSE: Duration = Duration::from_secs(1);
        let resolver = Arc::clone(self);
        self.runtime.spawn(async move {
            sleep(PAUSE).await;
            while !resolver.places.are_plenty_again() {
                sleep(PAUSE).await;
            }
            memory::give_back();
        });
    }

    /// Who asks for all there is gets something (RFC 8482 §4.2), and all of it over TCP: nothing is made larger in the name
    /// of others.
    #[cold]
    fn answer_any(&self, asked: Asked, question: Question<'_>, now: Instant, out: &mut Vec<u8>) -> Step {
        let lower = LowerName::of(question.name());
        let limit = asked.udp_limit();
        self.answer_here(asked, question, lower.name(), &self.routing(), now, out, limit).unwrap_or_else(|| {
            reply::own(out, asked, question, &policy::MINIMAL_ANY);
            Step::Reply
        })
    }

    #[cold]
    fn answer_overload(&self, asked: Asked, question: Question<'_>, none: NoPlace, out: &mut Vec<u8>) -> Step {
        let (dropped, step) = match none {
            NoPlace::OfAll => (Dropped::Overload, Step::Reply),
            NoPlace::OfClient => (Dropped::ClientOverload, Step::ReplyOverShare),
        };
        let cause = ExtendedError { code: ExtendedError::OTHER, text: dropped.as_str().to_owned() };
        reply::failure(out, asked, question, Rcode::SERVFAIL, Some(&cause));
        self.drops.count(dropped);
        step
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
        routing: &Routing,
        now: Instant,
        out: &mut Vec<u8>,
        limit: usize,
    ) -> Option<Step> {
        match routing.policy.judge(question, lower) {
            Verdict::Answer(own) => reply::own(out, asked, question, &own),
            Verdict::Withhold(own, rule) => {
                reply::own(out, asked, question, &own);
                self.events.name_withheld(None, rule, question);
            }
            Verdict::Refuse(rcode) => reply::failure(out, asked, question, rcode, None),
            // RFC 8020 for public names alone: what a route's servers say of a name says nothing of those below it.
            Verdict::Forward if routing.router.route(lower) != DEFAULT => return None,
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
        let Some(destination) = self.forwarded(question) else { return };
        let Some(place) = self.places.take_for_nobody() else { return };
        // What is kept is what recursion finds, whoever the client was that showed that it is in use.
        let asked = Asked { flags: asked.flags | flag::RD, ..asked };
        let subject = Subject { asked, question, destination, stale };
        if let Some(lookup) = self.lookups.refresh(self, subject, place) {
            lookup.start(now, &mut asking.batch);
        }
    }

    /// Where what happens to queries is told.
    pub(crate) fn events(&self) -> &Events {
        &self.events
    }

    /// What counts queries lost to a defect.
    pub fn panics(&self) -> &Panics {
        &self.panics
    }

    /// How long a query may take.
    pub fn deadline(&self) -> Duration {
        self.read_routing().deadline
    }

    /// Where a question goes at this time; nowhere if it is not forwarded.
    pub(crate) fn forwarded(&self, question: Question<'_>) -> Option<Destination> {
        self.routing().forwarded(question)
    }

    pub(crate) fn lookups(&self) -> &Lookups {
        &self.lookups
    }

    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Keeps an answer of this group for those who ask later, unless the name goes elsewhere by now.
    pub(crate) fn keep(&self, group: &Group, asked: Asked, question: Question<'_>, answer: &Answer) {
        let lower = LowerName::of(question.name());
        // Until it is kept nothing can change: who changes the routing looks through the cache afterwards.
        let routing = self.read_routing();
        if routing.destination(lower.name()).group.lineage() == group.lineage() {
            self.cache.put(&Key::of(asked, question), asked, answer, Instant::now().into_std());
        }
    }

    /// Remembers for a while that a question got no answer.
    pub(crate) fn keep_failure(&self, asked: Asked, question: Question<'_>, failure: &Answer) {
        self.cache.put_failure(&Key::of(asked, question), failure, Instant::now().into_std());
    }
}
