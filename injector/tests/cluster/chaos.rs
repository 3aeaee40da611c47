//! What goes wrong heals without hands, and nobody is harmed who did not ask.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::api::DeleteParams;
use serde_json::json;

use crate::availability::by_leadership;
use crate::balancer::Balancer;
use crate::control_plane::{Part, folder, kubectl, run, signal, within};
use crate::eventually;
use crate::installation::{Installation, NAMESPACE};
use crate::load::{Load, were_on_their_way};
use crate::replica::Replica;

/// An authority that has nothing to do with us.
const STRANGER: &str = "stranger";
const SOON: Duration = Duration::from_secs(30);

struct Scene {
    installation: Installation,
    balancer: Balancer,
    replicas: [Replica; 2],
    load: Load,
}

impl Scene {
    async fn new(values: &str) -> Self {
        let installation = Installation::new(values).await;
        let balancer = Balancer::start(installation.service).await;
        let replicas = [Replica::ready(&installation, 1).await, Replica::ready(&installation, 2).await];
        replicas.iter().for_each(|replica| balancer.add(replica));
        tokio::time::sleep(Duration::from_secs(1)).await;
        let load = Load::start(&installation);
        load.go_on_for(20).await;
        assert_eq!(load.take_lost("at rest"), []);
        Self { installation, balancer, replicas, load }
    }

    /// Pods get the sidecar again; tells how long some were refused.
    async fn heals(&self, what: &str, since: Instant) -> Vec<(Instant, String)> {
        self.load.go_on_for(30).await;
        let lost = self.load.take_lost(what);
        if let (Some((first, _)), Some((last, why))) = (lost.first(), lost.last()) {
            let after = first.duration_since(since);
            println!("   the first was lost after {after:?}, the last after {:?}: {why}", last.duration_since(since));
        }
        lost
    }
}

#[test]
fn a_secret_and_a_bundle_that_others_destroy_are_put_right_while_pods_are_created() {
    within(
        "chaos-a",
        concat!(module_path!(), "::a_secret_and_a_bundle_that_others_destroy_are_put_right_while_pods_are_created"),
        || async {
            let scene = Scene::new("certificates.graceSeconds=5,selfCheck.enabled=false").await;
            let installation = &scene.installation;

            let (now, first) = (Instant::now(), installation.secret("ca.crt").await);
            installation.secrets().delete("dot-injector-tls", &DeleteParams::default()).await.unwrap();
            eventually("there is a Secret of a new authority", SOON, async || {
                installation.secret("ca.crt").await.is_some_and(|authorities| Some(authorities) != first)
            })
            .await;
            println!("the Secret was back after {:?}", now.elapsed());
            eventually("its leaf is served", SOON, async || is_rotated(installation).await).await;
            assert_eq!(scene.heals("the Secret deleted", now).await, []);

            for part in ["tls.crt", "tls.key", "ca.crt", "ca.key"] {
                let (now, good) = (Instant::now(), installation.secret(part).await);
                let patch = json!({"data": {part: STANDARD.encode("garbage")}}).to_string();
                run("kubectl", &["patch", "secret", "dot-injector-tls", "-n", NAMESPACE, "-p", &patch], "");
                eventually("the Secret is as it was", SOON, async || installation.secret(part).await == good).await;
                println!("{part} was put right after {:?}", now.elapsed());
                assert_eq!(scene.heals("the Secret corrupted", now).await, []);
            }

            for (what, pem) in [("emptied", String::new()), ("overwritten", stranger())] {
                let (now, good) = (Instant::now(), installation.bundle().await);
                Installation::overwrite_bundle(&pem);
                eventually("the bundle is as it was", SOON, async || installation.bundle().await == good).await;
                println!("the bundle was put right {:?} after it was {what}", now.elapsed());
                let lost = scene.heals("the bundle destroyed", now).await;
                assert!(
                    lost.iter().all(|(when, why)| when.duration_since(now) < SOON && why.contains("x509")),
                    "{lost:#?}"
                );
            }
            let owners = kubectl("get mutatingwebhookconfiguration dot-sidecar -o json --show-managed-fields", "");
            let owners: serde_json::Value = serde_json::from_str(&owners).unwrap();
            let ours = owners["metadata"]["managedFields"]
                .as_array()
                .unwrap()
                .iter()
                .find(|entry| entry["manager"] == "dot-injector");
            let ours = ours.unwrap()["fieldsV1"]["f:webhooks"].as_object().unwrap().clone();
            assert_eq!(ours.len(), 3);
            for webhook in ours.values() {
                assert_eq!(webhook["f:clientConfig"], json!({"f:caBundle": {}}), "nothing else is ours");
            }
        },
    );
}

#[test]
fn a_leader_killed_amid_a_rotation_and_then_all_replicas_killed_leave_nothing_broken() {
    within(
        "chaos-d",
        concat!(module_path!(), "::a_leader_killed_amid_a_rotation_and_then_all_replicas_killed_leave_nothing_broken"),
        || async {
            let scene = Scene::new("certificates.graceSeconds=8,selfCheck.enabled=false").await;
            let Scene { installation, balancer, replicas: [one, two], load } = scene;
            let (leader, follower) = by_leadership(one, two).await;

            // There is a new authority, beside the old one, and no leaf of it yet.
            installation.secrets().delete("dot-injector-tls", &DeleteParams::default()).await.unwrap();
            eventually("two authorities are trusted", SOON, async || installation.trusted().await == 2).await;
            assert!(!is_rotated(&installation).await, "the leaf is of the old authority");
            let killed = Instant::now();
            leader.kill().await;
            eventually("the follower leads", SOON, async || follower.leads().await).await;
            eventually("it completes the rotation", SOON, async || is_rotated(&installation).await).await;
            load.go_on_for(30).await;
            were_on_their_way(&load.take_lost("the leader killed amid a rotation"), killed);

            follower.kill().await;
            load.others_go_on_for(20).await;
            let lost = load.take_lost("all replicas killed");
            assert!(!lost.is_empty(), "who asks is refused");
            // A kubelet starts them again.
            let again = [Replica::ready(&installation, 3).await, Replica::ready(&installation, 4).await];
            again.iter().for_each(|replica| balancer.add(replica));
            load.go_on_for(30).await;
            drop(load.take_lost("replicas started again"));
            load.go_on_for(30).await;
            assert_eq!(load.take_lost("after it"), []);
        },
    );
}

/// Whether the leaf is of the authority that signs now.
async fn is_rotated(installation: &Installation) -> bool {
    let (authorities, certificate) = (installation.secret("ca.crt").await, installation.secret("tls.crt").await);
    signs(&authorities.unwrap_or_default(), &certificate.unwrap_or_default())
}

#[test]
fn etcd_that_pauses_and_an_api_server_that_restarts_leave_nothing_broken() {
    within(
        "chaos-b",
        concat!(module_path!(), "::etcd_that_pauses_and_an_api_server_that_restarts_leave_nothing_broken"),
        || async {
            let scene = Scene::new("selfCheck.enabled=false").await;
            let served = scene.installation.secret("tls.crt").await;

            let (now, etcd) = (Instant::now(), Part::find("etcd"));
            signal("STOP", etcd.process);
            tokio::time::sleep(Duration::from_secs(10)).await;
            signal("CONT", etcd.process);
            assert_eq!(scene.heals("etcd paused for 10 s", now).await, []);

            let now = Instant::now();
            Part::find("kube-apiserver").restart();
            assert_eq!(scene.heals("the API server killed and started", now).await, []);
            eventually("one leads again", Duration::from_secs(60), async || {
                scene.replicas[0].leads().await != scene.replicas[1].leads().await
            })
            .await;
            assert_eq!(scene.installation.secret("tls.crt").await, served, "no reason for another certificate");
            // The watches are there again.
            let (now, good) = (Instant::now(), scene.installation.bundle().await);
            Installation::overwrite_bundle("");
            eventually("the bundle is put right", SOON, async || scene.installation.bundle().await == good).await;
            println!("the bundle was put right after {:?}", now.elapsed());
        },
    );
}

#[test]
fn who_slept_past_the_end_of_all_certificates_heals_on_waking() {
    within(
        "chaos-c",
        concat!(module_path!(), "::who_slept_past_the_end_of_all_certificates_heals_on_waking"),
        || async {
            let values = "certificates.leafSeconds=15,certificates.authoritySeconds=45,certificates.graceSeconds=1,selfCheck.enabled=false";
            let scene = Scene::new(values).await;
            // Both stop at once, and with them the time as far as they can tell; leaf and authority expire.
            scene.replicas.iter().for_each(|replica| replica.signal("STOP"));
            let authority = scene.installation.secret("ca.crt").await;
            tokio::time::sleep(Duration::from_secs(50)).await;
            let now = Instant::now();
            scene.replicas.iter().for_each(|replica| replica.signal("CONT"));
            eventually("there is a new authority", SOON, async || {
                scene.installation.secret("ca.crt").await != authority
            })
            .await;
            println!("a new authority was there after {:?}", now.elapsed());
            scene.load.go_on_for(10).await;
            println!("pods get the sidecar again {:?} after the waking", now.elapsed());
            drop(scene.load.take_lost("a sleep past the end of all certificates"));
            scene.load.go_on_for(30).await;
            assert_eq!(scene.load.take_lost("after it"), []);
        },
    );
}

/// Whether the first authority's signature is on the certificate.
fn signs(authorities: &str, certificate: &str) -> bool {
    let (authority, leaf) = (folder().join("authority.pem"), folder().join("leaf.pem"));
    let end = "-----END CERTIFICATE-----\n";
    let first = authorities.split_inclusive(end).next().unwrap_or_default();
    std::fs::write(&authority, first).unwrap();
    std::fs::write(&leaf, certificate).unwrap();
    let verify = std::process::Command::new("openssl").arg("verify").arg("-CAfile").args([&authority, &leaf]).output();
    verify.unwrap().status.success()
}

fn stranger() -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, STRANGER);
    params.self_signed(&key).unwrap().pem()
}
