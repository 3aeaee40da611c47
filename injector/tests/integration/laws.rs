//! What holds for every pod that is injected: nothing but ours has changed, and ours is as it must be.

use serde_json::{Map, Value, json};

const PORT_START: &str = "net.ipv4.ip_unprivileged_port_start";

/// What is wrong with a pod after injection, if anything is.
pub(crate) fn broken(before: &Value, after: &Value) -> Option<String> {
    ours_is_wrong(after).or_else(|| {
        let (left, expected) = (without_ours(after, before), normal(before.clone()));
        (left != expected).then(|| format!("more than ours has changed:\n{left:#}\nand not\n{expected:#}"))
    })
}

fn ours_is_wrong(after: &Value) -> Option<String> {
    let spec = &after["spec"];
    let sidecar = &spec["initContainers"][0];
    let start = sysctls(after).find(|sysctl| is_port_start(sysctl)).and_then(|sysctl| sysctl["value"].as_str());
    let holds = [
        ("the sidecar is first", sidecar["name"] == "dot-proxy" && sidecar["restartPolicy"] == "Always"),
        ("nothing is beside it as nameserver", spec["dnsConfig"]["nameservers"] == json!(["127.0.0.1"])),
        ("the node's resolver is not added", spec["dnsPolicy"] == "None"),
        ("it may have port 53", start.is_some_and(|start| start.parse::<u16>().is_ok_and(|start| start <= 53))),
        ("it is not root", sidecar["securityContext"]["runAsUser"].as_i64().is_none_or(|user| user > 0)),
        ("it has nothing but the configuration", sidecar["volumeMounts"].as_array().is_some_and(|it| it.len() == 2)),
        ("the label tells of it", after["metadata"]["labels"]["dot-sidecar.io/injected"] == "true"),
        ("its user is nobody else's", user_is_its_own(spec)),
        ("it is there once", containers(spec).filter(|it| it["name"] == "dot-proxy").count() == 1),
    ];
    let wrong: Vec<&str> = holds.iter().filter(|(_, holds)| !holds).map(|(law, _)| *law).collect();
    (!wrong.is_empty()).then(|| format!("it does not hold that {}:\n{after:#}", wrong.join(", ")))
}

fn containers(spec: &Value) -> impl Iterator<Item = &Value> {
    let lists = ["initContainers", "containers"].into_iter();
    lists.flat_map(|list| spec[list].as_array().into_iter().flatten())
}

fn user_is_its_own(spec: &Value) -> bool {
    let user = |context: &Value| context["runAsUser"].as_i64();
    let own = user(&spec["initContainers"][0]["securityContext"]);
    let others = containers(spec).skip(1).map(|container| user(&container["securityContext"]));
    own.is_none() || others.chain([user(&spec["securityContext"])]).all(|other| other != own)
}

fn sysctls(pod: &Value) -> impl Iterator<Item = &Value> {
    pod["spec"]["securityContext"]["sysctls"].as_array().into_iter().flatten()
}

fn is_port_start(sysctl: &Value) -> bool {
    sysctl["name"].as_str().is_some_and(|name| name.replace('/', ".") == PORT_START)
}

/// The pod with each field that is ours as it was before.
fn without_ours(after: &Value, before: &Value) -> Value {
    let mut pod = after.clone();
    let remove = |map: &mut Value, key: &str| drop(map.as_object_mut().and_then(|map| map.shift_remove(key)));
    let metadata = &mut pod["metadata"];
    remove(&mut metadata["labels"], "dot-sidecar.io/injected");
    remove(&mut metadata["annotations"], "dot-sidecar.io/config");
    remove(&mut metadata["annotations"], "dot-sidecar.io/status");
    let spec = &mut pod["spec"];
    spec["initContainers"].as_array_mut().unwrap().remove(0);
    spec["volumes"].as_array_mut().unwrap().retain(|volume| volume["name"] != "dot-sidecar-config");
    for field in ["dnsPolicy", "dnsConfig"] {
        spec[field] = before["spec"][field].clone();
    }
    let had = sysctls(before).find(|sysctl| is_port_start(sysctl)).cloned();
    let list = spec["securityContext"]["sysctls"].as_array_mut().unwrap();
    match had {
        Some(had) => list.iter_mut().filter(|it| is_port_start(it)).for_each(|it| *it = had.clone()),
        None => list.retain(|it| !is_port_start(it)),
    }
    normal(pod)
}

/// Without what says nothing, since injection has to make the lists that it adds to; and without what a client cannot have written
/// into our fields.
fn normal(mut pod: Value) -> Value {
    if let Some(annotations) = pod["metadata"]["annotations"].as_object_mut() {
        annotations.retain(|name, _| !matches!(name.as_str(), "dot-sidecar.io/config" | "dot-sidecar.io/status"));
    }
    let parents = ["/metadata", "/spec/securityContext", "/spec"];
    for parent in parents {
        if let Some(map) = pod.pointer_mut(parent).and_then(Value::as_object_mut) {
            map.retain(|name, value| !(is_made_by_us(name) && says_nothing(value)));
        }
    }
    pod
}

fn is_made_by_us(field: &str) -> bool {
    matches!(
        field,
        "labels"
            | "annotations"
            | "sysctls"
            | "securityContext"
            | "initContainers"
            | "volumes"
            | "dnsPolicy"
            | "dnsConfig"
    )
}

fn says_nothing(value: &Value) -> bool {
    value.is_null() || value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty)
}
