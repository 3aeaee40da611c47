//! What is decided about pods, and what it makes of them.

mod copies;
mod profiles;
mod properties;
mod resources;

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
    let labels = BTreeMap::new();
    let subject =
        Subject { pod, namespace: NAMESPACE, namespace_asks, namespace_labels: &labels, limits: &container_limits };
    decide(subject, settings, &cluster(), &Profiles::of_default(settings.profile.clone().unwrap()))
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

/// A pod for nodes whose operating system is in one of these lists.
fn on_nodes(lists: &[Value]) -> Value {
    let term =
        |values: &Value| json!({"matchExpressions": [{"key": "kubernetes.io/os", "operator": "In", "values": values}]});
    let terms: Vec<Value> = lists.iter().map(term).collect();
    json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}})
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
        (on_nodes(&[json!(["windows"])]), "windows", "spec.affinity.nodeAffinity: kubernetes.io/os: windows"),
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
        (
            json!({"initContainers": [{"name": "dot-proxy", "image": "x", "volumeMounts": [{"name": "dot-sidecar-config", "mountPath": "/mine"}]}]}),
            "name-taken",
            "spec.initContainers: ",
        ),
        (json!({"volumes": [{"name": "dot-sidecar-config", "emptyDir": {}}]}), "name-taken", "spec.volumes: "),
        (
            json!({"volumes": [{"name": "dot-sidecar-config", "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}]}),
            "name-taken",
            "spec.volumes: ",
        ),
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
        assert_eq!(patch(&pod, patched(&verdict.decision, &pod)).0, []);
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
        on_nodes(&[json!(["linux"])]),
        on_nodes(&[json!(["windows", "linux"])]),
        on_nodes(&[json!(["windows"]), json!(["linux"])]),
        on_nodes(&[]),
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
fn events_tell_the_namespace_that_the_pod_does_not_know_where_anybody_is_told() {
    assert_eq!(proxy_config(&injected(&asking(json!({})))).events, dot_proxy_config::Events::default());
    let settings = settings("profile: {events: {stdout: true, labels: {team: a}}}");
    let events = proxy_config(&injected_with(&asking(json!({})), &settings, &[])).events;
    assert!(events.stdout);
    assert_eq!(events.labels.iter().collect::<Vec<_>>(), [("namespace", NAMESPACE), ("team", "a")]);
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
    let patch = serde_json::to_value(patch(&pod, injected(&pod))).unwrap();
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
    let patch = serde_json::to_value(patch(&disturbed, after)).unwrap();
    assert_eq!(patch.as_array().unwrap().len(), 2, "{patch}");
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
fn in_a_mesh_whose_proxy_gets_the_kubelets_requests_liveness_is_asked_within_the_pod() {
    let probe = |spec: Value| injected(&asking(spec))["spec"]["initContainers"][0]["livenessProbe"].clone();
    assert_eq!(probe(json!({}))["httpGet"]["path"], "/livez");
    for mesh in ["istio-proxy", "linkerd-proxy"] {
        let (container, app) = (json!({"name": mesh, "image": "mesh"}), json!({"name": "app", "image": "app"}));
        for spec in [json!({"initContainers": [container]}), json!({"containers": [app, container]})] {
            let probe = probe(spec);
            assert_eq!(probe["exec"]["command"][0], "/dot-proxy");
            assert_eq!(probe.get("httpGet"), None);
        }
    }
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
fn the_profiles_authorities_and_pins_are_not_for_well_known_resolvers() {
    let certificate = rcgen::generate_simple_self_signed(["dns.example".to_owned()]).unwrap().cert.pem();
    let pins = ["sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="];
    let upstream = json!({"servers": ["tls://192.0.2.53#dns.example"], "ca": certificate, "pins": pins});
    let yaml = json!({"profile": {"upstream": upstream}}).to_string();
    let with = |upstream: &str| {
        let pod = pod(json!({"dot-sidecar.io/inject": "true", "dot-sidecar.io/upstream": upstream}), json!({}));
        let upstream = proxy_config(&injected_with(&pod, &settings(&yaml), &[])).upstream;
        (upstream.ca.is_some(), upstream.pins.len())
    };
    assert_eq!(with("quad9"), (false, 0));
    assert_eq!(with("tls://192.0.2.54#dns.example"), (true, 1));
}

#[test]
fn a_configuration_too_large_for_an_annotation_is_refused() {
    let suffixes = |route| (0..100).map(move |number| format!("a-rather-long-suffix-{route}-{number}.example"));
    let route = |number| json!({"suffixes": suffixes(number).collect::<Vec<_>>(), "servers": ["udp://192.0.2.1"]});
    let yaml = json!({"profile": {"routes": (0..30).map(route).collect::<Vec<_>>()}}).to_string();
    let verdict = decide_with(&asking(json!({})), false, &settings(&yaml), &[]);
    assert_eq!(denied(&verdict).code(), "config-too-large");
    assert!(denied(&verdict).to_string().contains("65536 fit"));
}

#[test]
fn annotations_that_leave_no_room_for_ours_are_refused_where_the_api_would_refuse_the_pod() {
    let with = |length: usize| {
        pod(json!({"dot-sidecar.io/inject": "true", "example.com/large": "x".repeat(length)}), json!({}))
    };
    let length = |pod: &Value| -> usize {
        let annotations = pod["metadata"]["annotations"].as_object().unwrap();
        annotations.iter().map(|(name, value)| name.len() + value.as_str().unwrap().len()).sum()
    };
    let most = LONGEST_ANNOTATIONS - length(&injected(&with(0)));
    assert_eq!(length(&injected(&with(most))), LONGEST_ANNOTATIONS);
    let refusal = decide_asked(&with(most + 1));
    assert_eq!(denied(&refusal).code(), "annotations-too-long");
    assert!(denied(&refusal).to_string().contains("262145 bytes long, and 262144 fit"), "{refusal:?}");
    // A second call counts our annotations once.
    let once = injected(&with(most));
    assert_eq!(injected(&once), once);
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
        patch(&pod, patched(&verdict.decision, &pod));
    }
    assert_eq!(denied(&decide_asked(&json!({"spec": {"containers": [{"name": 5}]}}))).code(), "malformed");
}

#[test]
fn only_a_pod_that_says_true_itself_is_decided_without_what_its_namespace_asks() {
    assert!(!depends_on_asking(&asking(json!({}))));
    for annotations in [json!({}), json!({"dot-sidecar.io/inject": "false"}), json!({"dot-sidecar.io/inject": "maybe"})]
    {
        assert!(depends_on_asking(&pod(annotations, json!({}))));
    }
}
