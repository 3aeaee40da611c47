//! The `caBundle` of the webhook configuration: whom the API server trusts, since when, and who else writes it.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::{Resource, ResourceExt};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::authority::Authority;

/// Field manager of `caBundle`, and of nothing else of the webhook configuration.
pub(super) const FIELD_MANAGER: &str = "dot-injector";

/// Which authorities stand in the bundle of every webhook, and since when this replica has seen them there.
#[derive(Debug, Default)]
pub(super) struct Trust(Vec<(CertificateDer<'static>, Instant)>);

impl Trust {
    /// The webhook configuration is this now.
    pub(super) fn observe(&mut self, configuration: Option<&MutatingWebhookConfiguration>, now: Instant) {
        let mut bundles = bundles(configuration).into_iter().map(|bundle| {
            let certificates = CertificateDer::pem_slice_iter(bundle).collect::<Result<Vec<_>, _>>();
            certificates.unwrap_or_default()
        });
        let mut common = bundles.next().unwrap_or_default();
        for bundle in bundles {
            common.retain(|certificate| bundle.contains(certificate));
        }
        let since = |certificate: &CertificateDer<'static>| {
            self.0.iter().find(|(known, _)| known == certificate).map_or(now, |(_, since)| *since)
        };
        self.0 = common.iter().map(|certificate| (certificate.clone(), since(certificate))).collect();
    }

    /// Whether the API server trusts it.
    pub(super) fn holds(&self, authority: &Authority) -> bool {
        self.0.iter().any(|(known, _)| *known == authority.der)
    }

    /// Whether it has done so for as long as every API server may take to learn of it.
    pub(super) fn has_held(&self, authority: &Authority, grace: Duration, now: Instant) -> bool {
        self.0.iter().any(|(known, since)| *known == authority.der && now.duration_since(*since) >= grace)
    }
}

/// The bundle of each webhook, empty where there is none.
fn bundles(configuration: Option<&MutatingWebhookConfiguration>) -> Vec<&[u8]> {
    let webhooks = configuration.and_then(|configuration| configuration.webhooks.as_deref()).unwrap_or_default();
    webhooks
        .iter()
        .map(|webhook| webhook.client_config.ca_bundle.as_ref().map_or(&[][..], |bundle| &bundle.0))
        .collect()
}

/// Whether every webhook has this bundle.
pub(super) fn is(configuration: &MutatingWebhookConfiguration, pem: &str) -> bool {
    bundles(Some(configuration)).iter().all(|bundle| *bundle == pem.as_bytes())
}

/// What server-side apply is given: the bundle of every webhook and nothing else, so that whoever owns the rest of the
/// configuration sees no drift.
pub(super) fn patch(configuration: &MutatingWebhookConfiguration, pem: &str) -> Value {
    let bundle = k8s_openapi::ByteString(pem.as_bytes().to_vec());
    let webhooks = configuration.webhooks.as_deref().unwrap_or_default();
    let entries: Vec<Value> =
        webhooks.iter().map(|webhook| json!({"name": webhook.name, "clientConfig": {"caBundle": bundle}})).collect();
    json!({
        "apiVersion": MutatingWebhookConfiguration::api_version(&()),
        "kind": MutatingWebhookConfiguration::kind(&()),
        "metadata": {"name": configuration.name_any()},
        "webhooks": entries,
    })
}

/// Who else wrote a `caBundle`, by the names under which they write.
pub(super) fn other_writers(configuration: &MutatingWebhookConfiguration) -> BTreeSet<String> {
    let managers = configuration.metadata.managed_fields.as_deref().unwrap_or_default();
    managers
        .iter()
        .filter(|entry| entry.fields_v1.as_ref().is_some_and(|fields| fields.0.to_string().contains("\"f:caBundle\"")))
        .filter_map(|entry| entry.manager.clone())
        .filter(|manager| manager != FIELD_MANAGER)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certs::CertificateSettings;
    use crate::certs::authority::Authorities;

    fn authority() -> Authorities {
        let lifetime = CertificateSettings::default().authority();
        Authorities::new(&[], lifetime, std::time::SystemTime::now()).unwrap()
    }

    fn configuration(bundles: &[Option<&str>]) -> MutatingWebhookConfiguration {
        let webhook = |(number, pem): (usize, &Option<&str>)| {
            let bundle = pem.map(|pem| k8s_openapi::ByteString(pem.as_bytes().to_vec()));
            json!({"name": format!("{number}.dot-sidecar.io"), "clientConfig": {"caBundle": bundle},
                   "admissionReviewVersions": ["v1"], "sideEffects": "None"})
        };
        let webhooks: Vec<Value> = bundles.iter().enumerate().map(webhook).collect();
        serde_json::from_value(json!({"metadata": {"name": "dot-sidecar"}, "webhooks": webhooks})).unwrap()
    }

    #[test]
    fn an_authority_is_trusted_when_every_webhook_has_it_and_from_that_time_on() {
        let (one, two) = (authority(), authority());
        let both = one.pem() + &two.pem();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let (ten, mut trust) = (Duration::from_secs(10), Trust::default());
        trust.observe(Some(&configuration(&[Some(&both), Some(&one.pem())])), start);
        assert!(trust.holds(one.signing()) && !trust.holds(two.signing()));
        trust.observe(Some(&configuration(&[Some(&both), Some(&both)])), at(5));
        assert!(trust.has_held(one.signing(), ten, at(10)) && !trust.has_held(two.signing(), ten, at(10)));
        assert!(trust.has_held(two.signing(), ten, at(15)));
        for emptied in [configuration(&[Some(&both), None]), configuration(&[]), configuration(&[Some("nonsense")])] {
            trust.observe(Some(&emptied), at(16));
            assert!(!trust.holds(one.signing()));
        }
        trust.observe(Some(&configuration(&[Some(&both), Some(&both)])), at(17));
        assert!(!trust.has_held(one.signing(), ten, at(18)), "it counts from when it is back");
        trust.observe(None, at(19));
        assert!(!trust.holds(one.signing()));
    }

    #[test]
    fn the_patch_names_bundles_alone() {
        let configuration = configuration(&[None, Some("x")]);
        assert!(!is(&configuration, "x"));
        let patch = patch(&configuration, "x");
        assert_eq!(patch["webhooks"][1], json!({"name": "1.dot-sidecar.io", "clientConfig": {"caBundle": "eA=="}}));
        assert_eq!(patch.as_object().unwrap().len(), 4);
    }

    #[test]
    fn who_else_writes_the_bundle_is_told_by_name() {
        let mut configuration = configuration(&[None]);
        let fields = |path: &str| json!({"f:webhooks": {"k:{\"name\":\"a\"}": {"f:clientConfig": {path: {}}}}});
        let entry = |manager: &str, path: &str| json!({"manager": manager, "fieldsV1": fields(path)});
        let managed =
            json!([entry("helm", "f:service"), entry("argocd", "f:caBundle"), entry(FIELD_MANAGER, "f:caBundle")]);
        configuration.metadata.managed_fields = serde_json::from_value(managed).unwrap();
        assert_eq!(other_writers(&configuration), BTreeSet::from(["argocd".to_owned()]));
    }
}
