//! The Pod Security Standards, as admission enforces them by a namespace's labels: what of a pod would be refused. Pure.
//!
//! <https://kubernetes.io/docs/concepts/security/pod-security-standards/>

use std::collections::BTreeMap;

use serde_json::Value;

/// How much a namespace lets its pods do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Privileged,
    Baseline,
    Restricted,
}

/// The label that makes the API server refuse pods.
const ENFORCE: &str = "pod-security.kubernetes.io/enforce";
/// Capabilities that baseline lets a container add.
const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
/// Sysctls that baseline lets a pod set.
const SYSCTLS: [&str; 10] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_syncookies",
];
/// Volumes that restricted lets a pod have.
const VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

/// What a namespace with these labels enforces. The error names a value that is none of the three; admission then enforces the
/// strictest.
pub(super) fn enforced(labels: &BTreeMap<String, String>) -> Result<Level, String> {
    match labels.get(ENFORCE).map(String::as_str) {
        None | Some("privileged") => Ok(Level::Privileged),
        Some("baseline") => Ok(Level::Baseline),
        Some("restricted") => Ok(Level::Restricted),
        Some(other) => Err(format!("{ENFORCE}: {other:?} is none of privileged, baseline and restricted")),
    }
}

/// What of a pod this level does not allow, a sentence each.
pub(super) fn violations(pod: &Value, level: Level) -> Vec<String> {
    let mut found = Vec::new();
    let spec = &pod["spec"];
    if level >= Level::Baseline {
        of_pod_by_baseline(spec, &mut found);
        containers(spec).for_each(|container| of_container_by_baseline(container, &mut found));
    }
    if level == Level::Restricted {
        of_volumes_by_restricted(spec, &mut found);
        containers(spec).for_each(|container| of_container_by_restricted(spec, container, &mut found));
    }
    found
}

fn of_pod_by_baseline(spec: &Value, found: &mut Vec<String>) {
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        if spec[field] == true {
            found.push(format!("spec.{field}: true"));
        }
    }
    for volume in list(spec, "volumes").filter(|volume| !volume["hostPath"].is_null()) {
        found.push(format!("volume {} is a hostPath", name(volume)));
    }
    let context = &spec["securityContext"];
    for sysctl in list(context, "sysctls") {
        let written = name(sysctl);
        if !SYSCTLS.contains(&written.replace('/', ".").as_str()) {
            found.push(format!("sysctl {written}"));
        }
    }
    of_context_by_baseline(context, "the pod", found);
}

fn of_container_by_baseline(container: &Value, found: &mut Vec<String>) {
    let who = format!("container {}", name(container));
    let context = &container["securityContext"];
    if context["privileged"] == true {
        found.push(format!("{who} is privileged"));
    }
    for capability in strings(&context["capabilities"], "add").filter(|added| !CAPABILITIES.contains(added)) {
        found.push(format!("{who} adds the capability {capability}"));
    }
    for port in list(container, "ports").filter_map(|port| port["hostPort"].as_u64()).filter(|port| *port != 0) {
        found.push(format!("{who} has hostPort: {port}"));
    }
    if context["procMount"].as_str().is_some_and(|mount| mount != "Default") {
        found.push(format!("{who} has another procMount than Default"));
    }
    of_context_by_baseline(context, &who, found);
}

/// What both a pod's security context and a container's may say.
fn of_context_by_baseline(context: &Value, who: &str, found: &mut Vec<String>) {
    if context["windowsOptions"]["hostProcess"] == true {
        found.push(format!("{who} is a host process"));
    }
    if context["seccompProfile"]["type"] == "Unconfined" {
        found.push(format!("{who} has seccompProfile: Unconfined"));
    }
    if context["appArmorProfile"]["type"] == "Unconfined" {
        found.push(format!("{who} has appArmorProfile: Unconfined"));
    }
    let selinux = &context["seLinuxOptions"];
    let types = ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];
    let other = selinux["type"].as_str().is_some_and(|kind| !types.contains(&kind));
    if other || ["user", "role"].iter().any(|part| selinux[*part].as_str().is_some_and(|value| !value.is_empty())) {
        found.push(format!("{who} has seLinuxOptions of its own"));
    }
}

fn of_volumes_by_restricted(spec: &Value, found: &mut Vec<String>) {
    for volume in list(spec, "volumes") {
        let kinds = volume.as_object().into_iter().flatten().map(|(kind, _)| kind.as_str());
        for kind in kinds.filter(|kind| !VOLUMES.contains(kind) && !matches!(*kind, "name" | "hostPath")) {
            found.push(format!("volume {} is a {kind}", name(volume)));
        }
    }
}

fn of_container_by_restricted(spec: &Value, container: &Value, found: &mut Vec<String>) {
    let who = format!("container {}", name(container));
    let (own, of_pod) = (&container["securityContext"], &spec["securityContext"]);
    let either = |field: &str| if own[field].is_null() { &of_pod[field] } else { &own[field] };
    if own["allowPrivilegeEscalation"] != false {
        found.push(format!("{who} has no allowPrivilegeEscalation: false"));
    }
    if *either("runAsNonRoot") != true {
        found.push(format!("{who} has no runAsNonRoot: true"));
    }
    if *either("runAsUser") == 0 {
        found.push(format!("{who} runs as root (runAsUser: 0)"));
    }
    if !matches!(either("seccompProfile")["type"].as_str(), Some("RuntimeDefault" | "Localhost")) {
        found.push(format!("{who} has no seccompProfile of type RuntimeDefault or Localhost"));
    }
    if !strings(&own["capabilities"], "drop").any(|dropped| dropped == "ALL") {
        found.push(format!("{who} does not drop the capabilities ALL"));
    }
    let allowed = |added: &&str| *added != "NET_BIND_SERVICE" && CAPABILITIES.contains(added);
    for capability in strings(&own["capabilities"], "add").filter(allowed) {
        found.push(format!("{who} adds the capability {capability}"));
    }
}

fn containers(spec: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(|field| list(spec, field))
}

fn list<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value[field].as_array().into_iter().flatten()
}

fn strings<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a str> + use<'a> {
    list(value, field).filter_map(Value::as_str)
}

fn name(value: &Value) -> &str {
    value["name"].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A pod that restricted lets through; `spec` is laid over its own, `context` over its container's security context.
    fn pod(spec: &Value, context: &Value) -> Value {
        let mut pod = json!({"spec": {"containers": [{"name": "app", "securityContext": {
            "runAsNonRoot": true, "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        }}]}});
        for (key, value) in spec.as_object().unwrap() {
            pod["spec"][key] = value.clone();
        }
        for (key, value) in context.as_object().unwrap() {
            pod["spec"]["containers"][0]["securityContext"][key] = value.clone();
        }
        pod
    }

    #[test]
    fn each_rule_of_a_level_is_told_by_what_breaks_it() {
        let none = json!({});
        let cases = [
            (json!({"hostNetwork": true}), none.clone(), Level::Baseline, "spec.hostNetwork: true"),
            (
                json!({"volumes": [{"name": "v", "hostPath": {}}]}),
                none.clone(),
                Level::Baseline,
                "volume v is a hostPath",
            ),
            (
                json!({"securityContext": {"sysctls": [{"name": "kernel.msgmax"}]}}),
                none.clone(),
                Level::Baseline,
                "sysctl kernel.msgmax",
            ),
            (none.clone(), json!({"privileged": true}), Level::Baseline, "container app is privileged"),
            (
                none.clone(),
                json!({"capabilities": {"drop": ["ALL"], "add": ["SYS_ADMIN"]}}),
                Level::Baseline,
                "adds the capability SYS_ADMIN",
            ),
            (
                none.clone(),
                json!({"seccompProfile": {"type": "Unconfined"}}),
                Level::Baseline,
                "seccompProfile: Unconfined",
            ),
            (none.clone(), json!({"seLinuxOptions": {"type": "spc_t"}}), Level::Baseline, "seLinuxOptions"),
            (json!({"volumes": [{"name": "v", "nfs": {}}]}), none.clone(), Level::Restricted, "volume v is a nfs"),
            (
                none.clone(),
                json!({"allowPrivilegeEscalation": null}),
                Level::Restricted,
                "no allowPrivilegeEscalation: false",
            ),
            (none.clone(), json!({"runAsNonRoot": false}), Level::Restricted, "no runAsNonRoot: true"),
            (none.clone(), json!({"runAsUser": 0}), Level::Restricted, "runs as root"),
            (none.clone(), json!({"seccompProfile": null}), Level::Restricted, "no seccompProfile"),
            (none.clone(), json!({"capabilities": {}}), Level::Restricted, "does not drop"),
            (
                none,
                json!({"capabilities": {"drop": ["ALL"], "add": ["CHOWN"]}}),
                Level::Restricted,
                "adds the capability CHOWN",
            ),
        ];
        for (spec, context, level, words) in cases {
            let pod = pod(&spec, &context);
            let found = violations(&pod, level);
            assert!(found.iter().any(|violation| violation.contains(words)), "{words}: {found:?}");
            let lower = if level == Level::Baseline { Level::Privileged } else { Level::Baseline };
            if words != "no seccompProfile" {
                assert!(
                    !violations(&pod, lower).iter().any(|violation| violation.contains(words)),
                    "{words}: not by {lower:?}"
                );
            }
        }
    }

    #[test]
    fn what_a_pod_says_for_all_of_its_containers_counts() {
        let spec = json!({"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "Localhost"},
            "sysctls": [{"name": "net/ipv4/ip_unprivileged_port_start"}]}, "volumes": [{"name": "v", "downwardAPI": {}}]});
        let pod = pod(&spec, &json!({"runAsNonRoot": null, "seccompProfile": null}));
        assert_eq!(violations(&pod, Level::Restricted), Vec::<String>::new());
    }

    #[test]
    fn a_namespace_enforces_what_its_label_says() {
        let enforced_by = |value: &str| enforced(&BTreeMap::from([(ENFORCE.to_owned(), value.to_owned())]));
        assert_eq!(enforced(&BTreeMap::new()), Ok(Level::Privileged));
        assert_eq!(enforced_by("restricted"), Ok(Level::Restricted));
        assert!(enforced_by("strict").unwrap_err().contains("strict"));
    }
}
