//! Security events for a SIEM: what happened, as JSON in the Elastic Common Schema, on standard output and by syslog.
//!
//! ```text
//!  anywhere ──Events::emit──► sums      repeated ones are counted, not told again
//!                              │ wakes
//!                              ▼
//!                            teller     the text is made here, off the path of queries
//!                              ├──► outlet (bounded, counts what it loses) ──► stdout, a thread
//!                              └──► outlet ─────────────────────────────────► syslog over TCP or TLS
//! ```
//!
//! Who emits never waits: it takes one short lock, under which something is counted or put into a bounded queue. Nothing
//! wakes up while nothing happens. EVENTS.md is the list of all events and their fields.

mod ecs;
mod event;
mod outlet;
mod stdout;
mod sums;
pub mod syslog;
mod teller;
mod timestamp;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use dot_proxy_config::Labels;
use prometheus_client::registry::Registry;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tracing::warn;

pub use event::{Event, Transport};
pub(crate) use timestamp::Timestamp;

use self::ecs::Writer;
use self::outlet::{Ledger, way_to};
use self::sums::{Sums, Told};
use crate::wire::request::Question;

/// Events that wait to be made into text; more come only while the runtime stands still.
const QUEUE: usize = 1024;

/// What destinations may take to get the last events.
const FAREWELL: Duration = Duration::from_secs(2);

/// Who is told of events.
#[derive(Default)]
pub struct Settings {
    /// The host's name, for each event.
    pub host: String,
    /// Whether standard output is.
    pub stdout: bool,
    /// The collector that is.
    pub syslog: Option<syslog::Destination>,
    /// Whether names that were asked for stand in events.
    pub names: bool,
    /// Events that wait for each of them at most.
    pub buffer: usize,
    /// What stands in each event as `labels.NAME`.
    pub labels: Labels,
}

/// What carries events to their destinations; to be told when it is over.
#[derive(Debug, Default)]
pub struct Carriers {
    hub: Option<Arc<Hub>>,
    stdout: Option<oneshot::Receiver<()>>,
    syslog: Option<JoinHandle<()>>,
    ledgers: Vec<Arc<Ledger>>,
}

/// Where events are handed in. Cheap to clone; without any sink it does nothing.
#[derive(Debug, Clone, Default)]
pub struct Events {
    hub: Option<Arc<Hub>>,
}

/// What was handed in and not made into text yet.
#[derive(Debug)]
struct Hub {
    writer: Arc<Writer>,
    pending: Mutex<Pending>,
    /// Something is in the queue, or will have to be told at some time.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    sums: Sums,
    queue: VecDeque<Told>,
    /// Events for which there was no room in the queue.
    lost: u64,
    /// There will be no more.
    closed: bool,
}

impl Events {
    /// Events that go nowhere.
    pub fn none() -> Self {
        Self::default()
    }

    /// Starts who carries events to these destinations, on the runtime that this is called on; without any, nothing is.
    pub fn start(settings: Settings, registry: &mut Registry) -> (Self, Carriers) {
        let Settings { host, stdout, syslog, names, buffer, labels } = settings;
        if !stdout && syslog.is_none() {
            return Default::default();
        }
        let writer = Arc::new(Writer::new(&host, &labels, names));
        let hub = Arc::new(Hub { writer: Arc::clone(&writer), pending: Mutex::default(), changed: Notify::new() });
        let events = Self { hub: Some(Arc::clone(&hub)) };
        let metrics = outlet::Metrics::default();
        metrics.register(registry);
        let mut carriers = Carriers { hub: Some(Arc::clone(&hub)), ..Carriers::default() };
        let mut outlets = Vec::new();
        if stdout {
            let (outlet, inlet) = way_to("stdout", buffer, &writer, &metrics);
            carriers.stdout = stdout::start(inlet);
            outlets.push(outlet);
        }
        if let Some(destination) = syslog {
            let (outlet, inlet) = way_to("syslog", buffer, &writer, &metrics);
            let metrics = syslog::Metrics::default();
            metrics.register(registry);
            let sender = syslog::Sender::new(destination, &host, inlet, buffer, events.clone(), metrics);
            carriers.syslog = Some(tokio::spawn(sender.run()));
            outlets.push(outlet);
        }
        carriers.ledgers = outlets.iter().map(|outlet| Arc::clone(outlet.ledger())).collect();
        tokio::spawn(teller::tell(hub, writer, outlets));
        (events, carriers)
    }

    /// Tells that the leak guard kept a name by this rule. The name is written down only where events tell names.
    pub fn name_withheld(&self, client: Option<IpAddr>, rule: &'static str, question: Question<'_>) {
        if let Some(hub) = &self.hub {
            let name = if hub.writer.writes_names() { question.name().to_string() } else { String::new() };
            self.emit(Event::NameWithheld { client, rule, name, qtype: question.qtype() });
        }
    }

    /// Tells of an event. Never waits, and costs next to nothing where it repeats one that was told a moment ago.
    pub fn emit(&self, event: Event) {
        if let Some(hub) = &self.hub {
            hub.take(event, SystemTime::now(), Instant::now());
        }
    }
}

impl Carriers {
    /// Has the last events delivered, within two seconds, and logs how many were not.
    pub async fn finish(self) {
        let Some(hub) = self.hub else { return };
        hub.pending().closed = true;
        hub.changed.notify_one();
        let delivering = async {
            if let Some(ended) = self.stdout {
                let _ = ended.await; // a thread that is gone has ended, too
            }
            if let Some(mut sender) = self.syslog
                && tokio::time::timeout(FAREWELL, &mut sender).await.is_err()
            {
                sender.abort();
            }
        };
        let _ = tokio::time::timeout(FAREWELL, delivering).await; // what was not delivered is told below
        for ledger in self.ledgers {
            let (undelivered, destination) = (ledger.undelivered(), ledger.destination());
            if undelivered > 0 {
                warn!(undelivered, destination, "the last events were not delivered");
            }
        }
    }
}

impl Hub {
    fn take(&self, event: Event, at: SystemTime, now: Instant) {
        let mut pending = self.pending();
        if let Some(told) = pending.sums.add(event, at, now) {
            pending.put(told);
            drop(pending);
            self.changed.notify_one();
        }
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pending {
    fn put(&mut self, told: Told) {
        if self.queue.len() < QUEUE {
            self.queue.push_back(told);
        } else {
            self.lost += 1;
        }
    }
}
