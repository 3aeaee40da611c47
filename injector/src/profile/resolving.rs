//! What a profile says of how names are resolved.

use dot_proxy_config::{ByteSize, CaCertificates, HttpMethod, Pin, Protocol, Server, Strategy, Suffix};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{MOST_ROUTES, MOST_SERVERS, MOST_SUFFIXES, ProfileError, rules};

/// Who answers names outside the cluster: encrypted and authenticated always.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = rules::of_upstream()))]
pub struct Upstream {
    /// Resolvers that stand in for each other: cloudflare, quad9, google, `tls://ADDRESS[:PORT]#NAME` (DNS over TLS),
    /// `https://ADDRESS[:PORT][/PATH]#NAME` (DNS over HTTPS) or `quic://ADDRESS[:PORT]#NAME` (DNS over QUIC), where NAME is what the
    /// resolver's certificate must prove.
    #[schemars(
        length(max = MOST_SERVERS),
        extend("x-kubernetes-list-type" = "atomic", "x-kubernetes-validations" = rules::not_empty(rules::NO_SERVER))
    )]
    pub servers: Vec<Server>,
    /// Which of them is asked first: fastest (the one that has answered fastest of late), ordered (the first as long as it
    /// answers) or round-robin.
    pub strategy: Strategy,
    /// How cloudflare, quad9 and google are asked: dot, doh or doq (quad9 alone); curl and kdig need an image that has that
    /// program.
    pub protocol: Protocol,
    /// How servers of DNS over HTTPS are asked: post, or get, so that HTTP caches on the way may answer.
    pub http_method: HttpMethod,
    /// Certificates (PEM) of the authorities that may vouch for the servers. Left out: the public ones built into the proxy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<CaCertificates>,
    /// Public keys (sha256/BASE64, RFC 7858), one of which must stand in the chain of a server's certificate, on top of its name
    /// and authority. Empty: any.
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub pins: Vec<Pin>,
    /// A connection on which nothing was asked is closed after so many seconds, or sooner if the server says so.
    #[schemars(extend("x-kubernetes-validations" = rules::in_range(1, 3_600)), transform = rules::without_width)]
    pub idle_seconds: u32,
}

/// Who answers names under certain suffixes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Route {
    /// Domains; each stands for itself and every name under it.
    #[schemars(
        length(max = MOST_SUFFIXES),
        extend("x-kubernetes-list-type" = "atomic", "x-kubernetes-validations" = rules::not_empty(rules::NO_SUFFIX))
    )]
    pub suffixes: Vec<Suffix>,
    /// Servers that stand in for each other: `udp://ADDRESS[:PORT]` for plain DNS, which travels in clear, or whatever can stand in
    /// upstream.servers.
    #[schemars(
        length(max = MOST_SERVERS),
        extend("x-kubernetes-list-type" = "atomic", "x-kubernetes-validations" = rules::not_empty(rules::NO_SERVER_OF_A_ROUTE))
    )]
    pub servers: Vec<Server>,
    /// Which of them is asked first: ordered (the first as long as it answers), fastest or round-robin.
    #[serde(default = "ordered")]
    pub strategy: Strategy,
}

/// What becomes of pods that have a resolver of their own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OwnNameservers {
    /// refuse: such a pod is refused; where its namespace alone asks for the sidecar, it is left as it is, with a warning.
    #[default]
    Refuse,
    /// replace: its nameservers are asked no more. Names of the cluster and the pod's search suffixes are asked of cluster DNS,
    /// all others of the upstream.
    Replace,
    /// keep-for-searches: names under the search suffixes in the pod's dnsConfig are still asked of the nameservers there, in
    /// clear, names of the cluster of cluster DNS, and all others of the upstream.
    KeepForSearches,
}

/// How answers are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = rules::of_cache()))]
pub struct Cache {
    /// Memory for answers, such as 4Mi. Left out: a quarter of the sidecar's memory limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<ByteSize>,
    /// Answers are kept at least so many seconds, even if their TTL is shorter.
    #[schemars(transform = rules::without_width)]
    pub min_ttl_seconds: u32,
    /// Answers are kept at most so many seconds, even if their TTL is longer.
    #[schemars(extend("x-kubernetes-validations" = rules::in_range(1, 604_800)), transform = rules::without_width)]
    pub max_ttl_seconds: u32,
    /// When the servers fail or dawdle, answers are given for so many seconds after their time (RFC 8767). 0: never.
    #[schemars(extend("x-kubernetes-validations" = rules::in_range(0, 604_800)), transform = rules::without_width)]
    pub stale_seconds: u32,
    /// Whether answers that are in use are asked for anew just before their time is over.
    pub prefetch: bool,
}

impl Default for Upstream {
    fn default() -> Self {
        let usual = dot_proxy_config::Upstream::default();
        Self {
            servers: usual.servers,
            strategy: usual.strategy,
            protocol: usual.protocol,
            http_method: usual.http_method,
            ca: usual.ca,
            pins: usual.pins,
            idle_seconds: usual.idle_seconds,
        }
    }
}

impl Default for Cache {
    fn default() -> Self {
        let usual = dot_proxy_config::Cache::default();
        Self {
            size: usual.size,
            min_ttl_seconds: usual.min_ttl_seconds,
            max_ttl_seconds: usual.max_ttl_seconds,
            stale_seconds: usual.stale_seconds,
            prefetch: usual.prefetch,
        }
    }
}

impl Upstream {
    pub(super) fn check(&self) -> Result<(), ProfileError> {
        bounded("upstream.servers", self.servers.len(), MOST_SERVERS)
    }

    pub(super) fn to_config(&self) -> dot_proxy_config::Upstream {
        dot_proxy_config::Upstream {
            servers: self.servers.clone(),
            strategy: self.strategy,
            protocol: self.protocol,
            http_method: self.http_method,
            ca: self.ca.clone(),
            pins: self.pins.clone(),
            idle_seconds: self.idle_seconds,
            ..dot_proxy_config::Upstream::default()
        }
    }
}

impl Route {
    /// The route as the proxy reads it.
    pub fn to_config(&self) -> dot_proxy_config::Route {
        dot_proxy_config::Route {
            suffixes: self.suffixes.clone(),
            servers: self.servers.clone(),
            strategy: self.strategy,
        }
    }
}

impl Cache {
    pub(super) fn to_config(&self) -> dot_proxy_config::Cache {
        dot_proxy_config::Cache {
            size: self.size,
            min_ttl_seconds: self.min_ttl_seconds,
            max_ttl_seconds: self.max_ttl_seconds,
            stale_seconds: self.stale_seconds,
            prefetch: self.prefetch,
        }
    }
}

/// Whoever names servers for a zone of their own has an order in mind.
fn ordered() -> Strategy {
    Strategy::Ordered
}

pub(super) fn check_routes(routes: &[Route]) -> Result<(), ProfileError> {
    bounded("routes", routes.len(), MOST_ROUTES)?;
    for (index, route) in routes.iter().enumerate() {
        bounded(&format!("routes[{index}].suffixes"), route.suffixes.len(), MOST_SUFFIXES)?;
        bounded(&format!("routes[{index}].servers"), route.servers.len(), MOST_SERVERS)?;
    }
    Ok(())
}

fn bounded(path: &str, length: usize, most: usize) -> Result<(), ProfileError> {
    if length <= most {
        Ok(())
    } else {
        Err(ProfileError::at(path, format!("has {length} items: write {most} at most")))
    }
}
