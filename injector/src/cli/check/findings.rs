//! What `check` makes of what the API server says. Pure.

use std::fmt::Write as _;

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use kube::core::ObjectList;

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    what: &'static str,
    good: bool,
    detail: String,
}

/// Native sidecars (KEP-753) are on by default since this minor version of Kubernetes 1.
const OLDEST_MINOR: u32 = 29;
/// So many nodes are named; of more, the number is told.
const MOST_NAMED: usize = 5;

impl Finding {
    pub(super) fn is_good(&self) -> bool {
        self.good
    }

    fn good(what: &'static str, detail: impl Into<String>) -> Self {
        Self { what, good: true, detail: detail.into() }
    }

    fn bad(what: &'static str, detail: impl Into<String>) -> Self {
        Self { what, good: false, detail: detail.into() }
    }
}

pub(super) fn api_server(version: &str) -> Finding {
    if is_new_enough(version) {
        return Finding::good("API server", version);
    }
    Finding::bad(
        "API server",
        format!("{version}: native sidecars need 1.{OLDEST_MINOR} or later: upgrade the cluster"),
    )
}

pub(super) fn nodes(nodes: kube::Result<Vec<Node>>) -> Finding {
    const WHAT: &str = "nodes";
    let nodes = match nodes {
        Ok(nodes) => nodes,
        Err(error) => return Finding::bad(WHAT, format!("could not be read: {error}")),
    };
    let info = |node: &Node| node.status.as_ref().and_then(|status| status.node_info.clone()).unwrap_or_default();
    let old: Vec<String> = nodes
        .iter()
        .filter(|node| !is_new_enough(&info(node).kubelet_version))
        .map(|node| format!("{} ({})", node.name_any(), info(node).kubelet_version))
        .collect();
    if !old.is_empty() {
        return Finding::bad(
            WHAT,
            format!("native sidecars need kubelet 1.{OLDEST_MINOR} or later: upgrade {}", listed(&old)),
        );
    }
    let linux = nodes.iter().filter(|node| info(node).operating_system == "linux").count();
    match (linux, nodes.len() - linux) {
        (0, _) => Finding::bad(WHAT, "none runs Linux: the proxy does"),
        (linux, 0) => Finding::good(WHAT, format!("{linux}, all Linux with kubelet 1.{OLDEST_MINOR} or later")),
        (linux, other) => Finding::good(WHAT, format!("{linux} run Linux; pods for the {other} others are refused")),
    }
}

pub(super) fn webhook(name: &str, found: kube::Result<Option<MutatingWebhookConfiguration>>) -> Finding {
    const WHAT: &str = "webhook";
    let webhooks = match found {
        Ok(Some(configuration)) => configuration.webhooks.unwrap_or_default(),
        Ok(None) => {
            return Finding::bad(WHAT, format!("there is no MutatingWebhookConfiguration {name}: install the chart"));
        }
        Err(error) => {
            return Finding::bad(WHAT, format!("MutatingWebhookConfiguration {name} could not be read: {error}"));
        }
    };
    let untrusting =
        |bundle: &Option<k8s_openapi::ByteString>| bundle.as_ref().is_none_or(|bundle| bundle.0.is_empty());
    let without: Vec<String> = webhooks
        .iter()
        .filter(|webhook| untrusting(&webhook.client_config.ca_bundle))
        .map(|webhook| webhook.name.clone())
        .collect();
    if webhooks.is_empty() {
        return Finding::bad(WHAT, format!("MutatingWebhookConfiguration {name} has no webhooks: install the chart"));
    }
    if !without.is_empty() {
        let names = listed(&without);
        return Finding::bad(WHAT, format!("no caBundle in {names}: the injector writes it: look into its log"));
    }
    Finding::good(WHAT, format!("{name}: {} entries, each with a caBundle", webhooks.len()))
}

pub(super) fn replicas(namespace: &str, service: &str, slices: kube::Result<ObjectList<EndpointSlice>>) -> Finding {
    const WHAT: &str = "replicas";
    let slices = match slices {
        Ok(slices) => slices,
        Err(error) => return Finding::bad(WHAT, format!("EndpointSlices in {namespace} could not be read: {error}")),
    };
    let conditions = slices.iter().flat_map(|slice| &slice.endpoints).map(|endpoint| endpoint.conditions.clone());
    // Left out, it means ready.
    let ready = conditions.filter(|conditions| conditions.as_ref().and_then(|it| it.ready).unwrap_or(true)).count();
    match ready {
        0 => Finding::bad(
            WHAT,
            format!(
                "none of Service {namespace}/{service} is ready: pods that ask for the sidecar are refused: look into the injector's log"
            ),
        ),
        1 => Finding::good(WHAT, "1 is ready; with two, pods can be made while one restarts"),
        ready => Finding::good(WHAT, format!("{ready} are ready")),
    }
}

/// A plain table, its columns aligned.
pub(super) fn table(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.what.len()).max().unwrap_or_default();
    let mut table = format!("{:width$}  STATE   DETAIL\n", "CHECK");
    for Finding { what, good, detail } in findings {
        let state = if *good { "ok" } else { "failed" };
        // Writing to a String cannot fail.
        let _ = writeln!(table, "{what:width$}  {state:6}  {detail}");
    }
    table
}

/// Whether a version such as `v1.29.3-gke.100` has native sidecars.
fn is_new_enough(version: &str) -> bool {
    let mut parts = version.trim_start_matches('v').split('.');
    let number = |part: Option<&str>| {
        let digits: String = part?.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u32>().ok()
    };
    match (number(parts.next()), number(parts.next())) {
        (Some(1), Some(minor)) => minor >= OLDEST_MINOR,
        (Some(major), _) => major > 1,
        _ => false,
    }
}

fn listed(names: &[String]) -> String {
    let named = names.iter().take(MOST_NAMED).cloned().collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(MOST_NAMED) {
        Some(more @ 1..) => format!("{named} and {more} more"),
        _ => named,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(name: &str, version: &str, os: &str) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": name},
            "status": {"nodeInfo": {
                "architecture": "", "bootID": "", "containerRuntimeVersion": "", "kernelVersion": "", "kubeProxyVersion": "",
                "machineID": "", "osImage": "", "systemUUID": "", "kubeletVersion": version, "operatingSystem": os
            }}
        }))
        .unwrap()
    }

    fn configuration(bundles: &[Option<&str>]) -> MutatingWebhookConfiguration {
        let webhooks: Vec<_> = bundles
            .iter()
            .map(|bundle| {
                json!({"name": "a.dot-sidecar.io", "admissionReviewVersions": ["v1"], "sideEffects": "None",
                       "clientConfig": {"caBundle": bundle}})
            })
            .collect();
        serde_json::from_value(json!({"metadata": {"name": "dot-sidecar"}, "webhooks": webhooks})).unwrap()
    }

    fn slices(ready: &[bool]) -> ObjectList<EndpointSlice> {
        let endpoints: Vec<_> =
            ready.iter().map(|ready| json!({"addresses": ["10.0.0.1"], "conditions": {"ready": ready}})).collect();
        serde_json::from_value(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSliceList", "metadata": {},
            "items": [{"addressType": "IPv4", "endpoints": endpoints, "metadata": {"name": "a"}}]
        }))
        .unwrap()
    }

    #[test]
    fn versions_since_1_29_are_new_enough() {
        for version in ["v1.29.0", "v1.37.2", "1.30", "v1.29.3-gke.1093000", "v1.31+", "v2.0.0"] {
            assert!(is_new_enough(version), "{version}");
        }
        for version in ["v1.28.15", "v1.9.0", "", "nonsense", "v0.30.0"] {
            assert!(!is_new_enough(version), "{version}");
        }
    }

    #[test]
    fn one_old_kubelet_is_enough_to_fail_and_is_named() {
        let found = nodes(Ok(vec![node("new", "v1.30.0", "linux"), node("old", "v1.28.1", "linux")]));
        assert!(!found.good && found.detail.contains("old (v1.28.1)"), "{found:?}");
    }

    #[test]
    fn windows_nodes_are_told_and_a_cluster_without_linux_fails() {
        let mixed = nodes(Ok(vec![node("a", "v1.30.0", "linux"), node("b", "v1.30.0", "windows")]));
        assert!(mixed.good && mixed.detail.contains("the 1 others"), "{mixed:?}");
        assert!(!nodes(Ok(vec![node("b", "v1.30.0", "windows")])).good);
        assert!(!nodes(Ok(vec![])).good);
    }

    #[test]
    fn a_webhook_needs_a_bundle_in_each_of_its_entries() {
        assert!(webhook("dot-sidecar", Ok(Some(configuration(&[Some("QQ=="), Some("QQ==")])))).good);
        for broken in [Some(configuration(&[Some("QQ=="), None])), Some(configuration(&[])), None] {
            let found = webhook("dot-sidecar", Ok(broken));
            assert!(!found.good, "{found:?}");
        }
    }

    #[test]
    fn at_least_one_replica_must_be_ready() {
        assert!(replicas("dot-sidecar", "dot-injector", Ok(slices(&[true, true]))).good);
        assert!(replicas("dot-sidecar", "dot-injector", Ok(slices(&[true, false]))).detail.contains("with two"));
        assert!(!replicas("dot-sidecar", "dot-injector", Ok(slices(&[false]))).good);
        assert!(!replicas("dot-sidecar", "dot-injector", Ok(slices(&[]))).good);
    }

    #[test]
    fn the_table_is_plain_and_aligned() {
        let table = table(&[Finding::good("nodes", "3"), Finding::bad("API server", "v1.28.0: upgrade")]);
        assert_eq!(table, "CHECK       STATE   DETAIL\nnodes       ok      3\nAPI server  failed  v1.28.0: upgrade\n");
    }
}
