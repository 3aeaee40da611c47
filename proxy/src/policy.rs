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

/// The rule that keeps addresses of a single label in a cluster.
pub const SINGLE_LABEL: &str = "single-label";

/// The rule that keeps names of special use which are nobody's business outside.
pub const SPECIAL_USE: &str = "special-use";

/// What is answered, in datagrams, to who asks for all types (RFC 8482 §4.2): a HINFO that names that document.
pub const MINIMAL_ANY: Own<'static> = Own {
    rcode: Rcode::NOERROR,
    answer: Some(OwnRecord { owner: None, rtype: rtype::HINFO, ttl: 3_600, rdata: b"\x07RFC8482\x00" }),
    authority: None,
    cause: None,
};

/// What to do with a question.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// Answered here, with this.
    Answer(Own<'a>),
    /// Answered here, with this, to keep the name from a resolver that has no business with it; and by which rule.
    Withhold(Own<'a>, &'static str),
    /// Not a question that a forwarder answers.
    Refuse(Rcode),
    /// Asked of the group that its route names.
    Forward,
}

/// The rules in force.
#[derive(Debug, PartialEq, Eq)]
pub struct Policy {
    cluster: Option<Zone>,
}

/// A cluster's domain, with what goes with its negative answers.
#[derive(Debug, PartialEq, Eq)]
struct Zone {
    name: Vec<u8>,
    soa: Vec<u8>,
    impossible: ExtendedError,
    bare_host: ExtendedError,
}

impl Policy {
    /// The rules for a proxy inside the cluster with this domain, or outside any.
    pub fn new(cluster_domain: Option<&Suffix>) -> Self {
        Self { cluster: cluster_domain.map(Zone::new) }
    }

    /// Judges a question; `lower` is its name in lower case.
    pub fn judge(&self, question: Question<'_>, lower: Name<'_>) -> Verdict<'_> {
        if matches!(question.qtype(), rtype::AXFR | rtype::IXFR) {
            return Verdict::Refuse(Rcode::NOTIMP);
        }
        if !question.is_internet() {
            return Verdict::Forward;
        }
        if let Some(verdict) = special_use(question, lower) {
            return verdict;
        }
        match &self.cluster {
            Some(zone) if zone.is_impossible(lower) => Verdict::Answer(zone.nxdomain()),
            Some(zone) if is_bare_host(question, lower) => Verdict::Withhold(zone.bare_host(), SINGLE_LABEL),
            _ => Verdict::Forward,
        }
    }
}

impl Zone {
    fn new(domain: &Suffix) -> Self {
        let synthesized = |text: &str| ExtendedError { code: ExtendedError::SYNTHESIZED, text: text.to_owned() };
        Self {
            name: from_text(domain.as_str()),
            soa: soa(domain),
            impossible: synthesized("the Kubernetes DNS specification has no such name"),
            bare_host: synthesized("a single label is no public name"),
        }
    }

    fn nxdomain(&self) -> Own<'_> {
        let authority = OwnRecord { owner: Some(&self.name), rtype: rtype::SOA, ttl: TTL, rdata: &self.soa };
        Own { rcode: Rcode::NXDOMAIN, answer: None, authority: Some(authority), cause: Some(&self.impossible) }
    }

    fn bare_host(&self) -> Own<'_> {
        Own { rcode: Rcode::NXDOMAIN, answer: None, authority: None, cause: Some(&self.bare_host) }
    }

    /// Whether a name under the cluster's domain is one that the Kubernetes DNS specification (1.1.0) cannot contain.
    ///
    /// It contains services (`service.namespace.svc`), their endpoints (`host.service.namespace.svc`) and ports
    /// (`_port._proto.service.namespace.svc`), pods (`address.namespace.pod`, and under a service), the version record,
    /// and CoreDNS's own name server (`ns.dns`). What libc makes of `www.example.com` and the search list is mostly none
    /// of them.
    fn is_impossible(&self, lower: Name<'_>) -> bool {
        let Some(above) = lower.labels_above(&self.name) else { return false };
        let (mut first, mut second, mut last, mut count) = (&[][..], &[][..], &[][..], 0);
        for label in above {
            match count {
                0 => first = label,
                1 => second = label,
                _ => {}
            }
            last = label;
            count += 1;
        }
        match (last, count) {
            (_, 0) => false,
            (b"svc", 5) => !(first.starts_with(b"_") && second.starts_with(b"_")),
            (b"svc", _) => count > 4,
            (b"pod", _) => count > 3,
            (b"dns", _) => !(count == 1 || count == 2 && first == b"ns"),
            (b"dns-version", 1) => false,
            _ => true,
        }
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

/// `localhost.`
const LOCALHOST: &[u8] = b"\x09localhost\x00";

/// Names that every resolver answers itself (RFC 6761, 7686, 9462).
fn special_use<'a>(question: Question<'_>, lower: Name<'_>) -> Option<Verdict<'a>> {
    let own = |rtype, rdata| {
        let answer = OwnRecord { owner: None, rtype, ttl: TTL, rdata };
        Some(Verdict::Answer(Own { rcode: Rcode::NOERROR, answer: Some(answer), authority: None, cause: None }))
    };
    let empty = |rcode| Own { rcode, answer: None, authority: None, cause: None };
    let withhold = |rcode| Some(Verdict::Withhold(empty(rcode), SPECIAL_USE));
    // The three labels next to the root, and how many there are.
    let ([third, second, top], count) =
        lower.labels().fold(([&[][..]; 3], 0), |([_, b, c], count), label| ([b, c, label], count + 1));
    match (third, second, top, question.qtype()) {
        (_, _, b"localhost", rtype::A) => own(rtype::A, &[127, 0, 0, 1]),
        (_, _, b"localhost", rtype::AAAA) => own(rtype::AAAA, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
        (_, _, b"localhost", _) => Some(Verdict::Answer(empty(Rcode::NOERROR))),
        (b"127", b"in-addr", b"arpa", rtype::PTR) if count == 6 => own(rtype::PTR, LOCALHOST),
        (_, b"ip6", b"arpa", rtype::PTR) if is_ipv6_loopback(lower) => own(rtype::PTR, LOCALHOST),
        (_, _, b"invalid" | b"onion", _) => withhold(Rcode::NXDOMAIN),
        // Forwarding this would tell an app's resolver where to go around the proxy.
        (_, b"resolver", b"arpa", _) => withhold(Rcode::NOERROR),
        _ => None,
    }
}

/// Whether it is `1.0.….0.ip6.arpa.` with all 32 digits.
fn is_ipv6_loopback(lower: Name<'_>) -> bool {
    let mut labels = lower.labels();
    labels.next() == Some(b"1") && lower.labels().count() == 34 && labels.take(31).all(|label| label == b"0")
}

/// Whether the address of a single label is asked for: a service's name that the search list did not find. No public
/// name is such a one (RFC 7085), and a public resolver would learn what the cluster calls its own.
fn is_bare_host(question: Question<'_>, lower: Name<'_>) -> bool {
    matches!(question.qtype(), rtype::A | rtype::AAAA) && lower.labels().take(2).count() == 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn judged(name: &str, qtype: u16) -> (Option<Rcode>, Option<Vec<u8>>) {
        let policy = Policy::new(Some(&"cluster.local".parse().unwrap()));
        let mut bytes = from_text(name);
        bytes.extend(qtype.to_be_bytes());
        bytes.extend([0, 1]);
        let question = Question::starting(&bytes).unwrap();
        match policy.judge(question, question.name()) {
            Verdict::Forward => (None, None),
            Verdict::Refuse(rcode) => (Some(rcode), None),
            Verdict::Answer(own) | Verdict::Withhold(own, _) => {
                (Some(own.rcode), own.answer.map(|record| record.rdata.to_vec()))
            }
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
    fn what_another_resolver_has_no_business_with_is_told_from_what_is_merely_answered_here() {
        let policy = Policy::new(Some(&"cluster.local".parse().unwrap()));
        let rule = |name: &str| {
            let bytes = [from_text(name), vec![0, 1, 0, 1]].concat();
            let question = Question::starting(&bytes).unwrap();
            match policy.judge(question, question.name()) {
                Verdict::Withhold(_, rule) => Some(rule),
                _ => None,
            }
        };
        assert_eq!(rule("no-such-service"), Some(SINGLE_LABEL));
        for name in ["x.onion", "x.invalid", "_dns.resolver.arpa"] {
            assert_eq!(rule(name), Some(SPECIAL_USE), "{name}");
        }
        for name in ["localhost", "www.example.com.cluster.local", "web.demo.svc.cluster.local", "www.example.com"] {
            assert_eq!(rule(name), None, "{name}");
        }
    }

    #[test]
    fn zone_transfers_are_not_implemented() {
        assert_eq!(judged("example.com", rtype::AXFR).0, Some(Rcode::NOTIMP));
        assert_eq!(judged("example.com", rtype::IXFR).0, Some(Rcode::NOTIMP));
    }

    proptest! {
        #[test]
        fn any_name_is_judged(labels in prop::collection::vec("[a-z0-9_]{1,10}|svc|pod|dns|arpa|localhost", 0..9), qtype in 0u16..300) {
            judged(&labels.join("."), qtype);
            judged(&format!("{}.cluster.local", labels.join(".")), qtype);
        }
    }
}
