//! Which questions leave at all: `question → answer here | refuse | forward`.
//!
//! Pure: no clock, no I/O. What is answered here would tell a resolver something for nothing: names that stand for this
//! machine, names that cannot exist, search expansions that a cluster cannot contain, and service names that it does not.

use dot_proxy_config::Suffix;

use crate::wire::name::{Name, from_text};
use crate::wire::reply::{Own, OwnRecord};
use crate::wire::request::Question;
use crate::wire::{ExtendedError, Rcode, rtype};

/// TTL of what is answered here, in seconds: short, since a cluster's rules may change.
const TTL: u32 = 30;

/// What to do with a question.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// Answered here, with this.
    Answer(Own<'a>),
    /// Not a question that a forwarder answers.
    Refuse(Rcode),
    /// Asked of the group that its route names.
    Forward,
}

/// The rules in force.
#[derive(Debug)]
pub struct Policy {
    cluster: Option<Zone>,
}

/// A cluster's domain, with the SOA that goes with its negative answers.
#[derive(Debug)]
struct Zone {
    name: Vec<u8>,
    soa: Vec<u8>,
}

impl Policy {
    /// The rules for a proxy inside the cluster with this domain, or outside any.
    pub fn new(cluster_domain: Option<&Suffix>) -> Self {
        Self { cluster: cluster_domain.map(|domain| Zone { name: from_text(domain.as_str()), soa: soa(domain) }) }
    }

    /// Judges a question; `lower` is its name in lower case.
    pub fn judge(&self, question: Question<'_>, lower: Name<'_>) -> Verdict<'_> {
        if matches!(question.qtype(), rtype::AXFR | rtype::IXFR) {
            return Verdict::Refuse(Rcode::NOTIMP);
        }
        if !question.is_internet() {
            return Verdict::Forward;
        }
        if let Some(own) = special_use(question, lower) {
            return Verdict::Answer(own);
        }
        match &self.cluster {
            Some(zone) if is_impossible(lower, &zone.name) => Verdict::Answer(zone.nxdomain()),
            Some(_) if is_bare_host(question, lower) => Verdict::Answer(bare_host()),
            _ => Verdict::Forward,
        }
    }
}

impl Zone {
    fn nxdomain(&self) -> Own<'_> {
        let authority = OwnRecord { owner: Some(&self.name), rtype: rtype::SOA, ttl: TTL, rdata: self.soa.clone() };
        let cause = ExtendedError {
            code: ExtendedError::SYNTHESIZED,
            text: "the Kubernetes DNS specification has no such name".to_owned(),
        };
        Own { rcode: Rcode::NXDOMAIN, answer: None, authority: Some(authority), cause: Some(cause) }
    }
}

fn soa(domain: &Suffix) -> Vec<u8> {
    let mut rdata = from_text(&format!("ns.dns.{domain}"));
    rdata.extend(from_text(&format!("hostmaster.{domain}")));
    for field in [1, 7200, 1800, 86_400, TTL] {
        rdata.extend(field.to_be_bytes());
    }
    rdata
}

/// Names that every resolver answers itself (RFC 6761, 7686, 9462).
fn special_use<'a>(question: Question<'_>, lower: Name<'_>) -> Option<Own<'a>> {
    let labels: Vec<&[u8]> = lower.labels().take(MANY).collect();
    let own = |rtype, rdata| {
        let answer = OwnRecord { owner: None, rtype, ttl: TTL, rdata };
        Some(Own { rcode: Rcode::NOERROR, answer: Some(answer), authority: None, cause: None })
    };
    let empty = |rcode| Some(Own { rcode, answer: None, authority: None, cause: None });
    match (labels.as_slice(), question.qtype()) {
        ([.., b"localhost"], rtype::A) => own(rtype::A, vec![127, 0, 0, 1]),
        ([.., b"localhost"], rtype::AAAA) => own(rtype::AAAA, [&[0; 15][..], &[1]].concat()),
        ([.., b"localhost"], _) => empty(Rcode::NOERROR),
        ([_, _, _, b"127", b"in-addr", b"arpa"], rtype::PTR) => own(rtype::PTR, from_text("localhost")),
        (ip6, rtype::PTR) if is_ipv6_loopback(ip6) => own(rtype::PTR, from_text("localhost")),
        ([.., b"invalid" | b"onion"], _) => empty(Rcode::NXDOMAIN),
        // Forwarding this would tell an app's resolver where to go around the proxy.
        ([.., b"resolver", b"arpa"], _) => empty(Rcode::NOERROR),
        _ => None,
    }
}

/// More labels than any name has.
const MANY: usize = 128;

fn is_ipv6_loopback(labels: &[&[u8]]) -> bool {
    let [b"1", zeros @ .., b"ip6", b"arpa"] = labels else { return false };
    zeros.len() == 31 && zeros.iter().all(|label| label == b"0")
}

/// Whether the address of a single label is asked for: a service's name that the search list did not find. No public
/// name is such a one (RFC 7085), and a public resolver would learn what the cluster calls its own.
fn is_bare_host(question: Question<'_>, lower: Name<'_>) -> bool {
    matches!(question.qtype(), rtype::A | rtype::AAAA) && lower.labels().take(2).count() == 1
}

fn bare_host() -> Own<'static> {
    let text = "a single label is no public name".to_owned();
    let cause = ExtendedError { code: ExtendedError::SYNTHESIZED, text };
    Own { rcode: Rcode::NXDOMAIN, answer: None, authority: None, cause: Some(cause) }
}

/// Whether a name under the cluster's domain is one that the Kubernetes DNS specification (1.1.0) cannot contain.
///
/// It contains services (`service.namespace.svc`), their endpoints (`host.service.namespace.svc`) and ports
/// (`_port._proto.service.namespace.svc`), pods (`address.namespace.pod`, and under a service), the version record, and
/// CoreDNS's own name server (`ns.dns`). What libc makes of `www.example.com` and the search list is mostly none of them.
fn is_impossible(lower: Name<'_>, zone: &[u8]) -> bool {
    let Some(above) = lower.as_bytes().strip_suffix(zone) else { return false };
    // A suffix of the bytes is a suffix of the labels only where a label starts.
    if !lower.and_ancestors().any(|ancestor| ancestor.as_bytes().len() == zone.len()) {
        return false;
    }
    let labels: Vec<&[u8]> = labels_of(above);
    match labels.as_slice() {
        [] => false,
        [names @ .., b"svc"] => match names {
            [port, protocol, _service, _namespace] => !(port.starts_with(b"_") && protocol.starts_with(b"_")),
            _ => names.len() > 3,
        },
        [names @ .., b"pod"] => names.len() > 2,
        [names @ .., b"dns"] => !matches!(names, [] | [b"ns"]),
        [b"dns-version"] => false,
        _ => true,
    }
}

/// The labels of a name whose end was cut off at a label's start.
fn labels_of(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut labels = Vec::new();
    while let Some((length, rest)) = bytes.split_first() {
        let Some((label, rest)) = rest.split_at_checked(usize::from(*length)) else { break };
        labels.push(label);
        bytes = rest;
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(name: &str, qtype: u16) -> (Option<Rcode>, Option<Vec<u8>>) {
        let policy = Policy::new(Some(&"cluster.local".parse().unwrap()));
        let mut bytes = from_text(name);
        bytes.extend(qtype.to_be_bytes());
        bytes.extend([0, 1]);
        let question = Question::starting(&bytes).unwrap();
        match policy.judge(question, question.name()) {
            Verdict::Forward => (None, None),
            Verdict::Refuse(rcode) => (Some(rcode), None),
            Verdict::Answer(own) => (Some(own.rcode), own.answer.map(|record| record.rdata)),
        }
    }

    #[test]
    fn names_that_the_kubernetes_specification_has_are_forwarded() {
        for name in [
            "cluster.local",
            "dns-version.cluster.local",
            "ns.dns.cluster.local",
            "svc.cluster.local",
            "demo.svc.cluster.local",
            "web.demo.svc.cluster.local",
            "web-0.web.demo.svc.cluster.local",
            "_http._tcp.web.demo.svc.cluster.local",
            "_tcp.web.demo.svc.cluster.local",
            "10-0-0-1.demo.pod.cluster.local",
            // Looks like an endpoint of a service, so only cluster DNS can tell.
            "www.example.com.svc.cluster.local",
            "example.com.demo.svc.cluster.local",
        ] {
            assert_eq!(judged(name, rtype::A), (None, None), "{name}");
        }
    }

    #[test]
    fn search_expansions_that_no_cluster_contains_are_answered_nxdomain_here() {
        for name in [
            "www.example.com.cluster.local",
            "example.com.cluster.local",
            "com.cluster.local",
            "www.example.com.demo.svc.cluster.local",
            "a.b.c.d.e.svc.cluster.local",
            "_x.y.web.demo.svc.cluster.local",
            "a.10-0-0-1.demo.pod.cluster.local",
            "a.dns-version.cluster.local",
            "x.dns.cluster.local",
        ] {
            assert_eq!(judged(name, rtype::A), (Some(Rcode::NXDOMAIN), None), "{name}");
        }
    }

    #[test]
    fn names_that_merely_end_like_the_clusters_domain_are_forwarded() {
        for name in ["www.example.com", "mycluster.local", "a.xcluster.local", "a.local"] {
            assert_eq!(judged(name, rtype::A), (None, None), "{name}");
        }
    }

    #[test]
    fn in_a_cluster_the_address_of_a_single_label_is_asked_of_nobody() {
        assert_eq!(judged("no-such-service", rtype::A), (Some(Rcode::NXDOMAIN), None));
        assert_eq!(judged("no-such-service", rtype::AAAA), (Some(Rcode::NXDOMAIN), None));
        const NS: u16 = 2;
        assert_eq!(judged("com", NS), (None, None));
        assert_eq!(judged("", rtype::A), (None, None));
    }

    #[test]
    fn outside_a_cluster_nothing_is_a_name_of_the_cluster() {
        for name in ["www.example.com.cluster.local", "no-such-service"] {
            let bytes = [from_text(name), vec![0, 1, 0, 1]].concat();
            let question = Question::starting(&bytes).unwrap();
            assert_eq!(Policy::new(None).judge(question, question.name()), Verdict::Forward);
        }
    }

    #[test]
    fn names_of_this_machine_are_answered_here() {
        assert_eq!(judged("localhost", rtype::A), (Some(Rcode::NOERROR), Some(vec![127, 0, 0, 1])));
        assert_eq!(judged("a.localhost", rtype::AAAA).1.map(|rdata| rdata[15]), Some(1));
        assert_eq!(judged("localhost", rtype::SOA), (Some(Rcode::NOERROR), None));
        assert_eq!(judged("1.0.0.127.in-addr.arpa", rtype::PTR).1, Some(from_text("localhost")));
        let ipv6 = format!("1.{}ip6.arpa", "0.".repeat(31));
        assert_eq!(judged(&ipv6, rtype::PTR).1, Some(from_text("localhost")));
    }

    #[test]
    fn names_that_cannot_exist_and_ways_around_the_proxy_go_nowhere() {
        assert_eq!(judged("x.invalid", rtype::A).0, Some(Rcode::NXDOMAIN));
        assert_eq!(judged("x.onion", rtype::A).0, Some(Rcode::NXDOMAIN));
        assert_eq!(judged("_dns.resolver.arpa", 64), (Some(Rcode::NOERROR), None));
    }

    #[test]
    fn zone_transfers_are_not_implemented() {
        assert_eq!(judged("example.com", rtype::AXFR).0, Some(Rcode::NOTIMP));
        assert_eq!(judged("example.com", rtype::IXFR).0, Some(Rcode::NOTIMP));
    }
}
