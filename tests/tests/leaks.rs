//! Nothing leaves an injected pod in the clear but the names of the cluster and what the search list makes of others.

use dot_e2e::{Capture, Cluster, Namespace, Pod, cluster_dns};

/// What an app does: names as people write them, through libc's search list, and in full.
const LOOKUPS: &str = "
    for name in www.example.com example.org mail.example.net; do getent ahostsv4 $name; dig +short $name; kdig +short +tcp $name; done
    resolve www.example.com; resolve no-such-name.example.org
    getent ahostsv4 backend; getent ahostsv4 backend.$NAMESPACE; getent ahostsv4 kubernetes.default.svc.cluster.local; getent ahostsv4 no-such-service
    dig +short -x 10.96.0.1; dig +short -x 203.0.113.80
    exit 0";

const PUBLIC: [&str; 4] = ["www.example.com.", "example.org.", "mail.example.net.", "no-such-name.example.org."];

#[test]
fn nothing_leaves_the_pod_in_the_clear_but_questions_to_cluster_dns() {
    let cluster = Cluster::shared();
    let namespace = Namespace::create("leaks").restricted();
    namespace.service("backend");

    // From before the pod is there until its last lookup is done.
    let capture = Capture::start();
    let pod = namespace.run(&Pod::new("app").annotated().init("migrate", "getent ahostsv4 init.example.com"));
    let lookups = pod.sh(&format!("NAMESPACE={}{LOOKUPS}", namespace.name()));
    let packets = capture.stop();
    let ip = pod.ip();
    assert!(lookups.success && lookups.stdout.contains("203.0.113.82"), "{lookups}");

    let elsewhere = packets.sent_by(&ip, &format!("port 53 and not dst host {}", cluster_dns::ADDRESS));
    assert_eq!(elsewhere, Vec::<String>::new(), "DNS in the clear to others than cluster DNS");
    assert!(
        !packets.sent_by(&ip, &format!("port 53 and dst host {}", cluster_dns::ADDRESS)).is_empty(),
        "the capture saw nothing"
    );
    let over_tls = format!("dst host {} and port 853", cluster.upstream.address());
    assert!(!packets.sent_by(&ip, &over_tls).is_empty(), "nothing went over TLS");
    assert!(!packets.show("example", &ip, "port 853"), "a name can be read in what went over TLS");
}

#[test]
fn cluster_dns_hears_no_public_name_and_no_impossible_search_expansion() {
    let _cluster = Cluster::shared();
    let namespace = Namespace::create("inside").restricted();
    namespace.service("backend");

    let pod = namespace.run(&Pod::new("app").annotated());
    pod.sh(&format!("NAMESPACE={}{LOOKUPS}", namespace.name()));
    let asked = cluster_dns::names_asked_by(&pod.ip());

    let service = format!("backend.{}.svc.cluster.local.", namespace.name());
    assert!(asked.contains(&service), "the log holds what was asked: {asked:?}");
    let leaked: Vec<_> = asked.iter().filter(|name| !in_the_cluster(name) || is_impossible(name)).collect();
    assert!(leaked.is_empty(), "{leaked:?}");
}

#[test]
fn the_upstream_hears_no_name_of_the_cluster() {
    let cluster = Cluster::shared();
    let namespace = Namespace::create("outside").restricted();
    namespace.service("backend");

    let pod = namespace.run(&Pod::new("app").annotated());
    pod.sh(&format!("NAMESPACE={}{LOOKUPS}", namespace.name()));
    let asked = cluster.upstream.names_asked_by(&pod.ip());

    for name in PUBLIC {
        assert!(asked.iter().any(|asked| asked == name), "the log holds what was asked: {asked:?}");
    }
    let leaked: Vec<_> = asked.iter().filter(|name| in_the_cluster(name) || is_bare(name)).collect();
    assert!(leaked.is_empty(), "{leaked:?}");
}

/// The control to the tests above: what they look for is seen where nothing prevents it.
#[test]
fn the_lookups_of_a_pod_that_asked_for_nothing_are_seen_in_the_clear() {
    let _cluster = Cluster::shared();
    let namespace = Namespace::create("clear");

    let capture = Capture::start();
    let pod = namespace.run(&Pod::new("app"));
    pod.sh("getent ahostsv4 www.example.com; dig +tries=1 +time=1 @192.0.2.1 example.org");
    let packets = capture.stop();
    let ip = pod.ip();

    assert!(packets.show("example", &ip, "port 53"), "the capture does not see names");
    assert!(
        !packets.sent_by(&ip, "port 53 and dst host 192.0.2.1").is_empty(),
        "the capture does not see other servers"
    );
    let asked = cluster_dns::names_asked_by(&ip);
    assert!(asked.iter().any(|name| name == "www.example.com."), "{asked:?}");
    assert!(asked.iter().any(|name| is_impossible(name)), "{asked:?}");
}

/// A single label: a service as programs of its namespace write it.
fn is_bare(name: &str) -> bool {
    !name.trim_end_matches('.').contains('.')
}

fn in_the_cluster(name: &str) -> bool {
    name.ends_with(".cluster.local.") || name == "cluster.local." || name.ends_with(".10.in-addr.arpa.")
}

/// Whether the Kubernetes DNS specification cannot contain this name: below `svc` a name has two labels (service, namespace),
/// three (an endpoint's), or four that begin with `_port._protocol`; below `pod` two; and nothing is directly below the domain.
fn is_impossible(name: &str) -> bool {
    let Some(inside) = name.strip_suffix(".cluster.local.") else { return false };
    let labels: Vec<&str> = inside.split('.').rev().collect();
    match labels.split_first() {
        Some((&"svc", below)) => below.len() > 4 || below.len() == 4 && !below[3].starts_with('_'),
        Some((&"pod", below)) => below.len() > 2,
        _ => true,
    }
}
