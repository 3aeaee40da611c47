//! The Secret, the certificate that is served, and the bundle by which the API server trusts it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::StatusCode;
use serde_json::json;

use crate::api_server::{ApiServer, SECRET, WEBHOOKS};
use crate::injector::{Injector, eventually};

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
    assert!(metrics.contains("dot_injector_certificate_expiry_timestamp_seconds"), "{metrics}");
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

#[tokio::test]
async fn a_replica_that_starts_later_writes_nothing() {
    let api = ApiServer::new();
    let first = Injector::ready(&api).await;
    // The leader's own go on.
    let writes = || api.writes().into_iter().filter(|write| !write.contains("/leases/") && !write.ends_with("/status"));
    let before: Vec<String> = writes().collect();
    let second = Injector::ready(&api).await;
    assert_eq!(writes().collect::<Vec<_>>(), before);
    assert_eq!(second.certificate().await, first.certificate().await);
}

#[tokio::test]
async fn a_broken_secret_is_made_anew_and_its_authority_kept_where_it_is_whole() {
    let api = ApiServer::new();
    let first = Injector::ready(&api).await;
    let authority = first.authority();
    first.stop().await;

    let mut secret = api.get(SECRET).unwrap();
    secret["data"]["tls.crt"] = json!(STANDARD.encode("no certificate"));
    api.put(SECRET, secret.clone());
    let second = Injector::ready(&api).await;
    assert_eq!(second.authority(), authority);
    assert!(second.is_trusted_by(&authority).await);
    second.stop().await;

    secret["data"] = json!({"tls.crt": STANDARD.encode("no certificate")});
    api.put(SECRET, secret);
    let third = Injector::ready(&api).await;
    assert_ne!(third.authority(), authority);
    assert!(third.is_trusted_by(&third.authority()).await);
    assert!(!third.is_trusted_by(&authority).await);
}
