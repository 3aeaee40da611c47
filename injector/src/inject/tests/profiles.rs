//! What a profile changes in pods, and which profile a pod gets.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{NAMESPACE, asking, cluster, denied, pod, proxy_config};
use crate::inject::{
    ANY_NAMESPACE, Decision, Skip, Subject, Verdict, decide, depends_on_labels, ordinary_configuration, patched,
};
use crate::limits::ContainerLimits;
use crate::profile::{Profile, Profiles};
use crate::settings::Settings;

/// These profiles, as they stand in the cluster.
fn profiles(specs: &Value) -> Profiles {
    let mut profiles = Profiles::default();
    for (name, spec) in specs.as_object().unwrap() {
        profiles.insert(name.clone(), Profile::stored(spec.clone()));
    }
    profiles
}

fn decided(pod: &Value, namespace_asks: bool, labels: &[(&str, &str)], specs: &Value) -> Verdict {
    let labels: BTreeMap<_, _> = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let limits = ContainerLimits::default();
    let subject = Subject { pod, namespace: NAMESPACE, namespace_asks, namespace_labels: &labels, limits: &limits };
    decide(subject, &Settings::default(), &cluster(), &profiles(specs))
}

/// The pod after injection by the profile `default` of this spec.
fn by_default(pod: &Value, spec: &Value) -> Value {
    let verdict = decided(pod, false, &[], &json!({"default": spec}));
    assert!(matches!(verdict.decision, Decision::Inject(_)), "{:?}", verdict.decision);
    patched(&verdict.decision, pod)
}

fn naming(profile: &str) -> Value {
    pod(json!({"dot-sidecar.io/inject": "true", "dot-sidecar.io/profile": profile}), json!({}))
}

#[test]
fn the_configuration_for_no_pod_in_particular_is_that_of_every_ordinary_pod() {
    let specs = json!({"default": {}, "telling": {"events": {"stdout": true, "labels": {"team": "a"}},
        "routes": [{"suffixes": ["corp.example"], "servers": ["udp://192.0.2.1"]}]}});
    for name in ["default", "telling"] {
        let prepared = ordinary_configuration(name, &cluster(), &profiles(&specs)).unwrap();
        let pod = naming(name);
        let made = patched(&decided(&pod, false, &[], &specs).decision, &pod);
        let config = made["metadata"]["annotations"]["dot-sidecar.io/config"].as_str().unwrap();
        assert_eq!(prepared.replace(ANY_NAMESPACE, NAMESPACE), config);
        assert_eq!(prepared.contains(ANY_NAMESPACE), name == "telling");
    }
    assert_eq!(ordinary_configuration("none", &cluster(), &profiles(&specs)).unwrap_err().code(), "no-such-profile");
}

#[test]
fn each_field_of_a_profile_reaches_the_pod() {
    let spec = json!({
        "upstream": {"servers": ["https://192.0.2.53#dns.example"], "strategy": "ordered", "protocol": "doh",
                     "httpMethod": "get", "pins": ["sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="], "idleSeconds": 30},
        "routes": [{"suffixes": ["corp.example"], "servers": ["udp://192.0.2.1"], "strategy": "round-robin"}],
        "cache": {"size": "2Mi", "minTtlSeconds": 1, "maxTtlSeconds": 2, "staleSeconds": 3, "prefetch": false},
        "clients": {"inFlight": 7},
        "log": {"format": "text", "level": "warn"},
        "events": {"stdout": true, "syslog": {"server": "tls://192.0.2.5:6514#siem.example"}, "names": true, "buffer": 99,
                   "labels": {"team": "a"}},
        "image": "registry.example/dot-proxy:9",
        "resources": {"requests": {"cpu": "20m"}, "limits": {"memory": "128Mi", "ephemeral-storage": "1Gi"}},
    });
    let after = by_default(&asking(json!({})), &spec);
    let config = serde_json::to_value(proxy_config(&after)).unwrap();
    for (path, expected) in [
        ("/upstream/servers", json!(["https://192.0.2.53:443/dns-query#dns.example"])),
        ("/upstream/strategy", json!("ordered")),
        ("/upstream/protocol", json!("doh")),
        ("/upstream/httpMethod", json!("get")),
        ("/upstream/pins", spec["upstream"]["pins"].clone()),
        ("/upstream/idleSeconds", json!(30)),
        (
            "/routes/1",
            json!({"suffixes": ["corp.example"], "servers": ["udp://192.0.2.1:53"], "strategy": "round-robin"}),
        ),
        ("/cache", spec["cache"].clone()),
        ("/clients/inFlight", json!(7)),
        ("/log", spec["log"].clone()),
        ("/events/syslog", spec["events"]["syslog"].clone()),
        ("/events/buffer", json!(99)),
        ("/events/stdout", json!(true)),
        ("/events/names", json!(true)),
        ("/events/labels", json!({"namespace": "shop", "team": "a"})),
    ] {
        assert_eq!(config.pointer(path), Some(&expected), "{path}");
    }
    let sidecar = &after["spec"]["initContainers"][0];
    assert_eq!(sidecar["image"], "registry.example/dot-proxy:9");
    // A request that is left out is the limit, as the API server would have it.
    assert_eq!(
        sidecar["resources"],
        json!({"requests": {"cpu": "20m", "memory": "128Mi", "ephemeral-storage": "1Gi"},
               "limits": {"memory": "128Mi", "ephemeral-storage": "1Gi"}})
    );
}

#[test]
fn a_pod_gets_the_profile_that_it_names_and_else_the_default_one() {
    let specs = json!({"default": {}, "strict": {"upstream": {"servers": ["quad9"]}}});
    for (pod, profile, server) in [(asking(json!({})), "default", "cloudflare"), (naming("strict"), "strict", "quad9")]
    {
        let verdict = decided(&pod, false, &[], &specs);
        let after = patched(&verdict.decision, &pod);
        assert_eq!(proxy_config(&after).upstream.servers[0].to_string(), server);
        let status = after["metadata"]["annotations"]["dot-sidecar.io/status"].as_str().unwrap();
        assert_eq!(serde_json::from_str::<Value>(status).unwrap()["profile"], profile);
    }
}

#[test]
fn a_profile_that_is_not_there_or_cannot_be_used_denies_the_pod_whoever_asked() {
    let specs = json!({"strict": {}, "broken": {"upstream": {"servers": ["udp://192.0.2.1"]}}});
    for (pod, code, words) in [
        (asking(json!({})), "no-such-profile", "have the administrator create it"),
        (naming("strct"), "no-such-profile", "did you mean \"strict\"?"),
        (naming("x"), "no-such-profile", "kubectl get proxyprofiles"),
        (
            naming("broken"),
            "profile-unusable",
            "spec.upstream.servers[0]: \"udp://192.0.2.1:53\" would leave in the clear",
        ),
    ] {
        for namespace_asks in [false, true] {
            let mut pod = pod.clone();
            if namespace_asks {
                pod["metadata"]["annotations"].as_object_mut().unwrap().remove("dot-sidecar.io/inject");
            }
            let verdict = decided(&pod, namespace_asks, &[], &specs);
            let refusal = denied(&verdict);
            assert_eq!(refusal.code(), code);
            assert!(refusal.to_string().contains(words), "{refusal}");
        }
    }
}

#[test]
fn a_profile_may_be_used_where_its_namespaces_are_named_or_selected() {
    let specs = |namespaces: Value| json!({"default": {"namespaces": namespaces}});
    let expression = |key: &str, operator: &str, values: Value| json!({"selector": {"matchExpressions": [{"key": key, "operator": operator, "values": values}]}});
    for (namespaces, allowed) in [
        (json!({"names": ["shop"]}), true),
        (json!({"names": ["other"]}), false),
        (json!({"names": ["other"], "selector": {"matchLabels": {"team": "a"}}}), true),
        (json!({"selector": {"matchLabels": {"team": "b"}}}), false),
        (json!({"selector": {}}), true),
        (expression("team", "In", json!(["a", "b"])), true),
        (expression("team", "NotIn", json!(["a"])), false),
        (expression("stage", "NotIn", json!(["a"])), true),
        (expression("team", "Exists", json!([])), true),
        (expression("team", "DoesNotExist", json!([])), false),
        (expression("stage", "Exists", json!([])), false),
    ] {
        let verdict = decided(&asking(json!({})), false, &[("team", "a")], &specs(namespaces.clone()));
        match &verdict.decision {
            Decision::Inject(_) => assert!(allowed, "{namespaces}"),
            decision => {
                assert_eq!((decision.reason(), allowed), ("profile-not-here", false), "{namespaces}");
                assert!(denied(&verdict).to_string().contains("in the namespace shop"));
            }
        }
    }
}

#[test]
fn labels_are_asked_for_only_where_a_selector_needs_them() {
    let selector = json!({"matchLabels": {"team": "a"}});
    let specs = profiles(&json!({
        "default": {}, "named": {"namespaces": {"names": ["shop"], "selector": selector}},
        "selected": {"namespaces": {"names": ["other"], "selector": selector}}, "listed": {"namespaces": {"names": ["a"]}},
    }));
    for (pod, depends) in [
        (asking(json!({})), false),
        (naming("named"), false),
        (naming("listed"), false),
        (naming("missing"), false),
        (naming("selected"), true),
    ] {
        assert_eq!(depends_on_labels(&pod, NAMESPACE, &specs), depends, "{pod}");
    }
}

#[test]
fn to_name_a_profile_that_is_not_there_is_no_way_out_of_a_namespace_that_asks() {
    let specs = json!({"default": {"optOut": false}, "open": {"optOut": true}});
    let declining =
        |profile: &str| pod(json!({"dot-sidecar.io/inject": "false", "dot-sidecar.io/profile": profile}), json!({}));
    assert_eq!(denied(&decided(&declining("default"), true, &[], &specs)).code(), "opt-out-not-allowed");
    assert_eq!(denied(&decided(&declining("missing"), true, &[], &specs)).code(), "no-such-profile");
    assert_eq!(decided(&declining("open"), true, &[], &specs).decision, Decision::Skip(Skip::OptedOut));
    assert_eq!(decided(&declining("missing"), false, &[], &specs).decision, Decision::Skip(Skip::OptedOut));
}

#[test]
fn a_pod_with_a_resolver_of_its_own_is_served_where_the_profile_says_how() {
    let own = json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["192.0.2.7"], "searches": ["team.example"],
        "options": [{"name": "ndots", "value": "1"}]}});
    let by = |policy: &str, spec: &Value| by_default(&asking(spec.clone()), &json!({"ownNameservers": policy}));
    let suffixes = |pod: &Value, route: usize| {
        let suffixes = proxy_config(pod).routes[route].suffixes.clone();
        suffixes.iter().map(ToString::to_string).filter(|suffix| !suffix.ends_with(".arpa")).collect::<Vec<_>>()
    };
    let kept = by("keep-for-searches", &own);
    assert_eq!(
        kept["spec"]["dnsConfig"],
        json!({"nameservers": ["127.0.0.1"], "searches": ["team.example"], "options": [{"name": "ndots", "value": "1"}]})
    );
    assert_eq!(
        (suffixes(&kept, 0), suffixes(&kept, 1)),
        (vec!["cluster.local".to_owned()], vec!["team.example".to_owned()])
    );
    let replaced = by("replace", &own);
    assert_eq!(suffixes(&replaced, 0), ["cluster.local", "team.example"]);
    assert_eq!(proxy_config(&replaced).routes.len(), 1);
    let of_the_node = by("replace", &json!({"dnsPolicy": "Default"}));
    assert_eq!(of_the_node["spec"]["dnsConfig"], json!({"nameservers": ["127.0.0.1"]}));
    // And once more: what was there before is what is decided about.
    assert_eq!(by_default(&kept, &json!({"ownNameservers": "keep-for-searches"})), kept);
}
