//! `dot-injector explain`

mod predict;
mod resources;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{LimitRange, Namespace, ResourceQuota};
use kube::api::{ApiResource, DynamicObject};
use kube::{Api, Client, Resource};
use serde_json::{Value, json};

use super::connection::{Connected, Connection, all, told};
use super::installation::{Installation, Place, value_of};
use super::offline::Offline;
use super::{Failure, print, say};
use crate::inject::Decision;
use crate::manifest::{Finding, Manifest, Surroundings};
use predict::Prediction;

/// Say what would happen to the pods of manifests, and why
#[derive(Debug, Args)]
#[command(
    after_help = "Tells what admission decides and what it makes of a pod, and foresees whether Pod Security, a ResourceQuota or a \
LimitRange would then refuse it, and which other webhooks may meddle. Namespaces, ResourceQuotas, LimitRanges, ProxyProfiles and \
MutatingWebhookConfigurations are read from the same input, from --with, or with --live from the cluster.\n\nExit codes: 0 all pods \
would be made; 1 one is denied or would be refused; 2 wrong usage.\n\nExamples:\n  dot-injector explain -f deployment.yaml --live\n  \
kubectl get namespaces,limitranges,resourcequotas -A -o yaml > facts.yaml\n  dot-injector explain -f deployment.yaml --with \
facts.yaml --cluster-dns 10.96.0.10"
)]
pub(super) struct Explain {
    #[command(flatten)]
    offline: Offline,
    /// A file of Namespaces, quotas and the like of the cluster, to be heeded and not explained; repeatable
    #[arg(long, value_name = "FILE")]
    with: Vec<PathBuf>,
    /// Read these, the profiles and the injector's configuration from the cluster
    #[arg(long, conflicts_with = "with")]
    live: bool,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    connection: Connection,
}

impl Explain {
    pub(super) fn run(self) -> Result<(), Failure> {
        let mut manifest = self.offline.read()?;
        let surroundings = if self.live {
            self.connection.work(async |connected| self.ask(connected, &mut manifest).await)?
        } else {
            for file in &self.with {
                let at = |error: &dyn std::fmt::Display| Failure::Usage(format!("--with {}: {error}", file.display()));
                let text = std::fs::read_to_string(file).map_err(|error| at(&error))?;
                let facts = Manifest::read(&text, self.offline.namespace()).map_err(|error| at(&error))?;
                manifest.know(facts);
            }
            self.offline.surroundings()?
        };
        let findings = manifest.inject(&surroundings);
        if findings.is_empty() {
            return print("There is no pod in the input, nor anything that makes pods.\n");
        }
        let mut text = String::new();
        let mut is_refused = false;
        for finding in &findings {
            let predictions = match finding.verdict.decision {
                Decision::Inject(_) => predict::of(&finding.pod, &finding.namespace, manifest.facts()),
                _ => Vec::new(),
            };
            is_refused |= finding.is_denied() || predictions.iter().any(|prediction| prediction.is_trouble);
            explain(&mut text, finding, &predictions).map_err(Failure::work)?;
        }
        print(&text)?;
        if is_refused { Err(Failure::Negative) } else { Ok(()) }
    }

    /// Reads from the cluster what decides about the manifest's pods.
    async fn ask(&self, connected: Connected, manifest: &mut Manifest) -> Result<Surroundings, Failure> {
        let client = connected.client;
        let installation = Installation::read(&client, &self.place).await?;
        let mut notes = installation.notes;
        let cluster = match installation.cluster {
            Some(cluster) => cluster,
            None => self.offline.surroundings()?.cluster,
        };
        let mut facts = Vec::new();
        for namespace in manifest.namespaces(self.offline.namespace()) {
            facts.extend(of_namespace(&client, &namespace, &mut notes).await);
        }
        let webhooks = Api::all_with(client.clone(), &ApiResource::erase::<MutatingWebhookConfiguration>(&()));
        facts.extend(listed(&webhooks, "MutatingWebhookConfiguration", &mut notes).await);
        let list = json!({"kind": "List", "items": facts});
        manifest.know(Manifest::read(&list.to_string(), self.offline.namespace()).map_err(Failure::work)?);
        notes.iter().collect::<BTreeSet<_>>().into_iter().for_each(|note| say(format_args!("note: {note}\n")));
        Ok(Surroundings {
            namespace: self.offline.namespace().to_owned(),
            settings: installation.settings,
            cluster,
            profiles: installation.profiles,
        })
    }
}

async fn of_namespace(client: &Client, namespace: &str, notes: &mut Vec<String>) -> Vec<Value> {
    let mut facts = Vec::new();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    match namespaces.get_metadata_opt(namespace).await {
        Ok(Some(found)) => facts.push(json!({"kind": "Namespace", "metadata": found.metadata})),
        Ok(None) => notes.push(format!("there is no namespace {namespace} in the cluster")),
        Err(error) => notes.push(format!("namespace {namespace} is not heeded: {}", told(&error))),
    }
    facts.extend(listed(&within::<LimitRange>(client, namespace), "LimitRange", notes).await);
    facts.extend(listed(&within::<ResourceQuota>(client, namespace), "ResourceQuota", notes).await);
    facts
}

fn within<K>(client: &Client, namespace: &str) -> Api<DynamicObject>
where
    K: Resource<DynamicType = ()>,
{
    Api::namespaced_with(client.clone(), namespace, &ApiResource::erase::<K>(&()))
}

/// Every object, with its kind, which lists leave out.
async fn listed(api: &Api<DynamicObject>, kind: &str, notes: &mut Vec<String>) -> Vec<Value> {
    match all(api).await {
        Ok(objects) => objects
            .iter()
            .map(|object| {
                let mut value = value_of(object);
                value["kind"] = json!(kind);
                value
            })
            .collect(),
        Err(error) => {
            notes.push(format!("{kind}s are not heeded: {}", told(&error)));
            Vec::new()
        }
    }
}

fn explain(text: &mut String, finding: &Finding, predictions: &[Prediction]) -> std::fmt::Result {
    let decision = &finding.verdict.decision;
    writeln!(text, "{} in {}: {}", finding.object, finding.namespace, decision.outcome())?;
    match decision {
        Decision::Inject(plan) => {
            plan.facts().iter().try_for_each(|(name, value)| writeln!(text, "  {name}: {value}"))?;
        }
        Decision::Skip(skip) => writeln!(text, "  {skip}")?,
        Decision::Deny(refusal) => writeln!(text, "  {refusal}")?,
    }
    for Prediction { is_trouble, text: told } in predictions {
        writeln!(text, "  {}{told}", if *is_trouble { "trouble: " } else { "" })?;
    }
    finding.verdict.warnings.iter().try_for_each(|warning| writeln!(text, "  warning: {warning}"))
}
