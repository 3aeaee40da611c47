//! `dot-injector check`

mod findings;

use std::time::Duration;

use clap::Args;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::ListParams;
use kube::config::KubeConfigOptions;
use kube::{Api, Client, Config};
use tokio::time::timeout;

use super::{Failure, block_on, print};
use findings::Finding;

/// An API server that does not answer within this time is not ready for anything.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Nodes are read in pages of so many.
const PAGE: u32 = 500;

/// Check whether the cluster can run the sidecar, and whether the installation is healthy
#[derive(Debug, Args)]
#[command(
    after_help = "Uses KUBECONFIG, or the service account in a pod; needs to read nodes, the webhook configuration and \
EndpointSlices.\n\nExit code 1 where something is not as it must be."
)]
pub(super) struct Check {
    /// Look at the cluster alone: before the chart is installed
    #[arg(long)]
    pre: bool,
    /// The kubeconfig's context to use [default: the current one]
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
    /// The injector's namespace
    #[arg(long, short, value_name = "NAME", default_value = "dot-sidecar", env = "POD_NAMESPACE")]
    namespace: String,
    /// The injector's Service
    #[arg(long, value_name = "NAME", default_value = "dot-injector")]
    service: String,
    /// The injector's MutatingWebhookConfiguration
    #[arg(long, value_name = "NAME", default_value = "dot-sidecar")]
    webhook_configuration: String,
}

impl Check {
    pub(super) fn run(self) -> Result<(), Failure> {
        let findings = block_on(async {
            timeout(TIMEOUT, self.look())
                .await
                .map_err(|_| Failure::Work(format!("the API server did not answer within {} s", TIMEOUT.as_secs())))?
        })??;
        print(&findings::table(&findings))?;
        if findings.iter().all(Finding::is_good) { Ok(()) } else { Err(Failure::Negative) }
    }

    async fn look(&self) -> Result<Vec<Finding>, Failure> {
        let client = self.client().await?;
        let version = client
            .apiserver_version()
            .await
            .map_err(|error| Failure::Work(format!("the API server could not be asked for its version: {error}")))?;
        let mut findings = vec![findings::api_server(&version.git_version), findings::nodes(nodes(&client).await)];
        if self.pre {
            return Ok(findings);
        }
        let configurations: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
        let configuration = configurations.get_opt(&self.webhook_configuration).await;
        findings.push(findings::webhook(&self.webhook_configuration, configuration));
        let slices: Api<EndpointSlice> = Api::namespaced(client, &self.namespace);
        let of_service = ListParams::default().labels(&format!("kubernetes.io/service-name={}", self.service));
        findings.push(findings::replicas(&self.namespace, &self.service, slices.list(&of_service).await));
        Ok(findings)
    }

    async fn client(&self) -> Result<Client, Failure> {
        let config = match &self.context {
            None => Config::infer().await.map_err(Failure::usage)?,
            Some(context) => {
                let options = KubeConfigOptions { context: Some(context.clone()), ..KubeConfigOptions::default() };
                Config::from_kubeconfig(&options)
                    .await
                    .map_err(|error| Failure::Usage(format!("--context {context}: {error}")))?
            }
        };
        Client::try_from(config).map_err(Failure::usage)
    }
}

async fn nodes(client: &Client) -> kube::Result<Vec<Node>> {
    let api: Api<Node> = Api::all(client.clone());
    let mut nodes = Vec::new();
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let page = api.list(&params).await?;
        nodes.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(nodes),
        }
    }
}
