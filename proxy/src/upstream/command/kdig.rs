//! DNS over TLS by `kdig`: the question goes in as arguments, and the answer comes out as dnstap, octet for octet.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process;
use std::sync::Arc;
use std::time::Duration;

use dot_proxy_config::TlsServer;
use tokio::time::Instant;

use super::process::{Finished, Input, TAP, run};
use super::{Tool, Trust, Unusable, dnstap, is_routable};
use crate::upstream::cause::Cause;
use crate::upstream::connection::Query;
use crate::wire::name::Name;
use crate::wire::request::{Asked, Question};
use crate::wire::{self, HEADER, UDP_PAYLOAD, flag, rtype};

/// GnuTLS would take TLS 1.0 and 1.1; this proxy takes them nowhere (RFC 8996).
pub(super) const GNUTLS_CONFIGURATION: &[u8] = b"[overrides]
disabled-version = ssl3.0
disabled-version = tls1.0
disabled-version = tls1.1
";

/// Where GnuTLS learns it from.
const GNUTLS_VARIABLE: &str = "GNUTLS_SYSTEM_PRIORITY_FILE";

/// kdig says in the same words that nobody listens, which is told at once, and that nobody answers, which takes time.
const AT_ONCE: Duration = Duration::from_secs(1);

/// So much longer than the query's deadline may kdig live, should nobody be left to kill it.
const ORPHANED: Duration = Duration::from_secs(2);

/// A server asked by kdig.
#[derive(Clone)]
pub struct Kdig {
    tool: Tool,
    address: SocketAddr,
    arguments: Arc<[String]>,
}

/// Whether this kdig can do what is needed of it, and what is wanted is what it can do.
pub(super) fn check(executable: &Path, trust: &Trust<'_>) -> Result<(), Unusable> {
    if !trust.pins.is_empty() {
        // Anybody can send along a copy of a pinned certificate that vouches for nothing.
        return Err(Unusable(
            "kdig would be content with a pinned certificate that the server merely sends along: take upstream.pins out, or use dot, doh, doq or curl".to_owned(),
        ));
    }
    let help = process::Command::new(executable).arg("--help").env_clear().stdin(process::Stdio::null()).output();
    let help = help.map_err(|error| Unusable(format!("{} cannot be run: {error}", executable.display())))?;
    if String::from_utf8_lossy(&help.stdout).contains("-E tapfile") {
        return Ok(());
    }
    Err(Unusable(format!(
        "{} was built without dnstap (option -E), by which it hands over answers as they came: use that of Debian's package knot-dnsutils",
        executable.display()
    )))
}

impl Kdig {
    pub(super) fn asking(tool: &Tool, server: &TlsServer) -> Self {
        Self { tool: tool.clone(), address: server.address, arguments: arguments(tool, server).into() }
    }

    pub(super) async fn exchange(&self, query: Query<'_>) -> Result<(Vec<u8>, Duration), Cause> {
        let Query { asked, question, until } = query;
        // kdig would make a zone transfer of it, in many messages.
        if matches!(question.qtype(), rtype::AXFR | rtype::IXFR) {
            return Err(Cause::QueryNotCarried);
        }
        if !is_routable(self.address) {
            return Err(Cause::NetworkUnreachable);
        }
        let mut arguments = self.arguments.to_vec();
        let lifetime = until.saturating_duration_since(Instant::now()) + ORPHANED;
        arguments.push(format!("+timeout={}", lifetime.as_secs()));
        arguments.extend(of_query(asked, question));
        let shared = &self.tool.shared;
        let environment = [(GNUTLS_VARIABLE, shared.gnutls.path())];
        let finished = run(&shared.slots, &shared.executable, &arguments, &environment, Input::Tap, until).await?;
        read(&finished, asked, question)
    }
}

/// What is the same for every query.
fn arguments(tool: &Tool, server: &TlsServer) -> Vec<String> {
    let mut arguments: Vec<_> =
        ["-d", "-E", TAP, "+noall", "+noidn", "+retry=0", "+tls", "+padding", "+edns=0", "+adflag"]
            .map(str::to_owned)
            .into();
    arguments.push(format!("+bufsize={UDP_PAYLOAD}"));
    arguments.push(format!("+tls-ca={}", tool.shared.roots()));
    arguments.push(format!("+tls-hostname={}", server.name));
    if let Some((certificate, key)) = &tool.shared.identity {
        arguments.push(format!("+tls-certfile={}", certificate.path()));
        arguments.push(format!("+tls-keyfile={}", key.path()));
    }
    arguments.push(format!("@{}", server.address.ip()));
    arguments.extend(["-p".to_owned(), server.address.port().to_string()]);
    arguments
}

/// The question and its flags.
fn of_query(asked: Asked, question: Question<'_>) -> [String; 9] {
    let switch = |name: &str, on: bool| if on { format!("+{name}") } else { format!("+no{name}") };
    [
        switch("rdflag", asked.has(flag::RD)),
        switch("cdflag", asked.has(flag::CD)),
        switch("dnssec", asked.dnssec_ok()),
        "-q".to_owned(),
        name_as_argument(question.name()),
        "-t".to_owned(),
        format!("TYPE{}", question.qtype()),
        "-c".to_owned(),
        format!("CLASS{}", question.class()),
    ]
}

/// A name as kdig reads it back, octet for octet (RFC 1035 §5.1). Whatever it holds, it begins with a letter, a digit, an
/// underscore, a backslash or the dot that is the root: it can be no option, and no part of it means anything but itself.
fn name_as_argument(name: Name<'_>) -> String {
    let mut text = String::new();
    for label in name.labels() {
        for octet in label {
            match octet {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' => text.push(char::from(*octet)),
                b'-' if !text.is_empty() => text.push('-'),
                _ => write!(text, "\\{octet:03}").expect("a string takes all that is written to it"),
            }
        }
        text.push('.');
    }
    if text.is_empty() { ".".to_owned() } else { text }
}

/// The answer, if kdig asked what it was to ask, and got an answer to that.
pub(super) fn read(finished: &Finished, asked: Asked, question: Question<'_>) -> Result<(Vec<u8>, Duration), Cause> {
    if !finished.status.success() {
        return Err(cause(&String::from_utf8_lossy(&finished.output), &finished.complaint, finished.took));
    }
    let exchange = dnstap::read(&finished.tap).map_err(|_| Cause::ResponseMalformed)?;
    if !asks(exchange.query, asked, question) {
        return Err(Cause::QueryNotCarried);
    }
    if wire::id(exchange.response) != wire::id(exchange.query) {
        return Err(Cause::ResponseMalformed);
    }
    Ok((exchange.response.to_vec(), finished.took))
}

/// Whether a query has exactly this question, and the flags that go with it.
fn asks(query: &[u8], asked: Asked, question: Question<'_>) -> bool {
    let flags = (asked.flags & (flag::RD | flag::CD)) | flag::AD;
    wire::read_u16(query, 2) == Some(flags)
        && wire::read_u16(query, 4) == Some(1)
        && query.get(HEADER..).and_then(Question::starting).is_some_and(|sent| sent == question)
}

/// The cause of a failure, by what kdig says of it: of certificates on standard output, since it is asked to say more than
/// usual, of all else on standard error.
fn cause(output: &str, complaint: &str, took: Duration) -> Cause {
    let untrusted =
        output.lines().rev().find_map(|line| line.strip_prefix(";; DEBUG: TLS, The certificate is NOT trusted."));
    if let Some(reasons) = untrusted {
        return certificate_cause(reasons);
    }
    let complains = |text| complaint.contains(text);
    if complains("can't connect") {
        if took < AT_ONCE { Cause::ConnectionRefused } else { Cause::ConnectionTimedOut }
    } else if complains("TLS, handshake failed (Error in the certificate.)") {
        Cause::CertificateInvalid
    } else if complains("TLS, handshake failed") {
        Cause::TlsHandshakeFailed
    } else if complains("took too long") {
        Cause::QueryTimedOut
    } else if complains("malformed") {
        Cause::ResponseMalformed
    } else if complains("can't receive reply") || complains("can't send query") {
        Cause::ConnectionClosed
    } else {
        Cause::ProgramFailed
    }
}

fn certificate_cause(reasons: &str) -> Cause {
    let because = |text| reasons.contains(text);
    if because("issuer is unknown") || because("signature in the certificate is invalid") {
        Cause::CertificateUnknownIssuer
    } else if because("expired") {
        Cause::CertificateExpired
    } else if because("not yet") {
        Cause::CertificateNotYetValid
    } else if because("name in the certificate does not match") {
        Cause::CertificateNameMismatch
    } else {
        Cause::CertificateInvalid
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn argument(labels: &[&[u8]]) -> String {
        let mut wire = Vec::new();
        for label in labels {
            wire.push(u8::try_from(label.len()).unwrap());
            wire.extend_from_slice(label);
        }
        wire.push(0);
        name_as_argument(Name::checked(&wire))
    }

    #[test]
    fn a_name_that_looks_like_an_option_becomes_none() {
        for (label, text) in [
            (&b"-x"[..], r"\045x."),
            (b"+noall", r"\043noall."),
            (b"@192.0.2.1", r"\064192\0460\0462\0461."),
            (b"a b", r"a\032b."),
            (b"a\nb", r"a\010b."),
            (b"a\0b", r"a\000b."),
            (b"\\", r"\092."),
            (b"\xff", r"\255."),
            (b"WwW", "WwW."),
        ] {
            assert_eq!(argument(&[label]), text);
        }
        assert_eq!(argument(&[]), ".");
        assert_eq!(argument(&[b"a", b"-b"]), "a.-b.");
    }

    #[test]
    fn failures_are_told_apart() {
        let untrusted =
            |why| format!(";; DEBUG: TLS, skipping\n;; DEBUG: TLS, The certificate is NOT trusted. {why} \n");
        let handshake = ";; WARNING: TLS, handshake failed (Error in the certificate.)\n";
        for (output, complaint, expected) in [
            (&*untrusted("The certificate issuer is unknown."), handshake, Cause::CertificateUnknownIssuer),
            (&untrusted("The certificate chain uses expired certificate."), handshake, Cause::CertificateExpired),
            (
                &untrusted("The certificate chain uses not yet valid certificate."),
                handshake,
                Cause::CertificateNotYetValid,
            ),
            (
                &untrusted("The name in the certificate does not match the expected."),
                handshake,
                Cause::CertificateNameMismatch,
            ),
            (
                &untrusted("The certificate chain violates the signer's constraints."),
                handshake,
                Cause::CertificateInvalid,
            ),
            ("", handshake, Cause::CertificateInvalid),
            ("", ";; WARNING: TLS, handshake failed (A TLS fatal alert has been received.)", Cause::TlsHandshakeFailed),
            ("", ";; WARNING: can't connect to 127.0.0.1@1(TCP)", Cause::ConnectionRefused),
            ("", ";; WARNING: TLS, peer took too long to respond", Cause::QueryTimedOut),
            ("", ";; WARNING: can't receive reply from 127.0.0.1@1(TCP)", Cause::ConnectionClosed),
            ("", "Segmentation fault", Cause::ProgramFailed),
        ] {
            assert_eq!(cause(output, complaint, Duration::ZERO), expected, "{output}{complaint}");
        }
        let waited = Duration::from_secs(3);
        assert_eq!(cause("", "can't connect to 192.0.2.1@853(TCP)", waited), Cause::ConnectionTimedOut);
    }

    #[test]
    fn a_name_in_the_output_cannot_pass_for_what_kdig_says_of_a_certificate() {
        let name = argument(&[b"\n;; DEBUG: TLS, The certificate is NOT trusted. expired"]);
        let output = format!(";; DEBUG: Querying for owner({name})");
        assert_eq!(cause(&output, "can't connect", Duration::ZERO), Cause::ConnectionRefused);
    }

    proptest! {
        #[test]
        fn no_name_is_an_option_or_holds_anything_but_letters_digits_escapes_and_dots(
            labels in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..63), 0..4)
        ) {
            let labels: Vec<&[u8]> = labels.iter().map(Vec::as_slice).collect();
            let text = argument(&labels);
            prop_assert!(!text.starts_with(['-', '+', '@']));
            prop_assert!(text.chars().all(|c| c.is_ascii_alphanumeric() || "_-.\\".contains(c)));
            prop_assert_eq!(text.matches('.').count(), labels.len().max(1));
        }
    }
}
