//! Why a pod cannot be served, as a sentence that names the field, its value and the remedy.

use std::fmt;

use crate::annotations::{BadValue, Override};
use crate::profile;

/// Why a pod that asks for the sidecar cannot have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// The pod shares the node's network.
    HostNetwork,
    /// The pod runs on Windows.
    Windows {
        /// The field that says so.
        field: &'static str,
    },
    /// A container listens on a port that the proxy needs.
    PortTaken {
        /// Who declares it.
        container: String,
        /// The port.
        port: u16,
        /// UDP or TCP.
        protocol: String,
    },
    /// The pod's names are resolved by its node or by servers of its own, of which the proxy knows nothing.
    OwnResolver {
        /// `spec.dnsPolicy` or `spec.dnsConfig.nameservers`.
        field: &'static str,
        /// What it says.
        value: String,
    },
    /// Names are to be asked of a server of the pod's own that is on loopback, where the proxy is.
    OwnResolverInPod {
        /// Its address.
        value: String,
    },
    /// A mount hides the resolv.conf that the kubelet writes.
    ResolvConfMounted {
        /// Whose mount it is.
        container: String,
        /// Where.
        path: String,
    },
    /// The pod keeps low ports from processes without privilege.
    LowPortsClosed {
        /// What the sysctl says.
        value: String,
    },
    /// A user namespace has no such UID.
    UserNotMapped {
        /// The sidecar's UID.
        uid: i64,
    },
    /// A container or volume of the pod has the name of ours.
    NameTaken {
        /// Where it stands.
        field: String,
        /// The name.
        name: &'static str,
    },
    /// An annotation's value cannot be used.
    BadValue(BadValue),
    /// A request is larger than its limit.
    RequestAboveLimit {
        /// `cpu` or `memory`.
        resource: &'static str,
        /// What is requested.
        request: String,
        /// What is allowed.
        limit: String,
    },
    /// The profile does not let a pod's author use this annotation.
    NotAllowed {
        /// The annotation.
        annotation: Override,
        /// The profile.
        profile: String,
    },
    /// The profile does not let a pod opt out.
    OptOutNotAllowed {
        /// The profile.
        profile: String,
    },
    /// There is no such profile.
    NoSuchProfile {
        /// The name.
        name: String,
        /// The profile that was perhaps meant.
        nearest: Option<String>,
    },
    /// The profile cannot be used.
    ProfileUnusable {
        /// The profile.
        profile: String,
        /// The field, what is wrong with it, and the remedy.
        error: String,
    },
    /// The profile may not be used in the pod's namespace.
    ProfileNotHere {
        /// The profile.
        profile: String,
        /// The namespace.
        namespace: String,
    },
    /// The pod's configuration would not fit into its annotation.
    ConfigTooLarge {
        /// How large it would be.
        bytes: usize,
    },
    /// The pod's own annotations leave no room for ours.
    AnnotationsTooLong {
        /// How long all would be together.
        bytes: usize,
    },
    /// The pod's configuration would not be accepted by the proxy.
    ConfigRefused(String),
    /// The pod is not what a pod looks like.
    Malformed(String),
}

impl Refusal {
    /// One word for metrics; their number is bounded by this list.
    pub fn code(&self) -> &'static str {
        match self {
            Self::HostNetwork => "host-network",
            Self::Windows { .. } => "windows",
            Self::PortTaken { .. } => "port-taken",
            Self::OwnResolver { .. } => "own-resolver",
            Self::OwnResolverInPod { .. } => "own-resolver-in-pod",
            Self::ResolvConfMounted { .. } => "resolv-conf-mounted",
            Self::LowPortsClosed { .. } => "low-ports-closed",
            Self::UserNotMapped { .. } => "user-not-mapped",
            Self::NameTaken { .. } => "name-taken",
            Self::BadValue(_) => "bad-value",
            Self::RequestAboveLimit { .. } => "request-above-limit",
            Self::NotAllowed { .. } => "annotation-not-allowed",
            Self::OptOutNotAllowed { .. } => "opt-out-not-allowed",
            Self::NoSuchProfile { .. } => "no-such-profile",
            Self::ProfileUnusable { .. } => "profile-unusable",
            Self::ProfileNotHere { .. } => "profile-not-here",
            Self::ConfigTooLarge { .. } => "config-too-large",
            Self::AnnotationsTooLong { .. } => "annotations-too-long",
            Self::ConfigRefused(_) => "config-refused",
            Self::Malformed(_) => "malformed",
        }
    }

    /// Whether the cause is what somebody wrote for us, be it the pod's author or the profile's. What was asked for cannot be
    /// followed then, so the pod is denied even where its namespace alone asks.
    pub fn is_about_the_request(&self) -> bool {
        matches!(
            self,
            Self::BadValue(_)
                | Self::RequestAboveLimit { .. }
                | Self::NotAllowed { .. }
                | Self::OptOutNotAllowed { .. }
                | Self::NoSuchProfile { .. }
                | Self::ProfileUnusable { .. }
                | Self::ProfileNotHere { .. }
                | Self::ConfigTooLarge { .. }
                | Self::ConfigRefused(_)
        )
    }
}

/// How a pod gets out of the way where its namespace asks for it.
const OPT_OUT: &str = r#"or decline the sidecar by the annotation dot-sidecar.io/inject: "false""#;

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HostNetwork => write!(
                f,
                "spec.hostNetwork: true: the pod uses its node's network, where port 53 and the low ports are the node's: remove hostNetwork, {OPT_OUT}"
            ),
            Self::Windows { field } => {
                write!(f, "{field}: windows: the proxy runs on Linux alone: schedule the pod on Linux, {OPT_OUT}")
            }
            Self::PortTaken { container, port, protocol } => write!(
                f,
                "container {container} declares containerPort: {port} ({protocol}), which the proxy needs in the pod: move it to another port, {OPT_OUT}"
            ),
            Self::OwnResolver { field, value } => write!(
                f,
                "{field}: {value}: the proxy cannot know which names those servers answer: remove the field, so that cluster DNS and the profile's upstream answer, have the administrator set the profile's ownNameservers, {OPT_OUT}"
            ),
            Self::OwnResolverInPod { value } => write!(
                f,
                "spec.dnsConfig.nameservers: {value} is in the pod itself, where the proxy takes its place, and cannot be asked on: remove it, {OPT_OUT}"
            ),
            Self::ResolvConfMounted { container, path } => write!(
                f,
                "container {container} mounts a volume on {path}, which hides the resolv.conf that points to the proxy: mount it elsewhere, {OPT_OUT}"
            ),
            Self::LowPortsClosed { value } => write!(
                f,
                "spec.securityContext.sysctls: net.ipv4.ip_unprivileged_port_start: {value:?} keeps the proxy, which is not root, from port 53: remove the sysctl or set it to 53 or less, {OPT_OUT}"
            ),
            Self::UserNotMapped { uid } => write!(
                f,
                "spec.hostUsers: false maps the UIDs 0 to 65535 alone, and the sidecar would run as {uid}: have the administrator set sidecar.runAsUser below that, or remove hostUsers"
            ),
            Self::NameTaken { field, name } => {
                write!(f, "{field}: the name {name} is kept for the sidecar: rename yours, {OPT_OUT}")
            }
            Self::BadValue(bad) => bad.fmt(f),
            Self::RequestAboveLimit { resource, request, limit } => write!(
                f,
                "the sidecar's {resource} request {request} is above its limit {limit}: lower the annotation dot-sidecar.io/{resource}-request or raise dot-sidecar.io/{resource}-limit"
            ),
            Self::NotAllowed { annotation, profile } => write!(
                f,
                "annotation {}: profile {profile:?} does not let pods use it: remove it, or have the administrator add {} to the profile's annotations.allowed",
                annotation.name(),
                annotation.short_name()
            ),
            Self::OptOutNotAllowed { profile } => write!(
                f,
                r#"annotation dot-sidecar.io/inject: "false": profile {profile:?} does not let the pods of this namespace decline the sidecar: remove the annotation, or have the administrator set the profile's optOut"#
            ),
            Self::NoSuchProfile { name, .. } if name == profile::DEFAULT => write!(
                f,
                "there is no ProxyProfile {name:?}, which pods get that name none: have the administrator create it, or name another one by the annotation dot-sidecar.io/profile (kubectl get proxyprofiles)"
            ),
            Self::NoSuchProfile { name, nearest: Some(nearest) } => write!(
                f,
                "annotation dot-sidecar.io/profile: there is no ProxyProfile {name:?}: did you mean {nearest:?}? (kubectl get proxyprofiles shows all)"
            ),
            Self::NoSuchProfile { name, nearest: None } => write!(
                f,
                r#"annotation dot-sidecar.io/profile: there is no ProxyProfile {name:?}: name one that exists (kubectl get proxyprofiles), or remove the annotation to have "default""#
            ),
            Self::ProfileUnusable { profile, error } => {
                write!(f, "ProxyProfile {profile:?} cannot be used: spec.{error}: have the administrator correct it")
            }
            Self::ProfileNotHere { profile, namespace } => write!(
                f,
                "ProxyProfile {profile:?} may not be used in the namespace {namespace}: name another one by the annotation dot-sidecar.io/profile, or have the administrator add the namespace to the profile's namespaces"
            ),
            Self::ConfigTooLarge { bytes } => write!(
                f,
                "the proxy's configuration for this pod is {bytes} bytes long, and {} fit: have the administrator shorten the profile's upstream.ca or its routes",
                super::LARGEST_CONFIG
            ),
            Self::AnnotationsTooLong { bytes } => write!(
                f,
                "metadata.annotations: with the proxy's configuration they would be {bytes} bytes long, and {} fit: shorten those of the pod, {OPT_OUT}",
                super::LONGEST_ANNOTATIONS
            ),
            Self::ConfigRefused(error) => {
                write!(f, "the proxy would not accept the configuration made for this pod: {error}")
            }
            Self::Malformed(error) => write!(f, "this is no valid pod: {error}"),
        }
    }
}

impl std::error::Error for Refusal {}

impl From<BadValue> for Refusal {
    fn from(bad: BadValue) -> Self {
        Self::BadValue(bad)
    }
}
