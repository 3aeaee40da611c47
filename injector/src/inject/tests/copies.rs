//! Pods that carry something of ours already: copies, forgeries, the webhook's second call.

use std::collections::BTreeMap;

use serde_json::json;

use super::{
    asking, cluster, decide_asked, decide_in_asking_namespace, denied, injected, injected_with, pod, settings,
};
use crate::inject::{Decision, Subject, decide, patched};
use crate::limits::ContainerLimits;
use crate::profile::{Profile, Profiles};
use crate::settings::Settings;

#[test]
fn a_copied_pod_gets_a_sidecar_of_its_own_however_it_was_tampered_with() {
    let once = injected(&asking(json!({"dnsConfig": {"searches": ["team.example"]}})));
    let mut copy = once.clone();
    copy["spec"]["initContainers"][0]["image"] = json!("registry.example/evil:1");
    copy["spec"]["initContainers"][0]["securityContext"] = json!({"privileged": true});
    copy["spec"]["volumes"][0]["downwardAPI"]["items"][0]["path"] = json!("other.json");
    copy["metadata"]["annotations"]["dot-sidecar.io/config"] = json!("{\"upstream\":{\"servers\":[\"google\"]}}");
    assert_eq!(injected(&copy), once);
}

#[test]
fn a_copy_of_a_pod_that_its_namespace_asked_for_keeps_the_sidecar_elsewhere() {
    let original = pod(json!({}), json!({}));
    let once = patched(&decide_in_asking_namespace(&original).decision, &original);
    let again = injected(&once);
    assert_eq!(again, once);
    // And what stands in its way there is a denial: it would not resolve without the proxy.
    let mut on_the_host = once;
    on_the_host["spec"]["hostNetwork"] = json!(true);
    assert_eq!(denied(&decide_asked(&on_the_host)).code(), "host-network");
}

#[test]
fn a_copy_into_another_namespace_searches_there() {
    let once = injected(&asking(json!({})));
    let limits = ContainerLimits::default();
    let labels = BTreeMap::new();
    let subject = Subject {
        pod: &once,
        namespace: "elsewhere",
        namespace_asks: false,
        namespace_labels: &labels,
        limits: &limits,
    };
    let verdict = decide(subject, &Settings::default(), &cluster(), &Profiles::of_default(Profile::default()));
    let after = patched(&verdict.decision, &once);
    assert_eq!(after["spec"]["dnsConfig"]["searches"][0], "elsewhere.svc.cluster.local");
    assert_eq!(after["spec"]["dnsConfig"]["searches"].as_array().unwrap().len(), 3);
}

#[test]
fn a_copy_that_declines_is_what_it_was_before() {
    let sysctls = json!([{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}]);
    for spec in [
        json!({"dnsPolicy": "ClusterFirst", "dnsConfig": {"searches": ["team.example"]}}),
        json!({"dnsPolicy": "ClusterFirstWithHostNet", "securityContext": {"sysctls": sysctls}}),
    ] {
        let before = asking(spec);
        let mut copy = injected(&before);
        copy["metadata"]["annotations"]["dot-sidecar.io/inject"] = json!("false");
        let verdict = decide_asked(&copy);
        let mut expected = before;
        expected["metadata"]["annotations"]["dot-sidecar.io/inject"] = json!("false");
        let mut stripped = patched(&verdict.decision, &copy);
        // The empty securityContext that injection made may stay: it says nothing.
        if stripped["spec"]["securityContext"] == json!({}) {
            stripped["spec"].as_object_mut().unwrap().remove("securityContext");
        }
        assert_eq!(stripped, expected);
    }
}

#[test]
fn a_copy_without_anything_but_our_volume_gets_the_sidecar_again() {
    let once = injected(&asking(json!({})));
    let mut copy = once.clone();
    copy["metadata"] = json!({"name": "copy"});
    copy["spec"].as_object_mut().unwrap().remove("initContainers");
    let verdict = decide_asked(&copy);
    let after = patched(&verdict.decision, &copy);
    assert_eq!(after["spec"], once["spec"]);
    assert!(verdict.warnings[0].contains("taken as ClusterFirst"), "{:?}", verdict.warnings);
}

#[test]
fn a_copy_without_our_annotations_is_taken_as_cluster_first_and_told_so() {
    let mut copy = injected(&asking(json!({})));
    copy["metadata"].as_object_mut().unwrap().remove("annotations");
    let verdict = decide_in_asking_namespace(&copy);
    assert!(matches!(verdict.decision, Decision::Inject(_)), "{:?}", verdict.decision);
    assert!(verdict.warnings[0].contains("taken as ClusterFirst"), "{:?}", verdict.warnings);
}

#[test]
fn dns_fields_that_were_written_anew_on_a_copy_count_and_not_the_record() {
    let mut copy = injected(&asking(json!({})));
    copy["spec"]["dnsPolicy"] = json!("Default");
    assert_eq!(denied(&decide_asked(&copy)).code(), "own-resolver");
    copy["spec"]["dnsPolicy"] = json!("ClusterFirst");
    copy["spec"]["dnsConfig"] = json!({"searches": ["team.example"]});
    let searches = injected(&copy)["spec"]["dnsConfig"]["searches"].clone();
    assert_eq!(searches[3], "team.example");
}

#[test]
fn a_forged_record_of_the_original_is_checked_like_the_users_own_fields() {
    for (original, code) in [
        (json!({"dnsPolicy": "Default"}), "own-resolver"),
        (json!({"dnsConfig": {"nameservers": ["192.0.2.1"]}}), "own-resolver"),
        (json!({"unprivilegedPortStart": "1024"}), "low-ports-closed"),
        (json!({"dnsConfig": {"searches": 5}}), "malformed"),
    ] {
        let mut copy = injected(&asking(json!({})));
        let status = json!({"injector": "0", "profile": "default", "original": original});
        copy["metadata"]["annotations"]["dot-sidecar.io/status"] = json!(status.to_string());
        assert_eq!(denied(&decide_asked(&copy)).code(), code, "{original}");
    }
}

#[test]
fn a_forged_status_on_a_pod_that_never_had_the_sidecar_changes_nothing() {
    let mut forged = asking(json!({}));
    forged["metadata"]["annotations"]["dot-sidecar.io/status"] = json!("{\"original\":{\"dnsPolicy\":\"Default\"}}");
    forged["metadata"]["annotations"]["dot-sidecar.io/config"] = json!("{}");
    assert_eq!(injected(&forged), injected(&asking(json!({}))));
}

#[test]
fn called_again_the_pull_policy_that_a_cluster_forces_is_kept() {
    let mut once = injected(&asking(json!({})));
    once["spec"]["initContainers"][0]["imagePullPolicy"] = json!("Always");
    assert_eq!(injected(&once), once);
    once["spec"]["initContainers"][0]["imagePullPolicy"] = json!("Never");
    assert_eq!(injected(&once)["spec"]["initContainers"][0]["imagePullPolicy"], "IfNotPresent");
}

#[test]
fn called_again_the_user_that_the_platform_chose_is_kept_where_that_is_left_to_it() {
    let left_to_it = settings("sidecar: {runAsUser: null}");
    let mut once = injected_with(&asking(json!({})), &left_to_it, &[]);
    let security = "/spec/initContainers/0/securityContext/runAsUser";
    once["spec"]["initContainers"][0]["securityContext"]["runAsUser"] = json!(1_000_680_000);
    assert_eq!(injected_with(&once, &left_to_it, &[]), once);
    assert_eq!(injected(&once).pointer(security), Some(&json!(64_053)), "here it is ours to say");
    once["spec"]["initContainers"][0]["securityContext"]["runAsUser"] = json!(0);
    assert_eq!(injected_with(&once, &left_to_it, &[]).pointer(security), None);
}
