//! What the leader writes: the Secret, under the version that was read, and the `caBundle`, by server-side apply.

use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::super::bundle::{self, FIELD_MANAGER};
use super::super::pace::Pace;
use super::super::plan::Plan;
use super::Place;
use crate::causes::with_causes;
use crate::metrics::Metrics;

/// An API server that takes longer is asked again.
const PATIENCE: Duration = Duration::from_secs(10);

/// Writes the Secret and the bundle.
pub(super) struct Writer {
    place: Place,
    pub(super) secrets: Api<Secret>,
    pub(super) webhooks: Api<MutatingWebhookConfiguration>,
    deployments: Api<Deployment>,
    pub(super) metrics: Metrics,
    /// Whether the Secret was seen to be owned: once its owner is gone it is not made again.
    pub(super) is_owned: bool,
    secret_pace: Pace,
    bundle_pace: Pace,
}

impl Writer {
    pub(super) fn new(client: &Client, place: Place, metrics: Metrics) -> Self {
        let now = Instant::now();
        Self {
            secrets: Api::namespaced(client.clone(), &place.namespace),
            webhooks: Api::all(client.clone()),
            deployments: Api::namespaced(client.clone(), &place.namespace),
            place,
            metrics,
            is_owned: false,
            secret_pace: Pace::new(now),
            bundle_pace: Pace::new(now),
        }
    }

    /// Creates or replaces the Secret, and gives it as it is then; `None` when another one was faster, whose work will be seen.
    pub(super) async fn write_secret(&mut self, plan: &Plan, found: Option<&Secret>) -> Result<Option<Secret>, String> {
        let name = self.place.secret.clone();
        if !self.secret_pace.take(Instant::now()) {
            return Err(format!(
                "Secret {name} is changed by others again and again: it is put right once in ten seconds from now on"
            ));
        }
        let data = Some(plan.pair.data());
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let writing = async {
            match found {
                Some(secret) => {
                    let mut secret = Secret { data, ..secret.clone() };
                    // From now on it is ours.
                    let annotations = secret.metadata.annotations.iter_mut();
                    annotations.for_each(|all| all.retain(|name, _| !name.starts_with("cert-manager.io/")));
                    self.secrets.replace(&name, &params, &secret).await.map(Some)
                }
                None => match self.new_metadata().await? {
                    Some(metadata) => {
                        let type_ = Some("kubernetes.io/tls".to_owned());
                        let secret = Secret { metadata, type_, data, ..Secret::default() };
                        self.secrets.create(&params, &secret).await.map(Some)
                    }
                    None => Ok(None),
                },
            }
        };
        match timeout(PATIENCE, writing).await {
            Ok(Ok(Some(written))) => {
                info!(secret = name, why = plan.reasons.join("; "), "the certificates were written");
                if plan.has_new_authority {
                    self.metrics.certificate_rotated("ca");
                }
                if plan.has_new_leaf {
                    self.metrics.certificate_rotated("leaf");
                }
                if !plan.has_new_authority && !plan.has_new_leaf {
                    self.metrics.certificate_written("secret");
                }
                Ok(Some(written))
            }
            Ok(Ok(None)) => Err(format!(
                "Secret {name} is gone with its owner, Deployment {}: it is not made again",
                self.place.deployment
            )),
            Ok(Err(kube::Error::Api(status)))
                if status.is_conflict() || status.is_already_exists() || status.is_not_found() =>
            {
                Ok(None)
            }
            Ok(Err(error)) => Err(format!("Secret {name} cannot be written: {}", with_causes(&error))),
            Err(_) => Err(format!("Secret {name} was not written in {} s: trying again", PATIENCE.as_secs())),
        }
    }

    /// `None` when the Deployment is gone that owned the Secret before.
    async fn new_metadata(&self) -> kube::Result<Option<ObjectMeta>> {
        let owner = self.deployments.get_opt(&self.place.deployment).await?;
        let owner = owner.filter(|owner| owner.metadata.deletion_timestamp.is_none());
        if owner.is_none() && self.is_owned {
            return Ok(None);
        }
        Ok(Some(ObjectMeta {
            name: Some(self.place.secret.clone()),
            namespace: Some(self.place.namespace.clone()),
            labels: Some([("app.kubernetes.io/name".to_owned(), "dot-sidecar".to_owned())].into()),
            // Removed with the Deployment. Run outside a cluster, the injector has none.
            owner_references: owner.map(|owner| vec![owner_reference(&owner)]),
            ..ObjectMeta::default()
        }))
    }

    /// Writes the bundle where it is another, and gives the configuration as it is then.
    pub(super) async fn write_bundle(
        &mut self,
        wanted: &str,
        found: Option<&MutatingWebhookConfiguration>,
    ) -> Result<Option<MutatingWebhookConfiguration>, String> {
        let name = &self.place.webhook_configuration;
        let has_webhooks = |found: &&MutatingWebhookConfiguration| {
            found.webhooks.as_ref().is_some_and(|webhooks| !webhooks.is_empty())
        };
        let Some(found) = found.filter(has_webhooks) else {
            return Err(format!(
                "MutatingWebhookConfiguration {name}: not found, or without webhooks: is the chart installed?"
            ));
        };
        if bundle::is(found, wanted) {
            return Ok(None);
        }
        let others = bundle::other_writers(found);
        let others = others.into_iter().collect::<Vec<_>>().join(", ");
        if !self.bundle_pace.take(Instant::now()) {
            return Err(format!(
                "the caBundle of MutatingWebhookConfiguration {name} is overwritten again and again{}: it is put right once in \
                 ten seconds from now on, and admissions fail in between; have the other one leave caBundle alone",
                if others.is_empty() { String::new() } else { format!(" by {others}") }
            ));
        }
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let patch = Patch::Apply(bundle::patch(found, wanted));
        match timeout(PATIENCE, self.webhooks.patch(name, &params, &patch)).await {
            Ok(Ok(written)) => {
                self.metrics.certificate_written("ca-bundle");
                if self.bundle_pace.is_strained() {
                    warn!(webhook_configuration = name, others, "the caBundle was written again: others change it");
                } else {
                    info!(webhook_configuration = name, "the API server trusts the injector's authorities now");
                }
                Ok(Some(written))
            }
            Ok(Err(error)) => {
                let why = with_causes(&error);
                Err(format!("the caBundle of MutatingWebhookConfiguration {name} cannot be written: {why}"))
            }
            Err(_) => Err(format!(
                "the caBundle of MutatingWebhookConfiguration {name} was not written in {} s: trying again",
                PATIENCE.as_secs()
            )),
        }
    }
}

/// Has an object removed with the Deployment.
pub(crate) fn owner_reference(deployment: &Deployment) -> OwnerReference {
    OwnerReference {
        api_version: Deployment::api_version(&()).into_owned(),
        kind: Deployment::kind(&()).into_owned(),
        name: deployment.name_any(),
        uid: deployment.uid().unwrap_or_default(),
        ..OwnerReference::default()
    }
}
