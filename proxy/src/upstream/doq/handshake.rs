//! QUIC's handshake, which is that of TLS 1.3 (RFC 9001), and who the server is.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dot_proxy_config::TlsServer;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, ConnectionError, Endpoint, IdleTimeout, TransportConfig};
use rustls::Error;
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls_pki_types::{CertificateDer, ServerName};

use super::super::cause::Cause;
use super::super::connect::Tls;
use super::super::verifier::{By, Judge, Shown};

/// QUIC gives a silent connection up so long after it would have been closed as idle, so that it is we who close it.
const BEYOND_IDLE: Duration = Duration::from_secs(5);

/// What the handshakes with one server share.
pub(super) struct Handshake {
    tls: Tls,
    verdict: Arc<By<Verdict>>,
}

/// A verifier that keeps why it refused a certificate: QUIC's own error tells an alert's number, and no more.
#[derive(Debug)]
struct Verdict {
    verifier: Arc<dyn ServerCertVerifier>,
    refused: Mutex<Option<Cause>>,
}

impl Handshake {
    /// Handshakes by this trust and identity.
    pub(super) fn with(tls: &Tls) -> Self {
        let mut kept = None;
        let tls = tls.speaking(&[b"doq"]).verified_by(|verifier| {
            let verdict = Arc::new(By(Verdict { verifier, refused: Mutex::new(None) }));
            kept = Some(Arc::clone(&verdict));
            verdict
        });
        Self { tls, verdict: kept.expect("it was made just now") }
    }

    /// Shakes hands, and has the server prove its name.
    pub(super) async fn with_server(
        &self,
        endpoint: &Endpoint,
        server: &TlsServer,
        idle: Duration,
    ) -> Result<quinn::Connection, Cause> {
        let connection = self.shake_hands(endpoint, server, idle, self.tls.config()).await?;
        if self.is_proved(&connection, server) {
            return Ok(connection);
        }
        self.shake_hands(endpoint, server, idle, self.tls.config_without_resumption()).await
    }

    async fn shake_hands(
        &self,
        endpoint: &Endpoint,
        server: &TlsServer,
        idle: Duration,
        tls: &Arc<rustls::ClientConfig>,
    ) -> Result<quinn::Connection, Cause> {
        self.verdict.0.take();
        let config = QuicClientConfig::try_from(Arc::clone(tls)).map_err(|_| Cause::TlsHandshakeFailed)?;
        let mut config = ClientConfig::new(Arc::new(config));
        let mut transport = TransportConfig::default();
        transport.max_idle_timeout(IdleTimeout::try_from(idle + BEYOND_IDLE).ok());
        // Nobody opens streams to us.
        transport.max_concurrent_bidi_streams(0_u8.into()).max_concurrent_uni_streams(0_u8.into());
        config.transport_config(Arc::new(transport));
        let connecting = endpoint.connect_with(config, server.address, server.name.as_str());
        let connecting = connecting.map_err(|_| Cause::NetworkUnreachable)?;
        connecting.await.map_err(|error| self.verdict.0.take().unwrap_or_else(|| cause_of(&error)))
    }

    /// Whether what the server once proved still holds: a session that was resumed shows no certificate, and one that has
    /// expired since must not live on in its tickets.
    fn is_proved(&self, connection: &quinn::Connection, server: &TlsServer) -> bool {
        let Ok(name) = ServerName::try_from(server.name.as_str()) else { return false };
        let identity = connection.peer_identity().and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
        identity.is_some_and(|certificates| self.tls.still_proves(&certificates, &name))
    }
}

fn cause_of(error: &ConnectionError) -> Cause {
    match error {
        ConnectionError::TimedOut => Cause::ConnectionTimedOut,
        // Crypto errors (RFC 9001 §4.8) stand for alerts.
        ConnectionError::TransportError(_)
        | ConnectionError::ConnectionClosed(_)
        | ConnectionError::VersionMismatch => Cause::TlsHandshakeFailed,
        _ => Cause::ConnectionClosed,
    }
}

impl Verdict {
    fn take(&self) -> Option<Cause> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Judge for Verdict {
    fn verifier(&self) -> &dyn ServerCertVerifier {
        &*self.verifier
    }

    fn judge(&self, shown: &Shown<'_>) -> Result<ServerCertVerified, Error> {
        shown.to(&*self.verifier).inspect_err(|error| {
            *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(Cause::of_tls(error));
        })
    }
}

#[cfg(test)]
mod tests;
