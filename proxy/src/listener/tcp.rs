//! Queries on connections (RFC 7766): kept and reused for valid queries without limit, many in flight, answered as they
//! come. The first invalid input ends a connection by a reset, once what is owed has arrived; who trickles, does not read,
//! does not ask or takes more than its share is let go in the same way.

mod client;
mod closed;
mod connections;

use std::cell::RefCell;
use std::future::{pending, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

pub(super) use self::client::LENGTH;
use self::client::{Client, Scratch};
use self::closed::{Closed, reset};
use self::connections::{Connections, Full, PUT_OFF};
use super::{ClosedLabel, Metrics};
use crate::clients::Clients;
use crate::clients::table::Offence;
use crate::drops::Dropped;
use crate::events::{Event, Transport};
use crate::kernel;
use crate::replies::{StreamOutbox, Streams};
use crate::resolve::{Protocol, Resolver, Sender, Trust};

/// Connections accepted in a row; then it is the turn of all others who have something to do, and of what has come meanwhile:
/// fewer than may be open beyond those allowed, and so few that nobody waits for long when very many connect at once.
const IN_A_ROW: usize = 4;

thread_local! {
    /// Buffers belong to the thread, not to the client: one that is idle has none.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// What connections may take.
#[derive(Debug, Clone)]
pub struct Limits {
    /// How many there may be.
    pub connections: usize,
    /// How many one client may have; loopback is not counted.
    pub of_one_client: usize,
    /// Octets kept for each, and for all.
    pub kept: (usize, usize),
    /// How long a connection may be without a query.
    pub idle: Duration,
    /// How long a query may take to arrive.
    pub query: Duration,
    /// How long replies may take to be taken.
    pub reply: Duration,
    /// Queries of a connection in flight; it is not read from until there are fewer.
    pub in_flight: usize,
    /// Longest query, in octets.
    pub longest_query: usize,
}

impl Limits {
    /// As they are written.
    pub fn of(connections: u32, written: &dot_proxy_config::Clients) -> Self {
        let size = |size: u64| usize::try_from(size).unwrap_or(usize::MAX);
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        let of_one = &written.connection;
        Self {
            connections: size(connections.into()),
            of_one_client: size(written.connections.into()),
            kept: (size(of_one.owed.bytes()), size(written.owed_in_all.bytes())),
            idle: seconds(of_one.idle_seconds),
            query: seconds(of_one.query_seconds),
            reply: seconds(of_one.reply_seconds),
            in_flight: size(of_one.in_flight.into()),
            longest_query: size(of_one.query_octets.into()),
        }
    }
}

/// What serving connections takes.
pub struct Service {
    /// Where they come in.
    pub listener: TcpListener,
    /// What they may take.
    pub limits: Limits,
    /// Who may connect.
    pub clients: Arc<Clients>,
    /// What answers.
    pub resolver: Arc<Resolver>,
    /// What is counted and told.
    pub metrics: Metrics,
}

/// What the connections of a service share.
struct Shared {
    /// Clients whose queries come in pieces are served one after the other, on each thread, with all that others have to do in
    /// between: there may be very many, all of a sudden.
    turns: Arc<Semaphore>,
    limits: Arc<Limits>,
    connections: Arc<Connections>,
    streams: Arc<Streams>,
    clients: Arc<Clients>,
    resolver: Arc<Resolver>,
    metrics: Metrics,
}

impl Service {
    /// Accepts connections until told to stop; then waits until every client has what it is owed.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let Self { listener, limits, clients, resolver, metrics } = self;
        let (for_one, for_all) = limits.kept;
        let shared = Arc::new(Shared {
            turns: Arc::new(Semaphore::new(Handle::current().metrics().num_workers())),
            connections: Connections::new(limits.connections, limits.of_one_client),
            streams: Arc::new(Streams::bounded(for_one, for_all)),
            limits: Arc::new(limits),
            clients,
            resolver,
            metrics,
        });
        // Each connection's task holds a sender: the end of all is the end of the last.
        let (alive, mut ended) = mpsc::channel::<()>(1);
        let mut in_a_row = 0;
        loop {
            let accepted = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                accepted = listener.accept() => accepted,
                () = shared.farewells() => continue,
            };
            match accepted {
                Ok((stream, address)) => {
                    if let Some(serving) = shared.admit(stream, address, stop.clone()) {
                        let alive = alive.clone();
                        tokio::spawn(async move {
                            serving.await;
                            drop(alive);
                        });
                    }
                    // Many may come at once: who has a query on the way is heard before it is taken for one that never
                    // asks, and those that make room for others do so in time.
                    in_a_row += 1;
                    if in_a_row >= IN_A_ROW {
                        in_a_row = 0;
                        shared.connections.let_go(IN_A_ROW, PUT_OFF);
                        yield_now().await;
                    }
                }
                Err(error) => {
                    warn!(%error, "accepting a connection failed");
                    // Out of descriptors, most likely: they come back when clients leave.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        drop(alive);
        let _ = ended.recv().await; // nothing is ever sent
    }
}

impl Shared {
    /// Lets some of those go that make room for others; takes for ever if there are none.
    async fn farewells(&self) {
        if !self.connections.let_go(IN_A_ROW, 0) {
            pending::<()>().await;
        }
        yield_now().await;
    }

    /// What serves a connection, unless it is not taken: then it is reset.
    fn admit(
        self: &Arc<Self>,
        stream: TcpStream,
        address: SocketAddr,
        stop: watch::Receiver<bool>,
    ) -> Option<impl Future<Output = ()> + use<>> {
        let (who, now) = (self.clients.connected(address.ip()), Instant::now());
        if !self.clients.admits_connection(address, now) {
            reset(&stream);
            return None;
        }
        let outbox = StreamOutbox::new(Arc::clone(&self.streams));
        let slot = match self.connections.admit(who, Arc::clone(&outbox)) {
            Ok(slot) => slot,
            Err(full) => {
                self.turn_away(&stream, address, full, now);
                return None;
            }
        };
        let sender = Sender { protocol: Protocol::Tcp, address, trust: Trust::Usual };
        let (limits, resolver) = (Arc::clone(&self.limits), Arc::clone(&self.resolver));
        let client = Client::new(stream, sender, slot, outbox, limits, resolver, self.metrics.clone());
        let shared = Arc::clone(self);
        Some(async move {
            shared.metrics.clients.inc();
            let served = async {
                let (stream, reason) = converse(client, stop, &shared.turns).await;
                debug!(client = %address, reason = reason.as_str(), "a client's connection ended");
                shared.ended(address, reason);
                reason.close(stream).await;
            };
            shared.metrics.panics.contain_task("connection", served).await;
            shared.metrics.clients.dec();
        })
    }

    fn turn_away(&self, stream: &TcpStream, address: SocketAddr, full: Full, now: Instant) {
        reset(stream);
        match full {
            Full::OfAll => self.resolver.drops().count(Dropped::Connections),
            Full::OfClient => {
                self.resolver.drops().count(Dropped::ClientConnections);
                self.offended(address, Offence::Share, Dropped::ClientConnections.as_str(), now);
            }
        }
    }

    /// Counts and tells why a connection ended.
    fn ended(&self, address: SocketAddr, reason: Closed) {
        let why = reason.as_str();
        self.metrics.closed.get_or_create(&ClosedLabel { reason: why }).inc();
        if reason.is_reset() {
            self.metrics.events.emit(Event::ConnectionReset { client: address, why });
        }
        if let Some(offence) = reason.offence() {
            self.offended(address, offence, why, Instant::now());
        }
    }

    fn offended(&self, address: SocketAddr, offence: Offence, how: &'static str, now: Instant) {
        self.metrics.events.emit(Event::ClientMisbehaved { client: address, transport: Transport::Tcp, how });
        let who = self.clients.connected(address.ip());
        if self.clients.offended(who, offence, how, now) {
            self.connections.shut_out(who);
        }
    }
}

/// Waits for a turn, in the order in which others do.
#[derive(Default)]
struct Waiting(Option<Pin<Box<dyn Future<Output = Turn> + Send>>>);

/// The semaphore is never closed.
type Turn = Result<OwnedSemaphorePermit, AcquireError>;

impl Waiting {
    fn poll(&mut self, turns: &Arc<Semaphore>, context: &mut Context<'_>) -> Poll<Option<OwnedSemaphorePermit>> {
        if self.0.is_none()
            && let Ok(turn) = Arc::clone(turns).try_acquire_owned()
        {
            return Poll::Ready(Some(turn));
        }
        let waiting = self.0.get_or_insert_with(|| Box::pin(Arc::clone(turns).acquire_owned()));
        let turn = ready!(waiting.as_mut().poll(context));
        self.0 = None;
        Poll::Ready(turn.ok())
    }
}

/// Serves a client until it leaves or is let go; its slot is free when this ends.
async fn converse(
    mut client: Client<TcpStream>,
    mut stop: watch::Receiver<bool>,
    turns: &Arc<Semaphore>,
) -> (TcpStream, Closed) {
    let mut waiting = Waiting::default();
    let mut stopped = pin!(stop.wait_for(|stop| *stop));
    let (mut stopping, mut awaited) = (false, LENGTH);
    let mut timer = pin!(sleep_until(client.due(Instant::now()).0));
    let reason = poll_fn(|context: &mut Context<'_>| {
        if !stopping && stopped.as_mut().poll(context).is_ready() {
            stopping = true;
            client.end(Closed::Stopped);
        }
        let _turn = if client.sends_in_pieces() { Some(ready!(waiting.poll(turns, context))) } else { None };
        loop {
            let polled = SCRATCH.with_borrow_mut(|scratch| client.poll(context, scratch));
            if polled.is_ready() {
                return polled;
            }
            if client.awaited() != awaited {
                awaited = client.awaited();
                let _ = kernel::wake_at(client.stream(), awaited); // else it is woken more often
            }
            // The timer is not moved with every query: when it ends, it is seen what the client did meanwhile. But what
            // is due may have come nearer: a query has begun, or replies are no longer taken.
            let reason = loop {
                let ended = timer.as_mut().poll(context).is_ready();
                let (due, reason) = client.due(Instant::now());
                if ended && due <= Instant::now() {
                    break reason;
                }
                if !ended && due >= timer.deadline() {
                    return Poll::Pending;
                }
                timer.as_mut().reset(due);
            };
            if reason == Closed::NeverRead {
                return Poll::Ready(reason);
            }
            client.end(reason); // what is owed all the same is still written
        }
    })
    .await;
    (client.into_stream(), reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;

    #[test]
    fn one_after_the_other_has_its_turn_in_the_order_in_which_they_came() {
        let turns = Arc::new(Semaphore::new(1));
        let mut context = Context::from_waker(Waker::noop());
        let mut waiting: Vec<_> = (0..3).map(|_| Waiting::default()).collect();
        let mut has_a_turn = |index: usize| match waiting[index].poll(&turns, &mut context) {
            Poll::Ready(turn) => turn,
            Poll::Pending => None,
        };
        let first = has_a_turn(0).unwrap();
        assert!(has_a_turn(1).is_none() && has_a_turn(2).is_none());
        drop(first);
        assert!(has_a_turn(2).is_none() && has_a_turn(0).is_none(), "the second was there before");
        drop(has_a_turn(1).unwrap());
        drop(has_a_turn(2).unwrap());
        assert!(has_a_turn(0).is_some());
    }
}

/// What the fuzz targets reach of this module; there is none of it in a build of another kind.
#[cfg(fuzzing)]
pub mod fuzzing {
    use std::net::Ipv4Addr;
    use std::sync::Arc;
    use std::task::{Context, Poll, Waker};

    use tokio::io::{AsyncRead, AsyncWrite};

    use super::super::Metrics;
    use super::client::{Client, Scratch};
    use super::connections::Connections;
    use super::{Limits, Protocol, Resolver, Sender, StreamOutbox, Streams, Trust};
    use crate::clients::who::Who;

    /// Serves a client that is always ready again, until its connection is to end, and says why.
    pub fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, resolver: &Arc<Resolver>) -> &'static str {
        let limits = Arc::new(Limits::of(1, &dot_proxy_config::Clients::default()));
        let outbox = StreamOutbox::new(Arc::new(Streams::default()));
        let connections = Connections::new(1, 1);
        let Ok(slot) = connections.admit(Who::connected(Ipv4Addr::LOCALHOST.into()), Arc::clone(&outbox)) else {
            return "turned-away";
        };
        let address = (Ipv4Addr::LOCALHOST, 40_000).into();
        let sender = Sender { protocol: Protocol::Tcp, address, trust: Trust::Usual };
        let mut client = Client::new(stream, sender, slot, outbox, limits, Arc::clone(resolver), Metrics::default());
        let (mut context, mut scratch) = (Context::from_waker(Waker::noop()), Scratch::default());
        loop {
            if let Poll::Ready(reason) = client.poll(&mut context, &mut scratch) {
                return reason.as_str();
            }
        }
    }
}
