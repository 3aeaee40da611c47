//! Injection without the injector: the same sidecar as CEL, for a MutatingAdmissionPolicy (Kubernetes 1.36), with a ProxyProfile as its
//! parameter.
//!
//! The container and the volume are those of `sidecar`, written as CEL, so that there is one definition of them. What is decided about a
//! pod is decided once more here, in another language; a test has a real API server do both to the same pods, and compares.
//!
//! CEL reads no JSON. So the configuration comes ready from the profile's status, and what was in a pod before is taken from the pod as
//! far as it can be: a copy keeps its resolver options and search suffixes, and its record is left as it is.

mod literal;
mod refusals;
mod resources;

use serde_json::{Value, json};

use super::original::Platform;
use super::sidecar::{self, CONFIG_DIRECTORY, CONTAINER, MESHES, Particulars, VOLUME};
use super::{ANY_NAMESPACE, LOOPBACK, PORT, PORT_START};
use crate::annotations::{CONFIG, INJECTED_LABEL, PROFILE, STATUS};
use crate::profile;
use crate::settings::Sidecar;

use literal::{Raw, object, quoted};

/// What the chart writes into MutatingAdmissionPolicies and ValidatingAdmissionPolicies: parts of their `spec`.
///
/// - `given`: variables that the chart sets by its values; these are the defaults.
/// - `pod`: variables about the pod; `profile`: variables about its profile as well.
/// - `mutations`.
/// - `refusals`: validations; where one fails, the pod cannot be served. `requests`: those that concern what was asked for.
/// - `profileRefusals`, about the profile, and `searches`, about the pod: the same, where the profile has to be known.
pub fn parts() -> Value {
    json!({
        "given": variables(&given()),
        "pod": variables(&about_pod()),
        "profile": variables(&about_profile()),
        "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": mutation()}}],
        "refusals": refusals::of_pods(),
        "requests": refusals::of_requests(),
        "profileRefusals": refusals::of_profiles(),
        "searches": refusals::of_searches(),
    })
}

/// A variable's name and expression.
type Variable = (&'static str, String);

fn variables(list: &[Variable]) -> Value {
    list.iter().map(|(name, expression)| json!({"name": name, "expression": expression})).collect()
}

fn given() -> Vec<Variable> {
    let default = Sidecar::default();
    vec![
        ("image", quoted(&default.image)),
        ("pullPolicy", quoted("IfNotPresent")),
        // 0: the platform chooses.
        ("firstUser", default.run_as_user.unwrap_or_default().to_string()),
    ]
}

fn is_our_container() -> String {
    format!(
        "c.name == '{CONTAINER}' && \
         c.?volumeMounts.orValue([]).exists(m, m.name == '{VOLUME}' && m.mountPath == '{CONFIG_DIRECTORY}')"
    )
}

fn is_our_volume() -> String {
    format!(
        "v.name == '{VOLUME}' && \
         v.?downwardAPI.?items.orValue([]).exists(i, i.?fieldRef.?fieldPath.orValue('') == \"metadata.annotations['{CONFIG}']\")"
    )
}

/// A suffix as it is compared: without the dot at its end, and with a bar there instead, so that no other one ends like it by chance.
fn barred(suffix: &str) -> String {
    format!("({suffix}.lowerAscii() + '|').replace('.|', '|')")
}

/// What `original::strip` finds out.
fn about_pod() -> Vec<Variable> {
    let text = |text: &str| text.to_owned();
    let (our_container, our_volume) = (is_our_container(), is_our_volume());
    let meshes = MESHES.map(quoted).join(", ");
    vec![
        ("annotations", text("object.metadata.?annotations.orValue({})")),
        ("initContainers", text("object.spec.?initContainers.orValue([])")),
        ("volumes", text("object.spec.?volumes.orValue([])")),
        ("sysctls", text("object.spec.?securityContext.?sysctls.orValue([])")),
        ("ours", format!("variables.initContainers.filter(c, {our_container})")),
        ("theirs", format!("variables.initContainers.filter(c, !({our_container})) + object.spec.containers")),
        ("isMeshed", format!("variables.theirs.exists(c, c.name in [{meshes}])")),
        ("isCopy", format!("variables.ours.size() > 0 || variables.volumes.exists(v, {our_volume})")),
        (
            "hasOurDNS",
            format!(
                "(variables.isCopy || '{STATUS}' in variables.annotations) && object.spec.?dnsPolicy.orValue('') == 'None' && \
                 object.spec.?dnsConfig.?nameservers.orValue([]) == ['{LOOPBACK}']"
            ),
        ),
        ("portStarts", format!("variables.sysctls.filter(s, s.name.replace('/', '.') == '{PORT_START}')")),
        ("profileName", format!("variables.annotations[?'{PROFILE}'].orValue('{}')", profile::DEFAULT)),
    ]
}

/// What `dns`, `resources` and `sidecar` find out.
fn about_profile() -> Vec<Variable> {
    let mut all = about_resolver();
    all.extend(about_container());
    all.extend([("recorded", recorded()), ("status", status())]);
    all.extend(resources::variables());
    all
}

/// The pod's resolv.conf.
fn about_resolver() -> Vec<Variable> {
    let text = |text: &str| text.to_owned();
    let barred = barred("s");
    vec![
        ("domain", text("string(params.?status.?resolver.?domain.orValue(''))")),
        (
            "givenSearches",
            text(
                "[request.namespace + '.svc.' + variables.domain, 'svc.' + variables.domain, variables.domain] + \
                 params.?status.?resolver.?searches.orValue([])",
            ),
        ),
        // A copy from another namespace begins with the search suffix of that one.
        (
            "writtenSearches",
            text(
                "object.spec.?dnsConfig.?searches.orValue([]).filter(s, !(variables.hasOurDNS && \
                 s.endsWith('.svc.' + variables.domain) && s == object.spec.dnsConfig.searches[0]))",
            ),
        ),
        ("bareSearches", format!("variables.givenSearches.map(s, {barred})")),
        (
            "ownSearches",
            format!("variables.writtenSearches.filter(s, !({barred} in variables.bareSearches)).distinct()"),
        ),
        ("givenOptions", text("params.?status.?resolver.?options.orValue([])")),
        ("ownOptions", text("object.spec.?dnsConfig.?options.orValue([])")),
        (
            "options",
            text(
                "variables.givenOptions.map(o, variables.ownOptions.exists(p, p.name == o.name) ? \
                 variables.ownOptions.filter(p, p.name == o.name)[0] : o) + \
                 variables.ownOptions.filter(p, !variables.givenOptions.exists(o, o.name == p.name))",
            ),
        ),
    ]
}

/// What differs in the container from pod to pod, but for its resources.
fn about_container() -> Vec<Variable> {
    let text = |text: &str| text.to_owned();
    vec![
        (
            "takenUsers",
            text(
                "variables.theirs.filter(c, has(c.securityContext) && has(c.securityContext.runAsUser))\
                 .map(c, c.securityContext.runAsUser) + \
                 (has(object.spec.securityContext) && has(object.spec.securityContext.runAsUser) ? \
                 [object.spec.securityContext.runAsUser] : [])",
            ),
        ),
        (
            "group",
            text(
                "variables.firstUser == 0 ? optional.none() : \
                 lists.range(64).map(i, variables.firstUser + i).filter(u, !(u in variables.takenUsers))[?0]",
            ),
        ),
        // What plugins of the API server have written since stays, as `original::Platform` tells.
        (
            "user",
            text(
                "variables.firstUser == 0 ? variables.ours.filter(c, has(c.securityContext) && \
                 has(c.securityContext.runAsUser) && c.securityContext.runAsUser > 0)\
                 .map(c, c.securityContext.runAsUser)[?0] : variables.group",
            ),
        ),
        (
            "sidecarPullPolicy",
            text("variables.ours[?0].?imagePullPolicy.orValue('') == 'Always' ? 'Always' : variables.pullPolicy"),
        ),
        ("sidecarImage", text("params.spec.?image.orValue(variables.image)")),
    ]
}

/// What was there before, as the record of a copy tells it, if it is written as we write it; `''` otherwise. CEL reads no JSON, so it
/// stays text, in which nothing else can be smuggled.
fn recorded() -> String {
    let string = r#""([^"\\]|\\["\\])*""#;
    let list = |item: &str| format!("({item}(,{item})*)?");
    let option = format!(r#"\{{"name":{string}(,"value":{string})?\}}"#);
    let member = format!(r#"("(nameservers|searches)":\[{}\]|"options":\[{}\])"#, list(string), list(&option));
    let (policy, start) = (format!(r#""dnsPolicy":{string}"#), format!(r#""unprivilegedPortStart":{string}"#));
    let config = format!(r#""dnsConfig":\{{{}\}}"#, list(&member));
    let written = format!(r"^\{{({policy}(,{config})?(,{start})?|{config}(,{start})?|{start})?\}}\}}$");
    format!(
        "(variables.hasOurDNS ? variables.annotations[?'{STATUS}'].orValue('') : '').split('\"original\":', 2).filter(text, \
         text.matches(r'{written}'))[?0].orValue('')"
    )
}

/// The record of what was there before, as JSON; one that is there already stays.
fn status() -> String {
    let string = |expression: &str| format!(r#"'"' + {expression}.replace('\\', '\\\\').replace('"', '\\"') + '"'"#);
    let version = env!("CARGO_PKG_VERSION");
    format!(
        r#"'{{"injector":"{version}","profile":' + {profile} + ',"image":' + {image} + ',"original":' +
(variables.recorded != '' ? variables.recorded : '{{"dnsPolicy":' + (variables.hasOurDNS ? '"ClusterFirst"' : {policy}) +
(has(object.spec.dnsConfig) && !variables.hasOurDNS ? ',"dnsConfig":{{' + ({lists}).join(',') + '}}' : '') +
(variables.portStarts.size() > 0 && !variables.isCopy ? ',"unprivilegedPortStart":' + {port_start} : '') + '}}}}')"#,
        profile = string("variables.profileName"),
        image = string("variables.sidecarImage"),
        policy = string("object.spec.?dnsPolicy.orValue('ClusterFirst')"),
        lists = lists_of_dns_config(string),
        port_start = string("variables.portStarts[0].value"),
    )
}

/// The members of a pod's `dnsConfig` as JSON, a list of strings.
fn lists_of_dns_config(string: impl Fn(&str) -> String) -> String {
    let option = format!(
        r#"'{{"name":' + {} + (has(o.value) ? ',"value":' + {} : '') + '}}'"#,
        string("o.name"),
        string("o.value")
    );
    let list = |name: &str, item: &str, written: &str| {
        let list = format!("object.spec.dnsConfig.{name}");
        format!(r#"(has({list}) ? ['"{name}":[' + {list}.map({item}, {written}).join(',') + ']'] : [])"#)
    };
    format!("{} + {}", list("searches", "s", &string("s")), list("options", "o", &option))
}

/// The JSON patch: nothing where the pod cannot be served, which the validations tell.
fn mutation() -> String {
    let add = |path: &str, value: &str| format!("JSONPatch{{op: \"add\", path: \"{path}\", value: {value}}}");
    let unless = |field: &str, path: &str, empty: &str| format!("(has({field}) ? [] : [{}])", add(path, empty));
    let escaped = |name: &str| name.replace('/', "~1");
    let annotation = |name: &str, value: &str| add(&format!("/metadata/annotations/{}", escaped(name)), value);
    let position = |list: &str, item: &str, ours: &str| {
        format!("lists.range({list}.size()).filter(i, [{list}[i]].exists({item}, {ours}))")
    };
    let ours = position("variables.initContainers", "c", &is_our_container());
    let our_volumes = position("variables.volumes", "v", &is_our_volume());
    let volume = object("Object.spec.volumes", &sidecar::volume(), &[]);
    let config = format!("params.status.configuration.replace('{ANY_NAMESPACE}', request.namespace)");
    let sysctl = format!("Object.spec.securityContext.sysctls{{name: '{PORT_START}', value: '{PORT}'}}");
    let dns = format!(
        "Object.spec.dnsConfig{{nameservers: ['{LOOPBACK}'], searches: variables.givenSearches.distinct() + variables.ownSearches, \
         options: variables.options.map(o, Object.spec.dnsConfig.options{{name: o.name, ?value: o.?value}})}}"
    );
    let parts = [
        unless("object.metadata.labels", "/metadata/labels", "{}"),
        unless("object.metadata.annotations", "/metadata/annotations", "{}"),
        format!(
            "[{}, {}, {}]",
            add(&format!("/metadata/labels/{}", escaped(INJECTED_LABEL)), "'true'"),
            annotation(CONFIG, &config),
            annotation(STATUS, "variables.status")
        ),
        // From the last on, so that the places of the others stay.
        format!("{ours}.reverse().map(i, JSONPatch{{op: \"remove\", path: \"/spec/initContainers/\" + string(i)}})"),
        unless("object.spec.initContainers", "/spec/initContainers", "[]"),
        format!("[{}]", add("/spec/initContainers/0", &container())),
        unless("object.spec.volumes", "/spec/volumes", "[]"),
        format!(
            "({our_volumes}.size() > 0 ? {our_volumes}.map(i, \
             JSONPatch{{op: \"replace\", path: \"/spec/volumes/\" + string(i), value: {volume}}}) : [{}])",
            add("/spec/volumes/-", &volume)
        ),
        format!("[{}, {}]", add("/spec/dnsPolicy", "'None'"), add("/spec/dnsConfig", &dns)),
        unless("object.spec.securityContext", "/spec/securityContext", "Object.spec.securityContext{}"),
        format!(
            "(variables.portStarts.size() > 0 ? [] : {} + [{}])",
            unless("object.spec.securityContext.sysctls", "/spec/securityContext/sysctls", "[]"),
            add("/spec/securityContext/sysctls/-", &sysctl)
        ),
    ];
    format!("!({}) ? [] :\n{}", refusals::none_holds(), parts.join(" +\n"))
}

/// The container that the webhook writes, with what differs from pod to pod as variables.
fn container() -> String {
    let particulars =
        Particulars { image: "", user: Some(1), resources: &json!({}), platform: Platform::default(), meshed: false };
    let container = sidecar::container(&Sidecar::default(), particulars);
    let of_type = "Object.spec.initContainers";
    let liveness = |meshed| object(&format!("{of_type}.livenessProbe"), &sidecar::liveness(meshed), &[]);
    let liveness = format!("variables.isMeshed ? {} : {}", liveness(true), liveness(false));
    let resources = format!("{of_type}.resources{{limits: variables.limits, requests: variables.requests}}");
    let raw = [
        Raw::field("/image", "variables.sidecarImage"),
        Raw::field("/imagePullPolicy", "variables.sidecarPullPolicy"),
        Raw::field("/resources", &resources),
        Raw::field("/livenessProbe", &liveness),
        Raw::optional("/securityContext/runAsUser", "variables.user"),
        Raw::optional("/securityContext/runAsGroup", "variables.group"),
    ];
    object(of_type, &container, &raw)
}
