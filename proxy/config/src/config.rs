use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::log::Log;
use crate::{
    ByteSize, CaCertificates, Clients, ConfigError, Events, HttpMethod, Network, Pin, Preset, Protocol, Server,
    Strategy, Suffix,
};

/// The whole configuration of `dot-proxy`, as written. Every part may be left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// Where queries are taken, and from whom.
    pub listen: Listen,
    /// Where health and metrics are served.
    pub admin: Admin,
    /// How the proxy logs.
    pub log: Log,
    /// Worker threads; one is right for a pod.
    pub threads: Threads,
    /// Who answers what no route covers. Encrypted and authenticated always.
    pub upstream: Upstream,
    /// Who answers names under certain suffixes; the longest suffix wins.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// The Kubernetes cluster around the proxy, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Cluster>,
    /// How answers are kept.
    pub cache: Cache,
    /// How long a query may take, and how many may be waiting.
    pub query: Query,
    /// Who is told what a security team wants to know.
    #[serde(skip_serializing_if = "Events::are_default")]
    pub events: Events,
    /// Whether the proxy gives up after its start what answering queries does not need: running programs, writing files,
    /// reading others than those beside the configured ones, being traced. Without it a debugger can be used.
    #[serde(skip_serializing_if = "Confinement::is_usual")]
    pub confinement: Confinement,
    /// What each client may take, and what becomes of those that misbehave.
    #[serde(skip_serializing_if = "Clients::is_default")]
    pub clients: Clients,
}

/// Whether the proxy gives up after its start what it does not need; true unless said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Confinement(pub bool);

/// Where queries are taken, and from whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Listen {
    /// Address to listen on, UDP and TCP.
    pub host: IpAddr,
    /// Port to listen on, UDP and TCP; 0 lets the system choose.
    pub port: u16,
    /// TCP clients at once.
    pub connections: u32,
    /// Sources that are served besides loopback and private ranges.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<Network>,
}

/// Where health and metrics are served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Admin {
    /// Address and port; `[::]` becomes 0.0.0.0 where there is no IPv6.
    pub address: SocketAddr,
}

/// A number of worker threads, 1 to 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Threads(#[schemars(range(min = 1, max = 64))] pub u16);

/// Who answers what no route covers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Upstream {
    /// Servers that stand in for each other.
    pub servers: Vec<Server>,
    /// Which of the servers is asked first.
    pub strategy: Strategy,
    /// The transport of presets, or the program that asks the servers which it knows.
    pub protocol: Protocol,
    /// How servers of DNS over HTTPS are asked.
    #[serde(skip_serializing_if = "HttpMethod::is_usual")]
    pub http_method: HttpMethod,
    /// CA certificates in PEM that replace the public roots built in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<CaCertificates>,
    /// A file of CA certificates in PEM that replace the public roots built in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Public keys, one of which must stand in the chain that a server's certificate was verified by, its own included
    /// (RFC 7858 §4.2). They come on top of the name and the CA, never in their place.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pins: Vec<Pin>,
    /// How the proxy proves itself to servers that ask for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<ClientCertificate>,
    /// A connection on which nothing was asked is closed after so many seconds, or sooner if the server says so (RFC 7828).
    pub idle_seconds: u32,
}

/// How the proxy proves itself to a server. Files alone: a private key never stands in a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClientCertificate {
    /// The certificate in PEM, followed by its intermediates.
    pub certificate_file: PathBuf,
    /// Its private key in PEM.
    pub key_file: PathBuf,
}

/// Who answers names under certain suffixes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Route {
    /// The suffixes; each stands for itself and everything under it.
    pub suffixes: Vec<Suffix>,
    /// Servers that stand in for each other.
    pub servers: Vec<Server>,
    /// Which of the servers is asked first.
    #[serde(default = "Route::usual_strategy")]
    pub strategy: Strategy,
}

/// The Kubernetes cluster around the proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cluster {
    /// The cluster's domain. Names under it that the Kubernetes DNS specification cannot contain, which libc makes from
    /// the search list, are answered NXDOMAIN in the proxy.
    pub domain: Suffix,
}

/// How answers are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Cache {
    /// Memory for answers; left out, a quarter of the container's memory limit, and 8Mi where there is none. 0 keeps none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<ByteSize>,
    /// Answers are kept at least so long, in seconds.
    pub min_ttl_seconds: u32,
    /// Answers are kept at most so long, in seconds.
    pub max_ttl_seconds: u32,
    /// When the servers fail or dawdle, answers are given for so many seconds after their time (RFC 8767); 0 for never.
    pub stale_seconds: u32,
    /// Whether answers that are in use are asked for anew just before their time is over.
    pub prefetch: bool,
}

/// How long a query may take, and how many may be waiting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Query {
    /// A query without an answer by then is answered SERVFAIL, in milliseconds. libc asks again after 5,000.
    pub deadline_milliseconds: u32,
    /// Queries that may wait for an answer at once; a further one is answered SERVFAIL at once.
    pub in_flight: u32,
}

impl Default for Listen {
    fn default() -> Self {
        Self { host: IpAddr::V4(Ipv4Addr::UNSPECIFIED), port: 1053, connections: 1024, allow: Vec::new() }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self { address: SocketAddr::from(([127, 0, 0, 1], 9853)) }
    }
}

impl Default for Threads {
    fn default() -> Self {
        Self(1)
    }
}

impl Default for Confinement {
    fn default() -> Self {
        Self(true)
    }
}

impl Confinement {
    fn is_usual(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            servers: vec![Server::Preset(Preset::Cloudflare)],
            strategy: Strategy::default(),
            protocol: Protocol::Dot,
            http_method: HttpMethod::Post,
            ca: None,
            ca_file: None,
            pins: Vec::new(),
            client_certificate: None,
            idle_seconds: 10,
        }
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self { size: None, min_ttl_seconds: 0, max_ttl_seconds: 86_400, stale_seconds: 86_400, prefetch: true }
    }
}

impl Default for Query {
    fn default() -> Self {
        Self { deadline_milliseconds: 4_000, in_flight: 4_096 }
    }
}

impl Route {
    /// Names under these suffixes, answered by these servers, the first of them as long as it answers.
    pub fn new(suffixes: Vec<Suffix>, servers: Vec<Server>) -> Self {
        Self { suffixes, servers, strategy: Self::usual_strategy() }
    }

    /// As resolv.conf does it: whoever names servers for a zone of their own has an order in mind.
    fn usual_strategy() -> Strategy {
        Strategy::Ordered
    }
}

impl Config {
    /// Reads a configuration from YAML, of which JSON is a part.
    pub fn from_yaml(text: &str) -> Result<Self, ConfigError> {
        let value: serde_json::Value = if text.trim().is_empty() {
            serde_json::Value::Object(serde_json::Map::new())
        } else {
            serde_saphyr::from_str(text)
                .map_err(|error| ConfigError::at("", format!("not readable as YAML or JSON: {error}")))?
        };
        let config: Self = serde_path_to_error::deserialize(value).map_err(|error| {
            let path = error.path().to_string();
            ConfigError::at(if path == "." { String::new() } else { path }, error.inner().to_string())
        })?;
        config.check()?;
        Ok(config)
    }

    /// The configuration as compact JSON, which [`Config::from_yaml`] reads back the same.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings, numbers and lists always have a JSON form")
    }

    /// What no single field can know: rules that span fields, and bounds of numbers.
    pub fn check(&self) -> Result<(), ConfigError> {
        in_range("threads", u32::from(self.threads.0), 1, 64)?;
        in_range("listen.connections", self.listen.connections, 1, 65_536)?;
        in_range("query.deadlineMilliseconds", self.query.deadline_milliseconds, 100, 60_000)?;
        in_range("query.inFlight", self.query.in_flight, 1, 65_536)?;
        in_range("upstream.idleSeconds", self.upstream.idle_seconds, 1, 3_600)?;
        in_range("cache.maxTtlSeconds", self.cache.max_ttl_seconds, 1, 604_800)?;
        in_range("cache.minTtlSeconds", self.cache.min_ttl_seconds, 0, self.cache.max_ttl_seconds)?;
        in_range("cache.staleSeconds", self.cache.stale_seconds, 0, 604_800)?;
        self.clients.check()?;
        self.check_upstream()?;
        self.check_routes()?;
        self.events.check()
    }

    fn check_upstream(&self) -> Result<(), ConfigError> {
        if self.upstream.servers.is_empty() {
            return Err(ConfigError::at(
                "upstream.servers",
                "is empty: name a server, such as cloudflare, or leave the field out",
            ));
        }
        for (index, server) in self.upstream.servers.iter().enumerate() {
            if let Server::Plain(_) = server {
                return Err(ConfigError::at(
                    format!("upstream.servers[{index}]"),
                    format!(
                        "\"{server}\" would leave in the clear: write tls://ADDRESS#NAME (or https://, quic://) here; plain servers can stand in routes, for names under their suffixes"
                    ),
                ));
            }
            self.check_preset(&format!("upstream.servers[{index}]"), server)?;
        }
        self.check_program()?;
        if self.upstream.ca.is_some() && self.upstream.ca_file.is_some() {
            return Err(ConfigError::at("upstream.caFile", "stands beside upstream.ca: give one of them"));
        }
        Ok(())
    }

    /// Whether a preset can be asked by the protocol.
    fn check_preset(&self, path: &str, server: &Server) -> Result<(), ConfigError> {
        let protocol = self.upstream.protocol;
        if !matches!(server, Server::Preset(_)) || protocol.suits(server) {
            return Ok(());
        }
        let able = Preset::ALL.into_iter().filter(|preset| protocol.suits(&Server::Preset(*preset)));
        let able: Vec<_> = able.map(Preset::as_str).collect();
        Err(ConfigError::at(
            path,
            format!("{server} does not offer {protocol}: write {}, or {}", able.join(", "), protocol.url()),
        ))
    }

    /// A program that is to ask, and to which no server is left, was surely meant otherwise.
    fn check_program(&self) -> Result<(), ConfigError> {
        let protocol = self.upstream.protocol;
        let mut servers = self.upstream.servers.iter().chain(self.routes.iter().flat_map(|route| &route.servers));
        if !protocol.is_a_program() || servers.any(|server| protocol.suits(server)) {
            return Ok(());
        }
        Err(ConfigError::at(
            "upstream.protocol",
            format!("{protocol} can ask none of the servers: write {} among them, or a preset", protocol.url()),
        ))
    }

    fn check_routes(&self) -> Result<(), ConfigError> {
        let mut seen = std::collections::HashMap::new();
        for (index, route) in self.routes.iter().enumerate() {
            if route.suffixes.is_empty() {
                return Err(ConfigError::at(
                    format!("routes[{index}].suffixes"),
                    "is empty: name a domain, such as cluster.local",
                ));
            }
            if route.servers.is_empty() {
                return Err(ConfigError::at(
                    format!("routes[{index}].servers"),
                    "is empty: name a server, such as udp://10.96.0.10",
                ));
            }
            for (at, server) in route.servers.iter().enumerate() {
                self.check_preset(&format!("routes[{index}].servers[{at}]"), server)?;
            }
            for (at, suffix) in route.suffixes.iter().enumerate() {
                if let Some(earlier) = seen.insert(suffix, index) {
                    return Err(ConfigError::at(
                        format!("routes[{index}].suffixes[{at}]"),
                        format!("{suffix} is routed by routes[{earlier}] already: keep one of them"),
                    ));
                }
            }
        }
        Ok(())
    }
}

pub(crate) fn in_range(path: &str, value: u32, least: u32, most: u32) -> Result<(), ConfigError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(ConfigError::at(path, format!("{value} is out of range: write a number from {least} to {most}")))
}

#[cfg(test)]
mod tests;
