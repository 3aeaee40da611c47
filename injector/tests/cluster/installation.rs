//! The chart, installed but for what would run it: no node is there, so the test starts the replicas itself.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::control_plane::{folder, kubectl, run};

pub(crate) const NAMESPACE: &str = "dot-sidecar";
/// Where the test's pods are.
pub(crate) const PODS: &str = "shop";

/// What was installed.
pub(crate) struct Installation {
    pub(crate) client: Client,
    /// By which replicas come with the rights of the chart and no others.
    pub(crate) kubeconfig: PathBuf,
    /// The injector's configuration.
    pub(crate) config: PathBuf,
    /// Where the API server calls the webhook.
    pub(crate) service: SocketAddr,
}

impl Installation {
    /// Installs the chart with these values (as `--set` has them), and has the network lead to its Service.
    pub(crate) async fn new(values: &str) -> Self {
        let documents = rendered(values);
        for namespace in [NAMESPACE, PODS] {
            kubectl(
                "apply --server-side -f -",
                &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}).to_string(),
            );
        }
        kubectl("apply --server-side -f -", &documents);
        // No controller makes the accounts that pods have by default.
        let namespaces = kubectl("get namespaces -o name", "");
        for namespace in namespaces.lines().map(|line| line.trim_start_matches("namespace/")) {
            let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": namespace}});
            kubectl("apply --server-side -f -", &account.to_string());
        }
        let folder = folder();
        let (kubeconfig, config) = (folder.join("kubeconfig"), folder.join("config.yaml"));
        std::fs::write(&kubeconfig, kubeconfig_of_the_account().to_string()).unwrap();
        write_settings(&config);
        let address = kubectl(&format!("get service dot-injector -n {NAMESPACE} -o jsonpath={{.spec.clusterIP}}"), "");
        run("ip", &["address", "add", &format!("{address}/32"), "dev", "lo"], "");
        let service = SocketAddr::new(address.parse::<IpAddr>().unwrap(), 443);
        Self { client: client().await, kubeconfig, config, service }
    }

    /// The same after an upgrade with these values.
    pub(crate) fn reconfigured(&self, values: &str) -> Self {
        kubectl("apply --server-side -f -", &rendered(values));
        let config = self.config.with_file_name("changed.yaml");
        write_settings(&config);
        let (client, kubeconfig, service) = (self.client.clone(), self.kubeconfig.clone(), self.service);
        Self { client, kubeconfig, config, service }
    }

    pub(crate) fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    pub(crate) fn webhooks(&self) -> Api<MutatingWebhookConfiguration> {
        Api::all(self.client.clone())
    }

    /// A part of the Secret, as it is now.
    pub(crate) async fn secret(&self, part: &str) -> Option<String> {
        let secret = self.secrets().get_opt("dot-injector-tls").await.unwrap()?;
        String::from_utf8(secret.data?.get(part)?.0.clone()).ok()
    }

    /// The bundle, where all webhooks have the same.
    pub(crate) async fn bundle(&self) -> Option<String> {
        let webhooks = self.webhooks().get("dot-sidecar").await.unwrap().webhooks.unwrap();
        let mut bundles = webhooks.into_iter().map(|webhook| webhook.client_config.ca_bundle.map(|bundle| bundle.0));
        let first = bundles.next()??;
        bundles.all(|bundle| bundle.as_ref() == Some(&first)).then(|| String::from_utf8(first).unwrap())
    }

    /// How many authorities are trusted.
    pub(crate) async fn trusted(&self) -> usize {
        self.bundle().await.map_or(0, |bundle| bundle.matches("BEGIN CERTIFICATE").count())
    }

    /// Overwrites the bundle of all webhooks, as somebody does who knows no better.
    pub(crate) fn overwrite_bundle(pem: &str) {
        let bundle = STANDARD.encode(pem);
        let replace = |number: usize| json!({"op": "add", "path": format!("/webhooks/{number}/clientConfig/caBundle"), "value": bundle});
        let patch = Value::from((0..3).map(replace).collect::<Vec<_>>()).to_string();
        let arguments = [
            "patch",
            "mutatingwebhookconfiguration",
            "dot-sidecar",
            "--type=json",
            "--field-manager=somebody",
            "-p",
            &patch,
        ];
        run("kubectl", &arguments, "");
    }
}

/// The cluster's administrator, who hears at once what the API server cannot do.
async fn client() -> Client {
    let mut config = kube::Config::infer().await.unwrap();
    config.default_retry = false;
    Client::try_from(config).unwrap()
}

/// What the chart renders.
fn rendered(values: &str) -> String {
    let helm = std::env::var("HELM").unwrap_or_else(|_| "helm".to_owned());
    let values = format!("cluster.domain=cluster.local,cluster.dnsAddresses={{10.96.0.10}},{values}");
    let arguments = [
        "template",
        "dot-sidecar",
        "charts/dot-sidecar",
        "--namespace",
        NAMESPACE,
        "--kube-version",
        "1.37.0",
        "--set",
        &values,
    ];
    let rendered = run(&helm, &arguments, "");
    // Nobody knows cert-manager's resources here.
    let documents = rendered.split("\n---\n").filter(|document| !document.contains("cert-manager.io/v1\n"));
    documents.collect::<Vec<_>>().join("\n---\n")
}

/// Writes the injector's configuration as the ConfigMap has it.
fn write_settings(file: &std::path::Path) {
    let text = kubectl(&format!("get configmap dot-injector -n {NAMESPACE} -o jsonpath={{.data.config\\.yaml}}"), "");
    std::fs::write(file, text).unwrap();
}

fn kubeconfig_of_the_account() -> Value {
    let config = kubectl("config view --raw -o json", "");
    let mut config: Value = serde_json::from_str(&config).unwrap();
    let token = kubectl(&format!("create token dot-injector -n {NAMESPACE} --duration=1h"), "");
    config["users"][0]["user"] = json!({"token": token.trim()});
    config
}
