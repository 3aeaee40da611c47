//! The sidecar container and its volume, with every field that the API server would fill in: a second call then finds
//! nothing to change.

use serde_json::{Value, json};

use crate::annotations::CONFIG;
use crate::settings::Sidecar;

use super::original::Platform;
use super::pod::Spec;
use super::refusal::Refusal;

/// The container's name.
pub(super) const CONTAINER: &str = "dot-proxy";
/// The volume's name.
pub(super) const VOLUME: &str = "dot-sidecar-config";
/// Where the configuration is mounted: a directory, since files mounted by subPath are never refreshed.
pub(super) const CONFIG_DIRECTORY: &str = "/etc/dot-proxy";
/// Health and metrics of the proxy.
pub const ADMIN_PORT: u16 = 9853;
const CONFIG_FILE: &str = "/etc/dot-proxy/config.json";
/// Asks the proxy on loopback.
const PROBE: [&str; 4] = ["/dot-proxy", "probe", "--config", CONFIG_FILE];
/// Where the API server's ServiceAccount admission, run again after the webhook, mounts the app's token into every
/// container that has no mount there: ours has one, so it gets no token.
const TOKEN_DIRECTORY: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// What a pod with a user namespace has (KEP-127).
const MAPPED_USERS: i64 = 65_536;

/// Who the proxy runs as: a user that no other container of the pod is, since a process of the same user could signal the
/// proxy or share its port. `None` leaves it to the platform.
pub(super) fn user(spec: &Spec, wished: Option<i64>) -> Result<Option<i64>, Refusal> {
    let Some(wished) = wished else { return Ok(None) };
    let of_containers = spec.all_containers().filter_map(|container| container.security_context.run_as_user);
    let taken: Vec<i64> = of_containers.chain(spec.security_context.run_as_user).collect();
    let uid = (wished..=i64::MAX).find(|uid| !taken.contains(uid)).unwrap_or(wished);
    if spec.host_users == Some(false) && uid >= MAPPED_USERS {
        return Err(Refusal::UserNotMapped { uid });
    }
    Ok(Some(uid))
}

/// The containers of service meshes' proxies. What comes to the pod from outside is redirected to them, the kubelet's requests too.
pub(super) const MESHES: [&str; 4] = ["istio-proxy", "linkerd-proxy", "kuma-sidecar", "consul-dataplane"];

/// What differs from pod to pod.
#[derive(Debug, Clone, Copy)]
pub(super) struct Particulars<'a> {
    /// The image.
    pub(super) image: &'a str,
    /// Who it runs as, where that is not left to the platform.
    pub(super) user: Option<i64>,
    /// What it requests and may use.
    pub(super) resources: &'a Value,
    /// What the platform has written into it since it was made.
    pub(super) platform: Platform,
    /// Whether a mesh's proxy is in the pod.
    pub(super) meshed: bool,
}

/// Whether a mesh's proxy is in the pod.
pub(super) fn is_meshed(spec: &Spec) -> bool {
    spec.all_containers().any(|container| MESHES.contains(&container.name.as_str()))
}

/// Whether the event loop turns. Asked over HTTP, which costs the node next to nothing; in a mesh by a program in the container, since
/// its proxy, where requests end up, is not there yet while the pod starts, and may take encrypted ones alone.
pub(super) fn liveness(meshed: bool) -> Value {
    let (way, request, period) = if meshed {
        ("exec", json!({"command": PROBE}), 30)
    } else {
        ("httpGet", json!({"path": "/livez", "port": ADMIN_PORT, "scheme": "HTTP"}), 10)
    };
    json!({way: request, "periodSeconds": period, "timeoutSeconds": 5, "failureThreshold": 3, "successThreshold": 1})
}

/// The container. Where nobody else says who it runs as, it is who the platform has said.
pub(super) fn container(sidecar: &Sidecar, particulars: Particulars<'_>) -> Value {
    let Particulars { image, user, resources, platform, meshed } = particulars;
    let mut container = json!({
        "name": CONTAINER,
        "image": image,
        "imagePullPolicy": sidecar.image_pull_policy,
        "args": ["--config", CONFIG_FILE],
        // Among the init containers this makes a native sidecar (KEP-753): it starts before all others and stops after them.
        "restartPolicy": "Always",
        "ports": [{"name": "dot-admin", "containerPort": ADMIN_PORT, "protocol": "TCP"}],
        "resources": resources,
        "volumeMounts": [
            {"name": VOLUME, "mountPath": CONFIG_DIRECTORY, "readOnly": true},
            {"name": VOLUME, "mountPath": TOKEN_DIRECTORY, "readOnly": true},
        ],
        "startupProbe": {
            // Sockets bound and configuration read, never the upstream: a resolver's outage must not keep pods from starting.
            "exec": {"command": PROBE},
            "periodSeconds": 1,
            "timeoutSeconds": 5,
            "failureThreshold": 60,
            "successThreshold": 1,
        },
        "livenessProbe": liveness(meshed),
        "securityContext": {
            "runAsNonRoot": true,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
    });
    if let Some(user) = user {
        container["securityContext"]["runAsUser"] = json!(user);
        container["securityContext"]["runAsGroup"] = json!(user);
    } else if let Some(user) = platform.user {
        container["securityContext"]["runAsUser"] = json!(user);
    }
    if platform.pulls_always {
        container["imagePullPolicy"] = json!("Always");
    }
    container
}

/// The volume: the kubelet writes the pod's annotation into a file, and again when it changes.
pub(super) fn volume() -> Value {
    json!({
        "name": VOLUME,
        "downwardAPI": {
            "items": [{
                "path": "config.json",
                "fieldRef": {"apiVersion": "v1", "fieldPath": format!("metadata.annotations['{CONFIG}']")},
            }],
            "defaultMode": 0o644,
        },
    })
}
