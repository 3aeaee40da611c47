//! Handshakes with real servers on loopback: rustls, and OpenSSL where it is installed.

use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::digest::{SHA256, digest};
use dot_proxy_config::Server;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, PublicKeyData, date_time_ymd};
use rustls::server::{Acceptor, WebPkiClientVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{NamedGroup, ProtocolVersion, ServerConfig};
use rustls_pki_types::UnixTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor};

use super::*;

const NAME: &str = "dns.test";

/// The end of the server's certificate, 2099-01-01, in seconds since 1970.
const LEAF_ENDS: u64 = 4_070_908_800;

type Issuer = CertifiedIssuer<'static, KeyPair>;

/// A root, an intermediate under it, and a server's certificate under that.
struct Chain {
    root: Issuer,
    intermediate: Issuer,
    leaf: CertificateDer<'static>,
    key: KeyPair,
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

impl Chain {
    fn new() -> Self {
        // A key so long that its encoding has a length of more than one octet.
        let root_key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P521_SHA512).unwrap();
        let root = Issuer::self_signed(authority("root"), root_key).unwrap();
        let intermediate = Issuer::signed_by(authority("middle"), KeyPair::generate().unwrap(), &root).unwrap();
        let mut params = CertificateParams::new([NAME.to_owned()]).unwrap();
        (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2099, 1, 1));
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &intermediate).unwrap().der().clone();
        Self { root, intermediate, leaf, key }
    }

    fn ca(&self) -> CaCertificates {
        self.root.pem().parse().unwrap()
    }

    fn sent(&self) -> Vec<CertificateDer<'static>> {
        vec![self.leaf.clone(), self.intermediate.der().clone()]
    }

    fn private_key(&self) -> PrivateKeyDer<'static> {
        self.key.serialize_der().try_into().unwrap()
    }

    /// A server that shows the leaf and the intermediate.
    fn server(&self) -> ServerConfig {
        self.server_speaking(rustls::DEFAULT_VERSIONS)
    }

    fn server_speaking(&self, versions: &[&'static rustls::SupportedProtocolVersion]) -> ServerConfig {
        server_builder(versions).with_no_client_auth().with_single_cert(self.sent(), self.private_key()).unwrap()
    }
}

fn server_builder(
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ServerConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap()
}

/// The pin of a key, from the encoding that rcgen makes of it.
fn pin(key: &impl PublicKeyData) -> Pin {
    let digest = digest(&SHA256, &key.subject_public_key_info());
    format!("sha256/{}", data_encoding::BASE64.encode(digest.as_ref())).parse().unwrap()
}

fn server_at(listener: &TcpListener) -> TlsServer {
    match format!("tls://{}#{NAME}", listener.local_addr().unwrap()).parse().unwrap() {
        Server::Tls(server) => server,
        other => panic!("{other}"),
    }
}

/// Serves until the test ends. Each client is sent one octet, before which its tickets come.
async fn serve(config: ServerConfig) -> TlsServer {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = server_at(&listener);
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            if let Ok(mut stream) = acceptor.accept(tcp).await {
                let _ = stream.write_all(b"!").await; // a client that refuses us reads nothing
                let _ = stream.flush().await;
            }
        }
    });
    server
}

/// Connects, and reads the server's octet. What the server thinks of a client certificate, TLS 1.3 tells only then.
async fn connect(tls: &Tls, server: &TlsServer) -> Result<Connected, Cause> {
    let mut stream = tls.connect(server).await?;
    stream.read_u8().await.map_err(|error| Cause::of_connecting(&error))?;
    Ok(stream)
}

fn trusting(chain: &Chain, pins: &[Pin]) -> Tls {
    Tls::trusting(TlsSettings { ca: Some(&chain.ca()), pins, identity: None }).unwrap()
}

fn kind(stream: &Connected) -> HandshakeKind {
    stream.get_ref().1.handshake_kind().unwrap()
}

#[tokio::test]
async fn the_client_offers_the_hybrid_key_exchange_first_the_protocol_dot_and_the_server_s_name() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = server_at(&listener);
    let client = tokio::spawn(async move { trusting(&Chain::new(), &[]).connect(&server).await.map(drop) });
    let (tcp, _) = listener.accept().await.unwrap();
    let started = LazyConfigAcceptor::new(Acceptor::default(), tcp).await.unwrap();
    let hello = started.client_hello();
    assert_eq!(hello.named_groups().unwrap()[0], NamedGroup::X25519MLKEM768);
    assert!(hello.named_groups().unwrap().contains(&NamedGroup::X25519));
    assert_eq!(hello.alpn().unwrap().collect::<Vec<_>>(), [b"dot"]);
    assert_eq!(hello.server_name(), Some(NAME));
    drop(started);
    assert!(client.await.unwrap().is_err());
}

#[tokio::test]
async fn tls_1_3_with_the_hybrid_key_exchange_is_what_comes_about_and_tls_1_2_is_taken_too() {
    let chain = Chain::new();
    let stream = connect(&trusting(&chain, &[]), &serve(chain.server()).await).await.unwrap();
    let session = stream.get_ref().1;
    assert_eq!(session.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    assert_eq!(session.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);

    let older = serve(chain.server_speaking(&[&rustls::version::TLS12])).await;
    let stream = connect(&trusting(&chain, &[]), &older).await.unwrap();
    assert_eq!(stream.get_ref().1.protocol_version(), Some(ProtocolVersion::TLSv1_2));
}

#[tokio::test]
async fn one_pinned_key_anywhere_in_the_verified_chain_will_do() {
    let chain = Chain::new();
    let server = serve(chain.server()).await;
    let unused = pin(&KeyPair::generate().unwrap());
    for pinned in [pin(&chain.key), pin(chain.intermediate.key()), pin(chain.root.key())] {
        assert!(connect(&trusting(&chain, &[unused, pinned]), &server).await.is_ok());
    }
}

#[tokio::test]
async fn without_a_pinned_key_in_the_chain_there_is_no_connection() {
    let chain = Chain::new();
    for versions in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let server = serve(chain.server_speaking(&[versions])).await;
        let tls = trusting(&chain, &[pin(&KeyPair::generate().unwrap())]);
        assert_eq!(connect(&tls, &server).await.err(), Some(Cause::CertificatePinMismatch));
    }
}

#[tokio::test]
async fn a_pinned_certificate_that_is_merely_sent_along_vouches_for_nobody() {
    let (chain, other) = (Chain::new(), Chain::new());
    let mut sent = chain.sent();
    sent.extend([other.leaf.clone(), other.intermediate.der().clone(), other.root.der().clone()]);
    let config = server_builder(rustls::DEFAULT_VERSIONS)
        .with_no_client_auth()
        .with_single_cert(sent, chain.private_key())
        .unwrap();
    let server = serve(config).await;
    for pinned in [pin(&other.key), pin(other.intermediate.key()), pin(other.root.key())] {
        let refused = connect(&trusting(&chain, &[pinned]), &server).await.err();
        assert_eq!(refused, Some(Cause::CertificatePinMismatch));
    }
}

#[tokio::test]
async fn a_pin_stands_in_for_neither_the_name_nor_the_ca() {
    let (chain, other) = (Chain::new(), Chain::new());
    let mut server = serve(chain.server()).await;
    let pins = [pin(&chain.key), pin(chain.intermediate.key())];
    assert_eq!(connect(&trusting(&other, &pins), &server).await.err(), Some(Cause::CertificateUnknownIssuer));
    server.name = "other.test".parse().unwrap();
    assert_eq!(connect(&trusting(&chain, &pins), &server).await.err(), Some(Cause::CertificateNameMismatch));
}

#[tokio::test]
async fn a_client_certificate_is_shown_to_a_server_that_asks_for_it() {
    let (chain, clients) = (Chain::new(), Chain::new());
    let mut trusted = RootCertStore::empty();
    trusted.add(clients.root.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    for versions in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let asking = WebPkiClientVerifier::builder_with_provider(Arc::new(trusted.clone()), Arc::clone(&provider));
        let config = server_builder(&[versions])
            .with_client_cert_verifier(asking.build().unwrap())
            .with_single_cert(chain.sent(), chain.private_key())
            .unwrap();
        let server = serve(config).await;
        let certificate = [clients.client_pem(), clients.intermediate.pem()].concat();
        let identity = ClientIdentity::from_pem(certificate.as_bytes(), clients.key.serialize_pem().as_bytes());
        let settings = TlsSettings { ca: Some(&chain.ca()), pins: &[], identity: Some(identity.unwrap()) };
        assert!(connect(&Tls::trusting(settings).unwrap(), &server).await.is_ok());
        assert_eq!(connect(&trusting(&chain, &[]), &server).await.err(), Some(Cause::TlsHandshakeFailed));
    }
}

impl Chain {
    /// A certificate for the leaf's key that is meant for clients.
    fn client_pem(&self) -> String {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        params.signed_by(&self.key, &self.intermediate).unwrap().pem()
    }
}

#[test]
fn what_cannot_be_a_client_s_identity_is_refused_without_repeating_the_key() {
    let (chain, other) = (Chain::new(), Chain::new());
    let (certificate, key) = (chain.client_pem(), other.key.serialize_pem());
    let used = |certificate: &str, key: &str| {
        let identity = ClientIdentity::from_pem(certificate.as_bytes(), key.as_bytes())?;
        Tls::trusting(TlsSettings { identity: Some(identity), ..TlsSettings::default() }).map(drop)
    };
    assert!(matches!(used("", &key), Err(TlsError::Certificate(why)) if why.contains("BEGIN CERTIFICATE")));
    assert!(matches!(used(&certificate, ""), Err(TlsError::Key(why)) if why.contains("BEGIN PRIVATE KEY")));
    assert!(matches!(used(&certificate, &key), Err(TlsError::Key(why)) if why.contains("does not belong")));
    let secret = "c2VjcmV0";
    for broken in [secret.to_owned(), format!("-----BEGIN PRIVATE KEY-----\n{secret}\n-----END PRIVATE KEY-----\n")] {
        assert!(matches!(used(&certificate, &broken), Err(TlsError::Key(why)) if !why.contains(secret)));
    }
}

#[tokio::test]
async fn a_session_is_resumed_when_the_connection_is_opened_again() {
    let chain = Chain::new();
    for versions in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let server = serve(chain.server_speaking(&[versions])).await;
        let tls = trusting(&chain, &[pin(&chain.key)]);
        for expected in [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed] {
            assert_eq!(kind(&connect(&tls, &server).await.unwrap()), expected);
        }
    }
}

#[derive(Debug)]
struct Clock(AtomicU64);

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0.load(Ordering::SeqCst))))
    }
}

#[tokio::test]
async fn a_certificate_that_has_expired_since_does_not_live_on_in_its_tickets() {
    let chain = Chain::new();
    for versions in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let server = serve(chain.server_speaking(&[versions])).await;
        let mut tls = trusting(&chain, &[]);
        let clock = Arc::new(Clock(AtomicU64::new(LEAF_ENDS - 60)));
        for config in [&mut tls.config, &mut tls.without_resumption] {
            Arc::get_mut(config).unwrap().time_provider = clock.clone();
        }
        for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
            assert_eq!(kind(&connect(&tls, &server).await.unwrap()), expected);
        }
        clock.0.store(LEAF_ENDS + 60, Ordering::SeqCst);
        assert_eq!(connect(&tls, &server).await.err(), Some(Cause::CertificateExpired));
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_accepts_and_says_nothing_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = server_at(&listener);
    assert_eq!(trusting(&Chain::new(), &[]).connect(&server).await.err(), Some(Cause::ConnectionTimedOut));
}

/// `openssl s_server` on a port of its own choice, stopped when dropped.
struct OpenSsl(std::process::Child, std::path::PathBuf);

impl OpenSsl {
    /// TLS 1.2 alone, and clients must show a certificate of this authority. `None` where OpenSSL is not installed.
    fn tls_1_2_asking(chain: &Chain, clients: &Issuer) -> Option<(Self, TlsServer)> {
        let folder = std::env::temp_dir().join(format!("dot-proxy-openssl-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let leaf = pem_of(&chain.leaf);
        for (file, pem) in [
            ("leaf.pem", leaf),
            ("chain.pem", chain.intermediate.pem()),
            ("key.pem", chain.key.serialize_pem()),
            ("clients.pem", clients.pem()),
        ] {
            std::fs::write(folder.join(file), pem).unwrap();
        }
        let arguments = "s_server -accept 127.0.0.1:0 -tls1_2 -alpn dot -cert leaf.pem -cert_chain chain.pem -key key.pem \
             -Verify 2 -verify_return_error -CAfile clients.pem";
        let started = std::process::Command::new("openssl")
            .args(arguments.split_whitespace())
            .current_dir(&folder)
            .stdin(std::process::Stdio::piped()) // its end would be the server's
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn();
        let mut server = Self(started.ok()?, folder);
        let output = io::BufReader::new(server.0.stdout.take().unwrap());
        let mut lines = io::BufRead::lines(output).map_while(Result::ok);
        let address = lines.find_map(|line| line.strip_prefix("ACCEPT ").map(str::to_owned)).unwrap();
        std::thread::spawn(move || lines.for_each(drop)); // a full pipe would stop the server
        let Ok(Server::Tls(url)) = format!("tls://{address}#{NAME}").parse() else { panic!("{address}") };
        Some((server, url))
    }
}

impl Drop for OpenSsl {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        let _ = std::fs::remove_dir_all(&self.1);
    }
}

fn pem_of(certificate: &CertificateDer<'_>) -> String {
    let base64 = data_encoding::BASE64.encode(certificate);
    format!("-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n")
}

#[tokio::test]
async fn openssl_with_tls_1_2_alone_sees_the_client_s_certificate_and_resumes() {
    let (chain, clients) = (Chain::new(), Chain::new());
    let Some((_running, server)) = OpenSsl::tls_1_2_asking(&chain, &clients.root) else {
        return; // not installed here
    };
    let anonymous = trusting(&chain, &[pin(&chain.key)]);
    assert_eq!(anonymous.connect(&server).await.err(), Some(Cause::TlsHandshakeFailed));

    let certificate = [clients.client_pem(), clients.intermediate.pem()].concat();
    let key = clients.key.serialize_pem();
    let identity = ClientIdentity::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap();
    let pins = [pin(&chain.key)];
    let settings = TlsSettings { ca: Some(&chain.ca()), pins: &pins, identity: Some(identity) };
    let tls = Tls::trusting(settings).unwrap();
    for expected in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let stream = tls.connect(&server).await.unwrap();
        let session = stream.get_ref().1;
        assert_eq!(
            (session.protocol_version(), session.alpn_protocol()),
            (Some(ProtocolVersion::TLSv1_2), Some(&b"dot"[..]))
        );
        assert_eq!(kind(&stream), expected);
    }
}
