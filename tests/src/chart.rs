//! The Helm chart, as the tests install it.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::command::{Call, Output};
use crate::deadline::eventually;

/// The release's name.
pub const RELEASE: &str = "dot-sidecar";
/// The namespace of the release.
pub const NAMESPACE: &str = "dot-sidecar-system";
/// The injector's Deployment, in that namespace.
pub const INJECTOR: &str = "dot-injector";

/// The chart in this working tree.
pub fn folder() -> String {
    concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/dot-sidecar").to_owned()
}

/// A release with values of its own.
#[derive(Debug)]
pub struct Chart {
    values: PathBuf,
}

impl Chart {
    /// A release that sends public names to `server`, whose certificate `ca` vouches for. Nothing is installed yet.
    pub fn new(server: &str, ca: &str) -> Self {
        let values = json!({
            "injector": {
                "image": {"repository": "dot-sidecar.local/dot-injector", "tag": "test", "pullPolicy": "Never"},
                "log": {"verbose": true}
            },
            "sidecar": {"image": {"repository": "dot-sidecar.local/dot-proxy", "tag": "test", "pullPolicy": "Never"}},
            "profile": {"upstream": {"servers": [server], "ca": ca}}
        });
        let file = std::env::temp_dir().join(format!("dot-e2e-values-{}.json", std::process::id()));
        fs::write(&file, values.to_string()).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        Self { values: file }
    }

    /// `helm install`; it returns when every replica is ready, and kube-proxy, which learns of that a moment later, leads there.
    pub fn install(&self) {
        self.helm("install --wait --timeout 90s", "").succeed();
        let url = self.url();
        eventually("the injector's Service answers", Duration::from_secs(30), || {
            let asked =
                Call::new("curl").words("--silent --show-error --insecure --max-time 5 --output /dev/null").arg(&url);
            let output = asked.output();
            if output.success { Ok(()) } else { Err(output.to_string()) }
        });
    }

    /// Where the injector's Service is.
    pub fn url(&self) -> String {
        let address =
            Call::kubectl("get service dot-injector -o jsonpath={.spec.clusterIP} --namespace").arg(NAMESPACE);
        format!("https://{}/", address.succeed())
    }

    /// `helm upgrade` with the same values and these further ones (as `--set` has them), if any.
    pub fn upgrade(&self, set: &str) {
        self.helm("upgrade --wait --timeout 90s", set).succeed();
    }

    /// `helm upgrade` with the same values and these further options of helm, split at spaces.
    pub fn upgrade_with(&self, options: &str) {
        self.helm("upgrade --wait --timeout 90s", "").words(options).succeed();
    }

    /// `helm install` over a release that is there.
    pub fn install_again(&self) -> Output {
        self.helm("install --wait --timeout 90s", "").output()
    }

    /// `helm uninstall`; succeeds too where nothing is installed.
    pub fn uninstall(&self) {
        Call::new("helm")
            .words(&format!("uninstall {RELEASE} --namespace {NAMESPACE} --ignore-not-found --wait --timeout 90s"))
            .succeed();
    }

    /// What the release consists of, as the API server has it.
    pub fn objects(&self) -> Vec<Value> {
        let manifest = Call::new("helm").words(&format!("get manifest {RELEASE} --namespace {NAMESPACE}")).succeed();
        let file = self.values.with_extension("manifest.yaml");
        fs::write(&file, manifest).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let objects = Call::kubectl("get -o json -f").arg(&file).json();
        let _ = fs::remove_file(&file);
        objects["items"].as_array().cloned().unwrap_or_default()
    }

    fn helm(&self, verb: &str, set: &str) -> Call {
        let call = Call::new("helm").words(verb).arg(RELEASE).arg(folder()).arg("--namespace").arg(NAMESPACE);
        let call = call.arg("--values").arg(&self.values);
        if set.is_empty() { call } else { call.arg("--set").arg(set) }
    }
}
