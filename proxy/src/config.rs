//! From the configuration as written to the one that is run: files read, presets and defaults filled in.

mod transports;
mod trust;

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use dot_proxy_config::{Clients, Config, ConfigError, Protocol, Strategy};

use self::transports::Common;
use self::trust::{Trust, collector};
use crate::clients::access::Access;
use crate::clients::cookies::Cookies;
use crate::confine::InForce;
use crate::events;
use crate::policy::Policy;
use crate::reload::Source;
use crate::router::{GroupIndex, Router};
use crate::upstream::command::{self, Program, Slots, Tool};
use crate::upstream::server::Configured;
use crate::wire::response::TtlBounds;

/// Cache budget where neither the configuration nor the container says anything, in bytes.
const CACHE_WITHOUT_LIMIT: u64 = 8 << 20;

/// The cache takes this part of the container's memory limit; the rest is for connections, buffers and the program.
const CACHE_SHARE: u64 = 4;

/// More cache than a pod can use.
const CACHE_MOST: u64 = 64 << 20;

/// Where cgroup v2 and v1 tell the container's memory limit.
pub(crate) const MEMORY_LIMIT_FILES: [&str; 2] =
    ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];

/// The configuration that is run.
pub struct Resolved {
    /// Where queries are taken.
    pub listen: SocketAddr,
    /// Threads that read datagrams.
    pub threads: usize,
    /// TCP clients at once.
    pub connections: u32,
    /// Who may ask.
    pub access: Access,
    /// What each client may take, and what becomes of those that misbehave.
    pub clients: Clients,
    /// What makes and knows DNS cookies.
    pub cookies: Option<Cookies>,
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
    /// How long after their time answers are given when servers fail or dawdle; zero for never.
    pub stale_for: Duration,
    /// Whether answers in use are asked for anew just before their time is over.
    pub prefetch: bool,
    /// How long a query may take.
    pub deadline: Duration,
    /// Queries that may wait for an answer at once.
    pub in_flight: usize,
    /// Who is told of what a security team wants to know.
    pub events: events::Settings,
    /// The program that asks servers, if one does.
    pub program: Option<PathBuf>,
    /// What the process has given up.
    pub confined: InForce,
    /// Where it comes from, if that is to be watched for changes.
    pub source: Option<Source>,
}

/// A group to be made: its name, its strategy, and its servers with their URLs.
pub struct GroupServers {
    /// The group's name in metrics and logs.
    pub name: String,
    /// Which server is asked first.
    pub strategy: Strategy,
    /// Each server.
    pub servers: Vec<Configured>,
}

impl Resolved {
    /// Resolves a written configuration, reading what files it names.
    pub fn from_written(written: &Config) -> Result<Self, ConfigError> {
        written.check()?;
        let trust = Trust::read(written)?;
        let (protocol, method) = (written.upstream.protocol, written.upstream.http_method);
        let idle = Duration::from_secs(written.upstream.idle_seconds.into());
        let (tool, routed_tool) = tools(written, &trust)?;
        let program = tool.as_ref().map(|tool| tool.executable().to_owned());
        let (own, others) = (trust.upstream_definition, trust.routes_definition);
        let upstream = Common { tls: trust.upstream, protocol, method, tool, idle, trust: own };
        let routed = Common { tls: trust.routes, protocol, method, tool: routed_tool, idle, trust: others };
        let mut groups = vec![GroupServers {
            name: "upstream".to_owned(),
            strategy: written.upstream.strategy,
            servers: upstream.servers(&written.upstream.servers),
        }];
        let mut router = Router::default();
        for route in &written.routes {
            let index = GroupIndex(groups.len());
            route.suffixes.iter().for_each(|suffix| router.add(suffix, index));
            // Suffixes are of the configuration, not of the queries: the label stays bounded.
            let name = route.suffixes.first().map(ToString::to_string).unwrap_or_default();
            groups.push(GroupServers { name, strategy: route.strategy, servers: routed.servers(&route.servers) });
        }
        Ok(Self {
            listen: SocketAddr::new(written.listen.host, written.listen.port),
            threads: usize::from(written.threads.0),
            connections: written.listen.connections,
            access: Access::private_and(&written.listen.allow),
            clients: written.clients.clone(),
            cookies: if written.clients.cookies { Cookies::with_random_secret() } else { None },
            admin: written.admin.address,
            policy: Policy::new(written.cluster.as_ref().map(|cluster| &cluster.domain)),
            router,
            groups,
            bounds: TtlBounds { min: written.cache.min_ttl_seconds, max: written.cache.max_ttl_seconds },
            cache_budget: written.cache.size.map_or_else(default_cache_budget, |size| size.bytes()),
            stale_for: Duration::from_secs(written.cache.stale_seconds.into()),
            prefetch: written.cache.prefetch,
            deadline: Duration::from_millis(written.query.deadline_milliseconds.into()),
            in_flight: usize::try_from(written.query.in_flight).unwrap_or(usize::MAX),
            events: event_settings(&written.events)?,
            program,
            confined: InForce::default(),
            source: None,
        })
    }
}

/// The program that asks the upstream's servers and that which asks those of routes, if the protocol is a program; they are
/// the same program, and share how many processes may run at once.
fn tools(written: &Config, trust: &Trust) -> Result<(Option<Tool>, Option<Tool>), ConfigError> {
    let program = match written.upstream.protocol {
        Protocol::Curl => Program::Curl,
        Protocol::Kdig => Program::Kdig,
        Protocol::Dot | Protocol::Doh | Protocol::Doq => return Ok((None, None)),
    };
    let slots = Slots::default();
    let unusable =
        |error: command::Unusable| ConfigError { path: "upstream.protocol".to_owned(), message: error.to_string() };
    let find = |trusted: &command::Trust<'_>| Tool::find(program, trusted, slots.clone()).map(Some).map_err(unusable);
    let ca = trust.ca.as_ref();
    let identity = trust.identity.as_ref().map(|(certificate, key)| (certificate.as_slice(), key.as_slice()));
    let upstream = find(&command::Trust { ca, pins: &written.upstream.pins, identity })?;
    Ok((upstream, find(&command::Trust { ca, ..command::Trust::default() })?))
}

/// The files that a configuration names: CAs, certificates, keys.
pub fn files_named(written: &Config) -> impl Iterator<Item = &Path> {
    let (upstream, syslog) = (&written.upstream, written.events.syslog.as_ref());
    let pairs = [upstream.client_certificate.as_ref(), syslog.and_then(|syslog| syslog.client_certificate.as_ref())];
    let pairs = pairs.into_iter().flatten().flat_map(|pair| [&*pair.certificate_file, &*pair.key_file]);
    let authorities = [upstream.ca_file.as_deref(), syslog.and_then(|syslog| syslog.ca_file.as_deref())];
    authorities.into_iter().flatten().chain(pairs)
}

/// Who is told of events; by itself, since it is also told there that the rest cannot be used.
pub fn event_settings(written: &dot_proxy_config::Events) -> Result<events::Settings, ConfigError> {
    Ok(events::Settings {
        host: host_name(),
        stdout: written.stdout,
        syslog: written.syslog.as_ref().map(collector).transpose()?,
        names: written.names,
        buffer: usize::try_from(written.buffer).unwrap_or(usize::MAX),
        labels: written.labels.clone(),
    })
}

/// The host's name; in a pod that is the pod's. Read with the other files: later the process may have no way to them.
fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").or_else(|_| fs::read_to_string("/etc/hostname"));
    name.map(|name| name.trim().to_owned()).unwrap_or_default()
}

fn default_cache_budget() -> u64 {
    container_memory_limit().map_or(CACHE_WITHOUT_LIMIT, |limit| (limit / CACHE_SHARE).min(CACHE_MOST))
}

/// The container's memory limit, in bytes, as cgroup v2 or v1 tells it.
fn container_memory_limit() -> Option<u64> {
    /// cgroup v1 says "no limit" by a number near 2^63.
    const NO_LIMIT: u64 = 1 << 50;
    MEMORY_LIMIT_FILES
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
        assert_eq!(resolved.groups[1].servers[0].url, "udp://10.96.0.10:53");
        assert_eq!(resolved.groups[0].strategy, Strategy::Fastest);
        assert_eq!(resolved.groups[1].strategy, Strategy::Ordered);
    }

    #[test]
    fn a_ca_that_cannot_be_used_is_refused_with_its_field() {
        let pem = "-----BEGIN CERTIFICATE-----\\nMAA=\\n-----END CERTIFICATE-----\\n";
        let error = resolved(&format!("upstream: {{ca: \"{pem}\"}}")).err().unwrap();
        assert!(error.starts_with("upstream.ca: certificate 1 cannot be a CA"), "{error}");
        let error = resolved("upstream: {caFile: /nonexistent/ca.pem}").err().unwrap();
        assert!(error.starts_with("upstream.caFile: /nonexistent/ca.pem: "), "{error}");
    }

    /// A file of this test process alone, removed when dropped.
    struct File(PathBuf);

    impl File {
        fn holding(name: &str, text: &str) -> Self {
            let path = std::env::temp_dir().join(format!("dot-proxy-config-{}-{name}", std::process::id()));
            fs::write(&path, text).unwrap();
            Self(path)
        }
    }

    impl Drop for File {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.0);
        }
    }

    #[test]
    fn a_client_certificate_that_cannot_be_used_is_refused_with_its_field_and_its_file() {
        let pair = rcgen::generate_simple_self_signed(["client.example".to_owned()]).unwrap();
        let certificate = File::holding("client.pem", &pair.cert.pem());
        let key = File::holding("client.key", &pair.signing_key.serialize_pem());
        let other = File::holding("other.key", &rcgen::KeyPair::generate().unwrap().serialize_pem());
        let with = |certificate: &Path, key: &Path| {
            let files = format!("{{certificateFile: {}, keyFile: {}}}", certificate.display(), key.display());
            resolved(&format!("upstream: {{clientCertificate: {files}}}")).err()
        };
        assert_eq!(with(&certificate.0, &key.0), None);
        for (certificate, key, field, why) in [
            (Path::new("/nonexistent"), &*key.0, "certificateFile: /nonexistent: ", "No such file"),
            (&*certificate.0, Path::new("/nonexistent"), "keyFile: /nonexistent: ", "No such file"),
            (&*key.0, &*key.0, "certificateFile: ", "client.key: holds no certificate"),
            (&*certificate.0, &*certificate.0, "keyFile: ", "client.pem: holds no private key"),
            (&*certificate.0, &*other.0, "keyFile: ", "other.key: does not belong to the certificate"),
        ] {
            let error = with(certificate, key).unwrap();
            let path = format!("upstream.clientCertificate.{field}");
            assert!(error.starts_with(&path) && error.contains(why), "{error}");
        }
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
