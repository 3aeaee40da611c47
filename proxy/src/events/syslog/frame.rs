//! Messages of syslog (RFC 5424), each behind its length (RFC 5425 §4.3, RFC 6587 §3.4.1).

use super::super::outlet::Numbered;
use super::super::timestamp::Timestamp;

/// "security/authorization messages (private)", RFC 5424 §6.2.1.
const FACILITY: u8 = 10;

/// Where `sequenceId` begins anew (RFC 5424 §7.3.1).
const LAST_SEQUENCE: u64 = 2_147_483_647;

/// What all messages have in common.
#[derive(Debug)]
pub(super) struct Header {
    host: String,
    process: u32,
}

impl Header {
    /// For messages of this process on this host.
    pub(super) fn new(host: &str) -> Self {
        /// Longest HOSTNAME.
        const LONGEST: usize = 255;
        let host: String = host.chars().filter(char::is_ascii_graphic).take(LONGEST).collect();
        Self { host: if host.is_empty() { "-".to_owned() } else { host }, process: std::process::id() }
    }

    /// Appends a message with its length. The sequence numbers all events for the collector, those that were lost included.
    pub(super) fn write(&self, numbered: &Numbered, out: &mut Vec<u8>) {
        let line = &numbered.line;
        let (priority, at) = (FACILITY * 8 + line.severity as u8, Timestamp(line.at));
        let sequence = (numbered.number - 1) % LAST_SEQUENCE + 1;
        let message = format!(
            "<{priority}>1 {at} {} dot-proxy {} {} [meta sequenceId=\"{sequence}\"] {}",
            self.host, self.process, line.action, line.json
        );
        out.extend(format!("{} {message}", message.len()).into_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::ecs::{Line, Severity};
    use super::*;
    use std::sync::Arc;
    use std::time::SystemTime;

    fn framed(host: &str, number: u64) -> String {
        let line = Line {
            at: SystemTime::UNIX_EPOCH,
            action: "client-misbehaved",
            severity: Severity::Notice,
            json: "{}".to_owned(),
        };
        let mut out = Vec::new();
        Header::new(host).write(&Numbered { number, line: Arc::new(line) }, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_message_has_its_length_before_it_and_the_header_of_rfc_5424() {
        let pid = std::process::id();
        let message = format!(
            "<85>1 1970-01-01T00:00:00.000Z pod-1 dot-proxy {pid} client-misbehaved [meta sequenceId=\"7\"] {{}}"
        );
        assert_eq!(framed("pod-1", 7), format!("{} {message}", message.len()));
    }

    #[test]
    fn a_host_without_a_name_is_a_dash_and_a_sequence_begins_anew_at_its_end() {
        assert!(framed(" \n", 1).contains("Z - dot-proxy"));
        assert!(framed("a", LAST_SEQUENCE).contains("\"2147483647\""));
        assert!(framed("a", LAST_SEQUENCE + 1).contains("\"1\""));
    }
}
