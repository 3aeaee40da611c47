//! What the API server's answer to a pod that asks means, and what to do about it.

use std::fmt;

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;

use crate::annotations::INJECTED_LABEL;

/// How the webhooks of ours are called.
const OURS: &str = ".dot-sidecar.io\"";

/// How policies of ours are called, which refuse what asked for the sidecar and does not have it.
const POLICY: &str = "ValidatingAdmissionPolicy 'dot-sidecar-";

/// What a check has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::operator) enum Verdict {
    /// The webhook was called: the pod has the sidecar, or the webhook refused it.
    Reached,
    /// The API server went on without calling the webhook, or when that failed, or something else has undone what it did.
    NotCalled,
    /// The API server could not call the webhook.
    Unreachable(Cause, String),
    /// Something else came in between.
    Inconclusive(String),
}

/// Why the API server could not call the webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::operator) enum Cause {
    /// No replica is ready.
    NoEndpoints,
    NoService,
    /// Nobody listens there.
    Refused,
    /// Packets are lost, or dropped on purpose.
    Silent,
    NoRoute,
    /// Between the control plane and the nodes there is a tunnel or a proxy, which fails.
    Tunnel,
    /// The certificate is not believed.
    Certificate,
    /// Somebody answers, and it is not the injector.
    Stranger,
    Other,
}

/// Parts of the API server's messages, the more telling ones first.
const WORDS: [(&str, Cause); 27] = [
    ("x509:", Cause::Certificate),
    ("tls: failed to verify certificate", Cause::Certificate),
    ("unable to load root certificates", Cause::Certificate),
    ("no endpoints available", Cause::NoEndpoints),
    ("no agent available", Cause::Tunnel),
    ("konnectivity", Cause::Tunnel),
    ("proxyconnect", Cause::Tunnel),
    ("proxy error", Cause::Tunnel),
    ("error dialing backend", Cause::Tunnel),
    ("ssh: ", Cause::Tunnel),
    ("tunnel", Cause::Tunnel),
    ("address is not allowed", Cause::Tunnel),
    ("connection refused", Cause::Refused),
    ("no route to host", Cause::NoRoute),
    ("network is unreachable", Cause::NoRoute),
    ("host is unreachable", Cause::NoRoute),
    ("deadline exceeded", Cause::Silent),
    ("timeout", Cause::Silent),
    ("timed out", Cause::Silent),
    ("did not complete within", Cause::Silent),
    ("connection reset", Cause::Silent),
    ("tls: ", Cause::Stranger),
    ("server gave http response to https client", Cause::Stranger),
    ("the server could not find the requested resource", Cause::Stranger),
    ("the server responded with the status code", Cause::Stranger),
    ("expected response", Cause::Stranger),
    ("not found", Cause::NoService),
];

impl Cause {
    fn of(message: &str) -> Self {
        // The URL names a timeout, whatever the cause is.
        let behind_url = message.split_once(" \"https://").and_then(|(_, url)| Some(url.split_once("\": ")?.1));
        let message = behind_url.unwrap_or(message).to_lowercase();
        WORDS.iter().find(|(words, _)| message.contains(words)).map_or(Self::Other, |(_, cause)| *cause)
    }

    /// In one word.
    fn word(self) -> &'static str {
        match self {
            Self::NoEndpoints => "no-endpoints",
            Self::NoService => "no-service",
            Self::Refused => "refused",
            Self::Silent => "silent",
            Self::NoRoute => "no-route",
            Self::Tunnel => "tunnel",
            Self::Certificate => "certificate",
            Self::Stranger => "stranger",
            Self::Other => "other",
        }
    }

    /// What to do about it.
    fn hint(self) -> &'static str {
        match self {
            Self::NoEndpoints => {
                "the Service dot-injector has no endpoint that is ready: see the readiness of the pods and the Service's selector"
            }
            Self::NoService => "the Service dot-injector is gone or renamed: install the chart again (helm upgrade)",
            Self::Refused => {
                "nobody listens where the Service leads: its targetPort and the pods' port (injector.ports.webhook) must be the same, \
                 and a NetworkPolicy or service mesh must not reject the API server's connections"
            }
            Self::Silent => {
                "packets from the control plane are lost. Private GKE clusters let it reach ports 443 and 10250 alone: set \
                 injector.ports.webhook=10250, or add a firewall rule for the port from the control plane's range. On EKS let the \
                 cluster's security group reach the nodes on that port. Where the control plane has no route to pods' addresses (an overlay \
                 network such as Calico or Cilium on EKS), set injector.hostNetwork=true. A NetworkPolicy must let the control plane in"
            }
            Self::NoRoute => {
                "the control plane has no route to the pods' addresses (an overlay network with a managed control plane): set \
                 injector.hostNetwork=true, and an injector.ports.webhook that the nodes' firewall lets in"
            }
            Self::Tunnel => {
                "the tunnel between the control plane and the nodes fails: see the konnectivity agents in kube-system (GKE, AKS, kubeadm) and \
                 what they may reach, or the API server's egress proxy and its NO_PROXY (it must name .svc)"
            }
            Self::Certificate => {
                "the API server does not believe the certificate. The injector writes the caBundle itself, again and again: let no other tool (GitOps, \
                 cert-manager's CA injector) write it, and see its log. With a TLS-terminating proxy or mesh in between, leave out the injector's port"
            }
            Self::Stranger => {
                "somebody answers who is not the injector: see the Service's selector and ports, and whether a mesh or proxy \
                 takes the connection (leave out the injector's port)"
            }
            Self::Other => {
                "the API server's message above says all that is known: see its log for `failed calling webhook`"
            }
        }
    }
}

impl Verdict {
    /// What this answer means.
    pub(super) fn of(answer: &kube::Result<Pod>) -> Self {
        match answer {
            Ok(pod) => {
                if pod.labels().contains_key(INJECTED_LABEL) {
                    Self::Reached
                } else {
                    Self::NotCalled
                }
            }
            Err(kube::Error::Api(status)) => Self::of_message(&status.message),
            Err(error) => Self::Inconclusive(error.to_string()),
        }
    }

    fn of_message(message: &str) -> Self {
        let is_ours = |words: &str| {
            let behind = message.split_once(words).map(|(_, behind)| behind);
            behind.and_then(|behind| behind.split_inclusive('"').next()).is_some_and(|name| name.ends_with(OURS))
        };
        if is_ours("failed calling webhook \"") {
            Self::Unreachable(Cause::of(message), message.to_owned())
        } else if is_ours("admission webhook \"") && message.contains(" denied the request") {
            // With its reason, for instance that the profile is not there: the webhook was called all the same.
            Self::Reached
        } else if message.contains(POLICY) {
            Self::NotCalled
        } else {
            Self::Inconclusive(message.to_owned())
        }
    }

    pub(super) fn is_good(&self) -> bool {
        *self == Self::Reached
    }

    /// What there is to tell, in one word: the result, or why the webhook is unreachable.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Unreachable(cause, _) => cause.word(),
            _ => self.result(),
        }
    }

    /// Whether the webhook is called, as conditions have it.
    pub(in crate::operator) fn holds(&self) -> &'static str {
        match self {
            Self::Reached => "True",
            Self::NotCalled | Self::Unreachable(..) => "False",
            Self::Inconclusive(_) => "Unknown",
        }
    }

    /// Why, as conditions have it: the same word in other letters.
    pub(in crate::operator) fn reason(&self) -> String {
        let capitalised = |part: &str| part[..1].to_uppercase() + &part[1..];
        self.word().split('-').map(capitalised).collect()
    }

    /// In one word, for metrics.
    pub(super) fn result(&self) -> &'static str {
        match self {
            Self::Reached => "reached",
            Self::NotCalled => "not-called",
            Self::Unreachable(..) => "unreachable",
            Self::Inconclusive(_) => "inconclusive",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reached => f.write_str("the API server calls the webhook"),
            Self::NotCalled => f.write_str(
                "pods that ask for the sidecar do not get it, and the API server does not say why. Either the \
                 MutatingWebhookConfiguration was changed so that it does not match (helm upgrade puts it right), or the webhook cannot be \
                 reached and webhook.annotated.failurePolicy is Ignore (set it to Fail for a moment, and the API server says why), or another webhook \
                 takes the sidecar out again",
            ),
            Self::Unreachable(cause, message) => {
                write!(f, "the API server cannot call the webhook: {message}: {}", cause.hint())
            }
            Self::Inconclusive(message) => {
                write!(f, "whether the API server calls the webhook could not be checked: {message}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(cause: &str) -> Verdict {
        let called =
            "Internal error occurred: failed calling webhook \"annotated.dot-sidecar.io\": failed to call webhook: ";
        let url = "Post \"https://dot-injector.dot-sidecar.svc:443/mutate/annotated?timeout=10s\": ";
        Verdict::of_message(&format!("{called}{url}{cause}"))
    }

    #[test]
    fn the_cause_is_found_in_the_words_of_api_servers() {
        for (words, expected) in [
            ("dial tcp 10.96.0.50:443: connect: connection refused", Cause::Refused),
            ("context deadline exceeded", Cause::Silent),
            ("dial tcp 10.4.2.7:8443: i/o timeout", Cause::Silent),
            (
                "net/http: request canceled while waiting for connection (Client.Timeout exceeded while awaiting headers)",
                Cause::Silent,
            ),
            ("dial tcp 172.16.0.9:8443: connect: no route to host", Cause::NoRoute),
            ("tls: failed to verify certificate: x509: certificate signed by unknown authority", Cause::Certificate),
            ("x509: certificate has expired or is not yet valid", Cause::Certificate),
            ("x509: certificate is valid for a.b.svc, not dot-injector.dot-sidecar.svc", Cause::Certificate),
            ("no endpoints available for service \"dot-injector\"", Cause::NoEndpoints),
            ("service \"dot-injector\" not found", Cause::NoService),
            ("No agent available", Cause::Tunnel),
            ("proxyconnect tcp: dial tcp 10.0.0.1:3128: connect: connection refused", Cause::Tunnel),
            ("remote error: tls: handshake failure", Cause::Stranger),
            ("http: server gave HTTP response to HTTPS client", Cause::Stranger),
            ("the server could not find the requested resource", Cause::Stranger),
            ("EOF", Cause::Other),
        ] {
            let verdict = failed(words);
            assert!(matches!(&verdict, Verdict::Unreachable(cause, _) if *cause == expected), "{words}: {verdict:?}");
            let sentence = verdict.to_string();
            assert!(sentence.contains(words) && sentence.contains(expected.hint()), "{sentence}");
            // As much as an Event takes.
            assert!(sentence.len() <= 1024, "{} {words}", sentence.len());
        }
    }

    #[test]
    fn a_condition_has_the_word_of_the_metrics_and_the_log_in_its_own_letters() {
        let unknown = Verdict::Inconclusive("a policy of others".to_owned());
        let silent = failed("context deadline exceeded");
        for (verdict, holds, reason) in [
            (Verdict::Reached, "True", "Reached"),
            (Verdict::NotCalled, "False", "NotCalled"),
            (silent, "False", "Silent"),
            (failed("no endpoints available for service \"dot-injector\""), "False", "NoEndpoints"),
            (unknown, "Unknown", "Inconclusive"),
        ] {
            assert_eq!((verdict.holds(), verdict.reason().as_str()), (holds, reason));
        }
    }

    #[test]
    fn a_control_plane_that_does_not_reach_pods_earns_what_helps_with_each_cloud() {
        let told = failed("dial tcp 10.4.2.7:8443: i/o timeout").to_string();
        for words in
            ["443 and 10250", "injector.ports.webhook=10250", "GKE", "EKS", "overlay", "injector.hostNetwork=true"]
        {
            assert!(told.contains(words), "{words}: {told}");
        }
        let told = failed("dial tcp 172.16.0.9:8443: connect: no route to host").to_string();
        assert!(told.contains("overlay") && told.contains("injector.hostNetwork=true"), "{told}");
    }

    #[test]
    fn a_pod_that_the_webhook_refuses_was_shown_to_it() {
        let denied =
            "admission webhook \"annotated.dot-sidecar.io\" denied the request: the ProxyProfile default is not there";
        assert_eq!(Verdict::of_message(denied), Verdict::Reached);
    }

    #[test]
    fn what_others_refuse_says_nothing_of_the_webhook() {
        for message in [
            "admission webhook \"validate.kyverno.svc-fail\" denied the request: resource Pod/x was blocked",
            "Internal error occurred: failed calling webhook \"other.example\": connection refused",
            "pods is forbidden: User \"x\" cannot create resource \"pods\" in API group \"\" in the namespace \"y\"",
            "namespaces \"dot-sidecar-self-check\" not found",
            "error looking up service account dot-sidecar-self-check/default: serviceaccount \"default\" not found",
        ] {
            assert_eq!(Verdict::of_message(message), Verdict::Inconclusive(message.to_owned()));
        }
    }

    #[test]
    fn a_pod_that_comes_back_as_it_was_sent_was_not_shown_to_the_webhook() {
        let refused = "pods \"dot-sidecar-self-check\" is forbidden: ValidatingAdmissionPolicy 'dot-sidecar-asked' with binding \
                       'dot-sidecar-asked' denied request: spec.initContainers: the pod asks for the sidecar dot-proxy";
        assert_eq!(Verdict::of_message(refused), Verdict::NotCalled);
        let pod = super::super::pod();
        assert_eq!(pod.metadata.name.as_deref(), Some("dot-sidecar-self-check"));
        assert_eq!(Verdict::of(&Ok(pod)), Verdict::NotCalled);
    }
}
