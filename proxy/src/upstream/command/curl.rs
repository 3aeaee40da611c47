//! DNS over HTTPS by `curl`: what is asked goes in on standard input, and the answer comes out on standard output. Requests
//! and what an HTTP response is worth are those of [`doh`](crate::upstream::doh).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dot_proxy_config::{HttpMethod, HttpsServer, Pin};
use hyper::Response;
use hyper::header::{AGE, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HeaderName, RETRY_AFTER};
use hyper::http::response::Parts;
use tokio::time::Instant;

use super::process::{self, Finished, Input};
use super::{Tool, is_routable};
use crate::upstream::cause::Cause;
use crate::upstream::connection::Query;
use crate::upstream::doh::request::Requests;
use crate::upstream::doh::response::{Verdict, judge, take_answer};
use crate::wire::query::{self, Privacy};

/// curl gives up connecting after so many seconds, and the group asks another server.
const CONNECT_SECONDS: &str = "3";

/// So much longer than the query's deadline may curl live, should nobody be left to kill it.
const ORPHANED: Duration = Duration::from_secs(2);

/// The headers that curl is to write behind the answer, after the status: a line each. None holds a line break, so that the
/// answer, which may, is found from the end.
const HEADERS: [HeaderName; 5] = [CONTENT_TYPE, CONTENT_ENCODING, AGE, CACHE_CONTROL, RETRY_AFTER];

/// A server asked by curl.
#[derive(Clone)]
pub struct Curl {
    tool: Tool,
    address: SocketAddr,
    requests: Arc<Requests>,
    arguments: Arc<[String]>,
    /// Whether the question is asked for in the URL. A server that takes no POST is asked by GET from then on.
    by_get: Arc<AtomicBool>,
}

impl Curl {
    pub(super) fn asking(tool: &Tool, server: &HttpsServer, method: HttpMethod) -> Self {
        Self {
            tool: tool.clone(),
            address: server.server.address,
            requests: Arc::new(Requests::to(server)),
            arguments: arguments(tool, server).into(),
            by_get: Arc::new(AtomicBool::new(method == HttpMethod::Get)),
        }
    }

    pub(super) async fn exchange(&self, query: Query<'_>) -> Result<(Vec<u8>, Duration), Cause> {
        if !is_routable(self.address) {
            return Err(Cause::NetworkUnreachable);
        }
        let mut message = Vec::new();
        // RFC 8484 §4.1: id 0, so that equal questions are equal requests.
        query::write(&mut message, 0, query.asked, query.question, Privacy::Multiplexed);
        loop {
            let by_get = self.by_get.load(Ordering::Relaxed);
            let (head, mut body, took) = read(self.ask(&message, by_get, query.until).await?)?;
            match judge(&head) {
                Verdict::Answer { age, fresh_for } if take_answer(&mut body, query.question, age, fresh_for) => {
                    return Ok((body, took));
                }
                Verdict::Answer { .. } | Verdict::NoMessage => return Err(Cause::ResponseMalformed),
                Verdict::NoSuchMethod if !by_get => self.by_get.store(true, Ordering::Relaxed),
                Verdict::NoSuchMethod | Verdict::OtherStatus => return Err(Cause::HttpStatusUnexpected),
                Verdict::Busy { .. } => return Err(Cause::ServerBusy),
            }
        }
    }

    async fn ask(&self, message: &[u8], by_get: bool, until: Instant) -> Result<Finished, Cause> {
        let lifetime = until.saturating_duration_since(Instant::now()) + ORPHANED;
        let mut arguments = self.arguments.to_vec();
        arguments.extend(["--max-time".to_owned(), lifetime.as_secs().to_string()]);
        let post = self.requests.post(message);
        let in_url;
        let input = if by_get {
            // A line of configuration, read from standard input: not even encoded does a name stand among the arguments.
            arguments.extend(["--config".to_owned(), "-".to_owned()]);
            in_url = format!("url = \"{}\"\n", self.requests.get(message).uri());
            in_url.as_bytes()
        } else {
            let header = "Content-Type: application/dns-message";
            arguments.extend(["--header", header, "--data-binary", "@-", "--url"].map(str::to_owned));
            arguments.push(post.uri().to_string());
            message
        };
        let shared = &self.tool.shared;
        process::run(&shared.slots, &shared.executable, &arguments, &[], Input::Octets(input), until).await
    }
}

/// What is the same for every query. Nothing of a query is an argument.
fn arguments(tool: &Tool, HttpsServer { server, .. }: &HttpsServer) -> Vec<String> {
    let mut arguments: Vec<_> = [
        "--disable", // first: no configuration file of anybody's
        "--silent",
        "--show-error",
        "--globoff",
        "--path-as-is",
        "--noproxy",
        "*",
        "--proto",
        "=https",
        "--tlsv1.2",
        "--max-redirs", // none is followed without --location anyway
        "0",
        "--connect-timeout",
        CONNECT_SECONDS,
        "--max-filesize",
        "65535",
        "--user-agent",
        "",
        "--header",
        "Accept: application/dns-message",
        // Beside the CAs that are named, curl trusts those of a directory that is compiled in: this one holds none.
        "--capath",
        "/dev/null",
    ]
    .map(str::to_owned)
    .into();
    arguments.extend(["--cacert".to_owned(), tool.shared.roots(), "--write-out".to_owned(), write_out()]);
    // The name is never looked up: that would loop into this proxy, or leave in the clear.
    if server.name.as_str().parse::<IpAddr>().is_ok() {
        arguments.extend(["--connect-to".to_owned(), format!("::{}", server.address)]);
    } else {
        let address = match server.address.ip() {
            IpAddr::V4(address) => address.to_string(),
            IpAddr::V6(address) => format!("[{address}]"),
        };
        arguments.extend(["--resolve".to_owned(), format!("{}:{}:{address}", server.name, server.address.port())]);
    }
    if !tool.shared.pins.is_empty() {
        arguments.extend(["--pinnedpubkey".to_owned(), pinned(&tool.shared.pins)]);
    }
    if let Some((certificate, key)) = &tool.shared.identity {
        arguments.extend(["--cert".to_owned(), certificate.path(), "--key".to_owned(), key.path()]);
    }
    arguments
}

/// Status and headers, each behind a line break, as `--write-out` reads it.
fn write_out() -> String {
    let headers: String = HEADERS.iter().map(|name| format!("\\n%header{{{name}}}")).collect();
    format!("\\n%{{http_code}}{headers}")
}

/// As curl reads pins: `sha256//BASE64`, one of which must be the server's own key.
fn pinned(pins: &[Pin]) -> String {
    let pins: Vec<_> = pins.iter().map(|pin| pin.to_string().replacen('/', "//", 1)).collect();
    pins.join(";")
}

/// The head and the body of the response, and how long it took, if there is one.
pub(super) fn read(finished: Finished) -> Result<(Parts, Vec<u8>, Duration), Cause> {
    if !finished.status.success() {
        return Err(cause(finished.status.code(), &finished.complaint));
    }
    let mut output = finished.output;
    let mut from_the_end = output.rsplitn(HEADERS.len() + 2, |octet| *octet == b'\n');
    let mut response = Response::builder();
    for name in HEADERS.iter().rev() {
        match from_the_end.next() {
            None | Some([]) => {}
            Some(value) => response = response.header(name, value),
        }
    }
    let (Some(status), Some(body)) = (from_the_end.next(), from_the_end.next()) else {
        return Err(Cause::ResponseMalformed);
    };
    let (head, ()) = response.status(status).body(()).map_err(|_| Cause::ResponseMalformed)?.into_parts();
    let length = body.len();
    output.truncate(length);
    Ok((head, output, finished.took))
}

/// The cause of an exit status (curl(1), EXIT CODES). Of certificates the text alone tells what is wrong.
fn cause(code: Option<i32>, complaint: &str) -> Cause {
    match code {
        Some(7) => Cause::ConnectionRefused,
        Some(28) => Cause::ConnectionTimedOut,
        // A signature that does not verify under a CA of the issuer's name: it is another CA of that name.
        Some(35) if complaint.contains("asn1 encoding routines") || complaint.contains("rsa routines") => {
            Cause::CertificateUnknownIssuer
        }
        Some(35) => Cause::TlsHandshakeFailed,
        Some(51 | 60) => certificate_cause(complaint),
        Some(90) => Cause::CertificatePinMismatch,
        Some(16 | 18 | 52 | 55 | 56 | 92) => Cause::ConnectionClosed,
        Some(8 | 22 | 43 | 61 | 63) => Cause::ResponseMalformed,
        _ => Cause::ProgramFailed,
    }
}

fn certificate_cause(complaint: &str) -> Cause {
    let complains = |text| complaint.contains(text);
    if complains("subject name") {
        Cause::CertificateNameMismatch
    } else if complains("issuer certificate") || complains("self-signed") || complains("self signed") {
        Cause::CertificateUnknownIssuer
    } else if complains("certificate has expired") {
        Cause::CertificateExpired
    } else if complains("not yet valid") {
        Cause::CertificateNotYetValid
    } else {
        Cause::CertificateInvalid
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    fn finished(output: &[u8]) -> Finished {
        Finished {
            status: ExitStatus::from_raw(0),
            output: output.to_vec(),
            complaint: String::new(),
            tap: Vec::new(),
            took: Duration::ZERO,
        }
    }

    #[test]
    fn the_status_and_the_headers_are_those_that_curl_wrote_behind_the_body() {
        let output = b"an\nanswer\n200\napplication/dns-message\n\n7\nmax-age=60, private\n";
        let (head, body, _) = read(finished(output)).unwrap();
        assert_eq!(body, b"an\nanswer");
        assert_eq!(judge(&head), Verdict::Answer { age: 7, fresh_for: Some(53) });
        let (head, _, _) = read(finished(b"\n503\n\n\n\n\n5")).unwrap();
        assert_eq!(judge(&head), Verdict::Busy { pause: Duration::from_secs(5) });
    }

    #[test]
    fn what_curl_would_not_write_is_no_answer() {
        for output in ["", "answer", "answer\n200\napplication/dns-message", "\n000\n\n\n\n\n", "\nhi\n\n\n\n\n"] {
            let read = read(finished(output.as_bytes()));
            assert_eq!(read.err(), Some(Cause::ResponseMalformed), "{output}");
        }
    }

    #[test]
    fn what_curl_is_to_write_is_what_is_read() {
        let expected = "\\n%{http_code}\\n%header{content-type}\\n%header{content-encoding}\\n%header{age}\\n%header{cache-control}\\n%header{retry-after}";
        assert_eq!(write_out(), expected);
    }

    #[test]
    fn failures_are_told_apart() {
        for (code, complaint, expected) in [
            (7, "curl: (7) Failed to connect", Cause::ConnectionRefused),
            (28, "curl: (28) Connection timed out", Cause::ConnectionTimedOut),
            (35, "curl: (35) tlsv1 alert protocol version", Cause::TlsHandshakeFailed),
            (35, "curl: (35) error:06880006:asn1 encoding routines::EVP lib", Cause::CertificateUnknownIssuer),
            (
                60,
                "SSL: no alternative certificate subject name matches target host name",
                Cause::CertificateNameMismatch,
            ),
            (60, "SSL certificate problem: unable to get local issuer certificate", Cause::CertificateUnknownIssuer),
            (60, "SSL certificate problem: self-signed certificate", Cause::CertificateUnknownIssuer),
            (60, "SSL certificate problem: certificate has expired", Cause::CertificateExpired),
            (60, "SSL certificate problem: certificate is not yet valid", Cause::CertificateNotYetValid),
            (60, "SSL certificate problem: unsuitable certificate purpose", Cause::CertificateInvalid),
            (90, "SSL: public key does not match pinned public key", Cause::CertificatePinMismatch),
            (52, "curl: (52) Empty reply from server", Cause::ConnectionClosed),
            (63, "curl: (63) Maximum file size exceeded", Cause::ResponseMalformed),
            (77, "curl: (77) error setting certificate file", Cause::ProgramFailed),
        ] {
            assert_eq!(cause(Some(code), complaint), expected, "{complaint}");
        }
        assert_eq!(cause(None, ""), Cause::ProgramFailed); // a signal
    }

    #[test]
    fn pins_are_written_as_curl_reads_them() {
        let pin = "sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
        let written = pinned(&[pin.parse().unwrap(), pin.parse().unwrap()]);
        let one = "sha256//47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
        assert_eq!(written, format!("{one};{one}"));
    }

    proptest! {
        #[test]
        fn an_answer_of_any_octets_is_found(message in prop::collection::vec(any::<u8>(), 0..2000)) {
            let output = [&*message, b"\n200\napplication/dns-message\n\n\n\n"].concat();
            prop_assert_eq!(read(finished(&output)).map(|(_, body, _)| body).ok(), Some(message));
        }
    }
}
