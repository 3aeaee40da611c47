//! Who may ask, how often, and who misbehaved.
//!
//! Loopback is exempt from all of it by one look at the address, as long as nobody there floods: in a pod every client is
//! 127.0.0.1, and what is done there must cost the way of a query nothing.

pub mod access;
pub mod cookies;
pub mod report;
pub mod responses;
pub mod table;
pub mod who;

use std::hash::BuildHasher;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dot_proxy_config::Network;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep_until};
use tracing::info;

use self::access::Access;
use self::responses::ResponseLimit;
use self::table::{Offence, Restrained, Restraint, Row, Standing, Table};
use self::who::Who;
use crate::drops::{Dropped, Drops};
use crate::events::{Event, Events, Transport};

/// What is known of clients.
pub struct Clients {
    access: Access,
    table: Mutex<Table>,
    /// How many are restrained: as long as it is none, nobody is looked up.
    restrained: AtomicUsize,
    responses: Arc<ResponseLimit>,
    runtime: Handle,
    metrics: Metrics,
    drops: Drops,
    events: Events,
}

/// Where is told what is known of clients.
pub struct Telling {
    /// What ends restraints in time runs here.
    pub runtime: Handle,
    /// Where is counted what is not served.
    pub drops: Drops,
    /// Where is remembered who has connected.
    pub responses: Arc<ResponseLimit>,
    /// Where what a security team wants to know is told.
    pub events: Events,
}

/// What becomes of a datagram before it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It is read.
    Free,
    /// It is read, and may not be from where it says.
    Unproven {
        /// It is not answered without a cookie that proves its source; else within the limit of responses.
        cookie_required: bool,
    },
    /// It is not read.
    Dropped,
}

struct Metrics {
    /// In the order of [`Offence::ALL`].
    offences: [Counter; table::KINDS],
    /// By how.
    restraints: Family<RestraintLabel, Counter>,
    restrained: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OffenceLabel {
    offence: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RestraintLabel {
    restraint: &'static str,
}

impl Metrics {
    fn new(registry: &mut Registry) -> Self {
        let offences = Family::<OffenceLabel, Counter>::default();
        let metrics = Self {
            offences: Offence::ALL
                .map(|offence| offences.get_or_create_owned(&OffenceLabel { offence: offence.as_str() })),
            restraints: Family::default(),
            restrained: Gauge::default(),
        };
        registry.register("client_offences", "What clients did that they should not", offences);
        registry.register("client_restraints", "Clients shut out or slowed", metrics.restraints.clone());
        registry.register("clients_restrained", "Clients shut out or slowed now", metrics.restrained.clone());
        metrics
    }
}

impl Clients {
    /// Nobody has misbehaved yet.
    pub fn new(
        access: Access,
        settings: dot_proxy_config::Clients,
        telling: Telling,
        registry: &mut Registry,
    ) -> Arc<Self> {
        let random = foldhash::fast::RandomState::default().hash_one(0);
        let Telling { runtime, drops, responses, events } = telling;
        Arc::new(Self {
            access,
            table: Mutex::new(Table::new(settings.shut_out, random)),
            restrained: AtomicUsize::new(0),
            responses,
            runtime,
            metrics: Metrics::new(registry),
            drops,
            events,
        })
    }

    /// Sources outside private ranges are served from now on if they are in one of these.
    pub fn admit_only(&self, allowed: &[Network]) {
        self.access.admit_only(allowed);
    }

    /// Sources outside private ranges are served from now on only if they were and are in one of these.
    pub fn admit_no_longer(&self, others_than: &[Network]) {
        self.access.admit_no_longer(others_than);
    }

    /// Whether a connection is taken.
    pub fn admits_connection(&self, peer: SocketAddr, now: Instant) -> bool {
        if !self.admits(peer, Transport::Tcp) {
            return false;
        }
        let who = self.connected(peer.ip());
        let shut_out = !self.all_are_free() && self.table().standing(who, now.into_std()) == Standing::ShutOut;
        if shut_out {
            self.drops.count(Dropped::ShutOut);
        } else if !self.access.exempts(peer.ip()) {
            self.responses.connected(peer.ip(), now);
        }
        !shut_out
    }

    /// What becomes of a datagram.
    #[inline]
    pub fn admit_datagram(&self, peer: SocketAddr, now: Instant) -> Admission {
        if self.access.exempts_at_a_glance(peer.ip()) && self.all_are_free() {
            Admission::Free
        } else {
            self.examine_datagram(peer, now)
        }
    }

    #[cold]
    fn examine_datagram(&self, peer: SocketAddr, now: Instant) -> Admission {
        if !self.admits(peer, Transport::Udp) {
            return Admission::Dropped;
        }
        let standing = if self.all_are_free() {
            Standing::Free
        } else {
            self.table().standing(self.sending(peer), now.into_std())
        };
        let dropped = match standing {
            Standing::Free if self.access.exempts(peer.ip()) => return Admission::Free,
            Standing::Free => return Admission::Unproven { cookie_required: false },
            Standing::CookieRequired => return Admission::Unproven { cookie_required: true },
            Standing::ShutOut => Dropped::ShutOut,
            Standing::Slowed => Dropped::Slowed,
        };
        self.drops.count(dropped);
        Admission::Dropped
    }

    /// Who is on a connection.
    pub fn connected(&self, address: IpAddr) -> Who {
        if self.access.exempts(address) { Who::connected(address) } else { Who::of_network(address) }
    }

    /// Who sent a datagram.
    pub fn sending(&self, address: SocketAddr) -> Who {
        if self.access.exempts(address.ip()) { Who::sending(address) } else { Who::of_network(address.ip()) }
    }

    fn admits(&self, client: SocketAddr, transport: Transport) -> bool {
        let admitted = self.access.admits(client.ip());
        if !admitted {
            self.drops.count(Dropped::Source);
            self.events.emit(Event::SourceRefused { client, transport });
        }
        admitted
    }

    fn all_are_free(&self) -> bool {
        self.restrained.load(Ordering::Relaxed) == 0
    }

    /// Takes down what a client did; true where it is shut out for it from now on.
    pub fn offended(self: &Arc<Self>, who: Who, offence: Offence, how: &'static str, now: Instant) -> bool {
        self.metrics.offences[offence as usize].inc();
        let restrained = {
            let mut table = self.table();
            let restrained = table.note(who, offence, now.into_std());
            self.restrained.store(table.restrained(), Ordering::Relaxed);
            restrained
        };
        let Some(restrained) = restrained else { return false };
        self.restrain(&restrained, how, now);
        restrained.restraint == Restraint::ShutOut
    }

    /// Tells that a restraint begins, and sees to it that it ends.
    fn restrain(self: &Arc<Self>, restrained: &Restrained, how: &'static str, now: Instant) {
        let Restrained { who, restraint, times, time } = *restrained;
        self.metrics.restraints.get_or_create(&RestraintLabel { restraint: restraint.as_str() }).inc();
        self.count_restrained();
        info!(client = %who, restraint = restraint.as_str(), how, seconds = time.as_secs(), times, "a client is restrained");
        self.events.emit(match restraint {
            Restraint::Slowed => Event::ClientSlowed { client: who.address(), how, duration: time, times },
            Restraint::ShutOut | Restraint::CookieRequired => {
                Event::ClientShutOut { client: who.address(), how, duration: time, times }
            }
        });
        let clients = Arc::downgrade(self);
        // Not a wake-up of who is idle: there is one for each restraint, and restraints are few.
        self.runtime.spawn(async move {
            /// So that a clock that rounds does not come too early.
            const MARGIN: Duration = Duration::from_millis(2);
            sleep_until(now + time + MARGIN).await;
            if let Some(clients) = clients.upgrade() {
                clients.release(who);
            }
        });
    }

    fn release(&self, who: Who) {
        let released = {
            let mut table = self.table();
            let released = table.release(who, Instant::now().into_std());
            self.restrained.store(table.restrained(), Ordering::Relaxed);
            released
        };
        self.count_restrained();
        if let Some(restraint) = released {
            info!(client = %who, restraint = restraint.as_str(), "a client is no longer restrained");
            self.events.emit(Event::ClientReadmitted { client: who.address() });
        }
    }

    /// Who misbehaved of late, the worst first.
    pub fn rows(&self) -> Vec<Row> {
        self.table().rows(Instant::now().into_std())
    }

    fn count_restrained(&self) {
        let count = self.restrained.load(Ordering::Relaxed);
        self.metrics.restrained.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
