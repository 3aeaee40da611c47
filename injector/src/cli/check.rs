//! `dot-injector check`

mod after;
mod before;
mod finding;
mod trial;

use clap::{Args, ValueEnum};
use futures_util::future::try_join_all;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Secret, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{ApiResource, DynamicObject, ListParams, PostParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client, ResourceExt};

use super::connection::{Connected, Connection, all, told};
use super::table::colour;
use super::{Failure, print};
use before::{NEEDED, Permission};
use finding::{Finding, Level};

/// Check whether the cluster can run the sidecar, and whether the installation is healthy
#[derive(Debug, Args)]
#[command(
    after_help = "Before (--pre: these alone): versions of the API server and of every kubelet, whether you may install the chart, \
cluster DNS, Pod Security of the namespaces that ask, other webhooks that change pods, policies. After: the webhook and its \
certificates, replicas, the leader, the policies in force, and what admission makes of a pod that asks, which is a dry run and \
creates nothing. What you may not read is a WARN.\n\nEach line is OK, WARN (it works; something is worth knowing) or FAIL, with the \
remedy.\n\nExit codes: 0 nothing failed; 1 something did, or with --strict was a WARN; 2 wrong usage.\n\nExamples:\n  \
dot-injector check --pre --target shop\n  dot-injector check -o json | jq -r '.checks[] | select(.level == \"FAIL\")'"
)]
pub(super) struct Check {
    /// Look at the cluster alone: before the chart is installed
    #[arg(long)]
    pre: bool,
    /// A namespace whose pods are to have the sidecar, beside those that ask already; repeatable
    #[arg(long, value_name = "NAME")]
    target: Vec<String>,
    /// Create a pod that asks, wait until it is Ready, and remove it
    #[arg(long, conflicts_with = "pre")]
    test_pod: bool,
    /// Where a pod is tried [default: the namespace of the kubeconfig's context]
    #[arg(long, value_name = "NAME")]
    try_in: Option<String>,
    /// A WARN counts as a failure
    #[arg(long)]
    strict: bool,
    /// How to print it
    #[arg(long, short, value_enum, value_name = "FORMAT", default_value_t = Output::Table)]
    output: Output,
    /// The injector's namespace
    #[arg(long, short, value_name = "NAME", default_value = "dot-sidecar", env = "POD_NAMESPACE")]
    namespace: String,
    /// The injector's Service
    #[arg(long, value_name = "NAME", default_value = "dot-injector")]
    service: String,
    /// The injector's MutatingWebhookConfiguration
    #[arg(long, value_name = "NAME", default_value = "dot-sidecar")]
    webhook_configuration: String,
    #[command(flatten)]
    connection: Connection,
}

/// How findings are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    Table,
    /// For programs
    Json,
}

/// What the chart calls its Secret and its Lease.
const SECRET: &str = "dot-injector-tls";
const LEASE: &str = "dot-injector";
/// How much longer it takes with a test pod, in seconds.
const TEST_POD: u64 = 120;

impl Check {
    pub(super) fn run(self) -> Result<(), Failure> {
        let longer = if self.test_pod { TEST_POD } else { 0 };
        let findings = self.connection.work_longer(longer, async |connected| self.look(connected).await)?;
        print(&match self.output {
            Output::Table => finding::table(&findings, colour()),
            Output::Json => finding::json(&findings),
        })?;
        let worst = if self.strict { Level::Ok } else { Level::Warn };
        if findings.iter().all(|finding| finding.level <= worst) { Ok(()) } else { Err(Failure::Negative) }
    }

    async fn look(&self, connected: Connected) -> Result<Vec<Finding>, Failure> {
        let Connected { client, namespace } = connected;
        let mut findings = self.before(&client).await?;
        if !self.pre {
            findings.extend(self.after(&client).await);
            let place = self.try_in.as_deref().unwrap_or(&namespace);
            let (finding, image) = trial::dry_run(&client, place).await;
            let is_admitted = finding.level == Level::Ok;
            findings.push(finding);
            if let Some(image) = image.filter(|_| self.test_pod && is_admitted) {
                findings.push(trial::real(&client, place, &image).await);
            }
        }
        Ok(findings)
    }

    async fn before(&self, client: &Client) -> Result<Vec<Finding>, Failure> {
        let version = client.apiserver_version().await.map_err(|error| {
            Failure::Work(format!("the API server could not be asked for its version: {}", told(&error)))
        })?;
        let services: Api<Service> = Api::all(client.clone());
        let services = services.list(&ListParams::default().labels(before::CLUSTER_DNS)).await.map(|list| list.items);
        let configurations: kube::Result<Vec<MutatingWebhookConfiguration>> = all(&Api::all(client.clone())).await;
        let namespaces: kube::Result<Vec<Namespace>> = all(&Api::all(client.clone())).await;
        let policies = client.list_api_group_resources("admissionregistration.k8s.io/v1").await;
        let policies = policies.map(|list| list.resources.into_iter().map(|resource| resource.name).collect());
        let mut findings =
            vec![before::api_server(&version.git_version), before::nodes(all(&Api::all(client.clone())).await)];
        if self.pre {
            findings.push(before::permissions(self.missing_permissions(client).await));
        }
        findings.extend([
            before::cluster_dns(services),
            before::pod_security(namespaces, &self.target),
            before::neighbours(configurations, &self.webhook_configuration),
            before::policies(policies),
        ]);
        Ok(findings)
    }

    async fn after(&self, client: &Client) -> Vec<Finding> {
        let configurations: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
        let configuration = configurations.get_opt(&self.webhook_configuration).await;
        let secrets: Api<Secret> = Api::namespaced(client.clone(), &self.namespace);
        let leases: Api<Lease> = Api::namespaced(client.clone(), &self.namespace);
        let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), &self.namespace);
        let of_service = ListParams::default().labels(&format!("kubernetes.io/service-name={}", self.service));
        let ours = ListParams::default().labels(after::PART_OF);
        let policies: Api<ValidatingAdmissionPolicy> = Api::all(client.clone());
        let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(client.clone());
        let is_missing = matches!(configuration, Ok(None));
        let injecting = if is_missing { mutating_policies(client).await } else { Vec::new() };
        let mut findings = if injecting.is_empty() {
            vec![
                after::webhook(&self.webhook_configuration, &configuration),
                after::certificate(SECRET, secrets.get_opt(SECRET).await),
                after::replicas(&self.namespace, &self.service, slices.list(&of_service).await),
            ]
        } else {
            vec![after::without_webhook(&injecting)]
        };
        findings.extend([
            after::leader(leases.get_opt(LEASE).await),
            after::policies(
                policies.list(&ours).await.map(|list| list.items),
                bindings.list(&ours).await.map(|list| list.items),
            ),
        ]);
        findings
    }

    /// What of the chart whoever runs this may not create.
    async fn missing_permissions(&self, client: &Client) -> kube::Result<Vec<Permission>> {
        let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
        let asked = NEEDED.iter().map(|permission| {
            let attributes = ResourceAttributes {
                group: Some(permission.group.to_owned()),
                resource: Some(permission.resource.to_owned()),
                verb: Some("create".to_owned()),
                namespace: permission.is_namespaced.then(|| self.namespace.clone()),
                ..ResourceAttributes::default()
            };
            let spec = SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
            let review = SelfSubjectAccessReview { spec, ..SelfSubjectAccessReview::default() };
            let reviews = reviews.clone();
            async move {
                let answer = reviews.create(&PostParams::default(), &review).await?;
                Ok::<_, kube::Error>((*permission, answer.status.is_some_and(|status| status.allowed)))
            }
        });
        let answers: Vec<(Permission, bool)> = try_join_all(asked).await?;
        Ok(answers.into_iter().filter(|(_, allowed)| !allowed).map(|(permission, _)| permission).collect())
    }
}

/// The names of the chart's MutatingAdmissionPolicies; none where the API server does not know the kind.
async fn mutating_policies(client: &Client) -> Vec<String> {
    let kind = GroupVersionKind::gvk("admissionregistration.k8s.io", "v1", "MutatingAdmissionPolicy");
    let policies: Api<DynamicObject> = Api::all_with(client.clone(), &ApiResource::from_gvk(&kind));
    let found = policies.list_metadata(&ListParams::default().labels(after::PART_OF)).await;
    found.map(|list| list.iter().map(ResourceExt::name_any).collect()).unwrap_or_default()
}
