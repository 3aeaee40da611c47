//! `dot-injector status`

mod report;

use clap::{Args, ValueEnum};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::ResourceExt as _;
use kube::api::{ApiResource, DynamicObject};

use super::connection::{Connected, Connection, each, told};
use super::installation::{Installation, Place, namespace_labels, value_of};
use super::table::colour;
use super::{Failure, print, say};
use crate::state::{Facts, Namespace};
use report::{Report, Row};

/// Say which pods have the sidecar, which have an outdated one, and which asked for it and do not have it
#[derive(Debug, Args)]
#[command(
    after_help = "States: injected (as it would be now); outdated-image (a restart gives it the new image); outdated-config (its \
profile has changed, and the change is on its way); refused (its profile cannot be applied to it any more; it keeps the \
configuration that it has); missing (asked for the sidecar and does not have it); unserved (its namespace alone asked, and it \
cannot be served). Pods that did not ask, and those that have ended, are not listed.\n\nReads pods, and where it may namespaces, \
ProxyProfiles, and of the injector's namespace the ConfigMap and the Lease dot-injector.\n\nExit codes: 0 all is well; 1 a pod is missing, \
outdated or refused, a profile cannot be used, or the cluster could not be asked; 2 wrong usage.\n\nExamples:\n  dot-injector \
status -A\n  dot-injector status -n shop -o json | jq -r '.pods[] | select(.state == \"missing\") | .name'"
)]
pub(super) struct Status {
    /// All namespaces
    #[arg(long, short = 'A', conflicts_with = "namespace")]
    all_namespaces: bool,
    /// The namespace to look into [default: that of the kubeconfig's context]
    #[arg(long, short, value_name = "NAME")]
    namespace: Option<String>,
    /// How to print it
    #[arg(long, short, value_enum, value_name = "FORMAT", default_value_t = Output::Table)]
    output: Output,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    connection: Connection,
}

/// How a report is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    Table,
    /// The same with owners, nodes and images
    Wide,
    /// For programs
    Json,
}

impl Status {
    pub(super) fn run(self) -> Result<(), Failure> {
        let report = self.connection.work(async |connected| self.look(connected).await)?;
        report.notes.iter().for_each(|note| say(format_args!("note: {note}\n")));
        print(&match self.output {
            Output::Table => report.table(self.all_namespaces, false, colour()),
            Output::Wide => report.table(self.all_namespaces, true, colour()),
            Output::Json => report.json(),
        })?;
        if report.is_well() { Ok(()) } else { Err(Failure::Negative) }
    }

    async fn look(&self, connected: Connected) -> Result<Report, Failure> {
        let Connected { client, namespace: of_context } = connected;
        let only = (!self.all_namespaces).then(|| self.namespace.clone().unwrap_or(of_context));
        let mut installation = Installation::read(&client, &self.place).await?;
        let labels = namespace_labels(&client, only.as_deref(), &mut installation.notes).await;
        let resource = ApiResource::erase::<Pod>(&());
        let pods: Api<DynamicObject> = match &only {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
            None => Api::all_with(client.clone(), &resource),
        };
        let facts = Facts {
            settings: &installation.settings,
            cluster: installation.cluster.as_ref(),
            profiles: &installation.profiles,
        };
        let (mut rows, no_labels) = (Vec::new(), std::collections::BTreeMap::new());
        let looked = each(&pods, |pod| {
            let name = pod.namespace().unwrap_or_default();
            let namespace = Namespace { name: &name, labels: labels.get(&name).unwrap_or(&no_labels) };
            rows.extend(Row::of(&value_of(&pod), namespace, facts));
        });
        looked.await.map_err(|error| Failure::Work(format!("the pods could not be read: {}", told(&error))))?;
        rows.sort();
        Ok(Report { rows, profiles: installation.told_of_profiles, notes: installation.notes })
    }
}
