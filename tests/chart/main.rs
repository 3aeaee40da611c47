//! The Helm chart: what it renders, which pods its webhook configuration shows to the injector, what its policies let pass, what
//! an API server makes of ProxyProfiles and of injected pods, and what the injector finds of pods that lack the sidecar, and repairs.
//!
//! `rendering` needs helm, in PATH or named by the variable `HELM`. The others also need root: they start an API server by
//! `tests/cluster/cluster`, and some of them an injector beside it.
#![allow(
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed, and says why"
)]

mod by_policy;
mod check;
mod drift;
mod fleet;
mod forgeries;
mod gate;
mod guards;
mod installed;
#[path = "../../injector/tests/integration/laws.rs"]
mod laws;
mod live;
mod profiles;
mod reinvocation;
mod rendering;
#[path = "../../injector/tests/integration/shape.rs"]
mod shape;
mod shapes;
#[path = "../../injector/tests/integration/valid_pods.rs"]
mod valid_pods;

use std::process::Command;

use serde_json::Value;

/// The project's folder, in which every program is run.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// What the chart renders with these arguments of helm, in the namespace `release-space`, or why it refuses to.
fn render(arguments: &[&str]) -> Result<Vec<Value>, String> {
    let helm = std::env::var("HELM").unwrap_or_else(|_| "helm".to_owned());
    let output = Command::new(&helm)
        .args(["template", "dot-sidecar", "charts/dot-sidecar", "--namespace", "release-space"])
        .args(arguments)
        .current_dir(ROOT)
        .output()
        .unwrap_or_else(|error| panic!("{helm}: {error}; tests/cluster/cluster build helm builds one"));
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text.split("\n---\n").map(yaml).filter(|document| !document.is_null()).collect())
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error}:\n{text}"))
}
