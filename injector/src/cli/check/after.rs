//! Whether an installation is healthy: what `check` makes of what the API server says. Pure.

use std::time::{Duration, SystemTime};

use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::core::ObjectList;
use x509_parser::pem::Pem;

use super::finding::{Finding, listed};

/// What the chart's policies are labelled with.
pub(super) const PART_OF: &str = "app.kubernetes.io/part-of=dot-sidecar";
/// A leader says every two seconds that it is there; clocks differ.
const STALE_LEASE: Duration = Duration::from_secs(60);
/// The leaf is renewed when two thirds of its time have passed: with less than a quarter left, that was missed.
const OVERDUE: u32 = 4;

pub(super) fn webhook(name: &str, found: &kube::Result<Option<MutatingWebhookConfiguration>>) -> Finding {
    const WHAT: &str = "webhook";
    let webhooks = match found {
        Ok(Some(configuration)) => configuration.webhooks.clone().unwrap_or_default(),
        Ok(None) => {
            return Finding::fail(
                WHAT,
                format!("there is no MutatingWebhookConfiguration {name}"),
                "install the chart",
            );
        }
        Err(error) => return Finding::unseen(WHAT, error),
    };
    if webhooks.is_empty() {
        return Finding::fail(
            WHAT,
            format!("MutatingWebhookConfiguration {name} has no webhooks"),
            "install the chart",
        );
    }
    let mut without = Vec::new();
    for webhook in &webhooks {
        match bundle_expiry(webhook.client_config.ca_bundle.as_ref().map_or(&[], |bundle| &bundle.0)) {
            None => without.push(webhook.name.clone()),
            Some(expiry) if expiry < SystemTime::now() => {
                let detail = format!("the caBundle of {} has expired {}", webhook.name, day(expiry));
                return Finding::fail(WHAT, detail, "the injector renews it: look into its log");
            }
            Some(_) => {}
        }
    }
    if !without.is_empty() {
        let detail = format!("no certificate in the caBundle of {}", listed(&without));
        return Finding::fail(WHAT, detail, "the injector writes it: look into its log");
    }
    let open: Vec<String> = webhooks
        .iter()
        .filter(|webhook| !webhook.name.starts_with("unserved."))
        .filter(|webhook| webhook.failure_policy.as_deref() == Some("Ignore"))
        .map(|webhook| webhook.name.clone())
        .collect();
    if !open.is_empty() {
        return Finding::warn(
            WHAT,
            format!("{} let pods start without the sidecar while no injector answers", listed(&open)),
            "`dot-injector status -A` finds them; failurePolicy: Fail keeps them from starting",
        );
    }
    Finding::ok(WHAT, format!("{name}: {} entries, each with a caBundle", webhooks.len()))
}

/// Where there is no webhook, because the API server injects by these policies.
pub(super) fn without_webhook(policies: &[String]) -> Finding {
    Finding::ok("webhook", format!("none: the API server injects by policy ({})", listed(policies)))
}

/// Until when the last certificate of a bundle is valid.
fn bundle_expiry(bundle: &[u8]) -> Option<SystemTime> {
    validities(bundle).into_iter().map(|(_, not_after)| not_after).max()
}

/// From when to when the certificates of a PEM text are valid.
fn validities(text: &[u8]) -> Vec<(SystemTime, SystemTime)> {
    let at = |seconds: i64| SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
    let pems = Pem::iter_from_buffer(text).map_while(Result::ok);
    pems.filter_map(|pem| {
        let certificate = pem.parse_x509().ok()?;
        let validity = certificate.validity();
        Some((at(validity.not_before.timestamp()), at(validity.not_after.timestamp())))
    })
    .collect()
}

pub(super) fn certificate(name: &str, found: kube::Result<Option<Secret>>) -> Finding {
    const WHAT: &str = "certificate";
    let secret = match found {
        Ok(Some(secret)) => secret,
        Ok(None) => {
            return Finding::fail(
                WHAT,
                format!("there is no Secret {name}"),
                "the injector makes it: look into its log",
            );
        }
        Err(error) => return Finding::unseen(WHAT, &error),
    };
    let leaf = secret.data.unwrap_or_default().remove("tls.crt").unwrap_or_default();
    let Some((not_before, not_after)) = validities(&leaf.0).into_iter().next() else {
        return Finding::fail(
            WHAT,
            format!("Secret {name} holds no certificate"),
            "the injector heals it: look into its log",
        );
    };
    let left = not_after.duration_since(SystemTime::now());
    let lifetime = not_after.duration_since(not_before).unwrap_or_default();
    match left {
        Err(_) => {
            Finding::fail(WHAT, format!("expired {}", day(not_after)), "the injector renews it: look into its log")
        }
        Ok(left) if left < lifetime / OVERDUE => {
            let detail = format!("valid until {}, and not renewed yet", day(not_after));
            Finding::warn(WHAT, detail, "the injector's leader renews it: look into its log")
        }
        Ok(_) => Finding::ok(WHAT, format!("valid until {}", day(not_after))),
    }
}

fn day(time: SystemTime) -> String {
    Timestamp::try_from(time).map_or_else(|_| "long ago".to_owned(), |time| time.strftime("%Y-%m-%d").to_string())
}

pub(super) fn replicas(namespace: &str, service: &str, slices: kube::Result<ObjectList<EndpointSlice>>) -> Finding {
    const WHAT: &str = "replicas";
    let slices = match slices {
        Ok(slices) => slices,
        Err(error) => return Finding::unseen(WHAT, &error),
    };
    let conditions = slices.iter().flat_map(|slice| &slice.endpoints).map(|endpoint| endpoint.conditions.clone());
    // Left out, it means ready.
    let ready = conditions.filter(|conditions| conditions.as_ref().and_then(|it| it.ready).unwrap_or(true)).count();
    match ready {
        0 => Finding::fail(
            WHAT,
            format!("none of Service {namespace}/{service} is ready: pods that ask for the sidecar are refused"),
            "look into the injector's log",
        ),
        1 => Finding::warn(WHAT, "1 is ready", "with two (injector.replicas), pods can be made while one restarts"),
        ready => Finding::ok(WHAT, format!("{ready} are ready")),
    }
}

pub(super) fn leader(found: kube::Result<Option<Lease>>) -> Finding {
    const WHAT: &str = "leader";
    const REMEDY: &str = "certificates and running pods' configurations wait for one: look into the injector's log";
    let lease = match found {
        Ok(Some(lease)) => lease,
        Ok(None) => return Finding::fail(WHAT, "there is no Lease", REMEDY),
        Err(error) => return Finding::unseen(WHAT, &error),
    };
    let spec = lease.spec.unwrap_or_default();
    let Some(holder) = spec.holder_identity.filter(|holder| !holder.is_empty()) else {
        return Finding::fail(WHAT, "no replica leads", REMEDY);
    };
    let renewed = spec.renew_time.map(|renewed| SystemTime::from(renewed.0));
    let age = renewed.map(|renewed| SystemTime::now().duration_since(renewed).unwrap_or_default());
    match age {
        Some(age) if age < STALE_LEASE => Finding::ok(WHAT, holder),
        age => {
            let since = age.map_or_else(|| "at all".to_owned(), |age| format!("for {} s", age.as_secs()));
            Finding::fail(WHAT, format!("{holder} was not heard of {since}"), REMEDY)
        }
    }
}

pub(super) fn policies(
    policies: kube::Result<Vec<ValidatingAdmissionPolicy>>,
    bindings: kube::Result<Vec<ValidatingAdmissionPolicyBinding>>,
) -> Finding {
    const WHAT: &str = "policies";
    let (policies, bindings) = match (policies, bindings) {
        (Ok(policies), Ok(bindings)) => (policies, bindings),
        (Err(error), _) | (_, Err(error)) => return Finding::unseen(WHAT, &error),
    };
    if policies.is_empty() {
        return Finding::warn(
            WHAT,
            "none of the chart's ValidatingAdmissionPolicies is installed",
            "nothing keeps other webhooks and tenants from undoing the sidecar: upgrade the chart, or look into its values",
        );
    }
    let unbound: Vec<String> = policies
        .iter()
        .map(ResourceExt::name_any)
        .filter(|name| {
            !bindings
                .iter()
                .any(|binding| binding.spec.as_ref().and_then(|spec| spec.policy_name.as_ref()) == Some(name))
        })
        .collect();
    if !unbound.is_empty() {
        return Finding::fail(
            WHAT,
            format!("not bound, and so without effect: {}", listed(&unbound)),
            "upgrade the chart",
        );
    }
    let is_wrong = |policy: &&ValidatingAdmissionPolicy| {
        let checked = policy.status.as_ref().and_then(|status| status.type_checking.as_ref());
        checked.is_some_and(|checked| checked.expression_warnings.as_ref().is_some_and(|warnings| !warnings.is_empty()))
    };
    let wrong: Vec<String> = policies.iter().filter(is_wrong).map(ResourceExt::name_any).collect();
    if !wrong.is_empty() {
        let detail = format!("the API server has warnings about {}", listed(&wrong));
        return Finding::warn(WHAT, detail, "kubectl describe validatingadmissionpolicies shows them");
    }
    Finding::ok(WHAT, format!("{} in force", policies.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::finding::Level;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde_json::{Value, json};

    const LIFETIME: Duration = Duration::from_secs(90 * 86_400);

    /// A certificate that was made so long ago, PEM.
    fn pem(age: Duration) -> String {
        let made = SystemTime::now() - age;
        let mut params = rcgen::CertificateParams::new(["dot-injector.dot-sidecar.svc".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (made.into(), (made + LIFETIME).into());
        params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
    }

    fn configuration(bundles: &[&str]) -> MutatingWebhookConfiguration {
        let webhooks: Vec<_> = bundles
            .iter()
            .map(|bundle| {
                json!({"name": "annotated.dot-sidecar.io", "admissionReviewVersions": ["v1"], "sideEffects": "None",
                       "failurePolicy": "Fail", "clientConfig": {"caBundle": STANDARD.encode(bundle)}})
            })
            .collect();
        serde_json::from_value(json!({"metadata": {"name": "dot-sidecar"}, "webhooks": webhooks})).unwrap()
    }

    fn found<T: serde::de::DeserializeOwned>(object: Value) -> kube::Result<Option<T>> {
        Ok(Some(serde_json::from_value(object).unwrap()))
    }

    fn slices(ready: &[bool]) -> ObjectList<EndpointSlice> {
        let endpoints: Vec<_> =
            ready.iter().map(|ready| json!({"addresses": ["10.0.0.1"], "conditions": {"ready": ready}})).collect();
        serde_json::from_value(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSliceList", "metadata": {},
            "items": [{"addressType": "IPv4", "endpoints": endpoints, "metadata": {"name": "a"}}]
        }))
        .unwrap()
    }

    #[test]
    fn a_webhook_needs_a_certificate_in_the_bundle_of_each_of_its_entries() {
        let (whole, ended) = (pem(Duration::ZERO), pem(2 * LIFETIME));
        let level = |bundles: &[&str]| webhook("dot-sidecar", &Ok(Some(configuration(bundles)))).level;
        assert_eq!(level(&[&whole, &whole]), Level::Ok);
        assert_eq!(level(&[&whole, ""]), Level::Fail);
        assert_eq!(level(&[]), Level::Fail);
        assert_eq!(level(&[&ended]), Level::Fail);
        assert_eq!(webhook("dot-sidecar", &Ok(None)).level, Level::Fail);
        let mut open = configuration(&[&whole]);
        open.webhooks.as_mut().unwrap()[0].failure_policy = Some("Ignore".to_owned());
        assert_eq!(webhook("dot-sidecar", &Ok(Some(open))).level, Level::Warn);
    }

    #[test]
    fn a_certificate_that_should_have_been_renewed_is_a_warning_and_an_expired_one_a_failure() {
        let level = |text: &str| {
            let secret = json!({"metadata": {}, "data": {"tls.crt": STANDARD.encode(text)}});
            certificate("dot-injector-tls", found(secret)).level
        };
        assert_eq!(level(&pem(Duration::ZERO)), Level::Ok);
        assert_eq!(level(&pem(LIFETIME * 9 / 10)), Level::Warn);
        assert_eq!(level(&pem(LIFETIME * 2)), Level::Fail);
        assert_eq!(level("nonsense"), Level::Fail);
        assert_eq!(certificate("dot-injector-tls", Ok(None)).level, Level::Fail);
    }

    #[test]
    fn at_least_one_replica_must_be_ready_and_two_are_better() {
        let level = |ready: &[bool]| replicas("dot-sidecar", "dot-injector", Ok(slices(ready))).level;
        assert_eq!(level(&[true, true]), Level::Ok);
        assert_eq!(level(&[true, false]), Level::Warn);
        assert_eq!(level(&[false]), Level::Fail);
        assert_eq!(level(&[]), Level::Fail);
    }

    #[test]
    fn a_leader_must_have_been_heard_of_lately() {
        let lease = |holder: &str, renewed: Timestamp| {
            found(
                json!({"metadata": {}, "spec": {"holderIdentity": holder, "renewTime": renewed.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()}}),
            )
        };
        assert_eq!(leader(lease("dot-injector-a", Timestamp::now())).level, Level::Ok);
        assert_eq!(leader(lease("", Timestamp::now())).level, Level::Fail);
        assert_eq!(leader(lease("dot-injector-a", Timestamp::UNIX_EPOCH)).level, Level::Fail);
        assert_eq!(leader(Ok(None)).level, Level::Fail);
    }

    #[test]
    fn a_policy_without_a_binding_has_no_effect_and_fails() {
        let policy: ValidatingAdmissionPolicy =
            serde_json::from_value(json!({"metadata": {"name": "dot-sidecar-asked"}})).unwrap();
        let binding =
            |to: &str| serde_json::from_value(json!({"metadata": {"name": "b"}, "spec": {"policyName": to}})).unwrap();
        let level = |bindings| policies(Ok(vec![policy.clone()]), Ok(bindings)).level;
        assert_eq!(level(vec![binding("dot-sidecar-asked")]), Level::Ok);
        assert_eq!(level(vec![binding("another")]), Level::Fail);
        assert_eq!(policies(Ok(Vec::new()), Ok(Vec::new())).level, Level::Warn);
    }
}
