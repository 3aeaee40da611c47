//! What stands in the way of injection, as validations in the words of [`Refusal`]: `obstacles` once more, and what a policy cannot do.

use serde_json::{Value, json};

use super::super::dns::{LONGEST_SEARCH_LIST, MOST_SEARCHES};
use super::super::refusal::Refusal;
use super::super::sidecar::{ADMIN_PORT, CONTAINER, VOLUME};
use super::super::{LARGEST_CONFIG, PORT};
use super::literal::quoted;
use crate::annotations::{self, BadValue, INJECT, Override, PREFIX};

/// Something that must not hold.
struct Obstacle {
    holds: String,
    /// A string in CEL.
    message: String,
}

/// Takes the place of what only the API server knows, while a message is made. Quoting leaves it as it is.
const BLANK: &str = "@blank@";
/// The same for a number.
const BLANK_NUMBER: i64 = 999_999_999;

/// The refusal in its own words, with expressions in the blanks.
fn said(refusal: &Refusal, blanks: &[&str]) -> String {
    let mut text = quoted(&refusal.to_string()).replace(&BLANK_NUMBER.to_string(), BLANK);
    for blank in blanks {
        text = text.replacen(BLANK, &format!("' + {blank} + '"), 1);
    }
    text
}

fn obstacle(holds: &str, refusal: &Refusal, blanks: &[&str]) -> Obstacle {
    Obstacle { holds: holds.to_owned(), message: said(refusal, blanks) }
}

/// Whether the pod can be served, and its profile be used here.
pub(super) fn none_holds() -> String {
    let all = about_pods().into_iter().chain(about_requests()).chain(about_profiles()).chain(about_searches());
    let all: Vec<String> = all.map(|obstacle| format!("!({})", obstacle.holds)).collect();
    all.join(" &&\n")
}

pub(super) fn of_pods() -> Value {
    validations(about_pods())
}

pub(super) fn of_requests() -> Value {
    validations(about_requests())
}

pub(super) fn of_profiles() -> Value {
    validations(about_profiles())
}

pub(super) fn of_searches() -> Value {
    validations(about_searches())
}

fn validations(obstacles: Vec<Obstacle>) -> Value {
    let validation =
        |Obstacle { holds, message }| json!({"expression": format!("!({holds})"), "messageExpression": message});
    obstacles.into_iter().map(validation).collect()
}

/// What `obstacles::find` finds.
fn about_pods() -> Vec<Obstacle> {
    let blank = || BLANK.to_owned();
    let mut all = vec![
        obstacle(
            "has(object.spec.os) && object.spec.os.name == 'windows'",
            &Refusal::Windows { field: "spec.os.name" },
            &[],
        ),
        obstacle("has(object.spec.hostNetwork) && object.spec.hostNetwork", &Refusal::HostNetwork, &[]),
        obstacle(
            "!variables.hasOurDNS && object.spec.?dnsPolicy.orValue('ClusterFirst') in ['Default', 'None']",
            &Refusal::OwnResolver { field: "spec.dnsPolicy", value: blank() },
            &["object.spec.dnsPolicy"],
        ),
        obstacle(
            "!variables.hasOurDNS && object.spec.?dnsConfig.?nameservers.orValue([]).size() > 0",
            &Refusal::OwnResolver { field: "spec.dnsConfig.nameservers", value: blank() },
            &["object.spec.dnsConfig.nameservers.join(', ')"],
        ),
        obstacle(
            &format!("variables.theirs.exists(c, c.name == '{CONTAINER}')"),
            &Refusal::NameTaken { field: "spec.containers and spec.initContainers".to_owned(), name: CONTAINER },
            &[],
        ),
        obstacle(
            &format!("variables.volumes.exists(v, v.name == '{VOLUME}' && !({}))", super::is_our_volume()),
            &Refusal::NameTaken { field: "spec.volumes".to_owned(), name: VOLUME },
            &[],
        ),
        obstacle(
            "variables.portStarts.exists(s, !s.value.matches('^ *0*([0-9]|[1-4][0-9]|5[0-3]) *$'))",
            &Refusal::LowPortsClosed { value: blank() },
            &["variables.portStarts[0].value"],
        ),
        obstacle(
            "variables.firstUser >= 65536 && !object.spec.?hostUsers.orValue(true)",
            &Refusal::UserNotMapped { uid: BLANK_NUMBER },
            &["string(variables.firstUser)"],
        ),
    ];
    for label in ["kubernetes.io/os", "beta.kubernetes.io/os"] {
        let field = if label.starts_with("beta") {
            "spec.nodeSelector: beta.kubernetes.io/os"
        } else {
            "spec.nodeSelector: kubernetes.io/os"
        };
        all.push(obstacle(
            &format!("object.spec.?nodeSelector[?'{label}'].orValue('') == 'windows'"),
            &Refusal::Windows { field },
            &[],
        ));
    }
    for (port, protocols) in [(PORT, "['TCP', 'UDP']"), (ADMIN_PORT, "['TCP']")] {
        let taken = format!(
            "c.?ports.orValue([]).exists(p, p.containerPort == {port} && p.?protocol.orValue('TCP') in {protocols})"
        );
        all.push(obstacle(
            &format!("variables.theirs.exists(c, {taken})"),
            &Refusal::PortTaken {
                container: blank(),
                port,
                protocol: if port == PORT { "UDP or TCP" } else { "TCP" }.to_owned(),
            },
            &[&format!("variables.theirs.filter(c, {taken})[0].name")],
        ));
    }
    let over = "c.?volumeMounts.orValue([]).exists(m, \
                m.mountPath.split('/').filter(name, !(name in ['', '.'])) in [['etc'], ['etc', 'resolv.conf']])";
    all.push(obstacle(
        &format!("variables.theirs.exists(c, {over})"),
        &Refusal::ResolvConfMounted { container: blank(), path: "/etc or /etc/resolv.conf".to_owned() },
        &[&format!("variables.theirs.filter(c, {over})[0].name")],
    ));
    all.push(Obstacle {
        holds: "object.spec.?dnsConfig.?options.orValue([]).exists(o, !(o.name + o.?value.orValue('')).matches('^[ -~]*$') || \
                object.spec.dnsConfig.options.filter(p, p.name == o.name).size() > 1)"
            .to_owned(),
        message: quoted(
            "spec.dnsConfig.options: one stands there twice, or has a character that is not printable: correct it",
        ),
    });
    all
}

/// What somebody asked for and cannot get in this mode.
fn about_requests() -> Vec<Obstacle> {
    let bad = BadValue {
        annotation: INJECT.to_owned(),
        message: annotations::inject(&[(INJECT.to_owned(), BLANK.to_owned())].into())
            .err()
            .map(|bad| bad.message)
            .unwrap_or_default(),
    };
    let value = format!("variables.annotations['{INJECT}']");
    let names: Vec<String> = Override::ALL.into_iter().map(|known| quoted(known.name())).collect();
    let names = names.join(", ");
    vec![
        Obstacle {
            holds: format!("'{INJECT}' in variables.annotations && !({value} in ['true', 'false'])"),
            message: said(&Refusal::BadValue(bad), &[&value]),
        },
        Obstacle {
            holds: format!("[{names}].exists(name, name in variables.annotations)"),
            message: format!(
                "'annotation ' + [{names}].filter(name, name in variables.annotations)[0] + ': injection by policy \
                 (admission.mode of the chart) gives pods what their profile says and nothing of their own: remove it, \
                 or name a profile that says it by the annotation {PREFIX}profile'"
            ),
        },
    ]
}

/// Whether a list of labels is what a selector selects (`LabelSelector`).
fn is_selected(labels: &str, selector: &str) -> String {
    let is_one_of = format!("e.key in {labels} && {labels}[e.key] in e.values");
    format!(
        "{selector}.?matchLabels.orValue({{}}).all(key, key in {labels} && {labels}[key] == {selector}.matchLabels[key]) && \
         {selector}.?matchExpressions.orValue([]).all(e, e.operator == 'Exists' ? e.key in {labels} : \
         e.operator == 'DoesNotExist' ? !(e.key in {labels}) : \
         e.operator == 'In' ? {is_one_of} : !({is_one_of}))"
    )
}
/// What the pod's profile does not let it have.
fn about_profiles() -> Vec<Obstacle> {
    let labels = "namespaceObject.metadata.?labels.orValue({})";
    let here = format!(
        "!has(params.spec.namespaces) || request.namespace in params.spec.namespaces.?names.orValue([]) || \
         has(params.spec.namespaces.selector) && {}",
        is_selected(labels, "params.spec.namespaces.selector")
    );
    vec![
        Obstacle {
            holds: "!has(params.status) || !has(params.status.configuration) || !has(params.status.resolver)".to_owned(),
            message: "'ProxyProfile ' + params.metadata.name + ' is not ready: the injector has written no configuration into its \
                      status: see why (kubectl describe proxyprofile), and create the pod again'"
                .to_owned(),
        },
        obstacle(
            &format!("!({here})"),
            &Refusal::ProfileNotHere { profile: BLANK.to_owned(), namespace: BLANK.to_owned() },
            &["params.metadata.name", "request.namespace"],
        ),
        Obstacle {
            holds: format!("params.?status.?configuration.orValue('').size() > {}", LARGEST_CONFIG - 1024),
            message: said(&Refusal::ConfigTooLarge { bytes: LARGEST_CONFIG }, &[]),
        },
    ]
}

/// Search suffixes of the pod's own that cannot be routed.
fn about_searches() -> Vec<Obstacle> {
    let barred = super::barred("s");
    let is_foreign = format!("s != '.' && !variables.bareSearches.exists(b, {barred}.endsWith('.' + b))");
    let is_routed = format!(
        "params.spec.?routes.orValue([]).exists(r, r.suffixes.exists(b, \
         {barred} in [b + '|', b + '.|'] || {barred}.endsWith('.' + b + '|')))"
    );
    vec![
        Obstacle {
            holds: format!("variables.ownSearches.exists(s, {is_foreign} && !{is_routed})"),
            message: format!(
                "'spec.dnsConfig.searches: injection by policy (admission.mode of the chart) cannot route a suffix that is none \
                 of the cluster\\'s, as ' + variables.ownSearches.filter(s, {is_foreign} && !{is_routed})[0] + ': remove it, or have \
                 the administrator route it in the ProxyProfile'"
            ),
        },
        Obstacle {
            holds: format!(
                "variables.givenSearches.size() + variables.ownSearches.size() > {MOST_SEARCHES} || \
                 (variables.givenSearches + variables.ownSearches).join(' ').size() > {LONGEST_SEARCH_LIST}"
            ),
            message: quoted(&format!(
                "spec.dnsConfig.searches: with the cluster's own there are more than {MOST_SEARCHES} suffixes or \
                 {LONGEST_SEARCH_LIST} characters: remove some"
            )),
        },
    ]
}
