use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::in_range;
use crate::{CaCertificates, ClientCertificate, Collector, ConfigError, ParseError};

/// Who is told what a security team wants to know, in the Elastic Common Schema. By default nobody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Events {
    /// Whether events are written to standard output, one JSON object a line. The log then goes to standard error.
    pub stdout: bool,
    /// The collector to which events are sent by syslog.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub syslog: Option<Syslog>,
    /// Whether names that were asked for stand in events.
    pub names: bool,
    /// Events that wait at most for each destination that does not take them; further ones are lost, and counted.
    pub buffer: u32,
    /// What stands in each event as `labels.NAME`.
    #[serde(skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
}

/// A collector of syslog, and how it and the proxy prove to each other who they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Syslog {
    /// Where it is.
    pub server: Collector,
    /// CA certificates in PEM that replace the public roots built in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<CaCertificates>,
    /// A file of CA certificates in PEM that replace the public roots built in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// How the proxy proves itself to the collector if it asks for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<ClientCertificate>,
}

/// Names and texts that stand in each event: at most 16, names of lower-case letters, digits and underscores.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Labels(BTreeMap<String, String>);

/// Labels at most.
const LABELS: usize = 16;

/// Longest name or text of a label, in octets.
const LABEL_LENGTH: usize = 253;

impl Default for Events {
    fn default() -> Self {
        Self { stdout: false, syslog: None, names: false, buffer: 1024, labels: Labels::default() }
    }
}

impl Events {
    /// The part `events` of a configuration whose other parts cannot be read, so that this can be told; `None` if it cannot
    /// be read itself.
    pub fn alone_in(text: &str) -> Option<Self> {
        let mut value: serde_json::Value = serde_saphyr::from_str(text).ok()?;
        let events: Self = serde_json::from_value(value.get_mut("events")?.take()).ok()?;
        events.check().ok()?;
        Some(events)
    }

    /// Whether nothing was said of them.
    pub(crate) fn are_default(&self) -> bool {
        *self == Self::default()
    }

    /// What no single field can know.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        in_range("events.buffer", self.buffer, 16, 65_536)?;
        let Some(syslog) = &self.syslog else { return Ok(()) };
        let refuse = |path, message: String| Err(ConfigError::at(path, message));
        if syslog.ca.is_some() && syslog.ca_file.is_some() {
            return refuse("events.syslog.caFile", "stands beside events.syslog.ca: give one of them".to_owned());
        }
        if let Collector::Tcp(address) = syslog.server
            && (syslog.ca.is_some() || syslog.ca_file.is_some() || syslog.client_certificate.is_some())
        {
            let message = format!(
                "{address} is not asked to prove anything: write tls://{address}#NAME, or leave out what TLS needs"
            );
            return refuse("events.syslog.server", message);
        }
        if self.names && syslog.server.is_in_the_clear() {
            let message = format!(
                "names that were asked for would leave in the clear to {}: write tls://ADDRESS#NAME there, or false here",
                syslog.server
            );
            return refuse("events.names", message);
        }
        Ok(())
    }
}

impl Syslog {
    /// To this collector, by the public roots if it has to prove its name.
    pub fn to(server: Collector) -> Self {
        Self { server, ca: None, ca_file: None, client_certificate: None }
    }
}

impl Labels {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names and texts.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, text)| (name.as_str(), text.as_str()))
    }

    /// Adds one, unless there is one of that name or no room; the name and the text must be such as can be written.
    pub fn add(&mut self, name: &str, text: &str) {
        if !self.0.contains_key(name)
            && let Ok(more) = Self::try_from(BTreeMap::from([(name.to_owned(), text.to_owned())]))
            && self.0.len() < LABELS
        {
            self.0.extend(more.0);
        }
    }
}

impl TryFrom<BTreeMap<String, String>> for Labels {
    type Error = ParseError;

    fn try_from(labels: BTreeMap<String, String>) -> Result<Self, ParseError> {
        if labels.len() > LABELS {
            return Err(ParseError::new(format!("{} labels are too many: keep {LABELS}", labels.len())));
        }
        for (name, text) in &labels {
            let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
            if name.is_empty() || name.len() > LABEL_LENGTH || !name.bytes().all(known) {
                let message =
                    format!("{name:?} is no name of a label: write lower-case letters, digits and underscores");
                return Err(ParseError::new(message));
            }
            if text.len() > LABEL_LENGTH || text.chars().any(char::is_control) {
                let message = format!(
                    "the label {name} is too long or holds control characters: write up to {LABEL_LENGTH} octets"
                );
                return Err(ParseError::new(message));
            }
        }
        Ok(Self(labels))
    }
}

impl From<Labels> for BTreeMap<String, String> {
    fn from(labels: Labels) -> Self {
        labels.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_part_for_events_is_read_although_others_are_wrong() {
        let text = "upstream: {servers: [nonsense]}\nevents: {stdout: true}";
        assert_eq!(Events::alone_in(text).map(|events| events.stdout), Some(true));
        for text in ["", "{", "upstream: {}", "events: {stdout: 1}", "events: {buffer: 1}"] {
            assert_eq!(Events::alone_in(text), None, "{text}");
        }
    }

    #[test]
    fn a_label_is_added_where_there_is_none_of_its_name_and_room() {
        let mut labels = Labels::default();
        labels.add("namespace", "demo");
        labels.add("namespace", "other");
        labels.add("Wrong Name", "demo");
        assert_eq!(labels.iter().collect::<Vec<_>>(), [("namespace", "demo")]);
        (0..20).for_each(|index| labels.add(&format!("n{index}"), ""));
        assert_eq!(labels.iter().count(), LABELS);
    }

    #[test]
    fn labels_that_no_field_can_hold_are_refused() {
        let one = |name: &str, text: &str| Labels::try_from(BTreeMap::from([(name.to_owned(), text.to_owned())]));
        assert!(one("team_1", "a b ä").is_ok());
        for (name, text) in [("", ""), ("a.b", ""), ("a", "line\nbreak"), ("a", &"x".repeat(254))] {
            assert!(one(name, text).is_err(), "{name:?} {text:?}");
        }
        let many: BTreeMap<_, _> = (0..17).map(|index| (format!("n{index}"), String::new())).collect();
        assert!(Labels::try_from(many).unwrap_err().to_string().contains("keep 16"));
    }
}
