//! The admission webhook: an `AdmissionReview` in, a decision, an `AdmissionReview` out.

mod review;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode};
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::timeout;
use tracing::{debug, error, info, warn};

use crate::annotations;
use crate::cluster::ClusterDns;
use crate::events::{Notice, Teller};
use crate::inject::{self, Decision, Skip, Subject, Verdict};
use crate::limits::LimitRanges;
use crate::metrics::Metrics;
use crate::profile::{Profiles, WatchedProfiles};
use crate::server::{Answer, Limits, Share, text};
use crate::settings::Settings;

/// The largest review: etcd takes objects of 1.5 MiB, and a review holds one and little else.
const LARGEST_BODY: usize = 3 * 1024 * 1024;
/// Reading a namespace may take so long.
const NAMESPACE_TIMEOUT: Duration = Duration::from_secs(5);
/// What answers reviews.
pub struct Webhook {
    settings: Settings,
    cluster: ClusterDns,
    limits: LimitRanges,
    profiles: WatchedProfiles,
    namespaces: Api<Namespace>,
    teller: Teller,
    metrics: Metrics,
    bounds: Limits,
    reviews: Semaphore,
}

/// What decides about a pod beside the pod itself.
pub struct Facts {
    /// What the configuration says.
    pub settings: Settings,
    /// What the cluster's DNS is.
    pub cluster: ClusterDns,
    /// What namespaces allow.
    pub limits: LimitRanges,
    /// What pods get.
    pub profiles: WatchedProfiles,
}

/// A request that is not answered by a review.
struct Refused {
    /// In a word, for the metric.
    reason: &'static str,
    answer: Answer,
}

fn refuse(status: StatusCode, reason: &'static str, message: impl Into<String>) -> Refused {
    Refused { reason, answer: text(status, message) }
}

/// There was no room in memory for long.
fn busy() -> Refused {
    let mut refused = refuse(StatusCode::SERVICE_UNAVAILABLE, "busy", "too many reviews at once: come again");
    refused.answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    refused
}

/// Which of the webhook's entries the API server came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gate {
    /// `/mutate/annotated`: the pod has annotations of ours; what its namespace says is not known.
    Annotated,
    /// `/mutate/namespace`: the pod has none, and its namespace asks.
    Namespace,
}

impl Gate {
    fn of(path: &str) -> Option<Self> {
        match path {
            "/mutate/annotated" => Some(Self::Annotated),
            "/mutate/namespace" => Some(Self::Namespace),
            _ => None,
        }
    }
}

impl Webhook {
    /// A webhook that decides by these settings and facts.
    pub fn new(facts: Facts, namespaces: Api<Namespace>, teller: Teller, metrics: Metrics, bounds: Limits) -> Self {
        let Facts { settings, cluster, limits, profiles } = facts;
        let reviews = Semaphore::new(bounds.reviews);
        Self { settings, cluster, limits, profiles, namespaces, teller, metrics, bounds, reviews }
    }

    /// Answers one HTTP request.
    pub async fn handle(self: Arc<Self>, request: Request<Incoming>) -> Answer {
        match self.review(request).await {
            Ok(answer) => answer,
            Err(refused) => {
                self.metrics.refused(refused.reason);
                refused.answer
            }
        }
    }

    async fn review(&self, request: Request<Incoming>) -> Result<Answer, Refused> {
        let Some(gate) = Gate::of(request.uri().path()) else {
            let message = "not found: reviews go to /mutate/annotated or /mutate/namespace";
            return Err(refuse(StatusCode::NOT_FOUND, "path", message));
        };
        if request.method() != Method::POST {
            return Err(refuse(StatusCode::METHOD_NOT_ALLOWED, "method", "POST an AdmissionReview here"));
        }
        if !is_json(request.headers().get(CONTENT_TYPE)) {
            let message = "send the AdmissionReview as Content-Type: application/json";
            return Err(refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content-type", message));
        }
        let too_long = || {
            let message = format!("a review may have {LARGEST_BODY} bytes");
            refuse(StatusCode::PAYLOAD_TOO_LARGE, "body-too-long", message)
        };
        if request.body().size_hint().lower() > LARGEST_BODY as u64 {
            return Err(too_long()); // as its head says
        }
        let share = request.extensions().get::<Share>().cloned();
        let _room = timeout(self.bounds.room, self.room(share)).await.ok().flatten().ok_or_else(busy)?;
        match timeout(self.bounds.body, Limited::new(request.into_body(), LARGEST_BODY).collect()).await {
            Ok(Ok(body)) => self.answer(gate, &body.to_bytes()).await,
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_long()),
            Ok(Err(error)) => {
                let message = format!("the body could not be read: {error}");
                Err(refuse(StatusCode::BAD_REQUEST, "body-broken", message))
            }
            Err(_) => Err(refuse(StatusCode::REQUEST_TIMEOUT, "body-slow", "the body took too long")),
        }
    }

    /// Room in memory for a review: out of what one address may take, then out of all.
    async fn room(&self, share: Option<Share>) -> Option<(Option<OwnedSemaphorePermit>, SemaphorePermit<'_>)> {
        let own = match share {
            Some(share) => Some(share.0.acquire_owned().await.ok()?),
            None => None,
        };
        Some((own, self.reviews.acquire().await.ok()?))
    }

    async fn answer(&self, gate: Gate, body: &[u8]) -> Result<Answer, Refused> {
        let started = Instant::now();
        let request = match review::Request::read(body) {
            Ok(request) => request,
            Err(bad) => {
                warn!(error = %bad, "a request is no review");
                return Err(refuse(StatusCode::BAD_REQUEST, bad.reason, bad.to_string()));
            }
        };
        let (response, outcome, reason) = self.decide(gate, request).await;
        self.metrics.admission(outcome, reason, started.elapsed());
        match response.and_then(|response| response.audited(outcome, reason).into_json()) {
            Ok(json) => {
                let mut answer = Response::new(Full::new(Bytes::from(json)));
                answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                Ok(answer)
            }
            Err(error) => {
                error!(%error, "an answer could not be written");
                Ok(text(StatusCode::INTERNAL_SERVER_ERROR, "the answer could not be written"))
            }
        }
    }

    /// The answer, and its outcome and reason in one word each.
    async fn decide(
        &self,
        gate: Gate,
        request: review::Request,
    ) -> (Result<review::Response, serde_json::Error>, &'static str, &'static str) {
        if let Err(message) = request.check() {
            warn!(message);
            return (Ok(review::Response::deny(request.uid, message, Vec::new())), "failed", "not-a-pods-creation");
        }
        let profiles = self.profiles.now();
        let (namespace_asks, namespace_labels) = match self.of_namespace(gate, &request, &profiles).await {
            Ok(found) => found,
            Err(message) => {
                warn!(namespace = request.namespace, message, "a pod could not be decided about");
                return (Ok(review::Response::fail(request.uid, message)), "failed", "namespace-unreadable");
            }
        };
        let limits = self.limits.of(&request.namespace);
        let subject = Subject {
            pod: &request.object,
            namespace: &request.namespace,
            namespace_asks,
            namespace_labels: &namespace_labels,
            limits: &limits,
        };
        let verdict = inject::decide(subject, &self.settings, &self.cluster, &profiles);
        let (outcome, reason) = (verdict.decision.outcome(), verdict.decision.reason());
        self.tell(&request, &verdict.decision);
        let response = respond(request, verdict);
        (response, outcome, reason)
    }

    /// Whether the pod's namespace asks for the sidecar, and its labels. Read only where the answer depends on them.
    async fn of_namespace(
        &self,
        gate: Gate,
        request: &review::Request,
        profiles: &Profiles,
    ) -> Result<(bool, BTreeMap<String, String>), String> {
        let (pod, name) = (&request.object, &request.namespace);
        let depends = gate == Gate::Annotated && inject::depends_on_asking(pod);
        if !depends && !inject::depends_on_labels(pod, name, profiles) {
            return Ok((gate == Gate::Namespace, BTreeMap::new()));
        }
        let labels = match timeout(NAMESPACE_TIMEOUT, self.namespaces.get_metadata(name)).await {
            Ok(Ok(namespace)) => namespace.metadata.labels.unwrap_or_default(),
            Ok(Err(error)) => {
                return Err(format!("namespace {name}, whose labels must be known, could not be read: {error}"));
            }
            Err(_) => return Err(format!("namespace {name}, whose labels must be known, could not be read in time")),
        };
        Ok((gate == Gate::Namespace || annotations::namespace_asks(&labels), labels))
    }

    /// Tells those who do not see the answer: the log, and the pod's owner.
    fn tell(&self, request: &review::Request, decision: &Decision) {
        let generated = || request.object.pointer("/metadata/generateName").and_then(|name| name.as_str());
        let pod = if request.name.is_empty() { generated().unwrap_or_default() } else { &request.name };
        let (namespace, dry_run) = (&request.namespace, request.dry_run.unwrap_or(false));
        match decision {
            // The self-check's come every minute.
            Decision::Inject(_) if dry_run => debug!(namespace, pod, dry_run, "injected"),
            Decision::Inject(_) => info!(namespace, pod, dry_run, "injected"),
            Decision::Skip(skip @ Skip::CannotBeServed(refusal)) => {
                let sentence = skip.to_string();
                warn!(namespace, pod, dry_run, reason = sentence, "skipped");
                if !dry_run {
                    let notice = Notice::about(&request.object, namespace, refusal, &sentence);
                    notice.into_iter().for_each(|notice| self.teller.tell(notice));
                }
            }
            Decision::Skip(skip) => info!(namespace, pod, dry_run, reason = %skip, "skipped"),
            Decision::Deny(refusal) => warn!(namespace, pod, dry_run, reason = %refusal, "denied"),
        }
    }
}

/// The answer that a verdict comes to.
fn respond(request: review::Request, verdict: Verdict) -> Result<review::Response, serde_json::Error> {
    match verdict.decision {
        Decision::Deny(refusal) => Ok(review::Response::deny(request.uid, refusal.to_string(), verdict.warnings)),
        decision => {
            let pod = inject::touched(request.object);
            let patch = inject::patch(&pod, inject::patched(&decision, &pod));
            review::Response::allow(request.uid, &patch, verdict.warnings)
        }
    }
}

fn is_json(content_type: Option<&HeaderValue>) -> bool {
    let text = content_type.and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(';').next().is_some_and(|media_type| media_type.trim().eq_ignore_ascii_case("application/json"))
}

/// What the fuzz targets reach of this module; there is none of it in a build of another kind.
#[cfg(fuzzing)]
pub mod fuzzing {
    use std::collections::BTreeMap;

    use super::{inject, respond, review};
    use crate::cluster::ClusterDns;
    use crate::inject::Subject;
    use crate::limits::ContainerLimits;
    use crate::profile::Profiles;
    use crate::settings::Settings;

    /// The answer to a review, as the API server gets it, or why it is none.
    pub fn answer(
        body: &[u8],
        namespace_asks: bool,
        settings: &Settings,
        cluster: &ClusterDns,
    ) -> Result<Vec<u8>, String> {
        let request = review::Request::read(body).map_err(|bad| bad.to_string())?;
        request.check()?;
        let (limits, namespace_labels) = (ContainerLimits::default(), BTreeMap::new());
        let subject = Subject {
            pod: &request.object,
            namespace: &request.namespace,
            namespace_asks,
            namespace_labels: &namespace_labels,
            limits: &limits,
        };
        let profiles = Profiles::of_default(settings.profile.clone().unwrap_or_default());
        let verdict = inject::decide(subject, settings, cluster, &profiles);
        let (outcome, reason) = (verdict.decision.outcome(), verdict.decision.reason());
        let response = respond(request, verdict).map_err(|error| error.to_string())?;
        response.audited(outcome, reason).into_json().map_err(|error| error.to_string())
    }
}
