//! From the configuration as written to the one that is run: files read, presets and defaults filled in.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use dot_proxy_config::{CaCertificates, Config, ConfigError, Server};

use crate::clients::Access;
use crate::policy::Policy;
use crate::router::{GroupIndex, Router};
use crate::upstream::connect::Tls;
use crate::upstream::dot::Dot;
use crate::upstream::group::Transport;
use crate::upstream::plain::Plain;
use crate::wire::response::TtlBounds;

/// Cache budget where neither the configuration nor the container says anything, in bytes.
const CACHE_WITHOUT_LIMIT: u64 = 8 << 20;

/// The cache takes this part of the container's memory limit; the rest is for connections, buffers and the program.
const CACHE_SHARE: u64 = 4;

/// More cache than a pod can use.
const CACHE_MOST: u64 = 64 << 20;

/// The configuration that is run.
pub struct Resolved {
    /// Where queries are taken.
    pub listen: SocketAddr,
    /// TCP clients at once.
    pub connections: usize,
    /// Who may ask.
    pub access: Access,
    /// Where health and metrics are served.
    pub admin: SocketAddr,
    /// Which questions leave.
    pub policy: Policy,
    /// Which group answers which names.
    pub router: Router,
    /// The groups' names and servers; the first answers what no route covers.
    pub groups: Vec<GroupServers>,
    /// Bounds of TTLs.
    pub bounds: TtlBounds,
    /// Memory for answers, in bytes.
    pub cache_budget: u64,
    /// How long a query may take.
    pub deadline: Duration,
}

/// A group to be made: its name, and its servers with their URLs.
pub struct GroupServers {
    /// The group's name in metrics and logs.
    pub name: String,
    /// URL and transport of each server.
    pub servers: Vec<(String, Transport)>,
}

impl Resolved {
    /// Resolves a written configuration, reading what files it names.
    pub fn from_written(written: &Config) -> Result<Self, ConfigError> {
        written.check()?;
        let tls = tls(written)?;
        let mut groups =
            vec![GroupServers { name: "upstream".to_owned(), servers: servers(&written.upstream.servers, &tls) }];
        let mut router = Router::default();
        for route in &written.routes {
            let index = GroupIndex(groups.len());
            route.suffixes.iter().for_each(|suffix| router.add(suffix, index));
            // Suffixes are of the configuration, not of the queries: the label stays bounded.
            let name = route.suffixes.first().map(ToString::to_string).unwrap_or_default();
            groups.push(GroupServers { name, servers: servers(&route.servers, &tls) });
        }
        Ok(Self {
            listen: SocketAddr::new(written.listen.host, written.listen.port),
            connections: usize::try_from(written.listen.connections).unwrap_or(usize::MAX),
            access: Access::private_and(&written.listen.allow),
            admin: written.admin.address,
            policy: Policy::new(written.cluster.as_ref().map(|cluster| &cluster.domain)),
            router,
            groups,
            bounds: TtlBounds { min: written.cache.min_ttl_seconds, max: written.cache.max_ttl_seconds },
            cache_budget: written.cache.size.map_or_else(default_cache_budget, |size| size.bytes()),
            deadline: Duration::from_millis(written.query.deadline_milliseconds.into()),
        })
    }
}

fn tls(written: &Config) -> Result<Tls, ConfigError> {
    let at = |path: &str, message: String| ConfigError { path: path.to_owned(), message };
    let Some(file) = &written.upstream.ca_file else {
        return Tls::trusting(written.upstream.ca.as_ref()).map_err(|message| at("upstream.ca", message));
    };
    let wrong = |message| at("upstream.caFile", format!("{}: {message}", file.display()));
    let pem = fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
    let ca: CaCertificates = pem.parse().map_err(|error: dot_proxy_config::ParseError| wrong(error.to_string()))?;
    Tls::trusting(Some(&ca)).map_err(wrong)
}

fn servers(written: &[Server], tls: &Tls) -> Vec<(String, Transport)> {
    let dot = |server: dot_proxy_config::TlsServer| (server.to_string(), Transport::Dot(Dot::new(server, tls.clone())));
    written
        .iter()
        .flat_map(|server| match server {
            Server::Preset(preset) => preset.tls_servers().into_iter().map(dot).collect(),
            Server::Tls(server) => vec![dot(server.clone())],
            Server::Plain(address) => vec![(server.to_string(), Transport::Plain(Plain::new(*address)))],
        })
        .collect()
}

fn default_cache_budget() -> u64 {
    container_memory_limit().map_or(CACHE_WITHOUT_LIMIT, |limit| (limit / CACHE_SHARE).min(CACHE_MOST))
}

/// The container's memory limit, in bytes, as cgroup v2 or v1 tells it.
fn container_memory_limit() -> Option<u64> {
    /// cgroup v1 says "no limit" by a number near 2^63.
    const NO_LIMIT: u64 = 1 << 50;
    ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .iter()
        .find_map(|path| fs::read_to_string(Path::new(path)).ok())
        .and_then(|text| text.trim().parse().ok())
        .filter(|limit| *limit < NO_LIMIT)
}

/// The address to bind in place of `[::]` on a machine without IPv6.
pub fn without_ipv6(address: SocketAddr, error: &io::Error) -> Option<SocketAddr> {
    // EAFNOSUPPORT and EADDRNOTAVAIL: no IPv6 in the kernel, or switched off in this network namespace.
    const EAFNOSUPPORT: i32 = 97;
    const EADDRNOTAVAIL: i32 = 99;
    let missing = matches!(error.raw_os_error(), Some(EAFNOSUPPORT | EADDRNOTAVAIL));
    let any = address.ip() == IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED);
    (missing && any).then(|| SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(text: &str) -> Result<Resolved, String> {
        Resolved::from_written(&Config::from_yaml(text).unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn presets_become_their_servers_and_routes_become_groups() {
        let text = "upstream: {servers: [quad9, \"tls://192.0.2.1#a.example\"]}\nroutes: [{suffixes: [cluster.local], servers: [\"udp://10.96.0.10\"]}]";
        let resolved = resolved(text).unwrap_or_else(|error| panic!("{error}"));
        let names: Vec<_> = resolved.groups.iter().map(|group| (group.name.as_str(), group.servers.len())).collect();
        assert_eq!(names, [("upstream", 5), ("cluster.local", 1)]);
        assert_eq!(resolved.groups[1].servers[0].0, "udp://10.96.0.10:53");
    }

    #[test]
    fn a_ca_that_cannot_be_used_is_refused_with_its_field() {
        let pem = "-----BEGIN CERTIFICATE-----\\nMAA=\\n-----END CERTIFICATE-----\\n";
        let error = resolved(&format!("upstream: {{ca: \"{pem}\"}}")).err().unwrap();
        assert!(error.starts_with("upstream.ca: certificate 1 cannot be a CA"), "{error}");
        let error = resolved("upstream: {caFile: /nonexistent/ca.pem}").err().unwrap();
        assert!(error.starts_with("upstream.caFile: /nonexistent/ca.pem: "), "{error}");
    }

    #[test]
    fn only_the_unspecified_ipv6_address_falls_back_to_ipv4() {
        let error = io::Error::from_raw_os_error(97);
        let fallback = |address: &str| without_ipv6(address.parse().unwrap(), &error);
        assert_eq!(fallback("[::]:9853"), Some("0.0.0.0:9853".parse().unwrap()));
        assert_eq!(fallback("[::1]:9853"), None);
        assert_eq!(without_ipv6("[::]:9853".parse().unwrap(), &io::Error::from_raw_os_error(98)), None);
    }
}
