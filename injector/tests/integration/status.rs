//! What is told in the status of profiles.

use serde_json::{Value, json};

use crate::admission::{ANNOTATED, asking};
use crate::api_server::{ApiServer, PROFILES};
use crate::injector::{Injector, eventually, patched};

pub(crate) const PODS: &str = "/api/v1/namespaces/shop/pods";

/// A pod as it is stored that was admitted by this injector.
pub(crate) async fn admitted(injector: &Injector, name: &str) -> Value {
    let mut pod = patched(&injector.review(ANNOTATED, "shop", &asking()).await, &asking());
    pod["metadata"]["name"] = json!(name);
    pod["metadata"]["namespace"] = json!("shop");
    pod["metadata"]["uid"] = json!(format!("uid-of-{name}"));
    pod
}

pub(crate) fn status(api: &ApiServer, profile: &str) -> Value {
    api.get(&format!("{PROFILES}/{profile}")).unwrap()["status"].clone()
}

pub(crate) fn condition(api: &ApiServer, profile: &str, kind: &str) -> Value {
    let conditions = status(api, profile)["conditions"].as_array().cloned().unwrap_or_default();
    conditions.into_iter().find(|condition| condition["type"] == kind).unwrap_or_default()
}

pub(crate) fn is(api: &ApiServer, profile: &str, kind: &str, status: &str, reason: &str) -> bool {
    let condition = condition(api, profile, kind);
    condition["status"] == status && condition["reason"] == reason
}

#[tokio::test]
async fn a_profile_tells_that_it_can_be_used_and_how_many_pods_have_it() {
    let api = ApiServer::new();
    let injector = Injector::ready(&api).await;
    for name in ["web-1", "web-2"] {
        api.put(&format!("{PODS}/{name}"), admitted(&injector, name).await);
    }
    eventually("both pods are counted", async || status(&api, "default")["pods"]["total"] == 2).await;
    let told = status(&api, "default");
    assert_eq!((&told["pods"]["updated"], &told["pods"]["refused"]), (&json!(2), &json!(0)));
    let generation = &api.get(&format!("{PROFILES}/default")).unwrap()["metadata"]["generation"];
    assert_eq!(&told["observedGeneration"], generation);
    assert_eq!(told["users"], json!(["Pod web-1 in shop (1 pod)", "Pod web-2 in shop (1 pod)"]));
    assert!(is(&api, "default", "Ready", "True", "Accepted"), "{told}");
    assert!(is(&api, "default", "Propagated", "True", "Complete"), "{told}");
    assert_eq!(condition(&api, "default", "Propagated")["message"], "all 2 pods have what the profile says");
    assert!(injector.metrics().await.contains("dot_injector_leader 1\n"));

    api.delete(&format!("{PODS}/web-1"));
    eventually("the pod that is gone is not counted", async || status(&api, "default")["pods"]["total"] == 1).await;
}

#[tokio::test]
async fn a_profile_that_cannot_be_used_says_why_and_since_when() {
    let api = ApiServer::new();
    api.profile("bad", json!({"upstream": {"servers": ["dns.example"]}}));
    let _injector = Injector::ready(&api).await;
    eventually("the status says it", async || is(&api, "bad", "Ready", "False", "Unusable")).await;
    let told = condition(&api, "bad", "Ready");
    assert!(told["message"].as_str().unwrap().starts_with("spec.upstream.servers[0]: "), "{told}");
    api.profile("bad", json!({"upstream": {"servers": ["quad9"]}}));
    eventually("it can be used now", async || is(&api, "bad", "Ready", "True", "Accepted")).await;
    assert_eq!(condition(&api, "bad", "Ready")["observedGeneration"], 2);
}

#[tokio::test]
async fn pods_to_which_a_profile_cannot_be_applied_any_more_are_told() {
    let api = ApiServer::new();
    let injector = Injector::ready(&api).await;
    let mut pod = admitted(&injector, "web-1").await;
    pod["metadata"]["annotations"]["dot-sidecar.io/image"] = json!("registry.example/other");
    api.put(&format!("{PODS}/web-1"), pod);
    eventually("it is counted as refused", async || status(&api, "default")["pods"]["refused"] == 1).await;
    let told = condition(&api, "default", "Propagated");
    assert!(told["message"].as_str().unwrap().contains("1 keep what they have"), "{told}");
}

#[tokio::test]
async fn who_leads_next_goes_on_where_the_other_stopped() {
    let api = ApiServer::new();
    let first = Injector::ready(&api).await;
    eventually("the first one leads", async || is(&api, "default", "Ready", "True", "Accepted")).await;
    let second = Injector::ready(&api).await;
    assert!(second.metrics().await.contains("dot_injector_leader 0\n"));
    let since = condition(&api, "default", "Ready")["lastTransitionTime"].clone();
    first.stop().await;
    let pod = admitted(&second, "web-1").await;
    api.put(&format!("{PODS}/web-1"), pod);
    eventually("the second one counts", async || status(&api, "default")["pods"]["total"] == 1).await;
    assert_eq!(condition(&api, "default", "Ready")["lastTransitionTime"], since);
}
