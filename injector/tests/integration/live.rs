//! A changed profile is brought to pods that run, in waves, and stops where they reject it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::admission::{ANNOTATED, asking};
use crate::api_server::{ApiServer, PROFILES};
use crate::injector::{Injector, eventually, patched};
use crate::proxies::Pod;
use crate::resolver::Resolver;
use crate::status::{condition, is, status};

/// What cannot be reached from here is not tried.
const UNPROVED: &str = "rollout: {proveUpstreams: false, writesPerSecond: 100}\n";
/// Nobody is there.
const DEAD: &str = "tls://127.0.0.1:1#dns.example";
const DEAD_PLAIN: &str = "udp://127.0.0.1:1";

fn asks(servers: &Value) -> Value {
    json!({"upstream": {"servers": servers}})
}

/// The pods onto which something was written, each as often as that was done.
fn written(api: &ApiServer) -> Vec<String> {
    let writes = api.writes().into_iter();
    writes.filter_map(|write| write.strip_prefix("PATCH /api/v1/namespaces/shop/pods/").map(str::to_owned)).collect()
}

fn message(api: &ApiServer) -> String {
    condition(api, "default", "Propagated")["message"].as_str().unwrap_or_default().to_owned()
}

async fn until_complete(api: &ApiServer, total: usize) {
    eventually("every pod has what the profile says", async || {
        let told = status(api, "default");
        told["pods"]["updated"] == total && is(api, "default", "Propagated", "True", "Complete")
    })
    .await;
}

#[tokio::test]
async fn a_changed_profile_reaches_the_pods_that_run_as_it_would_those_that_are_made_now() {
    let api = ApiServer::new();
    let injector = Injector::ready_as(&api, UNPROVED).await;
    let pods = Pod::start(&injector, &api, 3).await;
    until_complete(&api, 3).await;
    assert_eq!(written(&api), [""; 0], "what nothing has changed of is not written");
    api.profile("default", asks(&json!(["quad9"])));
    eventually("the pods have it", async || pods.iter().all(|pod| pod.servers() == json!(["quad9"]))).await;
    until_complete(&api, 3).await;
    let made_now = patched(&injector.review(ANNOTATED, "shop", &asking()).await, &asking());
    for pod in &pods {
        let stored = api.get(&pod.path()).unwrap();
        assert_eq!(stored["metadata"]["annotations"], made_now["metadata"]["annotations"]);
    }
    assert_eq!(written(&api).len(), 3);
    assert_eq!(message(&api), "all 3 pods have what the profile says");
    let metrics = injector.metrics().await;
    assert!(metrics.contains("dot_injector_configuration_writes_total{outcome=\"written\"} 3\n"), "{metrics}");
    assert!(metrics.contains("dot_injector_rollouts_total{outcome=\"complete\"} 1\n"), "{metrics}");
}

#[tokio::test]
async fn what_the_first_pods_reject_reaches_no_others_until_they_take_it() {
    let api = ApiServer::new();
    let injector = Injector::ready_as(&api, UNPROVED).await;
    let pods = Pod::start(&injector, &api, 12).await;
    until_complete(&api, 12).await;
    pods.iter().for_each(|pod| pod.rejects(true));
    api.profile("default", asks(&json!(["quad9"])));
    eventually("the profile says so", async || is(&api, "default", "Propagated", "False", "Rejected")).await;
    assert_eq!(written(&api).len(), 1);
    assert!(message(&api).contains("1 of 1 that were asked rejected it (shop/web-01: unproved)"), "{}", message(&api));
    eventually("it is counted", async || status(&api, "default")["pods"]["rejected"] == 1).await;
    pods.iter().for_each(|pod| pod.rejects(false));
    until_complete(&api, 12).await;
    assert_eq!(written(&api).len(), 12);
    assert_eq!(status(&api, "default")["pods"]["rejected"], 0);
}

#[tokio::test]
async fn who_leads_next_goes_on_with_the_pods_that_are_left_at_the_same_pace() {
    let api = ApiServer::new();
    let slow = "rollout: {proveUpstreams: false, writesPerSecond: 10}";
    let first = Injector::ready_as(&api, slow).await;
    let pods = Pod::start(&first, &api, 25).await;
    until_complete(&api, 25).await;
    let second = Injector::ready_as(&api, slow).await;
    let began = Instant::now();
    api.profile("default", asks(&json!(["quad9"])));
    eventually("some have it", async || written(&api).len() > 6).await;
    first.stop().await;
    assert!(written(&api).len() < 20, "{}", written(&api).len());
    until_complete(&api, 25).await;
    assert!(began.elapsed() > Duration::from_millis(2_300), "25 writes took {:?}", began.elapsed());
    let written = written(&api);
    assert_eq!(written.iter().collect::<BTreeSet<_>>().len(), 25);
    // The one that was under way when the first one stopped may be written twice.
    assert!(written.len() <= 26, "{written:?}");
    assert!(pods.iter().all(|pod| pod.servers() == json!(["quad9"])));
    second.stop().await;
}

#[tokio::test]
async fn a_configuration_that_somebody_edits_or_removes_is_set_right() {
    let api = ApiServer::new();
    let injector = Injector::ready_as(&api, UNPROVED).await;
    let pods = Pod::start(&injector, &api, 2).await;
    let right = pods[0].config().to_string();
    for edited in [json!("{\"upstream\": {\"servers\": [\"tls://192.0.2.66#evil.example\"]}}"), Value::Null] {
        let mut pod = api.get(&pods[0].path()).unwrap();
        pod["metadata"]["annotations"]["dot-sidecar.io/config"] = edited;
        pod["metadata"]["annotations"].as_object_mut().unwrap().retain(|_, value| !value.is_null());
        api.put(&pods[0].path(), pod);
        eventually("it is as it was", async || {
            api.get(&pods[0].path()).unwrap()["metadata"]["annotations"]["dot-sidecar.io/config"] == right.as_str()
        })
        .await;
    }
    assert!(written(&api).iter().all(|name| *name == pods[0].name));
}

#[tokio::test]
async fn pods_keep_what_they_have_when_their_profile_is_gone_or_cannot_be_used() {
    let api = ApiServer::new();
    api.profile("other", asks(&json!(["quad9"])));
    let injector = Injector::ready_as(&api, UNPROVED).await;
    let pods = Pod::start(&injector, &api, 1).await;
    let mut pod = api.get(&pods[0].path()).unwrap();
    pod["metadata"]["annotations"]["dot-sidecar.io/profile"] = json!("other");
    api.put(&pods[0].path(), pod);
    eventually("it has the other profile", async || pods[0].servers() == json!(["quad9"])).await;
    api.profile("other", asks(&json!(["dns.example"])));
    eventually("the profile says so", async || is(&api, "other", "Propagated", "False", "Unusable")).await;
    api.delete(&format!("{PROFILES}/other"));
    api.profile("default", json!({"cache": {"prefetch": false}}));
    eventually("the change is seen", async || status(&api, "default")["observedGeneration"] == 2).await;
    assert_eq!(pods[0].servers(), json!(["quad9"]));
    assert_eq!(written(&api).len(), 1);
}

#[tokio::test]
async fn a_pod_that_does_not_answer_is_counted_as_unknown_and_named() {
    let api = ApiServer::new();
    let injector = Injector::ready_as(&api, UNPROVED).await;
    let pods = Pod::start(&injector, &api, 2).await;
    let mut silent = api.get(&pods[0].path()).unwrap();
    silent["status"]["podIP"] = json!("127.53.0.1");
    api.put(&pods[0].path(), silent);
    let mut edited = api.get(&pods[1].path()).unwrap();
    edited["metadata"]["annotations"]["dot-sidecar.io/config"] = json!("{}");
    api.put(&pods[1].path(), edited);
    // Before anything is written, those are asked that have it.
    eventually("it is counted", async || status(&api, "default")["pods"]["unknown"] == 1).await;
    eventually("the other one is written", async || written(&api) == [pods[1].name.clone()]).await;
}

#[tokio::test]
async fn a_server_that_the_leader_cannot_use_is_left_out_and_the_rest_of_the_change_holds_at_once() {
    let api = ApiServer::new();
    let (living, removed) = (Resolver::start().await, Resolver::start().await);
    let with = |servers: Value, prefetch: bool| {
        let ca = format!("{}{}", living.authority, removed.authority);
        json!({"upstream": {"servers": servers, "ca": ca}, "cache": {"prefetch": prefetch}})
    };
    let injector = Injector::ready_as(&api, "profile: null").await;
    api.profile("default", with(json!([removed.url]), true));
    eventually("it is known", async || status(&api, "default")["observedGeneration"] == 2).await;
    let pods = Pod::start(&injector, &api, 2).await;
    until_complete(&api, 2).await;

    // One that lives: proved by the leader, then told to the pods.
    api.profile("default", with(json!([removed.url, living.url]), true));
    until_complete(&api, 2).await;
    assert_eq!(pods[0].servers(), json!([removed.url, living.url]));

    // A dead one beside it: nothing is written, and the profile says why.
    let before = written(&api).len();
    api.profile("default", with(json!([removed.url, living.url, DEAD]), true));
    eventually("the profile says so", async || is(&api, "default", "Propagated", "False", "Unproved")).await;
    assert!(message(&api).contains(&format!("{DEAD}: connection-refused")), "{}", message(&api));
    assert_eq!(written(&api).len(), before);

    // With something removed and something else changed: that holds at once.
    api.profile("default", with(json!([living.url, DEAD]), false));
    eventually("what can be used is told", async || {
        pods.iter().all(|pod| pod.servers() == json!([living.url]) && pod.config()["cache"]["prefetch"] == false)
    })
    .await;
    eventually("it says so still", async || is(&api, "default", "Propagated", "False", "Unproved")).await;
    // Alone: pods go on with what they have.
    let before = written(&api).len();
    api.profile("default", with(json!([DEAD]), true));
    eventually("the profile is about it", async || {
        condition(&api, "default", "Propagated")["observedGeneration"] == 6
            && is(&api, "default", "Propagated", "False", "Unproved")
    })
    .await;
    assert_eq!(written(&api).len(), before);
    // And back: there is nothing left to be done.
    api.profile("default", with(json!([living.url]), false));
    until_complete(&api, 2).await;
    assert_eq!(written(&api).len(), before);
}

#[tokio::test]
async fn a_route_whose_servers_the_leader_cannot_use_is_not_told_to_pods_and_the_profile_names_it() {
    let api = ApiServer::new();
    let (public, zone) = (Resolver::start().await, Resolver::start().await);
    let with = |servers: Value| {
        let ca = format!("{}{}", public.authority, zone.authority);
        let routes = json!([{"suffixes": ["corp.example", "corp.test"], "servers": servers}]);
        json!({"upstream": {"servers": [public.url], "ca": ca}, "routes": routes})
    };
    let routed = |pod: &Pod| {
        let config = pod.config();
        let routes = config["routes"].as_array().cloned().unwrap_or_default();
        routes.iter().find(|route| route["suffixes"][0] == "corp.example").map(|route| route["servers"].clone())
    };
    let injector = Injector::ready_as(&api, "profile: null").await;
    let mut unrouted = with(json!([]));
    unrouted["routes"] = json!([]);
    api.profile("default", unrouted);
    eventually("it is known", async || status(&api, "default")["observedGeneration"] == 2).await;
    let pods = Pod::start(&injector, &api, 2).await;
    until_complete(&api, 2).await;

    // Without the route its names would go to the public resolver, with it nowhere: pods keep what they have.
    api.profile("default", with(json!([DEAD_PLAIN])));
    eventually("the profile says so", async || is(&api, "default", "Propagated", "False", "Unproved")).await;
    let words = format!("route for corp.example: {DEAD_PLAIN}: connection-refused");
    assert!(message(&api).contains(&words), "{}", message(&api));
    assert_eq!(written(&api), [""; 0]);

    // One of its servers can be used: the route holds by that one.
    api.profile("default", with(json!([DEAD_PLAIN, zone.url])));
    eventually("what can be used is told", async || {
        pods.iter().all(|pod| routed(pod) == Some(json!([zone.url]))) && message(&api).contains(&words)
    })
    .await;
    assert!(is(&api, "default", "Propagated", "False", "Unproved"));
    api.profile("default", with(json!([zone.url])));
    until_complete(&api, 2).await;
}
