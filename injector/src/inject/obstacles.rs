//! What in a pod stands in the way of the sidecar.

use crate::profile::OwnNameservers;

use super::pod::{Container, NodeSelectorTerm, Pod, Spec};
use super::refusal::Refusal;
use super::sidecar::{ADMIN_PORT, CONTAINER, VOLUME};
use super::{PORT, original};

/// The labels by which nodes tell their operating system.
const OS_LABELS: [&str; 2] = ["kubernetes.io/os", "beta.kubernetes.io/os"];

/// The first thing that stands in the way, if any. The pod is without anything of ours.
pub(super) fn find(pod: &Pod, own_nameservers: OwnNameservers) -> Result<(), Refusal> {
    let spec = &pod.spec;
    windows(spec)?;
    host_network(spec)?;
    if own_nameservers == OwnNameservers::Refuse {
        own_resolver(spec)?;
    }
    names_taken(spec)?;
    low_ports_closed(spec)?;
    spec.all_containers().try_for_each(|container| {
        ports_taken(container)?;
        resolv_conf_mounted(container)
    })
}

fn windows(spec: &Spec) -> Result<(), Refusal> {
    if spec.os.name == "windows" {
        return Err(Refusal::Windows { field: "spec.os.name" });
    }
    for (label, field) in [
        (OS_LABELS[0], "spec.nodeSelector: kubernetes.io/os"),
        (OS_LABELS[1], "spec.nodeSelector: beta.kubernetes.io/os"),
    ] {
        if spec.node_selector.get(label).is_some_and(|os| os == "windows") {
            return Err(Refusal::Windows { field });
        }
    }
    let terms = &spec.affinity.node_affinity.required.node_selector_terms;
    if !terms.is_empty() && terms.iter().all(demands_windows) {
        return Err(Refusal::Windows { field: "spec.affinity.nodeAffinity: kubernetes.io/os" });
    }
    Ok(())
}

fn demands_windows(term: &NodeSelectorTerm) -> bool {
    term.match_expressions.iter().any(|needed| {
        OS_LABELS.contains(&needed.key.as_str()) && needed.operator == "In" && needed.values == ["windows"]
    })
}

fn host_network(spec: &Spec) -> Result<(), Refusal> {
    if spec.host_network { Err(Refusal::HostNetwork) } else { Ok(()) }
}

/// `ClusterFirst` is served, and `ClusterFirstWithHostNet`, which without hostNetwork is the same.
fn own_resolver(spec: &Spec) -> Result<(), Refusal> {
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    if !matches!(policy, "ClusterFirst" | "ClusterFirstWithHostNet") {
        return Err(Refusal::OwnResolver { field: "spec.dnsPolicy", value: policy.to_owned() });
    }
    if spec.dns_config.nameservers.is_empty() {
        return Ok(());
    }
    let value = format!("[{}]", spec.dns_config.nameservers.join(", "));
    Err(Refusal::OwnResolver { field: "spec.dnsConfig.nameservers", value })
}

fn names_taken(spec: &Spec) -> Result<(), Refusal> {
    let taken = |field: &str, name| Err(Refusal::NameTaken { field: field.to_owned(), name });
    if spec.init_containers.iter().any(|container| container.name == CONTAINER) {
        return taken("spec.initContainers", CONTAINER);
    }
    if spec.containers.iter().any(|container| container.name == CONTAINER) {
        return taken("spec.containers", CONTAINER);
    }
    if spec.volumes.iter().any(|volume| volume.name == VOLUME) {
        return taken("spec.volumes", VOLUME);
    }
    Ok(())
}

fn low_ports_closed(spec: &Spec) -> Result<(), Refusal> {
    for sysctl in spec.security_context.sysctls.iter().filter(|sysctl| original::is_port_start(&sysctl.name)) {
        if !sysctl.value.trim().parse::<u16>().is_ok_and(|start| start <= PORT) {
            return Err(Refusal::LowPortsClosed { value: sysctl.value.clone() });
        }
    }
    Ok(())
}

fn ports_taken(container: &Container) -> Result<(), Refusal> {
    for port in &container.ports {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let needed = match (u16::try_from(port.container_port), protocol) {
            (Ok(PORT), "UDP" | "TCP") => PORT,
            (Ok(ADMIN_PORT), "TCP") => ADMIN_PORT,
            _ => continue,
        };
        let container = container.name.clone();
        return Err(Refusal::PortTaken { container, port: needed, protocol: protocol.to_owned() });
    }
    Ok(())
}

/// A mount on the file itself, or on the directory, hides what the kubelet writes there.
fn resolv_conf_mounted(container: &Container) -> Result<(), Refusal> {
    for mount in &container.volume_mounts {
        let path = normal_path(&mount.mount_path);
        if path == "/etc/resolv.conf" || path == "/etc" {
            let container = container.name.clone();
            return Err(Refusal::ResolvConfMounted { container, path: mount.mount_path.clone() });
        }
    }
    Ok(())
}

/// A path as the container runtime sees it: one slash between names, no `.`, `..` resolved.
fn normal_path(path: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    format!("/{}", names.join("/"))
}
