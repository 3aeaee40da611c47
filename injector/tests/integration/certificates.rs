//! The Secret, the certificate that is served, and the bundle by which the API server trusts it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dot_injector::certs::Clock;
use hyper::StatusCode;
use serde_json::{Value, json};

use crate::api_server::{ApiServer, DEPLOYMENT, LEASE, SECRET, WEBHOOKS};
use crate::injector::{Injector, Options, eventually};

#[tokio::test]
async fn the_injector_is_ready_once_its_certificate_is_served_and_trusted() {
    let api = ApiServer::new();
    let configuration = api.get(WEBHOOKS).unwrap();
    api.put(WEBHOOKS, json!({"metadata": {"name": "dot-sidecar"}, "webhooks": []}));
    let injector = Injector::start(&api).await;
    eventually("the certificate is in the Secret", async || api.get(SECRET).is_some()).await;
    let unready = injector.admin("/readyz").await;
    assert_eq!(unready.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(injector.admin("/livez").await.status(), StatusCode::OK);

    api.put(WEBHOOKS, configuration);
    injector.until_ready().await;
    let bundle = STANDARD.encode(injector.authority());
    for webhook in api.get(WEBHOOKS).unwrap()["webhooks"].as_array().unwrap() {
        assert_eq!(webhook["clientConfig"]["caBundle"], json!(bundle));
        assert_eq!(webhook["clientConfig"]["service"]["name"], "dot-injector");
    }
    let metrics = injector.metrics().await;
    for line in [
        "dot_injector_certificate_expiry_timestamp_seconds{certificate=\"leaf\"}",
        "dot_injector_certificate_expiry_timestamp_seconds{certificate=\"ca\"}",
        "dot_injector_certificate_rotations_total{certificate=\"ca\"} 1",
    ] {
        assert!(metrics.contains(line), "{metrics}");
    }
}

#[tokio::test]
async fn the_secret_is_of_type_tls_and_owned_by_the_deployment() {
    let api = ApiServer::new();
    let _injector = Injector::ready(&api).await;
    let secret = api.get(SECRET).unwrap();
    assert_eq!(secret["type"], "kubernetes.io/tls");
    let owner = &secret["metadata"]["ownerReferences"][0];
    assert_eq!((&owner["kind"], &owner["uid"]), (&json!("Deployment"), &json!("deployment-uid")));
    let names: Vec<&String> = secret["data"].as_object().unwrap().keys().collect();
    assert_eq!(names.len(), 4, "{names:?}");
}

#[tokio::test]
async fn replicas_that_start_at_once_serve_one_certificate() {
    let api = ApiServer::new();
    let (one, two, three) = tokio::join!(Injector::ready(&api), Injector::ready(&api), Injector::ready(&api));
    let certificate = one.certificate().await;
    assert_eq!(two.certificate().await, certificate);
    assert_eq!(three.certificate().await, certificate);
}

/// What was written of certificates.
fn writes(api: &ApiServer) -> Vec<String> {
    let is_meant = |write: &String| write.contains("/secrets") || write.contains("/mutatingwebhookconfigurations");
    api.writes().into_iter().filter(is_meant).collect()
}

/// Has somebody else lead, as long as a Lease lasts.
fn led_by_another(api: &ApiServer) {
    let spec = json!({"holderIdentity": "another", "leaseDurationSeconds": 3600});
    api.put(LEASE, json!({"metadata": {"name": "dot-injector"}, "spec": spec}));
}

/// The bundle of each webhook.
fn bundles(api: &ApiServer) -> Vec<String> {
    let configuration = api.get(WEBHOOKS).unwrap();
    let webhooks = configuration["webhooks"].as_array().unwrap();
    let bundle = |webhook: &Value| webhook["clientConfig"]["caBundle"].as_str().unwrap_or_default().to_owned();
    webhooks.iter().map(|webhook| String::from_utf8(STANDARD.decode(bundle(webhook)).unwrap()).unwrap()).collect()
}

/// How many authorities stand in every bundle; none while they differ.
fn trusted(api: &ApiServer) -> usize {
    let bundles = bundles(api);
    if bundles.iter().any(|bundle| *bundle != bundles[0]) { 0 } else { bundles[0].matches("BEGIN").count() }
}

fn set_bundle(api: &ApiServer, pem: &str) {
    let mut configuration = api.get(WEBHOOKS).unwrap();
    for webhook in configuration["webhooks"].as_array_mut().unwrap() {
        webhook["clientConfig"]["caBundle"] = json!(STANDARD.encode(pem));
    }
    api.put(WEBHOOKS, configuration);
}

fn set_part(api: &ApiServer, part: &str, pem: &str) {
    let mut secret = api.get(SECRET).unwrap();
    secret["data"][part] = json!(STANDARD.encode(pem));
    api.put(SECRET, secret);
}

/// A leader whose clock is as many seconds ahead as the counter says.
async fn with_clock(api: &ApiServer) -> (Injector, Arc<AtomicU64>) {
    let ahead = Arc::new(AtomicU64::new(0));
    let read = Arc::clone(&ahead);
    let clock = Clock::new(move || SystemTime::now() + Duration::from_secs(read.load(Ordering::Relaxed)));
    let settings = "certificates: {graceSeconds: 1}".to_owned();
    let injector = Injector::start_as(api, Options { clock, settings, ..Options::default() }).await;
    injector.until_ready().await;
    (injector, ahead)
}

const DAY: u64 = 86_400;

#[tokio::test]
async fn a_replica_that_starts_later_writes_nothing() {
    let api = ApiServer::new();
    let first = Injector::ready(&api).await;
    let before = writes(&api);
    let second = Injector::ready(&api).await;
    assert_eq!(writes(&api), before);
    assert_eq!(second.certificate().await, first.certificate().await);
}

#[tokio::test]
async fn who_does_not_lead_serves_what_there_is_and_writes_nothing_whatever_happens() {
    let (api, other) = (ApiServer::new(), ApiServer::new());
    led_by_another(&api);
    let follower = Injector::start(&api).await;
    let _leader = Injector::ready(&other).await;
    assert_eq!(follower.admin("/readyz").await.status(), StatusCode::SERVICE_UNAVAILABLE);
    api.put(SECRET, other.get(SECRET).unwrap());
    api.put(WEBHOOKS, other.get(WEBHOOKS).unwrap());
    follower.until_ready().await;
    let served = follower.certificate().await;
    let authority = follower.authority();
    set_part(&api, "tls.key", "nonsense");
    set_bundle(&api, "");
    api.delete(SECRET);
    // What came after has been seen when the metrics of the renewed certificate are told.
    api.put(SECRET, other.get(SECRET).unwrap());
    eventually("the follower has seen the Secret again", async || follower.is_trusted_by(&authority).await).await;
    assert_eq!(follower.certificate().await, served);
    assert_eq!(follower.admin("/readyz").await.status(), StatusCode::OK);
    assert_eq!(writes(&api), [""; 0]);
}

#[tokio::test]
async fn a_deleted_secret_is_made_anew_without_a_moment_in_which_what_is_served_is_not_trusted() {
    let api = ApiServer::new();
    let settings = "certificates: {graceSeconds: 1}".to_owned();
    let injector = Injector::start_as(&api, Options { settings, ..Options::default() }).await;
    injector.until_ready().await;
    let old = injector.certificate().await;
    api.delete(SECRET);
    eventually("the Secret is back", async || api.get(SECRET).is_some()).await;
    eventually("both authorities are trusted", async || trusted(&api) == 2).await;
    assert_eq!(
        injector.certificate().await,
        old,
        "before the new authority is known everywhere, the old leaf is served"
    );
    eventually("a leaf of the new authority is served", async || {
        // Whatever is served is trusted by what the API server has.
        assert!(injector.is_trusted_by(&bundles(&api)[0]).await);
        injector.certificate().await != old
    })
    .await;
    assert_eq!(trusted(&api), 2, "another replica may still serve the old leaf");
}

#[tokio::test]
async fn a_corrupted_secret_is_put_right_and_never_served() {
    let api = ApiServer::new();
    let injector = Injector::ready(&api).await;
    let (good, served) = (api.get(SECRET).unwrap()["data"].clone(), injector.certificate().await);
    for part in ["ca.crt", "ca.key", "tls.crt", "tls.key"] {
        set_part(&api, part, "nonsense");
        eventually("the Secret is as it was", async || api.get(SECRET).unwrap()["data"] == good).await;
        assert_eq!(injector.certificate().await, served, "{part}");
    }
    let metrics = injector.metrics().await;
    assert!(metrics.contains("dot_injector_certificate_writes_total{object=\"secret\"} 4"), "{metrics}");
}

#[tokio::test]
async fn a_bundle_that_others_change_is_put_right_at_once_but_not_without_end() {
    let api = ApiServer::new();
    let injector = Injector::ready(&api).await;
    let good = injector.authority();
    let is_healed = async || bundles(&api).iter().all(|bundle| *bundle == good);
    for wrong in ["", "nonsense"] {
        set_bundle(&api, wrong);
        eventually("the bundle is back", is_healed).await;
    }
    let writes = || writes(&api).iter().filter(|write| write.contains("webhookconfigurations")).count();
    let deadline = Instant::now() + Duration::from_secs(1);
    while Instant::now() < deadline {
        set_bundle(&api, "");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(writes() <= 11, "{}", writes());
}

#[tokio::test]
async fn certificates_are_renewed_by_the_clock_and_their_authority_before_them() {
    let api = ApiServer::new();
    let (injector, ahead) = with_clock(&api).await;
    let (first, authority) = (injector.certificate().await, injector.authority());
    ahead.store(20 * DAY, Ordering::Relaxed);
    eventually("the leaf is renewed", async || injector.certificate().await != first).await;
    assert_eq!(injector.authority(), authority);
    // Far past the end of everything, and back.
    for days in [1000, 2, 0] {
        let before = injector.certificate().await;
        ahead.store(days * DAY, Ordering::Relaxed);
        eventually("everything is made anew", async || injector.certificate().await != before).await;
        eventually("it is trusted", async || bundles(&api).iter().all(|bundle| *bundle == injector.authority())).await;
    }
    assert!(injector.is_trusted_by(&bundles(&api)[0]).await);
    assert_eq!(injector.admin("/readyz").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn what_expired_because_nobody_renewed_it_makes_a_replica_unready() {
    let api = ApiServer::new();
    let (leader, ahead) = with_clock(&api).await;
    let (secret, configuration) = (api.get(SECRET).unwrap(), api.get(WEBHOOKS).unwrap());
    leader.stop().await;
    let other = ApiServer::new();
    led_by_another(&other);
    other.put(SECRET, secret);
    other.put(WEBHOOKS, configuration);
    let (follower, later) = with_clock(&other).await;
    later.store(ahead.load(Ordering::Relaxed) + 31 * DAY, Ordering::Relaxed);
    let is_ready = async || follower.admin("/readyz").await.status() == StatusCode::OK;
    eventually("it is unready", async || !is_ready().await).await;
    later.store(0, Ordering::Relaxed);
    eventually("it is ready again", is_ready).await;
}

#[tokio::test]
async fn a_certificate_of_cert_managers_is_served_and_trusted_and_its_secret_left_alone() {
    let (api, issuer, next) = (ApiServer::new(), ApiServer::new(), ApiServer::new());
    Injector::ready(&issuer).await.stop().await;
    Injector::ready(&next).await.stop().await;
    let of = |issuer: &ApiServer| {
        let mut secret = issuer.get(SECRET).unwrap();
        secret["data"].as_object_mut().unwrap().remove("ca.key");
        secret
    };
    let settings = "certificates: {external: true, graceSeconds: 1}".to_owned();
    let injector = Injector::start_as(&api, Options { settings, ..Options::default() }).await;
    api.put(SECRET, of(&issuer));
    injector.until_ready().await;
    let first = injector.certificate().await;
    assert_eq!(bundles(&api), [injector.authority(), injector.authority()]);

    set_part(&api, "tls.crt", "nonsense");
    api.put(SECRET, of(&next));
    eventually("both authorities are trusted", async || trusted(&api) == 2).await;
    assert_eq!(injector.certificate().await, first);
    eventually("the new one is served", async || {
        assert!(injector.is_trusted_by(&bundles(&api)[0]).await);
        injector.certificate().await != first
    })
    .await;
    assert!(!writes(&api).iter().any(|write| write.contains("/secrets")));
}

#[tokio::test]
async fn a_secret_whose_owner_is_gone_is_not_made_again() {
    let api = ApiServer::new();
    let injector = Injector::ready(&api).await;
    api.delete(DEPLOYMENT);
    api.delete(SECRET);
    set_bundle(&api, "");
    // The bundle is written after the Secret.
    eventually("the keeper has looked", async || trusted(&api) == 1).await;
    assert_eq!(api.get(SECRET), None);
    assert_eq!(injector.admin("/readyz").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_broken_secret_is_made_anew_and_its_authority_kept_where_it_is_whole() {
    let api = ApiServer::new();
    let first = Injector::ready(&api).await;
    let authority = first.authority();
    first.stop().await;

    set_part(&api, "tls.crt", "no certificate");
    let second = Injector::ready(&api).await;
    assert_eq!(second.authority(), authority);
    assert!(second.is_trusted_by(&authority).await);
    second.stop().await;

    let mut secret = api.get(SECRET).unwrap();
    secret["data"] = json!({"tls.crt": STANDARD.encode("no certificate")});
    api.put(SECRET, secret);
    let third = Injector::ready(&api).await;
    assert_ne!(third.authority(), authority);
    assert!(third.is_trusted_by(&third.authority()).await);
    assert!(!third.is_trusted_by(&authority).await);
}
