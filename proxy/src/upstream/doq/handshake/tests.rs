//! Handshakes with a real server on loopback.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use quinn::ServerConfig;
use quinn::crypto::rustls::QuicServerConfig;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::{DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::UnixTime;
use tokio::time::timeout;

use super::*;
use crate::upstream::connect::TlsSettings;
use crate::upstream::doq::socket;

const NAME: &str = "dns.test";
const IDLE: Duration = Duration::from_secs(10);

/// Counts the servers that showed that they have the key of their certificate: each full handshake has one, and none that
/// resumes a session has.
#[derive(Debug)]
struct Counting {
    verifier: Arc<dyn ServerCertVerifier>,
    full_handshakes: AtomicUsize,
    /// From now on no certificate proves anything.
    distrusts: AtomicBool,
}

impl ServerCertVerifier for Counting {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.distrusts.load(Ordering::SeqCst) {
            return Err(rustls::CertificateError::Expired.into());
        }
        self.verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.full_handshakes.fetch_add(1, Ordering::SeqCst);
        self.verifier.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

/// A server, how it is reached, and what is counted of the handshakes with it.
struct Scene {
    _server: Endpoint,
    server: TlsServer,
    client: Endpoint,
    handshake: Handshake,
    counting: Arc<Counting>,
}

impl Scene {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new([NAME.to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], key.serialize_der().try_into().unwrap())
            .unwrap();
        tls.alpn_protocols = vec![b"doq".to_vec()];
        let config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()));
        let server = Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
        let accepting = server.clone();
        tokio::spawn(async move {
            while let Some(incoming) = accepting.accept().await {
                tokio::spawn(async move {
                    if let Ok(connection) = incoming.await {
                        connection.closed().await;
                    }
                });
            }
        });
        let ca = authority.pem().parse().unwrap();
        let mut counting = None;
        let tls = Tls::trusting(TlsSettings { ca: Some(&ca), ..TlsSettings::default() }).unwrap();
        let tls = tls.verified_by(|verifier| {
            let (full_handshakes, distrusts) = Default::default();
            let made = Arc::new(Counting { verifier, full_handshakes, distrusts });
            counting = Some(Arc::clone(&made));
            made
        });
        Self {
            server: TlsServer { address: server.local_addr().unwrap(), name: NAME.parse().unwrap() },
            _server: server,
            client: socket::endpoint("127.0.0.1:0".parse().unwrap()).unwrap(),
            handshake: Handshake::with(&tls),
            counting: counting.unwrap(),
        }
    }

    async fn connect(&self) -> Result<quinn::Connection, Cause> {
        self.handshake.with_server(&self.client, &self.server, IDLE).await
    }

    /// Connects until that resumes a session: its ticket comes some time after the handshake.
    async fn resume(&self) -> quinn::Connection {
        let resuming = async {
            loop {
                let before = self.full_handshakes();
                let connection = self.connect().await.unwrap();
                if self.full_handshakes() == before {
                    return connection;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(IDLE, resuming).await.expect("no session was resumed")
    }

    fn full_handshakes(&self) -> usize {
        self.counting.full_handshakes.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn a_session_is_resumed_without_early_data() {
    let scene = Scene::new();
    scene.connect().await.unwrap();
    assert_eq!(scene.full_handshakes(), 1);
    scene.resume().await;
    assert!(!scene.handshake.tls.config().enable_early_data);
}

#[tokio::test]
async fn a_session_is_not_resumed_when_its_certificate_proves_nothing_any_more() {
    let scene = Scene::new();
    scene.resume().await;
    scene.counting.distrusts.store(true, Ordering::SeqCst);
    assert_eq!(scene.connect().await.err(), Some(Cause::CertificateExpired));
}
