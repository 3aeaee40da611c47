//! Servers asked by curl and kdig, as Debian installs them: what they get of a name, whom they believe, and that no process
//! is left behind.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use data_encoding::BASE64;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::authority::{Authority, LAST_YEAR, NAME};
use crate::client::{ask, ask_this, extended_error, message};
use crate::proxy::{Proxy, Written};
use crate::server::{Server, unused_address};
use crate::unbound::Unbound;
use crate::wait::until;

/// The programs, each with the scheme of the servers it asks.
const PROGRAMS: [(&str, &str); 2] = [("curl", "https"), ("kdig", "tls")];

/// Labels that could be taken for options, for more than one argument, or for something else by who reads carelessly.
const HOSTILE: &[&[u8]] = &[
    b"-h",
    b"--config",
    b"-K/etc/passwd",
    b"+noall",
    b"@192.0.2.1",
    b"a b",
    b"a\tb",
    b"a\nb",
    b"\0",
    b"a\0b",
    b"\\",
    b"\\000",
    b"$(id)",
    b"`id`",
    b";id",
    b"'",
    b"\"",
    b"%s%n",
    b"*",
    b"\xff\xfe",
    b"a.b",
    b"xn--nxasmq6b",
    "ü".as_bytes(),
    b"WwW",
];

fn proxy(program: &str, url: &str, authority: &Authority, more: &str) -> Proxy {
    let protocol = format!("protocol: {program}");
    Proxy::written(&[url], authority, &Written { upstream: &protocol, more, ..Written::default() })
}

/// What a server on loopback does with who has shaken hands.
#[derive(Clone, Copy)]
enum Then {
    /// Says this, in HTTP/1.1, once a request was read.
    Say(&'static str),
    /// Nothing, for ever.
    Hang,
}

/// A TLS server of the test's own, and how many octets it was sent by who had shaken hands.
struct Fake {
    address: SocketAddr,
    heard: Arc<AtomicUsize>,
}

impl Fake {
    async fn with(acceptor: TlsAcceptor, then: Then) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, heard) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&heard);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, count) = (acceptor.clone(), Arc::clone(&count));
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let mut buffer = [0; 4096];
                    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                        count.fetch_add(length, Ordering::SeqCst);
                        match then {
                            Then::Say(text) if stream.write_all(text.as_bytes()).await.is_err() => return,
                            Then::Say(_) | Then::Hang => {}
                        }
                    }
                });
            }
        });
        Self { address, heard }
    }

    fn url(&self, scheme: &str) -> String {
        let path = if scheme == "https" { "/dns-query" } else { "" };
        format!("{scheme}://{}{path}#{NAME}", self.address)
    }
}

/// A server's TLS with a certificate that vouches for itself.
fn self_signed() -> TlsAcceptor {
    let pair = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![pair.cert.der().clone()], pair.signing_key.serialize_der().try_into().unwrap())
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

async fn told(proxy: &Proxy) -> String {
    let reply = ask(proxy.address, "www.example.com.").await;
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail, "{reply}");
    extended_error(&reply)
}

#[tokio::test]
async fn who_is_not_the_right_server_gets_no_query() {
    let authority = Authority::new();
    for (acceptor, cause) in [
        (authority.acceptor("other.test", LAST_YEAR), "certificate-name-mismatch"),
        (authority.acceptor(NAME, 2021), "certificate-expired"),
        (Authority::new().acceptor(NAME, LAST_YEAR), "certificate-unknown-issuer"),
        (self_signed(), "certificate-unknown-issuer"),
    ] {
        let server = Fake::with(acceptor, Then::Hang).await;
        for (program, scheme) in PROGRAMS {
            let url = server.url(scheme);
            let proxy = proxy(program, &url, &authority, "");
            assert_eq!(told(&proxy).await, format!("{cause} at {url}"), "{program}");
            assert!(proxy.failures(&url, cause).await >= 1);
            assert_eq!(server.heard.load(Ordering::SeqCst), 0, "{program}, {cause}");
        }
    }
}

#[tokio::test]
async fn curl_takes_nothing_but_a_dns_message_and_follows_no_redirect() {
    let authority = Authority::new();
    let target = Fake::with(authority.acceptor(NAME, LAST_YEAR), Then::Hang).await;
    let elsewhere: &'static str = format!(
        "HTTP/1.1 307 Temporary Redirect\r\nLocation: https://{NAME}:{}/dns-query\r\nContent-Type: application/dns-message\r\nContent-Length: 0\r\n\r\n",
        target.address.port()
    )
    .leak();
    for answer in [
        elsewhere,
        "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 404 Not Found\r\nContent-Type: application/dns-message\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Type: application/dns-message\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Type: application/dns-message\r\nContent-Length: 1000000\r\n\r\nhello",
    ] {
        let server = Fake::with(authority.acceptor(NAME, LAST_YEAR), Then::Say(answer)).await;
        let url = server.url("https");
        let proxy = proxy("curl", &url, &authority, "");
        let text = told(&proxy).await;
        assert!(text.ends_with(&url) && !text.starts_with("query-timed-out"), "{text} after {answer}");
        assert!(server.heard.load(Ordering::SeqCst) > 0);
    }
    assert_eq!(target.heard.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn names_are_asked_as_they_are_whatever_they_look_like() {
    let authority = Authority::new();
    let zone = "$ORIGIN example.com.\n$TTL 300\n@ SOA ns hostmaster 1 2 3 4 300\n@ NS ns\n* TXT \"wild\"\n";
    let resolver = Unbound::serving("example.com.", zone, &authority).await;
    for (program, url) in [("curl", resolver.https_url()), ("kdig", resolver.url())] {
        let proxy = proxy(program, &url, &authority, "");
        for label in HOSTILE {
            let name = Name::from_labels([label, b"example".as_slice(), b"com"]).unwrap();
            let mut query = message(7, "example.com.", RecordType::TXT);
            query.queries[0].set_name(name.clone());
            let reply = ask_this(proxy.address, &query).await;
            assert_eq!(reply.metadata.response_code, ResponseCode::NoError, "{program} {name}: {reply}");
            assert!(reply.queries[0].name().eq_case(&name), "{program} {name}: {reply}");
            assert_eq!(reply.answers.len(), 1, "{program} {name}: {reply}");
        }
        assert_eq!(proxy.total("dot_proxy_upstream_failures_total").await, 0);
    }
}

#[tokio::test]
async fn curl_asks_by_get_where_that_is_configured() {
    let authority = Authority::new();
    let zone = "$ORIGIN example.com.\n$TTL 300\n@ SOA ns hostmaster 1 2 3 4 300\n@ NS ns\n* A 192.0.2.7\n";
    let resolver = Unbound::serving("example.com.", zone, &authority).await;
    let written = Written { upstream: "protocol: curl, httpMethod: get", ..Written::default() };
    let proxy = Proxy::written(&[&resolver.https_url()], &authority, &written);
    assert_eq!(ask(proxy.address, "www.example.com.").await.answers.len(), 1);
}

#[tokio::test]
async fn kdig_asks_with_the_flags_that_were_asked_and_padded() {
    let authority = Authority::new();
    let server = Server::tls(&authority).await;
    let proxy = proxy("kdig", &server.url(), &authority, "");
    for (index, (recursion, checking_disabled, dnssec)) in
        [(true, false, false), (true, true, true), (true, false, true)].into_iter().enumerate()
    {
        let mut query = message(7, &format!("flags{index}.example.com."), RecordType::A);
        query.metadata.recursion_desired = recursion;
        query.metadata.checking_disabled = checking_disabled;
        query.edns.as_mut().unwrap().set_dnssec_ok(dnssec);
        ask_this(proxy.address, &query).await;
        let bytes = server.queries().pop().unwrap();
        assert_eq!(bytes.len() % 128, 0);
        let sent = Message::from_vec(&bytes).unwrap();
        let flags = &sent.metadata;
        assert_eq!(
            (
                flags.recursion_desired,
                flags.checking_disabled,
                flags.authentic_data,
                sent.edns.unwrap().flags().dnssec_ok
            ),
            (recursion, checking_disabled, true, dnssec)
        );
    }
}

#[tokio::test]
async fn a_process_that_hangs_is_killed_at_the_deadline_and_none_is_left() {
    let authority = Authority::new();
    for (program, scheme) in PROGRAMS {
        let server = Fake::with(authority.acceptor(NAME, LAST_YEAR), Then::Hang).await;
        let url = server.url(scheme);
        let proxy = proxy(program, &url, &authority, "query: {deadlineMilliseconds: 1500}");
        let asking = (0..20).map(|index| {
            let address = proxy.address;
            tokio::spawn(async move { ask(address, &format!("n{index}.example.com.")).await })
        });
        let port = server.address.port().to_string();
        let asking: Vec<_> = asking.collect();
        until("a process runs", async || !processes_with(&port).is_empty()).await;
        for reply in asking {
            assert_eq!(extended_error(&reply.await.unwrap()), format!("query-timed-out at {url}"));
        }
        until("no process is left", async || processes_with(&port).is_empty()).await;
    }
}

/// The children of this process with such text in an argument. One that was not reaped has no arguments, but is there.
fn processes_with(text: &str) -> Vec<String> {
    let is_of_ours = |status: &str| status.lines().any(|line| line == format!("PPid:\t{}", std::process::id()));
    let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok).filter_map(|entry| {
        let status = fs::read_to_string(entry.path().join("status")).ok()?;
        let arguments = fs::read_to_string(entry.path().join("cmdline")).ok()?;
        (is_of_ours(&status) && arguments.contains(text)).then_some(arguments)
    });
    processes.collect()
}

#[tokio::test]
async fn no_version_of_tls_before_1_2_is_offered() {
    for (program, scheme) in PROGRAMS {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let path = if scheme == "https" { "/dns-query" } else { "" };
        let url = format!("{scheme}://{}{path}#{NAME}", listener.local_addr().unwrap());
        let proxy = proxy(program, &url, &Authority::new(), "");
        let asking = tokio::spawn(async move { ask(proxy.address, "www.example.com.").await });
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = [0; 5];
        stream.read_exact(&mut head).await.unwrap();
        let mut hello = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
        stream.read_exact(&mut hello).await.unwrap();
        // The extension supported_versions (RFC 8446 §4.2.1) with TLS 1.3 and 1.2, and no more.
        let versions: &[u8] = &[0, 0x2b, 0, 5, 4, 3, 4, 3, 3];
        assert!(hello.windows(versions.len()).any(|window| window == versions), "{program}: {hello:02x?}");
        drop((stream, listener));
        asking.await.unwrap();
    }
}

#[tokio::test]
async fn a_server_that_is_away_is_told_from_one_that_cannot_be_believed() {
    let authority = Authority::new();
    let address = unused_address();
    for (program, url) in
        [("curl", format!("https://{address}/dns-query#{NAME}")), ("kdig", format!("tls://{address}#{NAME}"))]
    {
        assert_eq!(told(&proxy(program, &url, &authority, "")).await, format!("connection-refused at {url}"));
    }
}

#[tokio::test]
async fn curl_believes_a_server_only_with_a_pinned_key() {
    let authority = Authority::new();
    let server = Fake::with(authority.acceptor(NAME, LAST_YEAR), Then::Hang).await;
    let pin = BASE64.encode(&[7; 32]);
    let upstream = format!("protocol: curl, pins: [\"sha256/{pin}\"]");
    let proxy =
        Proxy::written(&[&server.url("https")], &authority, &Written { upstream: &upstream, ..Written::default() });
    assert_eq!(told(&proxy).await, format!("certificate-pin-mismatch at {}", server.url("https")));
    assert_eq!(server.heard.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_client_certificate_is_shown_to_a_server_that_asks_for_it() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let server = Fake::with(asking_for_certificates_of(&clients, &authority), Then::Hang).await;
    let (certificate, key) = clients.certificate("client.test", LAST_YEAR);
    let directory = std::env::temp_dir().join(format!("dot-proxy-identity-{}", std::process::id()));
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("certificate.pem"), certificate.pem()).unwrap();
    fs::write(directory.join("key.pem"), key.serialize_pem()).unwrap();
    let mut heard = 0;
    for (program, scheme) in PROGRAMS {
        let files = directory.display();
        let identity = format!("{{certificateFile: {files}/certificate.pem, keyFile: {files}/key.pem}}");
        let upstream = format!("protocol: {program}, clientCertificate: {identity}");
        let more = "query: {deadlineMilliseconds: 2000}";
        let written = Written { upstream: &upstream, more, ..Written::default() };
        told(&Proxy::written(&[&server.url(scheme)], &authority, &written)).await;
        let (before, now) = (heard, server.heard.load(Ordering::SeqCst));
        assert!(now > before, "{program} was not let in");
        heard = now;
        told(&proxy(program, &server.url(scheme), &authority, more)).await; // without one
        assert_eq!(server.heard.load(Ordering::SeqCst), heard, "{program}");
    }
    fs::remove_dir_all(&directory).unwrap();
}

/// A server's TLS that lets in only who shows a certificate of this authority.
fn asking_for_certificates_of(clients: &Authority, authority: &Authority) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(clients.pem().as_bytes()).unwrap()).unwrap();
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider));
    let (certificate, key) = authority.certificate(NAME, LAST_YEAR);
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(vec![certificate.der().clone()], key.serialize_der().try_into().unwrap())
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

#[test]
fn a_program_that_is_missing_is_said_at_start_with_its_package() {
    for (stub, package) in [("curl", "Debian's package curl"), ("kdig", "Debian's package knot-dnsutils")] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dot-proxy"));
        let output =
            command.env("PATH", "/nonexistent").args(["query", "--stub", stub, "www.example.com"]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains("upstream.protocol") && text.contains(package), "{text}");
    }
}

#[test]
fn pins_are_refused_with_kdig_which_would_not_hold_the_server_to_them() {
    let file = std::env::temp_dir().join(format!("dot-proxy-pins-{}.yaml", std::process::id()));
    let pin = BASE64.encode(&[7; 32]);
    fs::write(&file, format!("upstream: {{protocol: kdig, pins: [\"sha256/{pin}\"]}}")).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_dot-proxy")).arg("check-config").arg(&file).output().unwrap();
    fs::remove_file(&file).unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("upstream.protocol: kdig") && text.contains("upstream.pins"), "{text}");
}

#[tokio::test]
async fn a_program_stands_side_by_side_with_other_transports() {
    let authority = Authority::new();
    let zone = "$ORIGIN example.com.\n$TTL 300\n@ SOA ns hostmaster 1 2 3 4 300\n@ NS ns\n* A 192.0.2.7\n";
    let resolver = Unbound::serving("example.com.", zone, &authority).await;
    // curl takes the servers of DNS over HTTPS, and the proxy itself those of DNS over TLS.
    let written = Written { upstream: "protocol: curl, strategy: round-robin", ..Written::default() };
    let proxy = Proxy::written(&[&resolver.https_url(), &resolver.url()], &authority, &written);
    for index in 0..8 {
        let reply = ask(proxy.address, &format!("side{index}.example.com.")).await;
        assert_eq!(reply.answers.len(), 1, "{reply}");
    }
    for url in [resolver.https_url(), resolver.url()] {
        let asked =
            proxy.metric(&format!("dot_proxy_upstream_queries_total{{group=\"upstream\",server=\"{url}\"}}")).await;
        assert!(asked >= 1, "{url}");
    }
    tokio::time::timeout(Duration::from_secs(10), proxy.stop()).await.unwrap();
}
