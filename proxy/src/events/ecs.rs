//! Events as JSON in the Elastic Common Schema. EVENTS.md tells what stands in which field; both change together.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use dot_proxy_config::Labels;
use serde_json::{Map, Value, json};

use super::event::Event;
use super::sums::Told;
use super::timestamp::Timestamp;

/// The version of the schema whose fields these are.
const ECS_VERSION: &str = "8.17.0";

/// Longest text of a person's or a peer's making that goes into a field, in octets.
const LONGEST_TEXT: usize = 1024;

/// An event as it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// When it happened, or the last of several.
    pub(super) at: SystemTime,
    /// What happened, in a word.
    pub(super) action: &'static str,
    /// How bad it is.
    pub(super) severity: Severity,
    /// The JSON object, in ASCII and without a line break.
    pub(super) json: String,
}

/// Severities of syslog (RFC 5424 §6.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Severity {
    Error = 3,
    Warning = 4,
    Notice = 5,
}

/// Writes events.
#[derive(Debug)]
pub(super) struct Writer {
    /// What stands in every event.
    fixed: Map<String, Value>,
    /// What tells this run of the program from others.
    run: u64,
    count: AtomicU64,
    names: bool,
}

/// The categorization of an event, and how it is told to a person.
struct Sort {
    kind: &'static str,
    category: &'static [&'static str],
    types: &'static [&'static str],
    outcome: &'static str,
    severity: Severity,
    message: String,
}

impl Severity {
    /// The word.
    fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Notice => "notice",
        }
    }
}

impl Writer {
    /// For events of this host, with these labels, with names that were asked for or without.
    pub(super) fn new(host: &str, labels: &Labels, names: bool) -> Self {
        let labels: Map<_, _> = labels.iter().map(|(name, text)| (name.to_owned(), text.into())).collect();
        let mut fixed = object(json!({
            "ecs": {"version": ECS_VERSION},
            "host": {"hostname": host},
            "observer": {"hostname": host, "product": "dot-proxy", "type": "forwarder", "vendor": "dot-sidecar",
                "version": env!("CARGO_PKG_VERSION")},
            "process": {"pid": std::process::id()},
            "service": {"type": "dot-proxy"},
        }));
        if !labels.is_empty() {
            fixed.insert("labels".to_owned(), labels.into());
        }
        let mut run = [0; 8];
        // Without randomness the process id and the time still tell runs apart.
        let _ = aws_lc_rs::rand::fill(&mut run);
        Self { fixed, run: u64::from_ne_bytes(run), count: AtomicU64::new(0), names }
    }

    /// Whether names that were asked for stand in events.
    pub(super) fn writes_names(&self) -> bool {
        self.names
    }

    /// Makes the text of an event.
    pub(super) fn write(&self, told: &Told) -> Line {
        let Told { event, count, start, end, several_clients } = told;
        let sort = sort(event, *count);
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let mut fields = self.fixed.clone();
        fields.insert("@timestamp".to_owned(), Timestamp(*end).to_string().into());
        fields.insert("message".to_owned(), sort.message.into());
        fields.insert("log".to_owned(), json!({"level": sort.severity.as_str()}));
        fields.insert(
            "event".to_owned(),
            json!({
                "action": event.action(), "category": sort.category, "dataset": "dot_proxy.security",
                "end": Timestamp(*end).to_string(), "id": format!("{:016x}-{number}", self.run), "kind": sort.kind,
                "module": "dot_proxy", "outcome": sort.outcome, "provider": "dot-proxy", "severity": sort.severity as u8,
                "start": Timestamp(*start).to_string(), "type": sort.types,
            }),
        );
        let mut own = Map::from_iter([("count".to_owned(), (*count).into())]);
        self.add_details(event, *several_clients, &mut fields, &mut own);
        fields.insert("dot_proxy".to_owned(), own.into());
        let json = ascii(&Value::Object(fields).to_string());
        Line { at: *end, action: event.action(), severity: sort.severity, json }
    }

    fn add_details(
        &self,
        event: &Event,
        several_clients: bool,
        fields: &mut Map<String, Value>,
        own: &mut Map<String, Value>,
    ) {
        let mut field = |name: &str, value: Value| drop(fields.insert(name.to_owned(), value));
        let mut own = |name: &str, value: Value| drop(own.insert(name.to_owned(), value));
        if several_clients {
            own("several_clients", true.into());
        } else if let Some(client) = event.client() {
            let mut source = object(json!({"ip": client.to_canonical().to_string()}));
            if let Some(port) = event.client_port() {
                source.insert("port".to_owned(), port.into());
            }
            field("source", source.into());
        }
        match event {
            Event::ClientMisbehaved { transport, how, .. } => {
                field("network", json!({"protocol": "dns", "transport": transport.as_str()}));
                own("misbehaviour", (*how).into());
            }
            Event::ClientShutOut { how, duration, times, .. } | Event::ClientSlowed { how, duration, times, .. } => {
                own("misbehaviour", (*how).into());
                own("seconds", duration.as_secs().into());
                own("times", (*times).into());
            }
            Event::ClientReadmitted { .. } => {}
            Event::ConnectionReset { why, .. } => {
                field("network", json!({"protocol": "dns", "transport": "tcp"}));
                own("misbehaviour", (*why).into());
            }
            Event::SourceRefused { transport, .. } => {
                field("network", json!({"protocol": "dns", "transport": transport.as_str()}));
            }
            Event::NameWithheld { rule, name, qtype, .. } => {
                field("rule", json!({"name": rule}));
                if self.names && !name.is_empty() {
                    let name = name.strip_suffix('.').filter(|name| !name.is_empty()).unwrap_or(name);
                    let qtype = hickory_proto::rr::RecordType::from(*qtype).to_string();
                    field("dns", json!({"type": "query", "question": {"name": cut(name), "type": qtype}}));
                }
            }
            Event::CertificateRefused { server, group, cause } => {
                field("destination", destination(server));
                field("error", json!({"code": cause.as_str()}));
                own("upstream", json!({"group": &**group, "server": &**server}));
            }
            Event::AnswerRefused { server, group, why } => {
                field("destination", destination(server));
                field("error", json!({"code": why}));
                own("upstream", json!({"group": &**group, "server": &**server}));
            }
            Event::ConfigurationRefused { field: path, reason } => {
                field("error", json!({"code": "configuration-refused", "message": cut(reason)}));
                if !path.is_empty() {
                    own("field", cut(path).into());
                }
            }
            Event::QueryPanicked { place } => {
                field("error", json!({"code": "panic"}));
                own("place", (*place).into());
            }
            Event::ConfinementMissing { means } => own("means", (*means).into()),
            Event::EventsDropped { destination } => own("destination", (*destination).into()),
        }
    }
}

/// What category, type and so on an event has; the words are those that the schema allows, in pairs that it expects.
fn sort(event: &Event, count: u64) -> Sort {
    use Severity::{Error, Notice, Warning};
    const NETWORK: &[&str] = &["network"];
    const INTRUSION: &[&str] = &["intrusion_detection", "network"];
    const DENIED: &[&str] = &["denied"];
    const INFO: &[&str] = &["info"];
    let (kind, category, types, outcome, severity, message) = match event {
        Event::ClientMisbehaved { how, .. } => {
            ("event", INTRUSION, DENIED, "success", Notice, format!("a client misbehaved: {how}"))
        }
        Event::ClientShutOut { duration, how, .. } => {
            let message = format!("a client is shut out for {} s: {how}", duration.as_secs());
            ("alert", INTRUSION, DENIED, "success", Warning, message)
        }
        Event::ClientSlowed { duration, how, .. } => {
            let message = format!("a port of loopback is served little for {} s: {how}", duration.as_secs());
            ("alert", INTRUSION, DENIED, "success", Warning, message)
        }
        Event::ClientReadmitted { .. } => {
            let message = "a client that was shut out or slowed is served again".to_owned();
            ("event", NETWORK, &["allowed"][..], "success", Notice, message)
        }
        Event::ConnectionReset { why, .. } => {
            let message = format!("a client's connection was reset: {why}");
            ("event", NETWORK, &["connection", "denied", "end"][..], "success", Notice, message)
        }
        Event::SourceRefused { .. } => {
            let message = "a source that is not allowed was turned away".to_owned();
            ("event", NETWORK, &["connection", "denied"][..], "success", Notice, message)
        }
        Event::NameWithheld { rule, .. } => {
            let message = format!("a name was kept from a resolver that has no business with it: {rule}");
            ("event", NETWORK, &["denied", "protocol"][..], "success", Notice, message)
        }
        Event::CertificateRefused { server, cause, .. } => {
            let message = format!("an upstream did not prove who it is: {cause} at {server}");
            ("alert", NETWORK, &["connection", "denied"][..], "success", Error, message)
        }
        Event::AnswerRefused { server, why, .. } => {
            let message = format!("an answer was not taken: {why} from {server}");
            ("event", INTRUSION, DENIED, "success", Warning, message)
        }
        Event::ConfigurationRefused { .. } => {
            let message = "a configuration was not taken".to_owned();
            ("event", &["configuration"][..], &["change"][..], "failure", Error, message)
        }
        Event::QueryPanicked { place } => {
            let message = format!("a query was lost to a defect of the proxy ({place})");
            ("event", &["process"][..], INFO, "failure", Error, message)
        }
        Event::ConfinementMissing { means } => {
            let message = format!("the kernel has no {means}: the proxy runs without");
            ("event", &["process"][..], INFO, "failure", Warning, message)
        }
        Event::EventsDropped { destination } => {
            let message = format!("{count} events were lost: {destination} did not take them");
            ("event", &["process"][..], INFO, "failure", Warning, message)
        }
    };
    Sort { kind, category, types, outcome, severity, message }
}

/// Address, port and name of a server, out of its URL; the URL alone where it has another form.
fn destination(url: &str) -> Value {
    let mut fields = object(json!({"address": url}));
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let (place, name) = rest.split_once('#').map_or((rest, None), |(place, name)| (place, Some(name)));
    let authority = place.split_once('/').map_or(place, |(authority, _)| authority);
    if let Ok(address) = authority.parse::<SocketAddr>() {
        fields.insert("ip".to_owned(), address.ip().to_string().into());
        fields.insert("port".to_owned(), address.port().into());
    }
    if let Some(name) = name {
        fields.insert("domain".to_owned(), name.into());
    }
    fields.into()
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// As much of a text as goes into a field.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(LONGEST_TEXT)]
}

/// JSON without anything beyond ASCII: collectors disagree on what else a message of syslog may hold. What stands outside
/// strings is ASCII already.
fn ascii(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for character in json.chars() {
        if (' '..='~').contains(&character) {
            text.push(character);
        } else {
            character.encode_utf16(&mut [0; 2]).iter().for_each(|unit| text.push_str(&format!("\\u{unit:04x}")));
        }
    }
    text
}

#[cfg(test)]
mod tests;
