//! Events to a collector by syslog (RFC 5424) over TLS (RFC 5425) or TCP (RFC 6587), on one connection that is kept.
//!
//! Syslog has no acknowledgement. What can be known is what the collector's machine has taken (TCP acknowledges it) and
//! whether the collector read that before it closed: a connection that is closed with octets unread is reset. So a message
//! counts as delivered when it was acknowledged and the connection went on for a second, or was closed in order; else it
//! is sent again on the next connection. A message may thus come twice (`event.id` tells), but is not lost unseen.

mod delivery;
mod frame;

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dot_proxy_config::TlsServer;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use self::delivery::{Delivery, Ended, Wire};
use self::frame::Header;
use super::outlet::Inlet;
use super::{Event, Events};
use crate::upstream::cause::Cause;
use crate::upstream::connect::{Tls, open};

/// A collector that has not answered TCP by then is tried no longer; TLS has a limit of its own.
const TIMEOUT: Duration = Duration::from_secs(3);

/// The pause after the first failure; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause.
const LAST_PAUSE: Duration = Duration::from_secs(30);

/// While a failure goes on, the log repeats it at most so often.
const LOG_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// A collector, and how it proves who it is.
#[derive(Clone)]
pub enum Destination {
    /// Over TLS.
    Tls(Tls, TlsServer),
    /// Over TCP: nobody proves anything.
    Tcp(SocketAddr),
}

/// What is counted of connections to the collector.
#[derive(Debug, Clone, Default)]
pub(super) struct Metrics {
    failures: Family<CauseLabel, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CauseLabel {
    cause: Cause,
}

/// Sends events to the collector for as long as there are any.
pub(super) struct Sender {
    destination: Destination,
    inlet: Inlet,
    delivery: Delivery,
    /// Failures are events, too.
    events: Events,
    metrics: Metrics,
    pause: Duration,
    logged: Option<(Cause, Instant)>,
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tls(_, TlsServer { address, name }) => write!(f, "tls://{address}#{name}"),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

impl Metrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("syslog_failures", "Connections to the collector that failed", self.failures.clone());
    }
}

impl Sender {
    /// Takes events from the inlet for the destination; at most so many are on their way unconfirmed.
    pub(super) fn new(
        destination: Destination,
        host: &str,
        inlet: Inlet,
        room: usize,
        events: Events,
        metrics: Metrics,
    ) -> Self {
        let delivery = Delivery::new(Header::new(host), Arc::clone(inlet.ledger()), room);
        Self { destination, inlet, delivery, events, metrics, pause: FIRST_PAUSE, logged: None }
    }

    /// Connects, sends, and connects again, until there are no more events. A connection that ended is opened again when
    /// there is something to say.
    pub(super) async fn run(mut self) {
        loop {
            match self.connect().await {
                Ok(mut wire) => {
                    let began = Instant::now();
                    let ended = self.delivery.over(&mut *wire, &mut self.inlet).await;
                    if began.elapsed() > LAST_PAUSE || self.delivery.is_done() {
                        self.pause = FIRST_PAUSE;
                        self.logged = None;
                    }
                    match ended {
                        Ended::Finished => return,
                        Ended::Closed if self.delivery.is_done() => debug!("the collector closed the connection"),
                        Ended::Closed => self.failed(Cause::ConnectionClosed),
                        Ended::Failed(error) => self.failed(Cause::of_connecting(&error)),
                    }
                }
                Err(cause) => self.failed(cause),
            }
            if self.delivery.is_done() {
                match self.inlet.next().await {
                    Some(numbered) => self.delivery.keep(numbered),
                    None => return,
                }
            }
            sleep(self.jittered()).await;
            self.pause = (self.pause * 2).min(LAST_PAUSE);
        }
    }

    async fn connect(&mut self) -> Result<Box<dyn Wire>, Cause> {
        let wire: Box<dyn Wire> = match &self.destination {
            Destination::Tls(tls, server) => Box::new(tls.connect(server).await?),
            Destination::Tcp(address) => {
                let opened = timeout(TIMEOUT, open(*address)).await;
                let opened = opened.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
                Box::new(opened.map_err(|error| Cause::of_connecting(&error))?)
            }
        };
        info!(collector = %self.destination, "events go to the collector");
        Ok(wire)
    }

    fn failed(&mut self, cause: Cause) {
        let collector = &self.destination;
        self.metrics.failures.get_or_create(&CauseLabel { cause }).inc();
        if cause.is_of_the_certificate() {
            let server = collector.to_string().into();
            self.events.emit(Event::CertificateRefused { server, group: "events".into(), cause });
        }
        let now = Instant::now();
        if self.logged.is_none_or(|(logged, at)| logged != cause || at + LOG_AGAIN_AFTER <= now) {
            self.logged = Some((cause, now));
            let waiting = self.inlet.ledger().undelivered();
            warn!(%cause, %collector, waiting, "no events can be sent to the collector");
        }
    }

    /// The pause, or down to half of it: those who lost the same collector are not to come back all at once.
    fn jittered(&self) -> Duration {
        let random = RandomState::new().hash_one(std::process::id()) % 512;
        self.pause * u32::try_from(1024 - random).unwrap_or(1024) / 1024
    }
}
