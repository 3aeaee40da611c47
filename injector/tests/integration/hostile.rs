//! Clients that are not the API server, and mean harm: over real TLS, from an address of their own.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use dot_injector::callers::Callers;
use dot_injector::server::Limits;
use http_body_util::BodyExt as _;
use hyper::StatusCode;
use hyper::body::{Bytes, Frame};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::HandshakeKind;
use rustls_pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::admission::{ANNOTATED, asking};
use crate::api_server::ApiServer;
use crate::http::{Identity, Version, client, connect_from, secure, secure_by, send_tls};
use crate::injector::{Injector, post, review};

/// Where the attacks come from; the API server's place is 127.0.0.1.
const ATTACKER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 66);

/// What an admission may take while somebody attacks, on a machine that does a lot beside.
const SOON: Duration = Duration::from_secs(3);

/// Limits that a test does not have to wait for.
fn short() -> Limits {
    let soon = Duration::from_millis(200);
    Limits { head: soon, body: soon, room: soon, ..Limits::default() }
}

/// Opens TLS from the attacker's address.
async fn attack(injector: &Injector) -> TlsStream<TcpStream> {
    let stream = connect_from(ATTACKER, injector.address()).await;
    secure(stream, &injector.authority(), Version::One, None).await.unwrap()
}

/// The API server asks about a pod, and gets its answer soon.
async fn assert_that_admissions_go_on(injector: &Injector) {
    let began = Instant::now();
    let response = injector.review(ANNOTATED, "shop", &asking()).await;
    assert_eq!(response["allowed"], true, "{response}");
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
}

/// Reads until the other side has closed; whatever it says before.
async fn read_to_end(mut stream: impl tokio::io::AsyncRead + Unpin) -> String {
    let mut said = Vec::new();
    // A reset is an end, too.
    let _ = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut said)).await.expect("it is closed");
    String::from_utf8_lossy(&said).into_owned()
}

fn head(length: usize) -> String {
    format!(
        "POST {ANNOTATED} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
    )
}

#[tokio::test]
async fn who_speaks_no_tls_is_closed() {
    let injector = Injector::ready(&ApiServer::new()).await;
    for garbage in [b"GET / HTTP/1.1\r\n\r\n".to_vec(), vec![0xff; 100], b"\x16\x03\x01\x00\x05hello".to_vec()] {
        let mut stream = connect_from(ATTACKER, injector.address()).await;
        stream.write_all(&garbage).await.unwrap();
        read_to_end(stream).await;
    }
    injector.until_refused("tls-failed", 3).await;
    assert_that_admissions_go_on(&injector).await;
}

#[tokio::test]
async fn who_is_slow_is_given_up_at_every_step() {
    let injector = Injector::ready_with(&ApiServer::new(), None, short()).await;
    // Nothing, instead of a handshake.
    read_to_end(connect_from(ATTACKER, injector.address()).await).await;
    injector.until_refused("tls-slow", 1).await;
    // A handshake, and then nothing.
    read_to_end(attack(&injector).await).await;
    injector.until_refused("silent", 1).await;
    // A head without an end.
    let mut stream = attack(&injector).await;
    stream.write_all(b"POST / HTTP/1.1\r\nhost").await.unwrap();
    read_to_end(stream).await;
    // A body without an end.
    let mut stream = attack(&injector).await;
    stream.write_all(format!("{}{{", head(1000)).as_bytes()).await.unwrap();
    let said = read_to_end(stream).await;
    assert!(said.starts_with("HTTP/1.1 408"), "{said}");
    injector.until_refused("body-slow", 1).await;
    assert_that_admissions_go_on(&injector).await;
}

#[tokio::test]
async fn heads_and_bodies_beyond_the_limit_are_refused_before_they_are_kept() {
    let injector = Injector::ready(&ApiServer::new()).await;
    // Told beforehand: not a byte of it is read.
    let mut stream = attack(&injector).await;
    stream.write_all(head(1 << 30).as_bytes()).await.unwrap();
    let mut said = [0; 12];
    stream.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"HTTP/1.1 413");
    // Not told: what is read is counted.
    let chunks = (0..64).map(|_| Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from(vec![b' '; 64 << 10]))));
    let body = http_body_util::StreamBody::new(futures_util::stream::iter(chunks)).boxed();
    let stream = connect_from(ATTACKER, injector.address()).await;
    let stream = secure(stream, &injector.authority(), Version::Two, None).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = post(ANNOTATED, "").map(|_| body);
    assert_eq!(sender.send_request(request).await.unwrap().status(), StatusCode::PAYLOAD_TOO_LARGE);
    injector.until_refused("body-too-long", 2).await;
    // A head of 100 KB.
    let mut stream = attack(&injector).await;
    let _ = stream.write_all(format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(100 << 10)).as_bytes()).await;
    assert!(!read_to_end(stream).await.starts_with("HTTP/1.1 2"));
    injector.until_refused("head-too-long", 1).await;
    assert_that_admissions_go_on(&injector).await;
}

#[tokio::test]
async fn a_flood_of_connections_costs_the_one_who_floods_its_own() {
    let injector = Injector::ready(&ApiServer::new()).await;
    let limits = Limits::default();
    let mut idle = Vec::new();
    for _ in 0..limits.connections_of_one + 50 {
        idle.push(connect_from(ATTACKER, injector.address()).await);
        if idle.len() % 50 == 0 {
            assert_that_admissions_go_on(&injector).await;
        }
    }
    injector.until_refused("evicted", 50).await;
    assert_that_admissions_go_on(&injector).await;
    assert_eq!(injector.refused("too-many-connections").await, 0);
}

#[tokio::test]
async fn a_flood_of_reviews_leaves_room_for_the_api_server() {
    let limits = Limits { body: Duration::from_secs(10), room: Duration::from_millis(200), ..Limits::default() };
    let (most_of_one, most) = (limits.reviews_of_one, limits.reviews);
    let injector = Injector::ready_with(&ApiServer::new(), None, limits).await;
    // Each takes a place in memory, and keeps it.
    let mut holding = Vec::new();
    for _ in 0..most {
        let mut stream = attack(&injector).await;
        stream.write_all(format!("{}{{", head(1000)).as_bytes()).await.unwrap();
        holding.push(stream);
    }
    // Those beyond its share are told to come again.
    injector.until_refused("busy", u64::try_from(most - most_of_one).unwrap()).await;
    let mut told = attack(&injector).await;
    told.write_all(head(1000).as_bytes()).await.unwrap();
    let mut said = vec![0; 200];
    let length = told.read(&mut said).await.unwrap();
    let said = String::from_utf8_lossy(&said[..length]).to_lowercase();
    assert!(said.starts_with("http/1.1 503") && said.contains("retry-after: 1"), "{said}");
    assert_that_admissions_go_on(&injector).await;
    drop(holding);
}

/// An authority for clients, its certificate in a file.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    file: PathBuf,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.self_signed(&key).unwrap();
        let file = std::env::temp_dir().join(format!("dot-injector-{}-{name}.pem", std::process::id()));
        std::fs::write(&file, certificate.pem()).unwrap();
        Self { issuer: Issuer::new(params, key), file }
    }

    /// A client's certificate with this common name.
    fn vouches_for(&self, name: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

/// Asks about a pod with this identity; the status, if anything was answered at all.
async fn ask_as(address: SocketAddr, authority: &str, identity: Option<Identity>) -> Option<StatusCode> {
    let stream = TcpStream::connect(address).await.unwrap();
    let mut stream = secure(stream, authority, Version::One, identity).await.ok()?;
    // In TLS 1.3 the client is done before its certificate has been looked at.
    let body = review("shop", &asking()).to_string();
    stream.write_all(format!("{}{body}", head(body.len())).as_bytes()).await.ok()?;
    let mut said = [0; 12];
    stream.read_exact(&mut said).await.ok()?;
    StatusCode::from_bytes(&said[9..]).ok()
}

#[tokio::test]
async fn with_a_client_ca_the_api_server_alone_is_served() {
    let (authority, other) = (Authority::new("clients"), Authority::new("others"));
    let callers = Callers { authorities: authority.file.clone(), names: vec!["kube-apiserver".to_owned()] };
    let injector = Injector::ready_with(&ApiServer::new(), Some(callers), Limits::default()).await;
    let (address, served_by) = (injector.address(), injector.authority());
    for (refused, identity) in [
        ("no certificate", None),
        ("another authority", Some(other.vouches_for("kube-apiserver"))),
        ("another name", Some(authority.vouches_for("system:node:worker"))),
    ] {
        assert_eq!(ask_as(address, &served_by, identity).await, None, "{refused}");
    }
    injector.until_refused("client-certificate", 3).await;
    let identity = authority.vouches_for("kube-apiserver");
    assert_eq!(ask_as(address, &served_by, Some(identity)).await, Some(StatusCode::OK));
    // The kubelet's probes and Prometheus have no certificate, and need none.
    assert_eq!(injector.admin("/readyz").await.status(), StatusCode::OK);
    injector.stop().await;
}

#[tokio::test]
async fn a_session_is_not_resumed_where_certificates_are_asked_for() {
    let authority = Authority::new("resumption");
    let callers = Callers { authorities: authority.file.clone(), names: Vec::new() };
    for (callers, second) in [(None, HandshakeKind::Resumed), (Some(callers), HandshakeKind::Full)] {
        let injector = Injector::ready_with(&ApiServer::new(), callers, Limits::default()).await;
        let client = client(&injector.authority(), Version::One, Some(authority.vouches_for("anybody")));
        for expected in [HandshakeKind::Full, second] {
            let stream = TcpStream::connect(injector.address()).await.unwrap();
            let stream = secure_by(&client, stream).await.unwrap();
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(expected));
            let answer = send_tls(stream, Version::One, post(ANNOTATED, review("shop", &asking()).to_string())).await;
            assert_eq!(answer.status(), StatusCode::OK);
        }
    }
}
