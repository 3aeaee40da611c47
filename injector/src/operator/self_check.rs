//! Asks on and on whether the API server calls the webhook: by creating a pod that asks for the sidecar, as a dry run, in an empty
//! namespace of its own. What the API server answers tells whether it did, and if not, why.

mod verdict;

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::api::PostParams;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client, Resource as _};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

pub(super) use self::verdict::Verdict;
use crate::annotations::INJECT;
use crate::metrics::Metrics;

/// A failure is looked at again so soon before it is told: an API server that restarts is no news.
const CONFIRM: Duration = Duration::from_secs(5);
/// As long as a failure lasts it is told again after so many checks.
const REPEAT: u32 = 60;
/// The API server itself waits 30 s for a webhook at most.
const PATIENCE: Duration = Duration::from_secs(40);
/// The API's limit of an Event's note, in bytes.
const LONGEST_NOTE: usize = 1024;

/// The part `selfCheck` of the injector's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct SelfCheckSettings {
    /// The namespace in which pods are created as dry runs; empty: no self-check.
    pub namespace: String,
    /// How often, in seconds.
    pub seconds: u64,
}

impl Default for SelfCheckSettings {
    fn default() -> Self {
        Self { namespace: String::new(), seconds: 60 }
    }
}

impl SelfCheckSettings {
    /// The field that cannot be meant, and why.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        if (5..=86_400).contains(&self.seconds) {
            return Ok(());
        }
        Err(("seconds", "must be from 5 to 86400; to have no self-check, leave `namespace` empty".to_owned()))
    }
}

/// Checks the webhook by way of the API server.
pub(super) struct SelfCheck {
    settings: SelfCheckSettings,
    pods: Api<Pod>,
    deployments: Api<Deployment>,
    deployment: String,
    recorder: Recorder,
    metrics: Metrics,
    /// What was told last, and how often it was seen since.
    told: Option<(Verdict, u32)>,
    /// What was found last.
    found: watch::Sender<Option<Verdict>>,
}

impl SelfCheck {
    /// For the injector of this Deployment; `None` where it is not wanted.
    pub(super) fn new(
        client: &Client,
        settings: &SelfCheckSettings,
        (namespace, deployment): (&str, &str),
        metrics: Metrics,
    ) -> Option<Self> {
        let reporter = Reporter { controller: "dot-injector".to_owned(), instance: None };
        (!settings.namespace.is_empty()).then(|| Self {
            pods: Api::namespaced(client.clone(), &settings.namespace),
            deployments: Api::namespaced(client.clone(), namespace),
            deployment: deployment.to_owned(),
            recorder: Recorder::new(client.clone(), reporter),
            settings: settings.clone(),
            metrics,
            told: None,
            found: watch::channel(None).0,
        })
    }

    /// What was found last; nothing before the first check.
    pub(super) fn findings(&self) -> watch::Receiver<Option<Verdict>> {
        self.found.subscribe()
    }

    /// Works until it is dropped.
    pub(super) async fn run(mut self) {
        loop {
            let mut verdict = self.look().await;
            if !verdict.is_good() {
                sleep(CONFIRM).await;
                verdict = self.look().await;
            }
            self.found.send_replace(Some(verdict.clone()));
            self.tell(verdict).await;
            sleep(Duration::from_secs(self.settings.seconds)).await;
        }
    }

    async fn look(&self) -> Verdict {
        let params = PostParams { dry_run: true, ..PostParams::default() };
        let verdict = match timeout(PATIENCE, self.pods.create(&params, &pod())).await {
            Ok(answer) => Verdict::of(&answer),
            Err(_) => Verdict::Inconclusive(format!("the API server did not answer within {} s", PATIENCE.as_secs())),
        };
        self.metrics.self_checked(verdict.result());
        verdict
    }

    /// Says what is new, and at times what lasts.
    async fn tell(&mut self, verdict: Verdict) {
        let times = match &self.told {
            Some((told, times)) if told.word() == verdict.word() => times + 1,
            _ => 0,
        };
        let was_good = self.told.as_ref().is_none_or(|(told, _)| told.is_good());
        self.told = Some((verdict.clone(), times));
        if times % REPEAT != 0 {
            return;
        }
        if verdict.is_good() {
            if times == 0 && !was_good {
                info!("{verdict} again");
                self.publish(EventType::Normal, "WebhookReached", &verdict).await;
            }
            return;
        }
        warn!(self_check = verdict.word(), "{verdict}");
        if !matches!(verdict, Verdict::Inconclusive(_)) {
            self.publish(EventType::Warning, "WebhookNotReached", &verdict).await;
        }
    }

    /// Writes an Event on the injector's Deployment.
    async fn publish(&self, type_: EventType, reason: &str, verdict: &Verdict) {
        let Ok(Some(deployment)) = self.deployments.get_opt(&self.deployment).await else { return };
        let regarding: ObjectReference = deployment.object_ref(&());
        let mut note = verdict.to_string();
        let fits = |end: &usize| note.is_char_boundary(*end);
        note.truncate((0..=note.len().min(LONGEST_NOTE)).rev().find(fits).unwrap_or_default());
        // Events that differ by nothing but their note are counted as one.
        let (reason, action) = (reason.to_owned(), verdict.word().to_owned());
        let event = Event { type_, reason, note: Some(note), action, secondary: None };
        if let Err(error) = self.recorder.publish(&event, &regarding).await {
            warn!(%error, "the Event on the self-check could not be written");
        }
    }
}

/// A pod that asks, that Pod Security `restricted` takes, and that names what policies like to see named.
fn pod() -> Pod {
    let pod = json!({
        "metadata": {
            "name": "dot-sidecar-self-check",
            "labels": {"app.kubernetes.io/name": "dot-sidecar-self-check", "app.kubernetes.io/part-of": "dot-sidecar"},
            "annotations": {INJECT: "true"}
        },
        "spec": {
            "automountServiceAccountToken": false,
            "restartPolicy": "Never",
            "securityContext": {"runAsNonRoot": true, "runAsUser": 65_534, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "never-runs",
                "image": "registry.k8s.io/pause:3.10",
                "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}, "limits": {"cpu": "1m", "memory": "1Mi"}},
                "securityContext": {
                    "allowPrivilegeEscalation": false,
                    "readOnlyRootFilesystem": true,
                    "capabilities": {"drop": ["ALL"]}
                }
            }]
        }
    });
    // A literal of the right shape, as the test of the whole shows.
    serde_json::from_value(pod).unwrap_or_default()
}
