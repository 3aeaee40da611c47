//! Reviews over HTTPS.

use std::time::{Duration, Instant};

use dot_injector::server::Limits;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::SendRequest;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use crate::api_server::{ApiServer, PROFILES};
use crate::http::Version;
use crate::injector::{Injector, Options, eventually, patched, post, review};

pub(crate) const ANNOTATED: &str = "/mutate/annotated";
const NAMESPACE: &str = "/mutate/namespace";

fn pod(annotations: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "web-", "annotations": annotations},
        "spec": {"containers": [{"name": "app", "image": "app"}], "dnsPolicy": "ClusterFirst"}
    })
}

pub(crate) fn asking() -> Value {
    pod(&json!({"dot-sidecar.io/inject": "true"}))
}

#[tokio::test]
async fn an_annotated_pod_is_patched_over_either_version_of_http() {
    let injector = Injector::ready(&ApiServer::new()).await;
    for version in [Version::One, Version::Two] {
        let answer = injector.post(version, post(ANNOTATED, review("shop", &asking()).to_string())).await;
        assert_eq!(answer.headers()["content-type"], "application/json");
        let answer: Value = serde_json::from_slice(answer.body()).unwrap();
        let after = patched(&answer["response"], &asking());
        assert_eq!(after["spec"]["initContainers"][0]["name"], "dot-proxy");
        assert_eq!(after["spec"]["dnsConfig"]["searches"][0], "shop.svc.cluster.local");
        assert_eq!(answer["response"]["auditAnnotations"], json!({"outcome": "injected", "reason": "asked"}));
    }
    injector.stop().await;
}

#[tokio::test]
async fn called_again_the_injector_changes_nothing() {
    let injector = Injector::ready(&ApiServer::new()).await;
    let once = patched(&injector.review(ANNOTATED, "shop", &asking()).await, &asking());
    let again = injector.review(ANNOTATED, "shop", &once).await;
    assert_eq!((&again["allowed"], &again["patch"]), (&json!(true), &Value::Null));
}

#[tokio::test]
async fn a_pod_that_cannot_be_served_is_denied_and_told_why() {
    let injector = Injector::ready(&ApiServer::new()).await;
    let mut pod = asking();
    pod["spec"]["hostNetwork"] = json!(true);
    let response = injector.review(ANNOTATED, "shop", &pod).await;
    assert_eq!((&response["allowed"], &response["patch"]), (&json!(false), &Value::Null));
    assert_eq!(response["status"]["code"], 403);
    assert!(response["status"]["message"].as_str().unwrap().contains("remove hostNetwork"), "{response}");
    let metrics = injector.metrics().await;
    assert!(
        metrics.contains(r#"dot_injector_admissions_total{outcome="denied",reason="host-network"} 1"#),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_misspelt_annotation_earns_a_warning() {
    let injector = Injector::ready(&ApiServer::new()).await;
    let pod = pod(&json!({"dot-sidecar.io/inject": "true", "dot-sidecar.io/upstrem": "quad9"}));
    let response = injector.review(ANNOTATED, "shop", &pod).await;
    assert_eq!(response["warnings"].as_array().unwrap().len(), 1);
    assert!(response["warnings"][0].as_str().unwrap().contains("did you mean dot-sidecar.io/upstream?"));
}

#[tokio::test]
async fn where_a_pod_says_nothing_itself_its_namespace_is_asked() {
    let api = ApiServer::new();
    let namespace = |name: &str, labels: Value| {
        api.put(&format!("/api/v1/namespaces/{name}"), json!({"metadata": {"name": name, "labels": labels}}));
    };
    namespace("asks", json!({"dot-sidecar.io/inject": "true"}));
    namespace("silent", json!({}));
    let injector = Injector::ready(&api).await;
    let tuned = pod(&json!({"dot-sidecar.io/upstream": "quad9"}));
    let asked = injector.review(ANNOTATED, "asks", &tuned).await;
    assert_eq!(patched(&asked, &tuned)["spec"]["dnsPolicy"], "None");
    let silent = injector.review(ANNOTATED, "silent", &tuned).await;
    assert_eq!((&silent["allowed"], &silent["patch"]), (&json!(true), &Value::Null));
    assert!(silent["warnings"][0].as_str().unwrap().contains("has no effect without"), "{silent}");
    let unknown = injector.review(ANNOTATED, "missing", &tuned).await;
    assert_eq!((&unknown["allowed"], &unknown["status"]["code"]), (&json!(false), &json!(500)));
    assert!(unknown["status"]["message"].as_str().unwrap().contains("namespace missing"), "{unknown}");
}

#[tokio::test]
async fn a_pod_gets_the_profile_that_it_names_where_the_namespaces_labels_allow_it() {
    let api = ApiServer::new();
    api.profile(
        "strict",
        json!({"upstream": {"servers": ["quad9"]}, "namespaces": {"selector": {"matchLabels": {"team": "a"}}}}),
    );
    api.put("/api/v1/namespaces/ours", json!({"metadata": {"name": "ours", "labels": {"team": "a"}}}));
    api.put("/api/v1/namespaces/theirs", json!({"metadata": {"name": "theirs"}}));
    let injector = Injector::ready(&api).await;
    let named = pod(&json!({"dot-sidecar.io/inject": "true", "dot-sidecar.io/profile": "strict"}));
    let after = patched(&injector.review(ANNOTATED, "ours", &named).await, &named);
    let config = after["metadata"]["annotations"]["dot-sidecar.io/config"].as_str().unwrap();
    assert!(config.contains(r#""servers":["quad9"]"#), "{config}");
    let elsewhere = injector.review(ANNOTATED, "theirs", &named).await;
    assert_eq!(elsewhere["allowed"], false);
    let message = elsewhere["status"]["message"].as_str().unwrap();
    assert!(message.contains(r#""strict" may not be used in the namespace theirs"#), "{message}");
}

#[tokio::test]
async fn the_default_profile_is_kept_as_the_configuration_says_it() {
    let api = ApiServer::new();
    api.profile("default", json!({"upstream": {"servers": ["google"]}}));
    let injector = Injector::ready(&api).await;
    let path = format!("{PROFILES}/default");
    let server = || api.get(&path).unwrap()["spec"]["upstream"]["servers"].clone();
    eventually("the profile is written", async || server() == json!(["cloudflare"])).await;
    injector.stop().await;
}

#[tokio::test]
async fn the_namespaces_limit_ranges_are_honoured() {
    let api = ApiServer::new();
    api.put(
        "/api/v1/namespaces/tight/limitranges/bounds",
        json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "bounds", "namespace": "tight"},
               "spec": {"limits": [{"type": "Container", "max": {"memory": "48Mi"}}]}}),
    );
    let injector = Injector::ready(&api).await;
    let limit = async |namespace: &str| {
        let after = patched(&injector.review(ANNOTATED, namespace, &asking()).await, &asking());
        after["spec"]["initContainers"][0]["resources"]["limits"]["memory"].clone()
    };
    assert_eq!(limit("tight").await, "48Mi");
    assert_eq!(limit("other").await, "64Mi");
}

#[tokio::test]
async fn the_owner_of_a_pod_that_its_namespace_asks_for_in_vain_is_told_but_not_on_a_dry_run() {
    let api = ApiServer::new();
    api.put(
        "/apis/apps/v1/namespaces/asks/replicasets/web-1",
        json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "web-1", "ownerReferences":
               [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "w", "controller": true}]}}),
    );
    let injector = Injector::ready(&api).await;
    let mut pod = pod(&json!({}));
    pod["spec"]["hostNetwork"] = json!(true);
    let owner = |kind: &str, name: &str| json!([{"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": "u", "controller": true}]);
    pod["metadata"]["ownerReferences"] = owner("DaemonSet", "dry");
    let mut dry_run = review("asks", &pod);
    dry_run["request"]["dryRun"] = json!(true);
    injector.review_with(NAMESPACE, dry_run).await;

    pod["metadata"]["ownerReferences"] = owner("ReplicaSet", "web-1");
    let response = injector.review(NAMESPACE, "asks", &pod).await;
    assert_eq!((&response["allowed"], &response["patch"]), (&json!(true), &Value::Null));
    assert!(response["warnings"][0].as_str().unwrap().contains("remove hostNetwork"), "{response}");

    let events = || api.under("/apis/events.k8s.io/v1/namespaces/asks/events/");
    eventually("the owner is told", async || !events().is_empty()).await;
    // The worker tells in order: had the dry run been told, it would have come first.
    let event = &events()[0];
    assert_eq!((&event["regarding"]["kind"], &event["regarding"]["name"]), (&json!("Deployment"), &json!("web")));
    assert_eq!(event["type"], "Warning");
    assert_eq!(event["note"], response["warnings"][0]);
    assert_eq!(events().len(), 1);
}

#[tokio::test]
async fn what_is_no_review_gets_a_clean_error() {
    let injector = Injector::ready(&ApiServer::new()).await;
    let whole = review("shop", &asking()).to_string();
    let mut beta = review("shop", &asking());
    beta["apiVersion"] = json!("admission.k8s.io/v1beta1");
    let mut without_request = review("shop", &asking());
    without_request["request"] = Value::Null;
    let text =
        Request::post("https://dot-injector.dot-sidecar.svc/mutate/annotated").header("content-type", "text/plain");
    let get = Request::get("https://dot-injector.dot-sidecar.svc/mutate/annotated");
    for (request, status, words) in [
        (post("/elsewhere", whole.clone()), StatusCode::NOT_FOUND, "/mutate/annotated"),
        (get.body(Full::default()).unwrap(), StatusCode::METHOD_NOT_ALLOWED, "POST"),
        (text.body(Full::from(whole.clone())).unwrap(), StatusCode::UNSUPPORTED_MEDIA_TYPE, "application/json"),
        (post(ANNOTATED, whole[..100].to_owned()), StatusCode::BAD_REQUEST, "no AdmissionReview"),
        (post(ANNOTATED, "[]"), StatusCode::BAD_REQUEST, "no"),
        (post(ANNOTATED, "{}"), StatusCode::BAD_REQUEST, "admission.k8s.io/v1"),
        (post(ANNOTATED, beta.to_string()), StatusCode::BAD_REQUEST, "admissionReviewVersions: [v1]"),
        (post(ANNOTATED, without_request.to_string()), StatusCode::BAD_REQUEST, "no request"),
        (post(ANNOTATED, vec![b' '; 3 * 1024 * 1024 + 1]), StatusCode::PAYLOAD_TOO_LARGE, "3145728"),
    ] {
        let answer = injector.post(Version::Two, request).await;
        let body = String::from_utf8_lossy(answer.body()).into_owned();
        assert_eq!(answer.status(), status, "{body}");
        assert!(body.contains(words), "{body}");
    }
    let metrics = injector.metrics().await;
    for (reason, times) in
        [("path", 1), ("method", 1), ("content-type", 1), ("malformed", 3), ("version", 2), ("body-too-long", 1)]
    {
        let line = format!("dot_injector_refused_total{{reason=\"{reason}\"}} {times}\n");
        assert!(metrics.contains(&line), "{line} is not in {metrics}");
    }
}

#[tokio::test]
async fn what_is_not_the_creation_of_a_pod_is_denied_and_the_rules_are_named() {
    let injector = Injector::ready(&ApiServer::new()).await;
    for (field, value) in [
        ("resource", json!({"group": "apps", "version": "v1", "resource": "deployments"})),
        ("operation", json!("DELETE")),
        ("subResource", json!("ephemeralcontainers")),
    ] {
        let mut review = review("shop", &asking());
        review["request"][field] = value;
        let response = injector.review_with(ANNOTATED, review).await;
        assert_eq!(response["allowed"], false);
        assert!(response["status"]["message"].as_str().unwrap().contains("correct the rules"), "{response}");
    }
}

#[tokio::test]
async fn a_review_under_way_is_answered_when_the_injector_is_told_to_stop() {
    let injector = Injector::ready(&ApiServer::new()).await;
    let mut stream = injector.connect(Version::One).await;
    let body = review("shop", &asking()).to_string();
    let head = format!(
        "POST {ANNOTATED} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\nexpect: 100-continue\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // The injector waits for the body now.
    read_until(&mut stream, "100 Continue\r\n\r\n").await;
    let stopping = tokio::spawn(injector.stop());
    stream.write_all(body.as_bytes()).await.unwrap();
    read_until(&mut stream, "200 OK").await;
    drop(stream);
    stopping.await.unwrap();
}

/// A connection of HTTP/1.1 that is kept, as API servers keep theirs.
struct Kept(Mutex<SendRequest<Full<Bytes>>>);

impl Kept {
    async fn to(injector: &Injector) -> (Self, JoinHandle<hyper::Result<()>>) {
        let stream = TokioIo::new(injector.connect(Version::One).await);
        let (sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
        (Self(Mutex::new(sender)), tokio::spawn(connection))
    }

    /// Asks about a pod. Whether the answer says that it is the connection's last.
    async fn ends_with_an_answer(&self) -> bool {
        let request = post(ANNOTATED, review("shop", &asking()).to_string());
        let answer = self.0.lock().await.send_request(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        let is_last = answer.headers().get("connection").is_some_and(|value| value == "close");
        answer.into_body().collect().await.unwrap();
        is_last
    }
}

#[tokio::test]
async fn a_connection_is_kept_for_the_next_review_longer_than_a_head_may_take() {
    let head = Duration::from_millis(200);
    let injector = Injector::ready_with(&ApiServer::new(), None, Limits { head, ..Limits::default() }).await;
    let (kept, _connection) = Kept::to(&injector).await;
    for _ in 0..2 {
        assert!(!kept.ends_with_an_answer().await);
        tokio::time::sleep(3 * head).await;
    }
    assert!(!kept.ends_with_an_answer().await);
}

#[tokio::test]
async fn who_is_leaving_says_with_an_answer_that_the_connection_ends_and_does_not_close_it_between_two_requests() {
    let linger = Duration::from_secs(5);
    let injector = Injector::start_as(&ApiServer::new(), Options { linger, ..Options::default() }).await;
    injector.until_ready().await;
    let (kept, connection) = Kept::to(&injector).await;
    assert!(!kept.ends_with_an_answer().await && !kept.ends_with_an_answer().await);
    let told = Instant::now();
    let stopping = tokio::spawn(injector.stop());
    eventually("an answer ends the connection", async || kept.ends_with_an_answer().await).await;
    assert!(told.elapsed() < linger, "before the injector closes what is left");
    connection.await.unwrap().unwrap();
    stopping.abort();
}

async fn read_until(stream: &mut (impl AsyncRead + Unpin), words: &str) {
    let mut seen = String::new();
    while !seen.contains(words) {
        let mut part = [0; 1024];
        let length = stream.read(&mut part).await.unwrap();
        assert!(length > 0, "closed after {seen:?}");
        seen.push_str(&String::from_utf8_lossy(&part[..length]));
    }
}
