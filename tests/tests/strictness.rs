//! A resolver that cannot prove who it is gets no query, and the pod's users can read why.

use dot_e2e::authority::Identity;
use dot_e2e::pod::UPSTREAM;
use dot_e2e::{Authority, Cluster, Namespace, Pod, Upstream, upstream};

#[test]
fn an_upstream_with_a_wrong_name_gets_no_query() {
    gets_no_query("wrong-name", "certificate-name-mismatch", |authority| authority.identity("other.resolver.test"));
}

#[test]
fn an_upstream_of_an_unknown_authority_gets_no_query() {
    gets_no_query("unknown-issuer", "certificate-unknown-issuer", |_| {
        Authority::new("somebody").identity(upstream::NAME)
    });
}

#[test]
fn an_upstream_whose_certificate_has_expired_gets_no_query() {
    gets_no_query("expired", "certificate-expired", |authority| authority.expired_identity(upstream::NAME));
}

/// The pod starts, its lookups end in SERVFAIL, `cause` is in the log, the metric and the EDE, and the upstream hears nothing.
fn gets_no_query(theme: &str, cause: &str, identity: impl FnOnce(&Authority) -> Identity) {
    let cluster = Cluster::shared();
    let upstream = Upstream::running(&identity(&cluster.authority));
    let namespace = Namespace::create(theme).restricted();

    let pod = namespace.run(&Pod::new("app").annotated().annotation(UPSTREAM, &upstream.url(upstream::NAME)));

    for reply in [pod.dig("www.example.com", ""), pod.kdig("example.org", "+edns"), pod.dig("mail.example.net", "+tcp")]
    {
        assert_eq!(reply.status, "SERVFAIL", "{}", reply.text);
        assert!(
            reply.error.as_deref().is_some_and(|error| error.contains(cause)),
            "the EDE tells {cause}: {}",
            reply.text
        );
    }
    assert!(pod.log("dot-proxy").contains(cause), "the log tells {cause}: {}", pod.log("dot-proxy"));
    let failures = pod.metric("dot_proxy_upstream_failures_total", &format!("cause=\"{cause}\""));
    assert!(failures >= 1.0, "the metric tells {cause}: {}", pod.metrics());
    assert_eq!(upstream.questions(), Vec::<String>::new(), "the upstream was asked");
    let cluster_name = pod.dig("kubernetes.default.svc.cluster.local", "");
    assert_eq!(cluster_name.answers, ["10.96.0.1"], "names of the cluster are not concerned: {}", cluster_name.text);
}
