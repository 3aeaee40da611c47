//! Pods as the API takes them, made at random: every field that could meet with the sidecar, and many that should not.
//!
//! An API server decides whether they are valid (`tests/chart/shapes.rs`): a pod of these that it refuses is a mistake here.

use proptest::collection::{btree_map, vec};
use proptest::option::{of, weighted};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use serde_json::{Map, Value, json};

/// What a container is made of before it gets its name and its mounts.
#[derive(Debug, Clone)]
struct Container {
    name: String,
    fields: Map<String, Value>,
    mounts: Vec<(usize, usize)>,
    native: bool,
}

/// A pod.
pub(crate) fn valid_pod() -> impl Strategy<Value = Value> {
    let containers = (vec(container(), 1..4), vec(container(), 0..5), vec(volume(), 0..4));
    (metadata(), containers, spec(), security_context(), dns(), host()).prop_map(
        |(metadata, (containers, init, volumes), spec, security, dns, host)| {
            let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
            let fields = pod["spec"].as_object_mut().unwrap();
            fields.extend(dns);
            fields.extend(host);
            if !security.is_empty() {
                fields.insert("securityContext".to_owned(), Value::Object(security));
            }
            put_volumes(fields, &volumes);
            let count = volumes.len();
            fields.insert("containers".to_owned(), named(containers, "app", count, false));
            if !init.is_empty() {
                fields.insert("initContainers".to_owned(), named(init, "init", count, true));
            }
            reconcile(&mut pod);
            pod
        },
    )
}

/// Fields of an object, each there or not.
fn fields(all: Vec<(&'static str, BoxedStrategy<Value>)>) -> BoxedStrategy<Map<String, Value>> {
    let all: Vec<_> = all
        .into_iter()
        .map(|(name, value)| weighted(0.25, value).prop_map(move |value| value.map(|value| (name.to_owned(), value))))
        .collect();
    all.prop_map(|fields| fields.into_iter().flatten().collect()).boxed()
}

fn one_of(values: Vec<Value>) -> BoxedStrategy<Value> {
    select(values).boxed()
}

fn boolean() -> BoxedStrategy<Value> {
    any::<bool>().prop_map(Value::from).boxed()
}

fn metadata() -> impl Strategy<Value = Value> {
    let label = || btree_map("[a-z]{1,5}(\\.example/[a-z]{1,8})?", "[a-z0-9]{1,12}", 0..3);
    let ours = select(vec![Some("true"), Some("true"), Some("true"), Some("true"), Some("false"), Some("yes"), None]);
    let others = select(vec![
        Value::Null,
        Value::Null,
        Value::Null,
        Value::Null,
        json!({"dot-sidecar.io/injct": "true"}),
        json!({"dot-sidecar.io/cpu-limit": "100m"}),
        json!({"dot-sidecar.io/config": "{}", "dot-sidecar.io/status": "no JSON"}),
        json!({"dot-sidecar.io/status": r#"{"injector":"0","profile":"p","original":{"dnsPolicy":"Default"}}"#}),
    ]);
    let large = prop_oneof![30 => Just(0usize), 1 => 200_000..262_000usize];
    let owner = of(select(vec!["ReplicaSet", "StatefulSet", "DaemonSet", "Job", "Unknown"]));
    ("[a-z]([a-z0-9-]{0,40}[a-z0-9])?", any::<bool>(), label(), label(), ours, others, large, owner).prop_map(
        |(name, generate, labels, mut annotations, ours, others, large, owner)| {
            if large > 0 {
                annotations.insert("example.com/large".to_owned(), "x".repeat(large));
            }
            if let Some(word) = ours {
                annotations.insert("dot-sidecar.io/inject".to_owned(), word.to_owned());
            }
            for (name, value) in others.as_object().into_iter().flatten() {
                annotations.insert(name.clone(), value.as_str().unwrap().to_owned());
            }
            let mut metadata = json!({});
            metadata[if generate { "generateName" } else { "name" }] = json!(name);
            if !labels.is_empty() {
                metadata["labels"] = json!(labels);
            }
            if !annotations.is_empty() {
                metadata["annotations"] = json!(annotations);
            }
            if let Some(kind) = owner {
                metadata["ownerReferences"] = json!([{"apiVersion": "a.example/v1", "kind": kind, "name": "owner", "uid": "5f0d7c26-1111-4a6e-9c1b-0c8e8a3c2b11", "controller": true}]);
            }
            metadata
        },
    )
}

fn dns() -> impl Strategy<Value = Map<String, Value>> {
    let policy = select(vec!["", "", "ClusterFirst", "ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"]);
    let search = "[a-z][a-z0-9-]{0,20}[a-z0-9](\\.[a-z]([a-z0-9-]{0,20}[a-z0-9])?){0,4}";
    let searches = prop_oneof![4 => vec(search, 0..4), 1 => vec(search, 28..=32)];
    let option = (select(vec!["ndots", "timeout", "edns0", "single-request"]), of("[0-9]"));
    let nameservers =
        prop_oneof![6 => Just(vec![]), 1 => vec(select(vec!["192.0.2.1", "2001:db8::1", "127.0.0.1"]), 1..=3)];
    (policy, any::<bool>(), searches, vec(option, 0..4), nameservers).prop_map(
        |(policy, has_config, searches, options, mut nameservers)| {
            nameservers.dedup();
            let mut fields = Map::new();
            if !policy.is_empty() {
                fields.insert("dnsPolicy".to_owned(), json!(policy));
            }
            if policy == "None" && nameservers.is_empty() {
                nameservers.push("192.0.2.9");
            }
            if !has_config && policy != "None" {
                return fields;
            }
            let mut config = Map::new();
            if !nameservers.is_empty() {
                config.insert("nameservers".to_owned(), json!(nameservers));
            }
            if !searches.is_empty() {
                config.insert("searches".to_owned(), json!(searches));
            }
            let option = |(name, value): &(&str, Option<String>)| match value {
                Some(value) => json!({"name": name, "value": value}),
                None => json!({"name": name}),
            };
            if !options.is_empty() {
                config.insert("options".to_owned(), options.iter().map(option).collect());
            }
            fields.insert("dnsConfig".to_owned(), Value::Object(config));
            fields
        },
    )
}

/// What a pod has of its node.
fn host() -> impl Strategy<Value = Map<String, Value>> {
    prop_oneof![
        12 => fields(vec![("hostUsers", boolean()), ("shareProcessNamespace", boolean())]),
        1 => Just(Map::from_iter([("hostNetwork".to_owned(), json!(true))])),
        1 => Just(Map::from_iter([("hostPID".to_owned(), json!(true)), ("hostIPC".to_owned(), json!(true))])),
        1 => Just(Map::from_iter([("os".to_owned(), json!({"name": "windows"}))])),
        1 => Just(Map::from_iter([("nodeSelector".to_owned(), json!({"kubernetes.io/os": "windows"}))])),
    ]
}

fn user() -> BoxedStrategy<Value> {
    prop_oneof![3 => 64_052..64_057i64, 1 => Just(0i64), 1 => 1..=i64::from(i32::MAX)].prop_map(Value::from).boxed()
}

fn security_context() -> impl Strategy<Value = Map<String, Value>> {
    let sysctl = select(vec![
        ("net.ipv4.ip_unprivileged_port_start", "0"),
        ("net.ipv4.ip_unprivileged_port_start", "53"),
        ("net/ipv4/ip_unprivileged_port_start", "25"),
        ("net.ipv4.ip_unprivileged_port_start", "1024"),
        ("net.core.somaxconn", "1024"),
        ("kernel.shm_rmid_forced", "1"),
    ]);
    let sysctls = vec(sysctl, 0..3).prop_map(|mut sysctls| {
        sysctls.sort_unstable();
        sysctls.dedup_by_key(|(name, _)| name.replace('/', "."));
        sysctls.iter().map(|(name, value)| json!({"name": name, "value": value})).collect()
    });
    fields(vec![
        ("runAsUser", user()),
        ("runAsGroup", user()),
        ("runAsNonRoot", boolean()),
        ("fsGroup", user()),
        ("fsGroupChangePolicy", one_of(vec![json!("Always"), json!("OnRootMismatch")])),
        ("supplementalGroups", vec(user(), 0..3).prop_map(Value::from).boxed()),
        ("supplementalGroupsPolicy", one_of(vec![json!("Merge"), json!("Strict")])),
        ("seLinuxOptions", one_of(vec![json!({"level": "s0:c1,c2"}), json!({"type": "spc_t"})])),
        ("seccompProfile", seccomp()),
        ("appArmorProfile", one_of(vec![json!({"type": "RuntimeDefault"}), json!({"type": "Unconfined"})])),
        ("sysctls", sysctls.boxed()),
    ])
}

fn seccomp() -> BoxedStrategy<Value> {
    one_of(vec![
        json!({"type": "RuntimeDefault"}),
        json!({"type": "Unconfined"}),
        json!({"type": "Localhost", "localhostProfile": "app.json"}),
    ])
}

fn spec() -> impl Strategy<Value = Map<String, Value>> {
    let term = |os: &str, operator: &str| json!({"matchExpressions": [{"key": "kubernetes.io/os", "operator": operator, "values": [os]}]});
    let affinity = |terms: Value| json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}});
    fields(vec![
        ("restartPolicy", one_of(vec![json!("Always"), json!("OnFailure"), json!("Never")])),
        ("terminationGracePeriodSeconds", (0..600i64).prop_map(Value::from).boxed()),
        ("activeDeadlineSeconds", (1..600i64).prop_map(Value::from).boxed()),
        ("automountServiceAccountToken", boolean()),
        ("enableServiceLinks", boolean()),
        ("hostname", one_of(vec![json!("web-0"), json!("h".repeat(63))])),
        ("subdomain", one_of(vec![json!("peers")])),
        ("schedulerName", one_of(vec![json!("other")])),
        ("priorityClassName", one_of(vec![json!("system-node-critical"), json!("system-cluster-critical")])),
        (
            "tolerations",
            one_of(vec![json!([{"operator": "Exists"}]), json!([{"key": "a", "value": "b", "effect": "NoSchedule"}])]),
        ),
        (
            "hostAliases",
            one_of(vec![
                json!([{"ip": "192.0.2.9", "hostnames": ["nine.example"]}, {"ip": "2001:db8::9", "hostnames": ["nine.example"]}]),
            ]),
        ),
        ("readinessGates", one_of(vec![json!([{"conditionType": "example.com/ready"}])])),
        ("schedulingGates", one_of(vec![json!([{"name": "example.com/gate"}])])),
        ("imagePullSecrets", one_of(vec![json!([{"name": "registry"}])])),
        (
            "resources",
            one_of(vec![
                json!({"requests": {"cpu": "20", "memory": "200Gi"}}),
                json!({"limits": {"cpu": "20", "memory": "200Gi"}}),
            ]),
        ),
        (
            "affinity",
            one_of(vec![
                affinity(json!([term("linux", "In")])),
                affinity(json!([term("windows", "In")])),
                affinity(json!([term("windows", "NotIn"), term("linux", "In")])),
            ]),
        ),
    ])
}

fn quantities() -> BoxedStrategy<Value> {
    let cpu = ["1m", "100m", "0.5", "1", "2", "15e-1"];
    let memory = ["1Mi", "64Mi", "128974848", "1Gi", "1e9", "1500M"];
    let both = json!({"cpu": "1", "memory": "1Gi"});
    prop_oneof![
        2 => Just(json!({"requests": both, "limits": both})),
        1 => Just(json!({"limits": both})),
        1 => Just(json!({"requests": {"cpu": "1", "example.com/device": "1"}, "limits": {"example.com/device": "1"}})),
        1 => Just(json!({"requests": {"memory": "1Gi", "hugepages-2Mi": "4Mi"}, "limits": {"hugepages-2Mi": "4Mi", "ephemeral-storage": "1Gi"}})),
        4 => (subsequence(cpu.to_vec(), 1), subsequence(memory.to_vec(), 1), any::<bool>()).prop_map(|(cpu, memory, limits)| {
            let amounts = json!({"cpu": cpu[0], "memory": memory[0]});
            if limits { json!({"limits": amounts}) } else { json!({"requests": amounts}) }
        }),
    ]
    .boxed()
}

fn container() -> impl Strategy<Value = Container> {
    let security = fields(vec![
        ("runAsUser", user()),
        ("runAsGroup", user()),
        ("readOnlyRootFilesystem", boolean()),
        ("privileged", one_of(vec![json!(true)])),
        ("capabilities", one_of(vec![json!({"drop": ["ALL"]}), json!({"add": ["NET_ADMIN"]})])),
        ("seccompProfile", seccomp()),
    ]);
    let port = (select(vec![53, 54, 80, 5353, 8080, 9853, 65_535]), select(vec!["TCP", "UDP", "SCTP"]), any::<bool>());
    let ports = vec(port, 0..3).prop_map(|mut ports| {
        ports.sort_unstable();
        ports.dedup_by_key(|(port, protocol, _)| (*port, *protocol));
        let named = |(number, (port, protocol, named)): (usize, &(i64, &str, bool))| {
            let mut port = json!({"containerPort": port, "protocol": protocol});
            if *named {
                port["name"] = json!(["dot-admin", "http", "x"][number]);
            }
            port
        };
        ports.iter().enumerate().map(named).collect()
    });
    let rest = fields(vec![
        ("command", one_of(vec![json!(["/app", "--flag"])])),
        ("imagePullPolicy", one_of(vec![json!("Always"), json!("Never")])),
        (
            "env",
            one_of(vec![
                json!([{"name": "A", "value": "$(B)"}, {"name": "P", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}]),
            ]),
        ),
        ("envFrom", one_of(vec![json!([{"configMapRef": {"name": "c", "optional": true}}])])),
        ("resources", quantities()),
        ("ports", ports.boxed()),
        ("securityContext", security.prop_map(Value::Object).boxed()),
        ("stdin", boolean()),
        ("workingDir", one_of(vec![json!("/srv")])),
        ("terminationMessagePolicy", one_of(vec![json!("FallbackToLogsOnError")])),
    ]);
    let name = prop_oneof![20 => "[a-z]{1,6}", 1 => Just("dot-proxy".to_owned()), 1 => Just("dot-proxy-x".to_owned()), 1 => "[a-z]{60}"];
    (name, rest, vec((0..4usize, 0..5usize), 0..3), any::<bool>())
        .prop_map(|(name, fields, mounts, native)| Container { name, fields, mounts, native })
}

fn volume() -> impl Strategy<Value = Value> {
    let source = select(vec![
        json!({"emptyDir": {"medium": "Memory"}}),
        json!({"configMap": {"name": "c", "optional": true}}),
        json!({"secret": {"secretName": "s", "defaultMode": 256}}),
        json!({"hostPath": {"path": "/var/lib/x"}}),
        json!({"persistentVolumeClaim": {"claimName": "c"}}),
        json!({"downwardAPI": {"items": [{"path": "x", "fieldRef": {"fieldPath": "metadata.annotations['dot-sidecar.io/inject']"}}]}}),
        json!({"projected": {"sources": [{"serviceAccountToken": {"path": "t", "audience": "a"}}]}}),
        json!({"ephemeral": {"volumeClaimTemplate": {"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}}}),
    ]);
    let name = prop_oneof![12 => Just("v"), 1 => Just("dot-sidecar-config"), 1 => Just("dot-proxy")];
    (name, source).prop_map(|(name, mut volume)| {
        volume["name"] = json!(name);
        volume
    })
}

fn volume_name(volume: &Value, number: usize) -> String {
    match volume["name"].as_str() {
        Some(own) if number == 0 && own != "v" => own.to_owned(),
        _ => format!("v{number}"),
    }
}

fn put_volumes(spec: &mut Map<String, Value>, volumes: &[Value]) {
    if volumes.is_empty() {
        return;
    }
    let volume = |(number, volume): (usize, &Value)| {
        let mut volume = volume.clone();
        volume["name"] = json!(volume_name(&volume, number));
        volume
    };
    spec.insert("volumes".to_owned(), volumes.iter().enumerate().map(volume).collect());
}

/// Containers with names that no two have, and mounts of the pod's volumes.
fn named(containers: Vec<Container>, role: &str, volumes: usize, init: bool) -> Value {
    const PATHS: [&str; 5] = ["/data", "/etc/app", "/etc/dot-proxy", "/etc/resolv.conf", "/var/run/secrets/x"];
    let container = |(number, mut container): (usize, Container)| {
        // One of our name is a conflict, and one is enough.
        let own = container.name.starts_with("dot-proxy") && number == 0 && !init;
        let name = if own {
            container.name
        } else {
            format!("{}{role}{number}", &container.name[..container.name.len().min(50)])
        };
        let mut all = json!({"name": name, "image": "registry.example/app:1"});
        container.mounts.dedup_by_key(|(_, path)| *path);
        container.mounts.sort_by_key(|(_, path)| *path);
        container.mounts.dedup_by_key(|(_, path)| *path);
        let mounts = container.mounts.iter().filter(|(volume, _)| *volume < volumes);
        let mounts: Vec<Value> =
            mounts.map(|(volume, path)| json!({"name": volume, "mountPath": PATHS[*path]})).collect();
        all.as_object_mut().unwrap().extend(container.fields);
        if !mounts.is_empty() {
            all["volumeMounts"] = json!(mounts);
        }
        if init && container.native {
            all["restartPolicy"] = json!("Always");
        }
        all
    };
    containers.into_iter().enumerate().map(container).collect()
}

/// Takes away what the API forbids beside something else.
fn reconcile(pod: &mut Value) {
    let names: Vec<Value> =
        pod["spec"]["volumes"].as_array().into_iter().flatten().map(|it| it["name"].clone()).collect();
    let flag = |pod: &Value, name: &str| pod["spec"][name] == json!(true);
    let windows = pod["spec"]["os"]["name"] == "windows";
    let (host_network, host_ipc) = (flag(pod, "hostNetwork"), flag(pod, "hostIPC"));
    let spec = pod["spec"].as_object_mut().unwrap();
    if windows {
        ["securityContext", "resources"].iter().for_each(|name| drop(spec.shift_remove(*name)));
    }
    let security = spec.get_mut("securityContext").and_then(Value::as_object_mut);
    if let Some(security) = security.filter(|_| host_network || host_ipc) {
        security.shift_remove("sysctls");
    }
    for list in ["containers", "initContainers"] {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let container = container.as_object_mut().unwrap();
            if windows {
                container.shift_remove("securityContext");
            }
            for mount in container.get_mut("volumeMounts").and_then(Value::as_array_mut).into_iter().flatten() {
                let volume = usize::try_from(mount["name"].as_u64().unwrap()).unwrap();
                mount["name"] = names[volume].clone();
            }
        }
    }
}
