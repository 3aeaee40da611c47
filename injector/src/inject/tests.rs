//! What is decided about pods, and what it makes of them.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::cluster::ClusterSettings;
use crate::cluster::ResolvConf;

const NAMESPACE: &str = "shop";

fn cluster() -> ClusterDns {
    let settings = ClusterSettings {
        domain: "cluster.local".to_owned(),
        dns_addresses: vec!["10.96.0.10".parse().unwrap()],
        ..ClusterSettings::default()
    };
    ClusterDns::new(&settings, &ResolvConf::default()).unwrap()
}

fn settings(yaml: &str) -> Settings {
    Settings::from_yaml(yaml).unwrap()
}

/// A pod with one container; `spec` is laid over its own.
#[expect(clippy::needless_pass_by_value, reason = "called with literals")]
fn pod(annotations: Value, spec: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web", "annotations": annotations},
        "spec": {"containers": [{"name": "app", "image": "registry.example/app:1"}], "dnsPolicy": "ClusterFirst"}
    });
    for (key, value) in spec.as_object().unwrap() {
        pod["spec"][key] = value.clone();
    }
    pod
}

fn asking(spec: Value) -> Value {
    pod(json!({"dot-sidecar.io/inject": "true"}), spec)
}

fn decide_with(pod: &Value, namespace_asks: bool, settings: &Settings, limits: &[Value]) -> Verdict {
    let mut container_limits = ContainerLimits::default();
    limits.iter().for_each(|limit_range| container_limits.add(limit_range).unwrap());
    let subject = Subject { pod, namespace: NAMESPACE, namespace_asks, limits: &container_limits };
    decide(subject, settings, &cluster())
}

fn decide_asked(pod: &Value) -> Verdict {
    decide_with(pod, false, &Settings::default(), &[])
}

fn decide_in_asking_namespace(pod: &Value) -> Verdict {
    decide_with(pod, true, &Settings::default(), &[])
}

/// The pod after injection, which must have been decided.
fn injected(pod: &Value) -> Value {
    injected_with(pod, &Settings::default(), &[])
}

fn injected_with(pod: &Value, settings: &Settings, limits: &[Value]) -> Value {
    let verdict = decide_with(pod, false, settings, limits);
    assert!(matches!(verdict.decision, Decision::Inject(_)), "{:?}", verdict.decision);
    patched(&verdict.decision, pod)
}

fn denied(verdict: &Verdict) -> &Refusal {
    match &verdict.decision {
        Decision::Deny(refusal) => refusal,
        other => panic!("not denied: {other:?}"),
    }
}

fn proxy_config(pod: &Value) -> Config {
    let annotation = pod.pointer("/metadata/annotations/dot-sidecar.io~1config").unwrap();
    Config::from_yaml(annotation.as_str().unwrap()).unwrap()
}

fn resources(pod: &Value) -> &Value {
    &pod["spec"]["initContainers"][0]["resources"]
}

/// Pods that cannot be served: what is wrong with them, the code of the refusal, and words of its sentence.
fn unservable() -> Vec<(Value, &'static str, &'static str)> {
    let container = |extra: Value| {
        let mut container = json!({"name": "app", "image": "app"});
        container.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        container
    };
    let mount = |path: &str| json!({"volumeMounts": [{"name": "v", "mountPath": path}]});
    vec![
        (json!({"hostNetwork": true}), "host-network", "remove hostNetwork"),
        (json!({"os": {"name": "windows"}}), "windows", "spec.os.name: windows"),
        (json!({"nodeSelector": {"kubernetes.io/os": "windows"}}), "windows", "kubernetes.io/os: windows"),
        (json!({"nodeSelector": {"beta.kubernetes.io/os": "windows"}}), "windows", "schedule the pod on Linux"),
        (
            json!({"containers": [container(json!({"ports": [{"containerPort": 53, "protocol": "UDP"}]}))]}),
            "port-taken",
            "container app declares containerPort: 53 (UDP)",
        ),
        (
            json!({"initContainers": [container(json!({"ports": [{"containerPort": 53}]}))]}),
            "port-taken",
            "containerPort: 53 (TCP)",
        ),
        (
            json!({"containers": [container(json!({"ports": [{"containerPort": 9853}]}))]}),
            "port-taken",
            "containerPort: 9853 (TCP)",
        ),
        (json!({"dnsPolicy": "Default"}), "own-resolver", "spec.dnsPolicy: Default"),
        (
            json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.1"]}}),
            "own-resolver",
            "spec.dnsPolicy: None",
        ),
        (
            json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["127.0.0.1"]}}),
            "own-resolver",
            "spec.dnsPolicy: None",
        ),
        (
            json!({"dnsConfig": {"nameservers": ["192.0.2.1", "192.0.2.2"]}}),
            "own-resolver",
            "spec.dnsConfig.nameservers: [192.0.2.1, 192.0.2.2]",
        ),
        (json!({"containers": [container(mount("/etc/resolv.conf"))]}), "resolv-conf-mounted", "mount it elsewhere"),
        (json!({"containers": [container(mount("/etc/"))]}), "resolv-conf-mounted", "on /etc/"),
        (json!({"initContainers": [container(mount("//etc/./x/../resolv.conf"))]}), "resolv-conf-mounted", "app"),
        (
            json!({"securityContext": {"sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "1024"}]}}),
            "low-ports-closed",
            "\"1024\"",
        ),
        (
            json!({"securityContext": {"sysctls": [{"name": "net/ipv4/ip_unprivileged_port_start", "value": "54"}]}}),
            "low-ports-closed",
            "set it to 53 or less",
        ),
        (json!({"containers": [{"name": "dot-proxy", "image": "x"}]}), "name-taken", "spec.containers: "),
        (json!({"initContainers": [{"name": "dot-proxy", "image": "x"}]}), "name-taken", "rename yours"),
        (json!({"volumes": [{"name": "dot-sidecar-config", "emptyDir": {}}]}), "name-taken", "spec.volumes: "),
    ]
}

/// Annotations that cannot be followed: themselves, the code of the refusal, and words of its sentence.
fn unusable_annotations() -> Vec<(&'static str, &'static str, &'static str, &'static str)> {
    vec![
        ("inject", "perhaps", "bad-value", "dot-sidecar.io/inject: \"perhaps\""),
        ("upstream", "udp://192.0.2.1", "bad-value", "in the clear"),
        ("upstream", "dns.example", "bad-value", "dot-sidecar.io/upstream"),
        ("log-level", "loud", "bad-value", "write error, warn, info, debug or trace"),
        ("cpu-request", "much", "bad-value", "dot-sidecar.io/cpu-request"),
        ("memory-limit", "100m", "bad-value", "write Mi"),
        ("memory-request", "96Mi", "request-above-limit", "raise dot-sidecar.io/memory-limit"),
        ("image", "registry.example/other:1", "annotation-not-allowed", "annotations.allowed"),
        ("profile", "strict", "no-such-profile", "\"strict\""),
    ]
}

#[test]
fn an_annotated_pod_that_cannot_be_served_is_denied_with_the_reason_and_the_remedy() {
    for (spec, code, words) in unservable() {
        let verdict = decide_asked(&asking(spec.clone()));
        let refusal = denied(&verdict);
        let sentence = refusal.to_string();
        assert_eq!(refusal.code(), code, "{spec}: {sentence}");
        assert!(sentence.contains(words), "{spec}: {sentence}");
        assert!(sentence.contains(r#"dot-sidecar.io/inject: "false""#), "no remedy: {sentence}");
    }
}

#[test]
fn the_same_pod_is_left_untouched_with_a_warning_where_its_namespace_alone_asks() {
    for (spec, code, words) in unservable() {
        let pod = pod(json!({}), spec.clone());
        let verdict = decide_in_asking_namespace(&pod);
        assert!(matches!(verdict.decision, Decision::Skip(Skip::CannotBeServed(_))), "{spec}: {:?}", verdict.decision);
        assert_eq!(verdict.decision.reason(), code);
        assert_eq!(verdict.warnings.len(), 1);
        assert!(verdict.warnings[0].contains(words), "{:?}", verdict.warnings);
        assert_eq!(patch(&pod, &patched(&verdict.decision, &pod)).0, []);
    }
}

#[test]
fn an_annotation_that_cannot_be_followed_is_denied_even_where_the_namespace_alone_asks() {
    for (name, value, code, words) in unusable_annotations() {
        let name = format!("dot-sidecar.io/{name}");
        for asks in [true, false] {
            let mut annotations = json!({});
            if !asks {
                annotations["dot-sidecar.io/inject"] = json!("true");
            }
            annotations[&name] = json!(value);
            let verdict = decide_with(&pod(annotations, json!({})), asks, &Settings::default(), &[]);
            let refusal = denied(&verdict);
            assert_eq!(refusal.code(), code, "{name}={value}");
            assert!(refusal.to_string().contains(words), "{name}={value}: {refusal}");
        }
    }
}

#[test]
fn what_does_not_disturb_the_proxy_is_served() {
    for spec in [
        json!({"hostname": "web", "hostAliases": [{"ip": "192.0.2.1", "hostnames": ["a"]}]}),
        json!({"hostNetwork": false, "os": {"name": "linux"}}),
        json!({"nodeSelector": {"kubernetes.io/os": "linux"}}),
        json!({"dnsPolicy": "ClusterFirstWithHostNet"}),
        json!({"dnsPolicy": null, "dnsConfig": null, "initContainers": null, "volumes": null, "securityContext": null}),
        json!({"containers": [{"name": "a", "image": "a", "ports": [{"containerPort": 53, "protocol": "SCTP"}, {"containerPort": 5353}]}]}),
        json!({"containers": [{"name": "a", "image": "a", "volumeMounts": [{"name": "v", "mountPath": "/etc/app"}]}]}),
        json!({"hostUsers": false, "shareProcessNamespace": true}),
    ] {
        let verdict = decide_asked(&asking(spec.clone()));
        assert!(matches!(verdict.decision, Decision::Inject(_)), "{spec}: {:?}", verdict.decision);
        assert_eq!(verdict.warnings, [""; 0]);
    }
}

#[test]
fn nobody_gets_the_sidecar_who_did_not_ask() {
    let pod = pod(json!({"example.com/other": "true"}), json!({}));
    let verdict = decide_asked(&pod);
    assert_eq!(verdict.decision, Decision::Skip(Skip::NotAsked));
    assert_eq!(verdict.warnings, [""; 0]);
    assert_eq!(patched(&verdict.decision, &pod), pod);
}

#[test]
fn annotations_that_change_nothing_without_asking_earn_a_warning() {
    let verdict =
        decide_asked(&pod(json!({"dot-sidecar.io/upstream": "quad9", "dot-sidecar.io/injct": "true"}), json!({})));
    assert_eq!(verdict.decision, Decision::Skip(Skip::NotAsked));
    assert_eq!(verdict.warnings.len(), 2);
    assert!(verdict.warnings[0].contains("did you mean dot-sidecar.io/inject?"), "{:?}", verdict.warnings);
    assert!(verdict.warnings[1].contains("dot-sidecar.io/upstream has no effect without"), "{:?}", verdict.warnings);
}

#[test]
fn a_pod_may_decline_what_its_namespace_asks_for_unless_the_profile_forbids_it() {
    let pod = pod(json!({"dot-sidecar.io/inject": "false"}), json!({"hostNetwork": true}));
    assert_eq!(decide_in_asking_namespace(&pod).decision, Decision::Skip(Skip::OptedOut));
    let strict = settings("profile: {optOut: false}");
    let verdict = decide_with(&pod, true, &strict, &[]);
    assert_eq!(denied(&verdict).code(), "opt-out-not-allowed");
    // Where nobody asked, there is nothing to decline.
    assert_eq!(decide_with(&pod, false, &strict, &[]).decision, Decision::Skip(Skip::OptedOut));
}

#[test]
fn an_injected_pod_is_this_pod() {
    let pod = asking(json!({
        "initContainers": [{"name": "migrate", "image": "registry.example/migrate:1"}],
        "volumes": [{"name": "data", "emptyDir": {}}],
        "dnsConfig": {"searches": ["team.example"], "options": [{"name": "ndots", "value": "2"}]},
    }));
    insta::assert_json_snapshot!(injected(&pod));
}

#[test]
fn only_what_is_ours_changes() {
    let pod = asking(json!({
        "containers": [{"name": "app", "image": "app", "futureField": {"deep": [1, null, "x"]}}],
        "initContainers": [{"name": "a", "image": "a"}, {"name": "b", "image": "b", "restartPolicy": "Always"}],
        "volumes": [{"name": "data", "novelVolume": {}}],
        "securityContext": {"fsGroup": 7, "sysctls": [{"name": "net.core.somaxconn", "value": "1"}]},
        "anotherFutureField": {"x": 1},
    }));
    let after = injected(&pod);
    assert_eq!(after["spec"]["containers"], pod["spec"]["containers"]);
    assert_eq!(after["spec"]["anotherFutureField"], pod["spec"]["anotherFutureField"]);
    assert_eq!(after["spec"]["volumes"][0], pod["spec"]["volumes"][0]);
    assert_eq!(
        after["spec"]["initContainers"].as_array().unwrap()[1..],
        pod["spec"]["initContainers"].as_array().unwrap()[..]
    );
    assert_eq!(after["spec"]["securityContext"]["fsGroup"], 7);
    assert_eq!(after["spec"]["securityContext"]["sysctls"][0], pod["spec"]["securityContext"]["sysctls"][0]);
}

#[test]
fn the_patch_adds_the_sidecar_and_rewrites_no_other_container() {
    let pod = asking(json!({"initContainers": [{"name": "a", "image": "a"}, {"name": "b", "image": "b"}]}));
    let patch = serde_json::to_value(patch(&pod, &injected(&pod))).unwrap();
    let paths: Vec<&str> =
        patch.as_array().unwrap().iter().map(|operation| operation["path"].as_str().unwrap()).collect();
    assert_eq!(
        paths.iter().filter(|path| path.starts_with("/spec/initContainers")).collect::<Vec<_>>(),
        [&"/spec/initContainers/0"]
    );
    let mut patched = pod.clone();
    json_patch::patch(&mut patched, &serde_json::from_value::<json_patch::Patch>(patch).unwrap()).unwrap();
    assert_eq!(patched, injected(&pod));
}

#[test]
fn called_again_after_another_webhook_put_a_container_before_ours_only_ours_moves() {
    let once = injected(&asking(json!({"initContainers": [{"name": "a", "image": "a"}]})));
    let mut disturbed = once.clone();
    let list = disturbed["spec"]["initContainers"].as_array_mut().unwrap();
    list.insert(0, json!({"name": "intruder", "image": "x"}));
    let after = injected(&disturbed);
    let names: Vec<&str> =
        after["spec"]["initContainers"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["dot-proxy", "intruder", "a"]);
    assert_eq!(after["spec"]["initContainers"][0], once["spec"]["initContainers"][0]);
    let patch = serde_json::to_value(patch(&disturbed, &after)).unwrap();
    assert_eq!(patch.as_array().unwrap().len(), 2, "{patch}");
}

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
    let subject = Subject { pod: &once, namespace: "elsewhere", namespace_asks: false, limits: &limits };
    let verdict = decide(subject, &Settings::default(), &cluster());
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
fn a_copy_without_our_annotations_is_taken_as_cluster_first_and_told_so() {
    let mut copy = injected(&asking(json!({})));
    copy["metadata"].as_object_mut().unwrap().remove("annotations");
    let verdict = decide_in_asking_namespace(&copy);
    assert!(matches!(verdict.decision, Decision::Inject(_)), "{:?}", verdict.decision);
    assert!(verdict.warnings[0].contains("taken as ClusterFirst"), "{:?}", verdict.warnings);
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
fn a_user_number_of_the_pods_own_is_never_taken() {
    let app = |user: i64| json!({"name": "app", "image": "app", "securityContext": {"runAsUser": user}});
    let user = |pod: &Value| injected(pod)["spec"]["initContainers"][0]["securityContext"]["runAsUser"].clone();
    assert_eq!(user(&asking(json!({}))), 64_053);
    assert_eq!(user(&asking(json!({"securityContext": {"runAsUser": 64_053}}))), 64_054);
    assert_eq!(
        user(&asking(
            json!({"containers": [app(64_053)], "initContainers": [app(64_054)], "securityContext": {"runAsUser": 64_055}})
        )),
        64_056
    );
}

#[test]
fn where_the_platform_chooses_users_none_is_written() {
    let after = injected_with(&asking(json!({})), &settings("sidecar: {runAsUser: null}"), &[]);
    let security = &after["spec"]["initContainers"][0]["securityContext"];
    assert_eq!((&security["runAsUser"], &security["runAsNonRoot"]), (&Value::Null, &json!(true)));
}

#[test]
fn a_user_that_a_user_namespace_does_not_map_is_refused() {
    let settings = settings("sidecar: {runAsUser: 70000}");
    let verdict = decide_with(&asking(json!({"hostUsers": false})), false, &settings, &[]);
    assert_eq!(denied(&verdict).code(), "user-not-mapped");
}

#[test]
fn a_lower_port_start_of_the_pods_own_is_kept() {
    let sysctls = json!([{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}]);
    let after = injected(&asking(json!({"securityContext": {"sysctls": sysctls}})));
    assert_eq!(after["spec"]["securityContext"]["sysctls"], sysctls);
}

#[test]
fn overrides_reach_the_proxy() {
    let pod = pod(
        json!({
            "dot-sidecar.io/inject": "true", "dot-sidecar.io/upstream": "quad9,tls://192.0.2.53#dns.example",
            "dot-sidecar.io/log-level": "debug", "dot-sidecar.io/cpu-request": "20m",
            "dot-sidecar.io/memory-limit": "0.125Gi", "dot-sidecar.io/image": "registry.example/dot-proxy:2",
        }),
        json!({}),
    );
    let after = injected_with(
        &pod,
        &settings("profile: {annotations: {allowed: [upstream, log-level, cpu-request, memory-limit, image]}}"),
        &[],
    );
    let config = proxy_config(&after);
    assert_eq!(config.upstream.servers.len(), 2);
    assert_eq!(config.log.level, dot_proxy_config::log::Level::Debug);
    assert_eq!(
        *resources(&after),
        json!({"requests": {"cpu": "20m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}})
    );
    assert_eq!(after["spec"]["initContainers"][0]["image"], "registry.example/dot-proxy:2");
}

#[test]
fn the_profiles_authorities_do_not_vouch_for_well_known_resolvers() {
    let certificate = rcgen::generate_simple_self_signed(["dns.example".to_owned()]).unwrap().cert.pem();
    let yaml =
        json!({"profile": {"upstream": {"servers": ["tls://192.0.2.53#dns.example"], "ca": certificate}}}).to_string();
    let with = |upstream: &str| {
        let pod = pod(json!({"dot-sidecar.io/inject": "true", "dot-sidecar.io/upstream": upstream}), json!({}));
        proxy_config(&injected_with(&pod, &settings(&yaml), &[])).upstream.ca
    };
    assert!(with("quad9").is_none());
    assert!(with("tls://192.0.2.54#dns.example").is_some());
}

#[test]
fn a_configuration_too_large_for_an_annotation_is_refused() {
    let suffixes: Vec<String> = (0..3000).map(|number| format!("a-rather-long-suffix-{number}.example")).collect();
    let yaml = json!({"profile": {"routes": [{"suffixes": suffixes, "servers": ["udp://192.0.2.1"]}]}}).to_string();
    let verdict = decide_with(&asking(json!({})), false, &settings(&yaml), &[]);
    assert_eq!(denied(&verdict).code(), "config-too-large");
    assert!(denied(&verdict).to_string().contains("65536 fit"));
}

#[test]
fn what_is_no_pod_is_refused_and_never_panics() {
    for pod in [
        json!(null),
        json!([]),
        json!(5),
        json!({"spec": []}),
        json!({"metadata": 1}),
        json!({"spec": {"containers": {}}}),
    ] {
        let verdict = decide_asked(&pod);
        patch(&pod, &patched(&verdict.decision, &pod));
    }
    assert_eq!(denied(&decide_asked(&json!({"spec": {"containers": [{"name": 5}]}}))).code(), "malformed");
}

#[test]
fn resources_fit_the_pod_and_its_namespace() {
    let containers =
        |resources: Value| json!({"containers": [{"name": "app", "image": "app", "resources": resources}]});
    let limit_range = |item: Value| {
        let mut item = item;
        item["type"] = json!("Container");
        json!({"spec": {"limits": [item]}})
    };
    let cases: Vec<(&str, Value, Vec<Value>, Value)> = vec![
        (
            "the profile's, where nothing is said",
            containers(json!({})),
            vec![],
            json!({"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "64Mi"}}),
        ),
        (
            "a Guaranteed pod stays Guaranteed",
            containers(json!({"limits": {"cpu": 1, "memory": "1Gi"}})),
            vec![],
            json!({"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "100m", "memory": "64Mi"}}),
        ),
        (
            "every container has a CPU limit, as a quota may demand",
            containers(json!({"requests": {"cpu": "1m"}, "limits": {"cpu": "1"}})),
            vec![],
            json!({"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"cpu": "100m", "memory": "64Mi"}}),
        ),
        (
            "the same for storage",
            containers(json!({"requests": {"ephemeral-storage": "1Gi"}})),
            vec![],
            json!({"requests": {"cpu": "10m", "memory": "32Mi", "ephemeral-storage": "0"}, "limits": {"memory": "64Mi"}}),
        ),
        (
            "pod-level resources are the author's budget",
            json!({"resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "1"}}}),
            vec![],
            json!({}),
        ),
        (
            "pod-level resources do not excuse from a LimitRange",
            json!({"resources": {"limits": {"cpu": "1"}}}),
            vec![limit_range(json!({"max": {"memory": "48Mi"}, "default": {"cpu": "1"}}))],
            json!({"requests": {"memory": "32Mi"}, "limits": {"memory": "48Mi"}}),
        ),
        (
            "a LimitRange's bounds",
            containers(json!({})),
            vec![limit_range(json!({"min": {"cpu": "50m"}, "max": {"cpu": "80m", "memory": "40Mi"}}))],
            json!({"requests": {"cpu": "50m", "memory": "32Mi"}, "limits": {"cpu": "80m", "memory": "40Mi"}}),
        ),
        (
            "a LimitRange's default",
            containers(json!({})),
            vec![limit_range(
                json!({"default": {"cpu": "250m", "memory": "512Mi"}, "defaultRequest": {"cpu": "200m"}}),
            )],
            json!({"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"cpu": "250m", "memory": "64Mi"}}),
        ),
        (
            "a LimitRange's ratio raises the request, and no further than it must",
            containers(json!({})),
            vec![limit_range(json!({"default": {"cpu": "2"}, "maxLimitRequestRatio": {"cpu": "3", "memory": 1}}))],
            json!({"requests": {"cpu": "34m", "memory": "64Mi"}, "limits": {"cpu": "100m", "memory": "64Mi"}}),
        ),
        (
            "a Guaranteed pod within bounds",
            containers(json!({"limits": {"cpu": 1, "memory": "1Gi"}})),
            vec![limit_range(json!({"max": {"cpu": "50m"}, "min": {"memory": "128Mi"}}))],
            json!({"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"cpu": "50m", "memory": "128Mi"}}),
        ),
    ];
    for (name, spec, limits, expected) in cases {
        let after = injected_with(&asking(spec), &Settings::default(), &limits);
        assert_eq!(*resources(&after), expected, "{name}");
    }
}

#[test]
fn a_limit_range_that_lowers_what_was_asked_for_is_told() {
    let limits = [json!({"spec": {"limits": [{"type": "Container", "max": {"memory": "48Mi"}}]}})];
    let verdict = decide_with(&asking(json!({})), false, &Settings::default(), &limits);
    assert_eq!(verdict.warnings.len(), 1);
    assert!(verdict.warnings[0].contains("memory limit is 48Mi instead of 64Mi"), "{:?}", verdict.warnings);
}

#[test]
fn only_a_pod_that_says_true_itself_is_decided_without_its_namespace() {
    assert!(!depends_on_namespace(&asking(json!({}))));
    for annotations in [json!({}), json!({"dot-sidecar.io/inject": "false"}), json!({"dot-sidecar.io/inject": "maybe"})]
    {
        assert!(depends_on_namespace(&pod(annotations, json!({}))));
    }
}

/// Pods of many shapes, ours and others' fields mixed, servable or not.
fn any_pod() -> impl Strategy<Value = Value> {
    let container = (0..6u8, prop::option::of(0..3u8)).prop_map(|(number, resources)| {
        let mut container =
            json!({"name": format!("c{number}"), "image": "app", "ports": [{"containerPort": 50 + i64::from(number)}]});
        match resources {
            Some(0) => container["resources"] = json!({"limits": {"cpu": "1", "memory": "1Gi"}}),
            Some(1) => container["resources"] = json!({"requests": {"cpu": 1}}),
            _ => container["securityContext"] = json!({"runAsUser": 64_053 + i64::from(number % 2)}),
        }
        container
    });
    let containers = prop::collection::vec(container, 1..4);
    let annotation = prop::option::of(prop::sample::select(vec!["true", "true", "true", "false", "perhaps"]));
    let policy =
        prop::option::of(prop::sample::select(vec!["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"]));
    let searches = prop::option::of(prop::collection::vec("[a-z]{1,8}(\\.[a-z]{1,8}){0,2}", 0..36));
    let port_start = prop::option::of(0..60u16);
    let shape = (containers.clone(), prop::option::of(containers), annotation, policy, searches, port_start);
    (shape, any::<bool>(), prop::option::of("[a-z]{1,5}")).prop_map(
        |((containers, init, annotation, policy, searches, port_start), host_network, volume)| {
            let mut pod = json!({"metadata": {"name": "p"}, "spec": {"containers": containers}});
            if let Some(annotation) = annotation {
                pod["metadata"]["annotations"] = json!({"dot-sidecar.io/inject": annotation, "keep": "me"});
            }
            let optional = [
                ("initContainers", init.map(|init| json!(init))),
                ("dnsPolicy", policy.map(|policy| json!(policy))),
                ("dnsConfig", searches.map(|searches| json!({"searches": searches}))),
                ("securityContext", port_start.map(|start| {
                    json!({"sysctls": [{"name": "a.b", "value": "1"}, {"name": PORT_START, "value": start.to_string()}]})
                })),
                ("hostNetwork", (host_network && volume.is_none()).then_some(json!(true))),
                ("volumes", volume.map(|name| json!([{"name": name, "emptyDir": {}}]))),
            ];
            for (key, value) in optional {
                if let Some(value) = value {
                    pod["spec"][key] = value;
                }
            }
            pod
        },
    )
}

proptest! {
    #[test]
    fn to_inject_twice_is_to_inject_once(pod in any_pod(), namespace_asks: bool) {
        let first = decide_with(&pod, namespace_asks, &Settings::default(), &[]);
        let once = patched(&first.decision, &pod);
        let second = decide_with(&once, namespace_asks, &Settings::default(), &[]);
        let twice = patched(&second.decision, &once);
        prop_assert_eq!(first.decision.outcome(), second.decision.outcome());
        prop_assert_eq!(&patch(&once, &twice).0, &[]);
    }

    #[test]
    fn a_pod_that_is_skipped_or_denied_stays_untouched(pod in any_pod(), namespace_asks: bool) {
        let verdict = decide_with(&pod, namespace_asks, &Settings::default(), &[]);
        let after = patched(&verdict.decision, &pod);
        if !matches!(verdict.decision, Decision::Inject(_)) {
            prop_assert_eq!(after.to_string(), pod.to_string());
        }
    }

    #[test]
    fn the_patch_makes_of_the_pod_what_was_decided(pod in any_pod(), position in 0usize..4) {
        let verdict = decide_with(&pod, true, &Settings::default(), &[]);
        let mut before = patched(&verdict.decision, &pod);
        // Wherever our container stands, and whatever else does.
        if let Some(list) = before["spec"].get_mut("initContainers").and_then(Value::as_array_mut) {
            let last = list.len() - 1;
            list.swap(0, position.min(last));
        }
        let verdict = decide_with(&before, true, &Settings::default(), &[]);
        let after = patched(&verdict.decision, &before);
        let mut by_patch = before.clone();
        json_patch::patch(&mut by_patch, &patch(&before, &after)).unwrap();
        prop_assert_eq!(by_patch, after);
    }

    #[test]
    fn what_injection_replaced_is_restored_when_it_is_undone(pod in any_pod()) {
        let verdict = decide_with(&pod, true, &Settings::default(), &[]);
        if matches!(verdict.decision, Decision::Inject(_)) {
            let mut restored = original::strip(&patched(&verdict.decision, &pod)).pod;
            // Empty maps and lists that injection had to make say nothing.
            for key in ["securityContext", "initContainers"] {
                let spec = restored["spec"].as_object_mut().unwrap();
                if spec.get(key).is_some_and(|value| *value == json!({}) || *value == json!([])) {
                    spec.remove(key);
                }
            }
            prop_assert_eq!(restored, pod);
        }
    }
}
