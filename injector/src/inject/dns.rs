//! The pod's DNS fields, and which names the proxy asks of cluster DNS: what a ClusterFirst pod would have had, with the
//! proxy in the place of cluster DNS.

use std::net::IpAddr;
use std::sync::LazyLock;

use dot_proxy_config::{Route, Server, Suffix};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cluster::ClusterDns;
use crate::profile::{self, OwnNameservers, Profile};

use super::LOOPBACK;
use super::pod::{DnsConfig, Spec};
use super::refusal::Refusal;

/// A resolver option, as in resolv.conf and in `spec.dnsConfig.options`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DnsOption {
    /// Such as `ndots`.
    pub name: String,
    /// Such as `5`; many options have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// What the kubelet would have written into the pod's resolv.conf, servers apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Resolution {
    pub(super) searches: Vec<String>,
    pub(super) options: Vec<DnsOption>,
}

/// The API and the kubelet take so many search suffixes (`MaxDNSSearchPaths`) …
pub(super) const MOST_SEARCHES: usize = 32;
/// … and so many characters, spaces between them included (`MaxDNSSearchListChars`).
pub(super) const LONGEST_SEARCH_LIST: usize = 2048;

/// The reverse zones of private addresses (RFC 1918, RFC 4193), in which pods, services and nodes are: the cluster alone
/// can answer them, and nobody outside should hear them asked.
static PRIVATE_REVERSE_ZONES: LazyLock<Vec<Suffix>> = LazyLock::new(|| {
    let outer = ["10.in-addr.arpa", "168.192.in-addr.arpa", "c.f.ip6.arpa", "d.f.ip6.arpa"].map(str::to_owned);
    let zones = outer.into_iter().chain((16..=31).map(|second| format!("{second}.172.in-addr.arpa")));
    zones.filter_map(|zone| zone.parse().ok()).collect()
});

impl DnsOption {
    /// Reads `name` or `name:value`.
    pub fn from_resolv_conf(text: &str) -> Self {
        match text.split_once(':') {
            Some((name, value)) => Self { name: name.to_owned(), value: Some(value.to_owned()) },
            None => Self { name: text.to_owned(), value: None },
        }
    }
}

impl Resolution {
    /// Joins what the pod's dnsPolicy gives it with its own dnsConfig, as the kubelet does: suffixes without doubles, the pod's
    /// last; its options win by name. What exceeds the API's limits is left out, and said.
    pub(super) fn new(cluster: &ClusterDns, namespace: &str, pod: &Spec, warnings: &mut Vec<String>) -> Self {
        let own = &pod.dns_config;
        let (given, options): (Vec<String>, &[DnsOption]) = match pod.dns_policy.as_deref() {
            // The kubelet gives it nothing but its own.
            Some("None") => (Vec::new(), &[]),
            // It has its node's resolv.conf.
            Some("Default") => (cluster.searches.clone(), &[]),
            _ => {
                let of_namespace = cluster.namespace_searches(namespace).into_iter();
                (of_namespace.chain(cluster.searches.clone()).collect(), &cluster.options)
            }
        };
        let mut searches: Vec<String> = Vec::new();
        let mut left_out: Vec<String> = Vec::new();
        for search in given.into_iter().chain(own.searches.iter().cloned()) {
            if searches.iter().any(|earlier| same_name(earlier, &search)) {
                continue;
            }
            let length: usize = searches.iter().map(|earlier| earlier.len() + 1).sum();
            if searches.len() < MOST_SEARCHES && length + search.len() <= LONGEST_SEARCH_LIST {
                searches.push(search);
            } else {
                left_out.push(search);
            }
        }
        if !left_out.is_empty() {
            warnings.push(format!(
                "spec.dnsConfig.searches: with the cluster's own there are more than {MOST_SEARCHES} suffixes or {LONGEST_SEARCH_LIST} characters; left out: {}",
                left_out.join(" ")
            ));
        }
        Self { searches, options: merged(options, &own.options) }
    }

    /// The pod's `spec.dnsConfig`: the proxy and nothing beside it, since a second nameserver is a leak. Lists in which nothing is
    /// are left out, as the API server would leave them out.
    pub(super) fn dns_config(&self) -> Value {
        let mut config = json!({"nameservers": [LOOPBACK]});
        for (field, list) in [("searches", json!(self.searches)), ("options", json!(self.options))] {
            if list.as_array().is_some_and(|list| !list.is_empty()) {
                config[field] = list;
            }
        }
        config
    }
}

/// The routes of a pod: to cluster DNS what the cluster alone can answer, and the profile's own.
///
/// Search suffixes outside the cluster's domain go to cluster DNS as well, where they were answered before, unless the
/// profile routes them elsewhere, or leaves them to the pod's own nameservers.
pub(super) fn routes(
    cluster: &ClusterDns,
    profile: &Profile,
    resolution: &Resolution,
    own: &DnsConfig,
    warnings: &mut Vec<String>,
) -> Result<Vec<Route>, Refusal> {
    let of_profile: Vec<&Suffix> = profile.routes.iter().flat_map(|route| &route.suffixes).collect();
    let kept = kept_nameservers(profile.own_nameservers, own)?;
    let (mut suffixes, mut of_own) = (vec![cluster.domain.clone()], Vec::<Suffix>::new());
    // The root (`.`) parses as no suffix: it stays in resolv.conf, where it means "as it is", and is routed nowhere.
    for suffix in resolution.searches.iter().filter_map(|search| search.parse::<Suffix>().ok()) {
        let covers = |earlier: &Suffix| earlier.covers(&suffix);
        if suffixes.iter().chain(&of_own).any(covers) || of_profile.iter().any(|routed| covers(routed)) {
            continue;
        }
        // Those of the nodes are the administrator's, and told once, in the log.
        let is_the_pods = own.searches.iter().any(|search| same_name(search, suffix.as_str()));
        if is_the_pods && is_single_label(&suffix) {
            warnings.push(single_label_warning(&suffix));
        }
        if is_the_pods && !kept.is_empty() { of_own.push(suffix) } else { suffixes.push(suffix) }
    }
    suffixes.extend(PRIVATE_REVERSE_ZONES.iter().cloned());
    suffixes.retain(|suffix| !of_profile.contains(&suffix));
    let mut routes = Vec::new();
    if !suffixes.is_empty() {
        routes.push(Route::new(suffixes, cluster.plain_servers()));
    }
    if !of_own.is_empty() {
        routes.push(Route::new(of_own, kept));
    }
    routes.extend(profile.routes.iter().map(profile::Route::to_config));
    Ok(routes)
}

/// The nameservers in the pod's dnsConfig that go on answering names under its search suffixes.
fn kept_nameservers(policy: OwnNameservers, own: &DnsConfig) -> Result<Vec<Server>, Refusal> {
    if policy != OwnNameservers::KeepForSearches {
        return Ok(Vec::new());
    }
    let server = |written: &String| {
        let address: IpAddr = written
            .parse()
            .map_err(|_| Refusal::Malformed(format!("spec.dnsConfig.nameservers: {written:?} is no IP address")))?;
        if address.to_canonical().is_loopback() {
            return Err(Refusal::OwnResolverInPod { value: written.clone() });
        }
        Ok(Server::Plain((address, 53).into()))
    };
    own.nameservers.iter().map(server).collect()
}

/// What is wrong with search suffixes that all pods get, for the log.
pub fn search_warnings(cluster: &ClusterDns) -> Vec<String> {
    let suffixes = cluster.searches.iter().filter_map(|search| search.parse::<Suffix>().ok());
    suffixes.filter(is_single_label).map(|suffix| single_label_warning(&suffix)).collect()
}

fn is_single_label(suffix: &Suffix) -> bool {
    suffix.labels().count() == 1
}

fn single_label_warning(suffix: &Suffix) -> String {
    format!(
        "search suffix {suffix:?} is a whole top-level domain: every name that ends in .{suffix} goes to cluster DNS, in clear; name a domain under it if that is not meant",
        suffix = suffix.as_str()
    )
}

fn merged(base: &[DnsOption], own: &[DnsOption]) -> Vec<DnsOption> {
    let mut merged = base.to_vec();
    for option in own {
        match merged.iter_mut().find(|earlier| earlier.name == option.name) {
            Some(earlier) => *earlier = option.clone(),
            None => merged.push(option.clone()),
        }
    }
    merged
}

fn same_name(a: &str, b: &str) -> bool {
    let bare = |name: &str| if name == "." { name.to_owned() } else { name.trim_end_matches('.').to_ascii_lowercase() };
    bare(a) == bare(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(searches: &[&str]) -> ClusterDns {
        ClusterDns {
            domain: "cluster.local".parse().unwrap(),
            servers: vec!["10.96.0.10".parse().unwrap()],
            searches: searches.iter().map(|search| (*search).to_owned()).collect(),
            options: vec![DnsOption::from_resolv_conf("ndots:5")],
        }
    }

    fn own(searches: &[&str], options: &[&str]) -> DnsConfig {
        DnsConfig {
            nameservers: Vec::new(),
            searches: searches.iter().map(|search| (*search).to_owned()).collect(),
            options: options.iter().map(|option| DnsOption::from_resolv_conf(option)).collect(),
        }
    }

    fn pod(policy: &str, own: DnsConfig) -> Spec {
        Spec { dns_policy: Some(policy.to_owned()), dns_config: own, ..Spec::default() }
    }

    fn resolution(cluster: &ClusterDns, own: &DnsConfig) -> (Resolution, Vec<String>) {
        let mut warnings = Vec::new();
        (Resolution::new(cluster, "shop", &pod("ClusterFirst", own.clone()), &mut warnings), warnings)
    }

    fn routing(routes: &[profile::Route]) -> Profile {
        Profile { routes: routes.to_vec(), ..Profile::default() }
    }

    fn cluster_suffixes(routes: &[Route]) -> Vec<&str> {
        routes[0].suffixes.iter().map(Suffix::as_str).filter(|suffix| !suffix.ends_with(".arpa")).collect()
    }

    #[test]
    fn searches_are_the_namespaces_then_the_nodes_then_the_pods_without_doubles() {
        let own = own(&["a.example", "CORP.example.", "svc.cluster.local"], &[]);
        let (resolution, warnings) = resolution(&cluster(&["corp.example"]), &own);
        assert_eq!(
            resolution.searches,
            ["shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.example", "a.example"]
        );
        assert_eq!(warnings, [""; 0]);
    }

    #[test]
    fn the_pods_options_win_by_name() {
        let (resolution, _) = resolution(&cluster(&[]), &own(&[], &["ndots:2", "edns0"]));
        assert_eq!(resolution.options, ["ndots:2", "edns0"].map(DnsOption::from_resolv_conf));
    }

    #[test]
    fn what_exceeds_the_limits_of_the_api_is_left_out_and_said() {
        let many: Vec<String> = (0..40).map(|number| format!("s{number}.example")).collect();
        let (by_count, warnings) =
            resolution(&cluster(&[]), &own(&many.iter().map(String::as_str).collect::<Vec<_>>(), &[]));
        assert_eq!(by_count.searches.len(), 32);
        assert!(warnings[0].contains("left out: s29.example") && warnings[0].ends_with("s39.example"), "{warnings:?}");

        let long: Vec<String> =
            (0..12).map(|number| format!("{number}{}", format!(".{}", "x".repeat(60)).repeat(4))).collect();
        let (by_length, warnings) =
            resolution(&cluster(&[]), &own(&long.iter().map(String::as_str).collect::<Vec<_>>(), &[]));
        assert!(by_length.searches.join(" ").len() <= 2048);
        assert_eq!(warnings.len(), 1);
    }

    #[test]
    fn the_cluster_its_reverse_zones_and_search_suffixes_outside_it_go_to_cluster_dns() {
        let cluster = cluster(&["corp.example"]);
        let own = own(&["eu.corp.example", "team.example", "x.cluster.local", "."], &[]);
        let (resolution, mut warnings) = resolution(&cluster, &own);
        let routes = routes(&cluster, &routing(&[]), &resolution, &own, &mut warnings).unwrap();
        assert_eq!(routes.len(), 1);
        assert_eq!(cluster_suffixes(&routes), ["cluster.local", "corp.example", "team.example"]);
        assert_eq!(routes[0].servers[0].to_string(), "udp://10.96.0.10:53");
        let zones = ["10", "168.192", "16.172", "31.172"].map(|zone| format!("{zone}.in-addr.arpa"));
        for zone in zones.iter().map(String::as_str).chain(["c.f.ip6.arpa", "d.f.ip6.arpa"]) {
            assert!(routes[0].suffixes.iter().any(|suffix| suffix.as_str() == zone), "{zone}");
        }
        assert_eq!(routes[0].suffixes.len(), 3 + 20);
        assert!(resolution.searches.contains(&".".to_owned()));
        assert_eq!(warnings, [""; 0]);
    }

    #[test]
    fn what_the_profile_routes_elsewhere_does_not_go_to_cluster_dns() {
        let profile: Vec<profile::Route> = serde_json::from_value(json!([
            {"suffixes": ["corp.example", "10.in-addr.arpa"], "servers": ["udp://192.0.2.1"]}
        ]))
        .unwrap();
        let cluster = cluster(&["eu.corp.example"]);
        let own = own(&["corp.example"], &[]);
        let (resolution, mut warnings) = resolution(&cluster, &own);
        let routes = routes(&cluster, &routing(&profile), &resolution, &own, &mut warnings).unwrap();
        assert_eq!(cluster_suffixes(&routes), ["cluster.local"]);
        assert!(routes[0].suffixes.iter().all(|suffix| suffix.as_str() != "10.in-addr.arpa"));
        assert_eq!(routes[1..], [profile[0].to_config()]);
    }

    #[test]
    fn a_search_suffix_of_one_label_is_warned_about_where_it_was_written() {
        let nodes = cluster(&["lan"]);
        let pods = own(&["internal"], &[]);
        let (resolution, mut warnings) = resolution(&nodes, &pods);
        routes(&nodes, &routing(&[]), &resolution, &pods, &mut warnings).unwrap();
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].contains("\"internal\" is a whole top-level domain"), "{warnings:?}");
        assert!(search_warnings(&nodes)[0].contains("\"lan\""));
    }

    #[test]
    fn a_pod_keeps_the_searches_that_its_dns_policy_gave_it_and_no_others() {
        let cluster = cluster(&["corp.example"]);
        let searches = |policy| {
            let pod = pod(policy, own(&["team.example"], &["edns0"]));
            let resolution = Resolution::new(&cluster, "shop", &pod, &mut Vec::new());
            (resolution.searches.join(" "), resolution.options.len())
        };
        assert_eq!(searches("None"), ("team.example".to_owned(), 1));
        assert_eq!(searches("Default"), ("corp.example team.example".to_owned(), 1));
        assert!(searches("ClusterFirst").0.starts_with("shop.svc.cluster.local "));
        assert_eq!(searches("ClusterFirst").1, 2);
    }

    #[test]
    fn lists_that_are_empty_are_left_out_as_the_api_server_would() {
        let pod = pod("None", own(&[], &[]));
        let config = Resolution::new(&cluster(&["corp.example"]), "shop", &pod, &mut Vec::new()).dns_config();
        assert_eq!(config, json!({"nameservers": ["127.0.0.1"]}));
    }

    #[test]
    fn names_under_a_pods_searches_go_to_its_own_nameservers_where_the_profile_says_so() {
        let cluster = cluster(&["corp.example"]);
        let mut own = own(&["team.example", "x.cluster.local"], &[]);
        own.nameservers = vec!["192.0.2.7".to_owned(), "2001:db8::7".to_owned()];
        let routes_by = |policy| {
            let profile = Profile { own_nameservers: policy, ..Profile::default() };
            let resolution = Resolution::new(&cluster, "shop", &pod("None", own.clone()), &mut Vec::new());
            routes(&cluster, &profile, &resolution, &own, &mut Vec::new()).unwrap()
        };
        let kept = routes_by(OwnNameservers::KeepForSearches);
        assert_eq!(cluster_suffixes(&kept), ["cluster.local"]);
        assert_eq!(kept[1].suffixes.iter().map(Suffix::as_str).collect::<Vec<_>>(), ["team.example"]);
        let servers: Vec<_> = kept[1].servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["udp://192.0.2.7:53", "udp://[2001:db8::7]:53"]);
        let replaced = routes_by(OwnNameservers::Replace);
        assert_eq!(replaced.len(), 1);
        assert_eq!(cluster_suffixes(&replaced), ["cluster.local", "team.example"]);
    }

    #[test]
    fn a_nameserver_in_the_pod_itself_cannot_be_asked_on() {
        for (address, code) in
            [("127.0.0.1", "own-resolver-in-pod"), ("::1", "own-resolver-in-pod"), ("x", "malformed")]
        {
            let own = DnsConfig { nameservers: vec![address.to_owned()], ..DnsConfig::default() };
            assert_eq!(kept_nameservers(OwnNameservers::KeepForSearches, &own).unwrap_err().code(), code);
            assert_eq!(kept_nameservers(OwnNameservers::Replace, &own), Ok(Vec::new()));
        }
    }
}
