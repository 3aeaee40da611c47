//! Rules in CEL by which the API server refuses what a profile's fields cannot be, in the words of the proxy
//! (`x-kubernetes-validations`). Those of servers, suffixes, sizes, pins and certificates come with their types.

use dot_proxy_config::Preset;
use schemars::Schema;
use serde_json::{Value, json};

pub(super) const IS_NO_IMAGE: &str = "is no image reference: write one such as registry.example/dot-proxy:0.1.0";
pub(super) const NO_SERVER: &str = "is empty: name a server, such as cloudflare, or leave the field out";
pub(super) const NO_SERVER_OF_A_ROUTE: &str = "is empty: name a server, such as udp://10.96.0.10";
pub(super) const NO_SUFFIX: &str = "is empty: name a domain, such as cluster.local";
pub(super) const NO_NAMESPACE: &str = "says nothing: write names or a selector, or leave the field out to allow all";
pub(super) const ABOVE_THE_LIMIT: &str = "is above the limit: lower it";
const IN_CLEAR: &str = "would leave in the clear: write tls://ADDRESS#NAME (or https://, quic://) here; plain servers can stand in routes, for names under their suffixes";

/// A list that may not be empty.
pub(super) fn not_empty(message: &str) -> Value {
    json!([{"rule": "self.size() > 0", "message": message}])
}

/// Takes away the width of a number, a format that API servers do not know and warn about.
pub(super) fn without_width(schema: &mut Schema) {
    schema.remove("format");
}

/// A number within bounds.
pub(super) fn in_range(least: u32, most: u32) -> Value {
    // The API server shows the number itself; by the length of its text it could not tell what an expression of it may cost.
    let message = format!("is out of range: write a number from {least} to {most}");
    json!([{"rule": format!("self >= {least} && self <= {most}"), "message": message}])
}

/// An image reference, as far as its form tells.
pub(super) fn is_an_image() -> Value {
    json!([{"rule": r"self.matches('^\\S+$')", "messageExpression": format!(r#"'"' + self + '" {IS_NO_IMAGE}'"#)}])
}

/// Plain servers have no place in the upstream, and a protocol must be one that the servers know.
pub(super) fn of_upstream() -> Value {
    let plain = "self.servers.filter(server, server.startsWith('udp://'))";
    let mut rules = vec![json!({
        "rule": format!("{plain}.size() == 0"),
        "messageExpression": format!(r#"'"' + {plain}[0] + '" {IN_CLEAR}'"#),
        "fieldPath": ".servers",
    })];
    let without_quic = "self.servers.filter(server, server in ['cloudflare', 'google'])";
    rules.push(json!({
        "rule": format!("self.protocol != 'doq' || {without_quic}.size() == 0"),
        "messageExpression": format!("{without_quic}[0] + ' does not offer doq: write quad9, or quic://ADDRESS#NAME'"),
        "fieldPath": ".servers",
    }));
    let presets = Preset::ALL.map(|preset| format!("'{}'", preset.as_str())).join(", ");
    for (program, scheme, url) in
        [("curl", "https://", "https://ADDRESS/PATH#NAME"), ("kdig", "tls://", "tls://ADDRESS#NAME")]
    {
        rules.push(json!({
            "rule": format!(
                "self.protocol != '{program}' || self.servers.exists(server, server in [{presets}] || server.startsWith('{scheme}'))"
            ),
            "message": format!("{program} can ask none of the servers: write {url} among them, or a preset"),
            "fieldPath": ".protocol",
        }));
    }
    rules.into()
}

/// The least time may not be above the longest.
pub(super) fn of_cache() -> Value {
    let message = "is out of range: write a number from 0 to that of maxTtlSeconds";
    json!([{"rule": "self.minTtlSeconds <= self.maxTtlSeconds", "message": message, "fieldPath": ".minTtlSeconds"}])
}

/// Names that were asked for may not leave in clear.
pub(super) fn of_events() -> Value {
    let clear = "has(self.syslog) && self.syslog.server.startsWith('tcp://')";
    json!([
        {
            "rule": format!("!self.names || !({clear})"),
            "messageExpression": "'names that were asked for would leave in the clear to ' + self.syslog.server + ': write tls://ADDRESS#NAME there, or false here'",
            "fieldPath": ".names",
        },
        {
            "rule": format!("!({clear} && has(self.syslog.ca))"),
            "message": "is not asked to prove anything: write tls://ADDRESS#NAME, or leave out what TLS needs",
            "fieldPath": ".syslog.server",
        },
    ])
}

/// No request may be above its limit.
pub(super) fn of_resources() -> Value {
    let rules = [("cpu", "cpu"), ("memory", "memory"), ("ephemeral-storage", "ephemeral__dash__storage")];
    let rules = rules.map(|(name, member)| {
        let (request, limit) = (format!("self.requests.{member}"), format!("self.limits.{member}"));
        json!({
            "rule": format!(
                "!has(self.requests) || !has({request}) || !has(self.limits) || !has({limit}) || !isQuantity(string({request})) || !isQuantity(string({limit})) || !quantity(string({request})).isGreaterThan(quantity(string({limit})))"
            ),
            "message": ABOVE_THE_LIMIT,
            "fieldPath": if name == "ephemeral-storage" { ".requests['ephemeral-storage']".to_owned() } else { format!(".requests.{name}") },
        })
    });
    rules.to_vec().into()
}

/// Namespaces are meant by their names, or by their labels.
pub(super) fn of_namespaces() -> Value {
    json!([{"rule": "self.names.size() > 0 || has(self.selector)", "message": NO_NAMESPACE}])
}

/// What a label is compared with.
pub(super) fn of_expression() -> Value {
    json!([
        {
            "rule": "!(self.operator in ['In', 'NotIn']) || self.values.size() > 0",
            "messageExpression": "'is empty: ' + self.operator + ' needs values'",
            "fieldPath": ".values",
        },
        {
            "rule": "!(self.operator in ['Exists', 'DoesNotExist']) || self.values.size() == 0",
            "messageExpression": "self.operator + ' takes no values: leave them out'",
            "fieldPath": ".values",
        },
    ])
}
