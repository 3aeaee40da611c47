//! Keeps the Secret, what is served, and whom the API server trusts, in agreement.

mod complaint;
mod writer;

use std::pin::pin;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt as _;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::runtime::{WatchStreamExt as _, watcher};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::info;

use self::complaint::Complaint;
use self::writer::Writer;
pub(crate) use self::writer::owner_reference;
use super::authority::Authority;
use super::bundle::Trust;
use super::leaf::Leaf;
use super::plan::{Plan, Situation, plan};
use super::stored::{Pair, Stored};
use super::{CertificateError, CertificateSettings, Clock, Served};
use crate::causes::with_causes;
use crate::metrics::Metrics;
use crate::readiness::{Condition, Readiness};

/// How often is looked at the clock, which may jump. What others change is seen at once.
const TICK: Duration = Duration::from_secs(2);

/// Names of what the keeper reads and writes.
#[derive(Debug, Clone)]
pub struct Place {
    /// The injector's namespace.
    pub namespace: String,
    /// The Secret.
    pub secret: String,
    /// The Deployment that owns the Secret.
    pub deployment: String,
    /// The webhook configuration.
    pub webhook_configuration: String,
    /// What the certificate is for; the API server uses the first.
    pub names: [String; 2],
}

/// Keeps the webhook's certificates: every replica serves what the Secret holds, the leader writes.
pub struct Keeper {
    place: Place,
    settings: CertificateSettings,
    clock: Clock,
    writer: Writer,
    served: Served,
    readiness: Readiness,
    metrics: Metrics,
    /// What the API server said last; `None` before it has said anything.
    secret: Option<Option<Secret>>,
    stored: Option<Stored>,
    configuration: Option<Option<MutatingWebhookConfiguration>>,
    trust: Trust,
    /// What the Secret held when it was sound.
    remembered: Option<Pair>,
    current: Option<Leaf>,
    /// Authorities whose leaves were served here, and until when these would be accepted: other replicas may still serve them.
    retained: Vec<(Authority, SystemTime)>,
    complaint: Complaint,
}

impl Keeper {
    /// Prepares to keep certificates at `place`.
    pub fn new(client: &Client, place: Place, settings: CertificateSettings, clock: Clock) -> Self {
        Self {
            writer: Writer::new(client, place.clone(), Metrics::default()),
            place,
            settings,
            clock,
            served: Served::default(),
            readiness: Readiness::default(),
            metrics: Metrics::default(),
            secret: None,
            stored: None,
            configuration: None,
            trust: Trust::default(),
            remembered: None,
            current: None,
            retained: Vec::new(),
            complaint: Complaint::default(),
        }
    }

    /// Tells these of what it does.
    pub fn telling(mut self, served: Served, readiness: Readiness, metrics: Metrics) -> Self {
        (self.served, self.readiness) = (served, readiness);
        self.writer.metrics = metrics.clone();
        self.metrics = metrics;
        self
    }

    /// Works until it is dropped.
    pub async fn run(mut self, mut leading: watch::Receiver<bool>) {
        let secrets = watcher::watch_object(self.writer.secrets.clone(), &self.place.secret);
        let configurations = watcher::watch_object(self.writer.webhooks.clone(), &self.place.webhook_configuration);
        let mut secrets = pin!(secrets.backoff(Retry::default()));
        let mut configurations = pin!(configurations.backoff(Retry::default()));
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_election_over = false;
        loop {
            tokio::select! {
                found = secrets.next() => match found {
                    Some(Ok(secret)) => self.see_secret(secret),
                    Some(Err(error)) => self.complaint.make(format!("Secret {} cannot be watched: {}", self.place.secret, with_causes(&error))),
                    None => return,
                },
                found = configurations.next() => match found {
                    Some(Ok(configuration)) => self.see_configuration(configuration),
                    Some(Err(error)) => self.complaint.make(format!(
                        "MutatingWebhookConfiguration {} cannot be watched: {}",
                        self.place.webhook_configuration,
                        with_causes(&error)
                    )),
                    None => return,
                },
                changed = leading.changed(), if !is_election_over => is_election_over = changed.is_err(),
                _ = tick.tick() => {}
            }
            let is_leading = *leading.borrow() && !is_election_over;
            self.look(is_leading).await;
        }
    }

    fn see_secret(&mut self, secret: Option<Secret>) {
        self.writer.is_owned |= secret.as_ref().is_some_and(|secret| secret.metadata.owner_references.is_some());
        self.stored = secret.as_ref().map(|secret| Stored::read(secret, self.settings.external));
        self.secret = Some(secret);
    }

    fn see_configuration(&mut self, configuration: Option<MutatingWebhookConfiguration>) {
        self.trust.observe(configuration.as_ref(), Instant::now());
        self.configuration = Some(configuration);
    }

    /// Does what there is to do.
    async fn look(&mut self, is_leading: bool) {
        let now = self.clock.now();
        self.serve(now);
        if is_leading {
            self.write_secret(now).await;
            self.serve(now);
            self.write_bundle(now).await;
        }
        self.tell(now);
    }

    /// Serves what the Secret holds from the next handshake on. What is served now and valid stays until the API server has had
    /// the time to learn of the new one's authority.
    fn serve(&mut self, now: SystemTime) {
        let Some(secret) = &self.secret else { return };
        let found = match &self.stored {
            Some(stored) => stored.whole(),
            None => Err(CertificateError("there is none".to_owned())),
        };
        let usable = found.and_then(|pair| pair.leaf.check(&self.place.names[0], now).map(|()| pair));
        let pair = match usable {
            Ok(pair) => pair,
            Err(error) => {
                // Before the leader has made it for the first time that is nothing to complain of.
                if self.current.is_some() || self.settings.external || secret.is_some() {
                    self.complaint.make(format!("Secret {} cannot be used: {error}", self.place.secret));
                }
                return;
            }
        };
        let leaf = pair.leaf.clone();
        self.remembered = Some(pair);
        let is_valid = |current: &Leaf| current.check_time(now).is_ok();
        match &self.current {
            Some(current) if *current == leaf => return,
            Some(current) if is_valid(current) => {
                if !self.trust.has_held(leaf.issuer(), self.settings.grace(), Instant::now()) {
                    return;
                }
                let until = current.validity().not_after;
                self.retained.retain(|(authority, earlier)| authority != current.issuer() || *earlier > until);
                self.retained.push((current.issuer().clone(), until));
            }
            _ => {}
        }
        self.served.replace(leaf.certified());
        let days = leaf.validity().not_after.duration_since(now).unwrap_or_default().as_secs() / 86_400;
        info!(valid_days = days, "serving a certificate");
        self.current = Some(leaf);
    }

    /// Makes anew what has to be.
    async fn write_secret(&mut self, now: SystemTime) {
        let Some(secret) = self.secret.as_ref().filter(|_| !self.settings.external) else { return };
        let plan = match self.plan(now) {
            Ok(Some(plan)) => plan,
            Ok(None) => return,
            Err(error) => return self.complaint.make(format!("certificates cannot be made: {error}")),
        };
        match self.writer.write_secret(&plan, secret.as_ref()).await {
            // Another one was faster, or it is written no more: the watch will tell.
            Ok(None) => {}
            Ok(Some(written)) => self.see_secret(Some(written)),
            Err(error) => self.complaint.make(error),
        }
    }

    fn plan(&self, now: SystemTime) -> Result<Option<Plan>, CertificateError> {
        let (at, grace) = (Instant::now(), self.settings.grace());
        plan(&Situation {
            found: self.stored.as_ref(),
            remembered: self.remembered.as_ref(),
            is_trusted: &|authority| self.trust.has_held(authority, grace, at),
            names: &self.place.names,
            settings: &self.settings,
            now,
        })
    }

    /// Has the API server trust what is served, here and elsewhere.
    async fn write_bundle(&mut self, now: SystemTime) {
        let Some(configuration) = &self.configuration else { return };
        self.retained.retain(|(_, until)| now < *until);
        let wanted = self.bundle();
        if wanted.is_empty() {
            return;
        }
        match self.writer.write_bundle(&wanted, configuration.as_ref()).await {
            Ok(None) => {}
            Ok(Some(written)) => self.see_configuration(Some(written)),
            Err(error) => self.complaint.make(error),
        }
    }

    /// All authorities of which somebody may serve a leaf.
    fn bundle(&self) -> String {
        let stored = self.stored.as_ref().and_then(|stored| stored.authorities.as_ref().ok());
        let stored = stored.into_iter().flat_map(|authorities| authorities.all());
        let served = self.current.iter().map(Leaf::issuer);
        let mut all: Vec<&Authority> = Vec::new();
        for authority in stored.chain(served).chain(self.retained.iter().map(|(authority, _)| authority)) {
            if !all.contains(&authority) {
                all.push(authority);
            }
        }
        all.into_iter().map(Authority::pem).collect()
    }

    /// Tells metrics and readiness.
    fn tell(&mut self, now: SystemTime) {
        let Some(current) = &self.current else { return };
        self.metrics.certificate_expires("leaf", current.validity().not_after);
        self.metrics.certificate_expires("ca", current.issuer().validity.not_after);
        if self.trust.holds(current.issuer()) {
            self.readiness.set(Condition::AuthorityTrusted);
        }
        match current.check_time(now) {
            Ok(()) => self.readiness.set(Condition::CertificateServed),
            // Another replica may do better.
            Err(error) => {
                self.readiness.clear(Condition::CertificateServed);
                self.complaint.make(format!("what is served is not accepted any more: {error}"));
            }
        }
    }
}

/// A watch that failed is tried again soon, and never later than after five seconds: certificates must heal.
#[derive(Debug)]
struct Retry(Duration);

impl Retry {
    const FIRST: Duration = Duration::from_millis(250);
    const LONGEST: Duration = Duration::from_secs(5);
}

impl Default for Retry {
    fn default() -> Self {
        Self(Self::FIRST)
    }
}

impl Iterator for Retry {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = self.0;
        self.0 = (pause * 2).min(Self::LONGEST);
        Some(pause)
    }
}

impl kube::runtime::utils::Backoff for Retry {
    fn reset(&mut self) {
        self.0 = Self::FIRST;
    }
}
