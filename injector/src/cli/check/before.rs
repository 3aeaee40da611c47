//! Whether a cluster can run the sidecar: what `check` makes of what the API server says. Pure.

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{Namespace, Node, Service};
use kube::ResourceExt;

use super::finding::{Finding, listed};
use crate::annotations::namespace_asks;
use crate::cli::neighbours::Neighbour;
use crate::cli::pod_security::enforced;

/// Native sidecars (KEP-753) are on by default since this minor version of Kubernetes 1.
const OLDEST_MINOR: u32 = 29;
/// What cluster DNS is labelled with, whatever serves it.
pub(super) const CLUSTER_DNS: &str = "k8s-app=kube-dns";

/// Something that whoever installs the chart has to be allowed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Permission {
    pub(super) group: &'static str,
    pub(super) resource: &'static str,
    pub(super) is_namespaced: bool,
}

const fn cluster_wide(group: &'static str, resource: &'static str) -> Permission {
    Permission { group, resource, is_namespaced: false }
}

const fn namespaced(group: &'static str, resource: &'static str) -> Permission {
    Permission { group, resource, is_namespaced: true }
}

/// What the chart creates.
pub(super) const NEEDED: [Permission; 14] = [
    cluster_wide("apiextensions.k8s.io", "customresourcedefinitions"),
    cluster_wide("admissionregistration.k8s.io", "mutatingwebhookconfigurations"),
    cluster_wide("admissionregistration.k8s.io", "validatingadmissionpolicies"),
    cluster_wide("rbac.authorization.k8s.io", "clusterroles"),
    cluster_wide("rbac.authorization.k8s.io", "clusterrolebindings"),
    namespaced("", "configmaps"),
    namespaced("", "secrets"),
    namespaced("", "services"),
    namespaced("", "serviceaccounts"),
    namespaced("apps", "deployments"),
    namespaced("policy", "poddisruptionbudgets"),
    namespaced("networking.k8s.io", "networkpolicies"),
    namespaced("rbac.authorization.k8s.io", "roles"),
    namespaced("rbac.authorization.k8s.io", "rolebindings"),
];

pub(super) fn api_server(version: &str) -> Finding {
    if is_new_enough(version) {
        return Finding::ok("API server", version);
    }
    Finding::fail("API server", version, format!("native sidecars need 1.{OLDEST_MINOR} or later: upgrade the cluster"))
}

pub(super) fn nodes(nodes: kube::Result<Vec<Node>>) -> Finding {
    const WHAT: &str = "nodes";
    let nodes = match nodes {
        Ok(nodes) => nodes,
        Err(error) => return Finding::unseen(WHAT, &error),
    };
    let info = |node: &Node| node.status.as_ref().and_then(|status| status.node_info.clone()).unwrap_or_default();
    let old: Vec<String> = nodes
        .iter()
        .filter(|node| !is_new_enough(&info(node).kubelet_version))
        .map(|node| format!("{} ({})", node.name_any(), info(node).kubelet_version))
        .collect();
    if !old.is_empty() {
        let remedy = format!("native sidecars need kubelet 1.{OLDEST_MINOR} or later: upgrade them");
        return Finding::fail(WHAT, listed(&old), remedy);
    }
    let linux = nodes.iter().filter(|node| info(node).operating_system == "linux").count();
    match (linux, nodes.len() - linux) {
        (0, _) => Finding::fail(WHAT, "none runs Linux", "the proxy does: add a Linux node"),
        (linux, 0) => Finding::ok(WHAT, format!("{linux}, all Linux with kubelet 1.{OLDEST_MINOR} or later")),
        (linux, other) => Finding::ok(WHAT, format!("{linux} run Linux; pods for the {other} others are refused")),
    }
}

/// The permissions that are missing, of those that were asked about.
pub(super) fn permissions(missing: kube::Result<Vec<Permission>>) -> Finding {
    const WHAT: &str = "permissions";
    match missing {
        Err(error) => Finding::unseen(WHAT, &error),
        Ok(missing) if missing.is_empty() => {
            Finding::ok(WHAT, format!("all {} kinds of objects of the chart may be created", NEEDED.len()))
        }
        Ok(missing) => {
            let names: Vec<String> = missing.iter().map(|permission| permission.resource.to_owned()).collect();
            let detail = format!("may not create {}", names.join(", "));
            Finding::fail(WHAT, detail, "install as somebody who may, such as a cluster administrator")
        }
    }
}

pub(super) fn cluster_dns(services: kube::Result<Vec<Service>>) -> Finding {
    const WHAT: &str = "cluster DNS";
    let services = match services {
        Ok(services) => services,
        Err(error) => return Finding::unseen(WHAT, &error),
    };
    let address = |service: &Service| {
        let address = service.spec.as_ref()?.cluster_ip.clone().filter(|address| address != "None")?;
        Some(format!("{address} (Service {}/{})", service.namespace().unwrap_or_default(), service.name_any()))
    };
    let found: Vec<String> = services.iter().filter_map(address).collect();
    if found.is_empty() {
        return Finding::warn(
            WHAT,
            format!("no Service is labelled {CLUSTER_DNS}"),
            "the injector reads its address from its own resolv.conf; if that is a node's cache, set cluster.dnsAddresses",
        );
    }
    Finding::ok(WHAT, found.join(", "))
}

/// Of the namespaces that are meant to have the sidecar: those that are named, and those that ask.
pub(super) fn pod_security(namespaces: kube::Result<Vec<Namespace>>, named: &[String]) -> Finding {
    const WHAT: &str = "Pod Security";
    let namespaces = match namespaces {
        Ok(namespaces) => namespaces,
        Err(error) => return Finding::unseen(WHAT, &error),
    };
    let unknown: Vec<String> = named
        .iter()
        .filter(|name| !namespaces.iter().any(|namespace| namespace.name_any() == **name))
        .cloned()
        .collect();
    if !unknown.is_empty() {
        return Finding::fail(WHAT, format!("there is no namespace {}", unknown.join(", ")), "correct --target");
    }
    let meant = |namespace: &&Namespace| named.contains(&namespace.name_any()) || namespace_asks(namespace.labels());
    let meant: Vec<&Namespace> = namespaces.iter().filter(meant).collect();
    let wrong: Vec<String> = meant
        .iter()
        .filter_map(|namespace| {
            let error = enforced(namespace.labels()).err()?;
            Some(format!("{}: {error}", namespace.name_any()))
        })
        .collect();
    if !wrong.is_empty() {
        return Finding::warn(WHAT, listed(&wrong), "correct the labels: as they are, restricted is enforced");
    }
    let restricted = meant.iter().filter(|namespace| {
        enforced(namespace.labels()).is_ok_and(|level| level == crate::cli::pod_security::Level::Restricted)
    });
    Finding::ok(
        WHAT,
        match (meant.len(), restricted.count()) {
            (0, _) => "no namespace asks yet; the sidecar passes restricted".to_owned(),
            (all, restricted) => {
                format!("{all} namespaces asked or named, {restricted} enforce restricted, which the sidecar passes")
            }
        },
    )
}

pub(super) fn neighbours(configurations: kube::Result<Vec<MutatingWebhookConfiguration>>, ours: &str) -> Finding {
    const WHAT: &str = "other webhooks";
    let configurations = match configurations {
        Ok(configurations) => configurations,
        Err(error) => return Finding::unseen(WHAT, &error),
    };
    let neighbours = Neighbour::among(&configurations, ours);
    let told = |chosen: &[&Neighbour]| listed(&chosen.iter().map(|neighbour| neighbour.told()).collect::<Vec<_>>());
    let again: Vec<&Neighbour> = neighbours.iter().filter(|neighbour| neighbour.is_reinvoked).collect();
    if !again.is_empty() {
        return Finding::warn(
            WHAT,
            format!("called again after ours (reinvocationPolicy: IfNeeded): {}", told(&again)),
            "one that puts a container before the sidecar then gets the pod refused by the chart's policies: try `check --test-pod` in a namespace that has both",
        );
    }
    match neighbours.as_slice() {
        [] => Finding::ok(WHAT, "none changes pods"),
        all => {
            let told = told(&all.iter().collect::<Vec<_>>());
            Finding::ok(WHAT, format!("{told}: ours is called again after them, and goes first"))
        }
    }
}

/// Whether the API server has this kind of policies.
pub(super) fn policies(resources: kube::Result<Vec<String>>) -> Finding {
    const WHAT: &str = "policies";
    match resources {
        Err(error) => Finding::unseen(WHAT, &error),
        Ok(resources) if resources.iter().any(|resource| resource == "validatingadmissionpolicies") => {
            Finding::ok(WHAT, "the API server has ValidatingAdmissionPolicy")
        }
        Ok(_) => Finding::warn(
            WHAT,
            "the API server has no ValidatingAdmissionPolicy (Kubernetes 1.30)",
            "the sidecar works; nothing keeps other webhooks and tenants from undoing it: upgrade the cluster",
        ),
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::finding::Level;
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

    fn namespace(name: &str, labels: &serde_json::Value) -> Namespace {
        serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}})).unwrap()
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
        assert!(found.level == Level::Fail && found.detail.contains("old (v1.28.1)"), "{found:?}");
    }

    #[test]
    fn windows_nodes_are_told_and_a_cluster_without_linux_fails() {
        let mixed = nodes(Ok(vec![node("a", "v1.30.0", "linux"), node("b", "v1.30.0", "windows")]));
        assert!(mixed.level == Level::Ok && mixed.detail.contains("the 1 others"), "{mixed:?}");
        assert_eq!(nodes(Ok(vec![node("b", "v1.30.0", "windows")])).level, Level::Fail);
        assert_eq!(nodes(Ok(vec![])).level, Level::Fail);
    }

    #[test]
    fn permissions_that_are_missing_are_named() {
        let found = permissions(Ok(vec![NEEDED[0], NEEDED[3]]));
        assert_eq!(found.detail, "may not create customresourcedefinitions, clusterroles");
        assert_eq!(found.level, Level::Fail);
        assert_eq!(permissions(Ok(Vec::new())).level, Level::Ok);
    }

    #[test]
    fn cluster_dns_is_told_with_its_address_and_its_absence_with_the_remedy() {
        let service =
            json!({"metadata": {"name": "kube-dns", "namespace": "kube-system"}, "spec": {"clusterIP": "10.96.0.10"}});
        let found = cluster_dns(Ok(vec![serde_json::from_value(service).unwrap()]));
        assert_eq!(found.detail, "10.96.0.10 (Service kube-system/kube-dns)");
        let found = cluster_dns(Ok(Vec::new()));
        assert!(found.level == Level::Warn && found.remedy.contains("cluster.dnsAddresses"), "{found:?}");
    }

    #[test]
    fn namespaces_that_ask_or_are_named_are_looked_at_for_their_level() {
        let restricted = json!({"pod-security.kubernetes.io/enforce": "restricted"});
        let asking = json!({"dot-sidecar.io/inject": "true", "pod-security.kubernetes.io/enforce": "baseline"});
        let all = || vec![namespace("a", &restricted), namespace("b", &asking), namespace("c", &json!({}))];
        let found = pod_security(Ok(all()), &["a".to_owned()]);
        assert!(found.detail.starts_with("2 namespaces asked or named, 1 enforce restricted"), "{found:?}");
        assert_eq!(pod_security(Ok(all()), &["x".to_owned()]).level, Level::Fail);
        let wrong = json!({"pod-security.kubernetes.io/enforce": "strict"});
        assert_eq!(pod_security(Ok(vec![namespace("d", &wrong)]), &["d".to_owned()]).level, Level::Warn);
    }

    #[test]
    fn an_api_server_without_policies_is_a_warning() {
        assert_eq!(policies(Ok(vec!["validatingadmissionpolicies".to_owned()])).level, Level::Ok);
        assert_eq!(policies(Ok(vec!["mutatingwebhookconfigurations".to_owned()])).level, Level::Warn);
    }
}
