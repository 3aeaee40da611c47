//! Reaching a server over TLS, and making sure who it is (RFC 7858, RFC 8310 strict profile).

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use dot_proxy_config::{CaCertificates, Pin, TlsServer};
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, TicketRequest, WebPkiServerVerifier};
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::BufReader;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::cause::Cause;
use super::pins::Pinned;
use super::prompt::Prompt;
use super::verifier::By;

/// A server that has not answered TCP and TLS by then is tried no longer.
const TIMEOUT: Duration = Duration::from_secs(3);

/// A peer that acknowledges nothing of what was sent for so long is gone (RFC 5482). Without it the kernel goes on for a
/// quarter of an hour.
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);

/// What one read from the socket takes at most: the largest TLS record, or a hundred answers in records of their own.
const READ_BUFFER: usize = 16_384;

/// Sessions that are kept to be resumed: eight tickets each of eight server names (what rustls counts by).
const SESSIONS: usize = 64;

/// A connection on which the server has proved who it is.
pub type Connected = TlsStream<BufReader<Prompt>>;

/// Whom to trust, and how to prove who we are.
#[derive(Default)]
pub struct TlsSettings<'a> {
    /// CAs that may vouch for servers; without any, the public roots built in.
    pub ca: Option<&'a CaCertificates>,
    /// Public keys, one of which must stand in a server's verified chain; without any, every key will do.
    pub pins: &'a [Pin],
    /// What is shown to servers that ask who the client is.
    pub identity: Option<ClientIdentity>,
}

/// A client certificate and its private key.
pub struct ClientIdentity {
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

/// Which part of [`TlsSettings`] cannot be used, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsError {
    /// One of the CA certificates.
    Ca(String),
    /// The client certificate.
    Certificate(String),
    /// The client certificate's key. Nothing of the key stands in the text.
    Key(String),
}

/// What every connection to a group's servers shares: trust, identity, and session tickets.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ClientConfig>,
    /// The same, but each handshake is a full one.
    without_resumption: Arc<ClientConfig>,
    verifier: Arc<dyn ServerCertVerifier>,
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Ca(message) | Self::Certificate(message) | Self::Key(message)) = self;
        f.write_str(message)
    }
}

impl std::error::Error for TlsError {}

impl ClientIdentity {
    /// Reads a certificate, with its intermediates, and its private key (PKCS #8, SEC 1 or PKCS #1), both in PEM.
    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificate).collect();
        let certificates = certificates
            .map_err(|error| TlsError::Certificate(format!("is not readable as PEM certificates: {error}")))?;
        if certificates.is_empty() {
            return Err(TlsError::Certificate("holds no certificate in PEM (-----BEGIN CERTIFICATE-----)".to_owned()));
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| {
            TlsError::Key(match error {
                pem::Error::NoItemsFound => {
                    "holds no private key in PEM (-----BEGIN PRIVATE KEY-----); an encrypted one must be decrypted first"
                }
                _ => "is not readable as a private key in PEM",
            }.to_owned())
        })?;
        Ok(Self { certificates, key })
    }
}

impl Tls {
    /// Prepares connections; no network is touched.
    pub fn trusting(settings: TlsSettings<'_>) -> Result<Self, TlsError> {
        let roots = Arc::new(match settings.ca {
            Some(ca) => roots_of(ca).map_err(TlsError::Ca)?,
            None => RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() },
        });
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let chain = WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
            .build()
            .map_err(|error| TlsError::Ca(error.to_string()))?;
        let verifier: Arc<dyn ServerCertVerifier> = match settings.pins {
            [] => chain,
            pins => Arc::new(By(Pinned::new(pins, chain, &roots, provider.signature_verification_algorithms))),
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| TlsError::Ca(error.to_string()))?
            .dangerous() // the verifier above is rustls's own, or stricter
            .with_custom_certificate_verifier(Arc::clone(&verifier));
        let mut config = match settings.identity {
            Some(ClientIdentity { certificates, key }) => {
                builder.with_client_auth_cert(certificates, key).map_err(|error| identity_error(&error))?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"dot".to_vec()];
        // One ticket a connection is all that one connection at a time can use (RFC 9149).
        config.send_ticket_request = Some(TicketRequest { new_session_count: 1, resumption_count: 1 });
        config.resumption = Resumption::disabled();
        let without_resumption = Arc::new(config.clone());
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        Ok(Self { config: Arc::new(config), without_resumption, verifier })
    }

    /// The same trust and identity for another protocol than DNS over TLS, by its ALPN names if it has any. Its sessions are
    /// its own.
    pub fn speaking(&self, protocols: &[&[u8]]) -> Self {
        let mut config = ClientConfig::clone(&self.without_resumption);
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        let without_resumption = Arc::new(config.clone());
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        Self { config: Arc::new(config), without_resumption, verifier: Arc::clone(&self.verifier) }
    }

    /// The same with another verifier, which is made of this one.
    pub(super) fn verified_by<V: ServerCertVerifier + 'static>(
        &self,
        verifier: impl FnOnce(Arc<dyn ServerCertVerifier>) -> Arc<V>,
    ) -> Self {
        let verifier: Arc<dyn ServerCertVerifier> = verifier(Arc::clone(&self.verifier));
        let with_verifier = |config: &ClientConfig| {
            let mut config = config.clone();
            config.dangerous().set_certificate_verifier(Arc::clone(&verifier)); // it asks the one before it
            Arc::new(config)
        };
        Self {
            config: with_verifier(&self.config),
            without_resumption: with_verifier(&self.without_resumption),
            verifier,
        }
    }

    /// The configuration, for transports that shake hands by themselves.
    pub(super) fn config(&self) -> &Arc<ClientConfig> {
        &self.config
    }

    /// The same, but each handshake is a full one.
    pub(super) fn config_without_resumption(&self) -> &Arc<ClientConfig> {
        &self.without_resumption
    }

    /// Connects, shakes hands, and has the server prove its name.
    pub async fn connect(&self, server: &TlsServer) -> Result<Connected, Cause> {
        let connecting = async {
            let name = ServerName::try_from(server.name.as_str().to_owned()).map_err(io::Error::other)?;
            let stream = shake_hands(&self.config, server, &name).await?;
            if self.still_proved(&stream, &name) {
                return Ok(stream);
            }
            shake_hands(&self.without_resumption, server, &name).await
        };
        match tokio::time::timeout(TIMEOUT, connecting).await {
            Ok(connected) => connected.map_err(|error| Cause::of_connecting(&error)),
            Err(_) => Err(Cause::ConnectionTimedOut),
        }
    }

    /// Whether what the server once proved still holds. Resuming a session shows no certificate: one that has expired
    /// since must not live on in its tickets.
    fn still_proved(&self, stream: &Connected, name: &ServerName<'_>) -> bool {
        let (_, session) = stream.get_ref();
        if session.handshake_kind() != Some(HandshakeKind::Resumed) {
            return true; // proved just now
        }
        session.peer_certificates().is_some_and(|certificates| self.still_proves(certificates, name))
    }

    /// Whether these certificates, the server's own first, prove that name now.
    pub(super) fn still_proves(&self, certificates: &[CertificateDer<'_>], name: &ServerName<'_>) -> bool {
        match (certificates, self.config.time_provider.current_time()) {
            ([leaf, intermediates @ ..], Some(now)) => {
                self.verifier.verify_server_cert(leaf, intermediates, name, &[], now).is_ok()
            }
            _ => false,
        }
    }
}

async fn shake_hands(
    config: &Arc<ClientConfig>,
    server: &TlsServer,
    name: &ServerName<'static>,
) -> io::Result<Connected> {
    let buffered = BufReader::with_capacity(READ_BUFFER, Prompt::from(open(server.address).await?));
    TlsConnector::from(Arc::clone(config)).connect(name.clone(), buffered).await
}

/// A connection without TLS yet, whose failures are noticed in time.
pub(crate) async fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(&tcp).set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    Ok(tcp)
}

fn identity_error(error: &rustls::Error) -> TlsError {
    match error {
        rustls::Error::InconsistentKeys(_) => TlsError::Key("does not belong to the certificate".to_owned()),
        rustls::Error::InvalidCertificate(_) => TlsError::Certificate(error.to_string()),
        _ => TlsError::Key("is of no kind that can be used here: give an RSA, ECDSA or Ed25519 key".to_owned()),
    }
}

fn roots_of(ca: &CaCertificates) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for (index, certificate) in CertificateDer::pem_slice_iter(ca.as_pem().as_bytes()).enumerate() {
        let certificate = certificate.map_err(|error| error.to_string())?;
        roots.add(certificate).map_err(|error| format!("certificate {} cannot be a CA: {error}", index + 1))?;
    }
    Ok(roots)
}

#[cfg(test)]
mod tests;
