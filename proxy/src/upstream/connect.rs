//! Reaching a server over TLS, and making sure who it is (RFC 7858, RFC 8310 strict profile).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use dot_proxy_config::{CaCertificates, TlsServer};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::cause::Cause;

/// A server that has not answered TCP and TLS by then is tried no longer.
const TIMEOUT: Duration = Duration::from_secs(3);

/// What every connection to a group's servers shares: trust, and session tickets.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ClientConfig>,
}

impl Tls {
    /// Trusts these CAs, or, without any, the public roots built in. The error names the certificate that is no CA.
    pub fn trusting(ca: Option<&CaCertificates>) -> Result<Self, String> {
        let roots = match ca {
            Some(ca) => roots_of(ca)?,
            None => RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() },
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"dot".to_vec()];
        Ok(Self { config: Arc::new(config) })
    }

    /// Connects, shakes hands, and has the server prove its name.
    pub async fn connect(&self, server: &TlsServer) -> Result<TlsStream<TcpStream>, Cause> {
        let connecting = async {
            let name = ServerName::try_from(server.name.as_str().to_owned()).map_err(io::Error::other)?;
            let tcp = TcpStream::connect(server.address).await?;
            tcp.set_nodelay(true)?;
            TlsConnector::from(Arc::clone(&self.config)).connect(name, tcp).await
        };
        match tokio::time::timeout(TIMEOUT, connecting).await {
            Ok(connected) => connected.map_err(|error| Cause::of_connecting(&error)),
            Err(_) => Err(Cause::ConnectionTimedOut),
        }
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
