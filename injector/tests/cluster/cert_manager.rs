//! A Secret of the form that cert-manager writes, which the test puts in place: it is served, trusted, and never written.

use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use serde_json::json;

use crate::balancer::Balancer;
use crate::control_plane::{kubectl, within};
use crate::eventually;
use crate::installation::{Installation, NAMESPACE};
use crate::load::Load;
use crate::replica::Replica;

const SOON: Duration = Duration::from_secs(60);

/// Issues a certificate of a new authority, as cert-manager's CA issuer does.
fn issue() -> String {
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name.push(DnType::CommonName, "dot-sidecar injector CA");
    let ca_certificate = ca.self_signed(&ca_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut leaf = CertificateParams::new(vec!["dot-injector.dot-sidecar.svc".to_owned()]).unwrap();
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = leaf.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
    let data = json!({"tls.crt": certificate.pem(), "tls.key": key.serialize_pem(), "ca.crt": ca_certificate.pem()});
    let annotations = json!({"cert-manager.io/certificate-name": "dot-injector"});
    let metadata = json!({"name": "dot-injector-tls", "namespace": NAMESPACE, "annotations": annotations});
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": metadata, "stringData": data});
    kubectl("apply --server-side --force-conflicts --field-manager=cert-manager -f -", &secret.to_string());
    certificate.pem()
}

#[test]
fn what_cert_manager_makes_is_served_and_changed_without_a_lost_admission() {
    within(
        "cert-manager",
        concat!(module_path!(), "::what_cert_manager_makes_is_served_and_changed_without_a_lost_admission"),
        || async {
            // First without, then with it, as an upgrade has it.
            let own = Installation::new("certificates.graceSeconds=3,selfCheck.enabled=false").await;
            let balancer = Balancer::start(own.service).await;
            let old = Replica::ready(&own, 1).await;
            balancer.add(&old);
            tokio::time::sleep(Duration::from_secs(1)).await;
            let load = Load::start(&own);
            load.go_on_for(20).await;
            let installation = own.reconfigured(
                "certificates.graceSeconds=3,certificates.certManager.enabled=true,selfCheck.enabled=false",
            );
            let made = issue();
            eventually("both authorities are trusted", SOON, async || installation.trusted().await == 2).await;
            let new = [Replica::ready(&installation, 2).await, Replica::ready(&installation, 3).await];
            new.iter().for_each(|replica| balancer.add(replica));
            load.go_on_for(20).await;
            old.stop().await;
            eventually("one of the new ones leads", SOON, async || new[0].leads().await || new[1].leads().await).await;
            load.go_on_for(20).await;
            assert_eq!(load.take_lost("an upgrade to cert-manager"), []);

            issue();
            eventually("the new authority is trusted beside the old", SOON, async || installation.trusted().await >= 2)
                .await;
            load.go_on_for(80).await;
            assert_eq!(load.take_lost("another authority of cert-manager's"), []);
            assert_ne!(installation.secret("tls.crt").await, Some(made));
            for replica in new {
                assert!(!replica.log().contains("the certificates were written"), "{}", replica.log());
            }
        },
    );
}
