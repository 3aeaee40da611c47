//! Keeps the Secret, what is served, and whom the API server trusts, in agreement.

use std::fmt;
use std::time::{Duration, SystemTime};

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;
use tokio::time::sleep;
use tracing::{info, warn};

use super::{CertificateError, Material, Served, Usable};
use crate::metrics::Metrics;
use crate::readiness::{Condition, Readiness};

/// Field manager of the webhook configuration's `caBundle`, and of nothing else.
const FIELD_MANAGER: &str = "dot-injector";
/// How often everything is looked at again: a bundle that something else removed is back within this time.
const ROUND: Duration = Duration::from_secs(60);
/// How soon after a failure.
const RETRY: Duration = Duration::from_secs(2);
/// How often a Secret that others change at the same time is tried before the round counts as failed.
const ATTEMPTS: usize = 5;

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
    /// What the certificate is for.
    pub names: Vec<String>,
}

/// Keeps the webhook's certificates.
pub struct Keeper {
    place: Place,
    secrets: Api<Secret>,
    deployments: Api<Deployment>,
    webhooks: Api<MutatingWebhookConfiguration>,
    served: Served,
    readiness: Readiness,
    metrics: Metrics,
    /// What is served now, to tell whether a round changed something.
    current: Option<Material>,
}

/// Why a round failed; the next one comes soon.
#[derive(Debug)]
enum RoundError {
    Certificates(CertificateError),
    /// What was tried, and what the API server said.
    Api(String, kube::Error),
    Contended(String),
    NoWebhooks(String),
}

impl fmt::Display for RoundError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificates(error) => write!(f, "certificates: {error}"),
            Self::Api(what, error) => write!(f, "{what}: {error}"),
            Self::Contended(secret) => write!(f, "Secret {secret}: others change it at the same time"),
            Self::NoWebhooks(name) => {
                write!(
                    f,
                    "MutatingWebhookConfiguration {name}: not found, or without webhooks: is the chart installed?"
                )
            }
        }
    }
}

impl From<CertificateError> for RoundError {
    fn from(error: CertificateError) -> Self {
        Self::Certificates(error)
    }
}

impl Keeper {
    /// Prepares to keep certificates at `place`.
    pub fn new(client: &Client, place: Place, served: Served, readiness: Readiness, metrics: Metrics) -> Self {
        Self {
            secrets: Api::namespaced(client.clone(), &place.namespace),
            deployments: Api::namespaced(client.clone(), &place.namespace),
            webhooks: Api::all(client.clone()),
            place,
            served,
            readiness,
            metrics,
            current: None,
        }
    }

    /// Works until it is dropped.
    pub async fn run(mut self) {
        loop {
            let pause = match self.round().await {
                Ok(()) => ROUND,
                Err(error) => {
                    warn!(%error, "the webhook's certificates could not be checked; trying again");
                    RETRY
                }
            };
            sleep(pause).await;
        }
    }

    async fn round(&mut self) -> Result<(), RoundError> {
        let (material, usable) = self.shared_material().await?;
        self.serve(&material, &usable);
        self.trust(&material.ca_certificate).await?;
        self.readiness.set(Condition::AuthorityTrusted);
        self.current = Some(material);
        Ok(())
    }

    fn serve(&self, material: &Material, usable: &Usable) {
        if self.current.as_ref() != Some(material) {
            self.served.replace(usable.key.clone());
            self.metrics.certificate_expires(usable.not_after);
            let days = usable.not_after.duration_since(SystemTime::now()).unwrap_or_default().as_secs() / 86_400;
            info!(valid_days = days, names = self.place.names.join(","), "serving a certificate");
            self.readiness.set(Condition::CertificateServed);
        }
    }

    /// What all replicas serve: the Secret's, made or renewed by whoever comes first.
    async fn shared_material(&self) -> Result<(Material, Usable), RoundError> {
        let names = &self.place.names;
        for _ in 0..ATTEMPTS {
            let now = SystemTime::now();
            let found = self.read().await?;
            let stored = found.as_ref().and_then(material_of);
            let usable = stored.as_ref().map(|material| material.usable(names, now));
            let fresh = match (stored, usable) {
                (Some(material), Some(Ok(usable))) if !usable.is_due(now) => return Ok((material, usable)),
                (Some(material), reason) => {
                    let why = match reason {
                        Some(Err(error)) => error.to_string(),
                        _ => "two thirds of its time have passed".to_owned(),
                    };
                    info!(secret = self.place.secret, why, "making a new certificate");
                    // With an authority that is broken itself, everything is made anew.
                    let renewed = material.with_new_leaf(names, now).ok();
                    match renewed.filter(|renewed| renewed.usable(names, now).is_ok()) {
                        Some(renewed) => renewed,
                        None => Material::new(names, now)?,
                    }
                }
                (None, _) => Material::new(names, now)?,
            };
            if self.write(&fresh, found).await? {
                let usable = fresh.usable(names, now)?;
                return Ok((fresh, usable));
            }
        }
        Err(RoundError::Contended(self.place.secret.clone()))
    }

    async fn read(&self) -> Result<Option<Secret>, RoundError> {
        let what = || format!("reading Secret {}", self.place.secret);
        self.secrets.get_opt(&self.place.secret).await.map_err(|error| RoundError::Api(what(), error))
    }

    /// Creates or replaces the Secret; `false` when another replica was faster, whose work is to be read then.
    async fn write(&self, material: &Material, found: Option<Secret>) -> Result<bool, RoundError> {
        let what = || format!("writing Secret {}", self.place.secret);
        let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
        let written = match found {
            Some(secret) => {
                let secret = Secret { data: Some(data_of(material)), ..secret };
                self.secrets.replace(&self.place.secret, &params, &secret).await
            }
            None => self.secrets.create(&params, &self.new_secret(material).await?).await,
        };
        match written {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status))
                if status.is_conflict() || status.is_already_exists() || status.is_not_found() =>
            {
                Ok(false)
            }
            Err(error) => Err(RoundError::Api(what(), error)),
        }
    }

    async fn new_secret(&self, material: &Material) -> Result<Secret, RoundError> {
        let what = || format!("reading Deployment {}, which is to own the Secret", self.place.deployment);
        let owner = self.deployments.get_opt(&self.place.deployment).await;
        let owner = owner.map_err(|error| RoundError::Api(what(), error))?;
        Ok(Secret {
            metadata: ObjectMeta {
                name: Some(self.place.secret.clone()),
                namespace: Some(self.place.namespace.clone()),
                labels: Some([("app.kubernetes.io/name".to_owned(), "dot-sidecar".to_owned())].into()),
                // Removed with the Deployment. Run outside a cluster, the injector has none.
                owner_references: owner.map(|owner| vec![owner_reference(&owner)]),
                ..ObjectMeta::default()
            },
            type_: Some("kubernetes.io/tls".to_owned()),
            data: Some(data_of(material)),
            ..Secret::default()
        })
    }

    /// Has the API server trust the authority: server-side apply of `caBundle` and nothing else, so that whoever owns the
    /// rest of the configuration sees no drift.
    async fn trust(&self, authority: &str) -> Result<(), RoundError> {
        let name = &self.place.webhook_configuration;
        let found = self.webhooks.get_opt(name).await;
        let found =
            found.map_err(|error| RoundError::Api(format!("reading MutatingWebhookConfiguration {name}"), error))?;
        let webhooks = found.and_then(|found| found.webhooks).unwrap_or_default();
        if webhooks.is_empty() {
            return Err(RoundError::NoWebhooks(name.clone()));
        }
        let bundle = ByteString(authority.as_bytes().to_vec());
        if webhooks.iter().all(|webhook| webhook.client_config.ca_bundle.as_ref() == Some(&bundle)) {
            return Ok(());
        }
        let entries: Vec<_> = webhooks
            .iter()
            .map(|webhook| json!({"name": webhook.name, "clientConfig": {"caBundle": bundle}}))
            .collect();
        let patch = json!({
            "apiVersion": MutatingWebhookConfiguration::api_version(&()),
            "kind": MutatingWebhookConfiguration::kind(&()),
            "metadata": {"name": name},
            "webhooks": entries,
        });
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let applied = self.webhooks.patch(name, &params, &Patch::Apply(patch)).await;
        applied.map_err(|error| {
            RoundError::Api(format!("writing caBundle of MutatingWebhookConfiguration {name}"), error)
        })?;
        info!(webhook_configuration = name, "the API server trusts the injector's authority now");
        Ok(())
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

fn data_of(material: &Material) -> std::collections::BTreeMap<String, ByteString> {
    [
        ("ca.crt", &material.ca_certificate),
        ("ca.key", &material.ca_key),
        ("tls.crt", &material.certificate),
        ("tls.key", &material.key),
    ]
    .into_iter()
    .map(|(name, pem)| (name.to_owned(), ByteString(pem.as_bytes().to_vec())))
    .collect()
}

/// What a Secret holds, if it holds all of it.
fn material_of(secret: &Secret) -> Option<Material> {
    let part = |name: &str| String::from_utf8(secret.data.as_ref()?.get(name)?.0.clone()).ok();
    Some(Material {
        ca_certificate: part("ca.crt")?,
        ca_key: part("ca.key")?,
        certificate: part("tls.crt")?,
        key: part("tls.key")?,
    })
}
