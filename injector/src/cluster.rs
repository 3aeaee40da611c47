//! What the injector knows about the cluster's DNS: from its settings, else from its own `/etc/resolv.conf`, which the
//! kubelet wrote for a ClusterFirst pod.

use std::fmt;
use std::net::IpAddr;

use dot_proxy_config::{Server, Suffix};
use serde::{Deserialize, Serialize};

use crate::inject::DnsOption;

/// What an administrator may set about the cluster; what is empty is read from resolv.conf.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterSettings {
    /// The cluster's domain, such as `cluster.local`.
    pub domain: String,
    /// Addresses of cluster DNS.
    pub dns_addresses: Vec<IpAddr>,
    /// Search suffixes of the nodes, after the cluster's own.
    pub searches: Vec<String>,
    /// Resolver options as in resolv.conf, such as `ndots:5`.
    pub options: Vec<String>,
}

/// The cluster's DNS, as a pod of policy ClusterFirst sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterDns {
    /// The cluster's domain.
    pub domain: Suffix,
    /// Addresses of cluster DNS.
    pub servers: Vec<IpAddr>,
    /// Search suffixes that all pods have after those of their namespace.
    pub searches: Vec<String>,
    /// Resolver options of all pods.
    pub options: Vec<DnsOption>,
}

/// What stands in a resolv.conf, as far as it is used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvConf {
    nameservers: Vec<IpAddr>,
    searches: Vec<String>,
    options: Vec<DnsOption>,
}

/// Why the cluster's DNS could not be made out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterError(String);

/// What the kubelet gives pods of policy ClusterFirst.
const DEFAULT_OPTIONS: &str = "ndots:5";

impl fmt::Display for ClusterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ClusterError {}

impl ClusterDns {
    /// Stands in for a cluster's DNS of which nothing is known, where only the shape of a pod matters.
    pub fn unknown() -> Self {
        Self {
            domain: "cluster.local".parse().expect("a domain name of two labels"),
            servers: vec![IpAddr::from([10, 96, 0, 10])],
            searches: Vec::new(),
            options: vec![DnsOption::from_resolv_conf(DEFAULT_OPTIONS)],
        }
    }

    /// Joins what is set with what the injector's own resolv.conf says.
    pub fn new(settings: &ClusterSettings, resolv_conf: &ResolvConf) -> Result<Self, ClusterError> {
        let domain = match settings.domain.as_str() {
            "" => resolv_conf.cluster_domain()?,
            domain => domain.parse().map_err(|error| ClusterError(format!("cluster.domain: {error}")))?,
        };
        let servers = match settings.dns_addresses.as_slice() {
            [] => resolv_conf.cluster_servers()?,
            addresses => addresses.to_vec(),
        };
        let searches = match settings.searches.as_slice() {
            [] => resolv_conf.searches_beside(&domain),
            searches => checked_searches(searches)?,
        };
        let options = match settings.options.as_slice() {
            [] if resolv_conf.options.is_empty() => vec![DnsOption::from_resolv_conf(DEFAULT_OPTIONS)],
            [] => resolv_conf.options.clone(),
            options => checked_options(options)?,
        };
        Ok(Self { domain, servers, searches, options })
    }

    /// The servers as the proxy's routes name them.
    pub fn plain_servers(&self) -> Vec<Server> {
        self.servers.iter().map(|address| Server::Plain((*address, 53).into())).collect()
    }

    /// The search suffixes that the kubelet gives a pod of this namespace first.
    pub fn namespace_searches(&self, namespace: &str) -> [String; 3] {
        let domain = &self.domain;
        [format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_string()]
    }
}

impl ResolvConf {
    /// Reads resolv.conf(5): the last `search` counts, unknown lines are passed over.
    pub fn parse(text: &str) -> Self {
        let mut parsed = Self::default();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => {
                    // fe80::1%eth0: an interface of the node's means nothing in a pod
                    let address: Option<IpAddr> = words.next().and_then(|word| word.parse().ok());
                    parsed.nameservers.extend(address);
                }
                Some("search" | "domain") => parsed.searches = words.map(str::to_owned).collect(),
                Some("options") => parsed.options.extend(words.map(DnsOption::from_resolv_conf)),
                _ => {}
            }
        }
        parsed
    }

    /// The kubelet writes `NAMESPACE.svc.DOMAIN svc.DOMAIN DOMAIN`.
    fn cluster_domain(&self) -> Result<Suffix, ClusterError> {
        let domain = self.searches.iter().find_map(|search| {
            let domain = search.strip_prefix("svc.")?;
            self.searches.iter().any(|other| other == domain).then_some(domain)
        });
        let unknown = || {
            ClusterError(format!(
                "cluster.domain: not set, and the search list in /etc/resolv.conf ({}) is not that of a pod with dnsPolicy ClusterFirst: set cluster.domain, such as cluster.local",
                self.searches.join(" ")
            ))
        };
        domain.and_then(|domain| domain.parse().ok()).ok_or_else(unknown)
    }

    fn cluster_servers(&self) -> Result<Vec<IpAddr>, ClusterError> {
        let servers: Vec<IpAddr> = self.nameservers.iter().copied().filter(|address| !address.is_loopback()).collect();
        if servers.is_empty() {
            return Err(ClusterError(
                "cluster.dnsAddresses: not set, and /etc/resolv.conf names no server that a pod could reach: set the address of cluster DNS (`kubectl -n kube-system get service kube-dns` shows it)".to_owned(),
            ));
        }
        Ok(servers)
    }

    /// What the node adds to the cluster's own suffixes: not those of the injector's namespace, nor what the API of older
    /// clusters refuses in a pod's dnsConfig (before 1.33: `.` and underscores, of which `.` changes nothing but the order).
    fn searches_beside(&self, domain: &Suffix) -> Vec<String> {
        let inherited = self.searches.iter().map(|search| search.trim_end_matches('.')).filter(|search| {
            search.parse::<Suffix>().is_ok_and(|suffix| !domain.covers(&suffix)) && !search.contains('_')
        });
        inherited.map(str::to_owned).collect()
    }
}

fn checked_searches(searches: &[String]) -> Result<Vec<String>, ClusterError> {
    for (index, search) in searches.iter().enumerate().filter(|(_, search)| *search != ".") {
        search.parse::<Suffix>().map_err(|error| ClusterError(format!("cluster.searches[{index}]: {error}")))?;
    }
    Ok(searches.to_vec())
}

fn checked_options(options: &[String]) -> Result<Vec<DnsOption>, ClusterError> {
    for (index, option) in options.iter().enumerate() {
        if option.is_empty() || option.starts_with(':') || option.contains(char::is_whitespace) {
            return Err(ClusterError(format!(
                "cluster.options[{index}]: {option:?} is no resolver option: write one such as ndots:5"
            )));
        }
    }
    Ok(options.iter().map(|option| DnsOption::from_resolv_conf(option)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kubelet writes into a ClusterFirst pod of namespace dot-sidecar, on a node with a search suffix.
    const KUBELET: &str = "search dot-sidecar.svc.cluster.local svc.cluster.local cluster.local corp.example .\n\
                           nameserver 10.96.0.10\noptions ndots:5\n";

    #[test]
    fn everything_is_read_from_the_resolv_conf_that_the_kubelet_wrote() {
        let cluster = ClusterDns::new(&ClusterSettings::default(), &ResolvConf::parse(KUBELET)).unwrap();
        assert_eq!(cluster.domain.as_str(), "cluster.local");
        assert_eq!(cluster.servers, ["10.96.0.10".parse::<IpAddr>().unwrap()]);
        assert_eq!(cluster.searches, ["corp.example"]);
        assert_eq!(cluster.options, [DnsOption::from_resolv_conf("ndots:5")]);
    }

    #[test]
    fn what_is_set_takes_the_place_of_what_is_read() {
        let settings = ClusterSettings {
            domain: "k8s.example".to_owned(),
            dns_addresses: vec!["fd00::a".parse().unwrap()],
            searches: vec!["corp.example".to_owned(), ".".to_owned()],
            options: vec!["ndots:2".to_owned(), "edns0".to_owned()],
        };
        let cluster = ClusterDns::new(&settings, &ResolvConf::parse(KUBELET)).unwrap();
        assert_eq!(cluster.domain.as_str(), "k8s.example");
        assert_eq!(cluster.plain_servers()[0].to_string(), "udp://[fd00::a]:53");
        assert_eq!(cluster.searches, ["corp.example", "."]);
        assert_eq!(cluster.options.len(), 2);
    }

    #[test]
    fn a_resolv_conf_that_is_no_pods_is_refused_with_the_field_to_set() {
        let refused = |settings: &ClusterSettings, text: &str| {
            ClusterDns::new(settings, &ResolvConf::parse(text)).unwrap_err().to_string()
        };
        let host = "nameserver 127.0.0.53\nsearch lan\n";
        assert!(refused(&ClusterSettings::default(), host).starts_with("cluster.domain: "));
        let with_domain = ClusterSettings { domain: "cluster.local".to_owned(), ..Default::default() };
        assert!(refused(&with_domain, host).starts_with("cluster.dnsAddresses: "));
    }

    #[test]
    fn settings_that_cannot_be_used_are_named_by_their_path() {
        for (settings, path) in [
            (ClusterSettings { domain: "a b".to_owned(), ..Default::default() }, "cluster.domain: "),
            (
                ClusterSettings { searches: vec!["a".to_owned(), "b c".to_owned()], ..Default::default() },
                "cluster.searches[1]: ",
            ),
            (ClusterSettings { options: vec!["a b".to_owned()], ..Default::default() }, "cluster.options[0]: "),
        ] {
            let error = ClusterDns::new(&settings, &ResolvConf::parse(KUBELET)).unwrap_err().to_string();
            assert!(error.starts_with(path), "{error}");
        }
    }

    #[test]
    fn resolv_conf_is_read_as_libc_reads_it() {
        let parsed = ResolvConf::parse(
            "# comment\nsearch old\nsearch a b\nnameserver fe80::1%eth0\nnameserver 10.0.0.1 trailing\noptions ndots:5 edns0\noptions trust-ad\nsortlist 1.2.3.4\n",
        );
        assert_eq!(parsed.searches, ["a", "b"]);
        assert_eq!(parsed.nameservers, ["10.0.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(parsed.options.len(), 3);
    }
}
