//! A certification authority of the test's own, and the certificates that it signs.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rcgen::{BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::server::WebPkiClientVerifier;
use tokio_rustls::TlsAcceptor;

/// The name in the servers' certificates.
pub const NAME: &str = "dns.test";

/// The year until which certificates are valid, unless a test wants another.
pub const LAST_YEAR: i32 = 2099;

pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// Files of a client's certificate and key.
pub struct ClientFiles {
    directory: PathBuf,
}

impl ClientFiles {
    /// The fields of `upstream` that name them.
    pub fn written(&self) -> String {
        let directory = self.directory.display();
        format!("clientCertificate: {{certificateFile: {directory}/client.pem, keyFile: {directory}/client.key}}")
    }
}

impl Drop for ClientFiles {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A server's certificate for this name, valid until this year, and its key.
    pub fn certificate(&self, name: &str, last_year: i32) -> (Certificate, KeyPair) {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        // Of a certificate with its issuer's own name OpenSSL thinks that it vouches for itself.
        params.distinguished_name.push(DnType::CommonName, name);
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(last_year, 1, 1);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// What identifies a client: files of its certificate and its key, which go with the value.
    pub fn client_files(&self) -> ClientFiles {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("dot-proxy-client-{}-{count}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let (certificate, key) = self.certificate("client.test", LAST_YEAR);
        std::fs::write(directory.join("client.pem"), certificate.pem()).unwrap();
        std::fs::write(directory.join("client.key"), key.serialize_pem()).unwrap();
        ClientFiles { directory }
    }

    /// TLS of a server that speaks these protocols, and only with clients that have a certificate of this authority.
    pub fn tls_for_known_clients(&self, protocols: &[&str]) -> rustls::ServerConfig {
        let (certificate, key) = self.certificate(NAME, LAST_YEAR);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let known =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap();
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(known)
            .with_single_cert(vec![certificate.der().clone()], key.serialize_der().try_into().unwrap())
            .unwrap();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }

    /// A server's TLS with such a certificate.
    pub fn acceptor(&self, name: &str, last_year: i32) -> TlsAcceptor {
        TlsAcceptor::from(Arc::new(self.tls(name, last_year, &[])))
    }

    /// The same for servers that speak these protocols, by their ALPN names.
    pub fn tls(&self, name: &str, last_year: i32, protocols: &[&str]) -> rustls::ServerConfig {
        let (certificate, key) = self.certificate(name, last_year);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key.serialize_der().try_into().unwrap())
            .unwrap();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }
}
