//! The certificate that is served, checked as the API server will check it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use super::authority::{Authorities, Authority};
use super::{CertificateError, Validity, certificates, failed};

/// A certificate with its key, and the authority that vouches for it.
#[derive(Clone)]
pub(super) struct Leaf {
    /// `tls.crt`, PEM.
    certificate: String,
    /// `tls.key`, PEM. Secret.
    key: String,
    /// What TLS serves.
    certified: Arc<CertifiedKey>,
    issuer: Authority,
    validity: Validity,
}

impl std::fmt::Debug for Leaf {
    /// Never the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leaf").field("validity", &self.validity).finish_non_exhaustive()
    }
}

impl PartialEq for Leaf {
    fn eq(&self, other: &Self) -> bool {
        (&self.certificate, &self.key) == (&other.certificate, &other.key)
    }
}

impl Leaf {
    /// Reads `tls.crt` and `tls.key`: they belong together, and one of `authorities` vouches for them.
    pub(super) fn read(tls_crt: &str, tls_key: &str, authorities: &Authorities) -> Result<Self, CertificateError> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let chain: Vec<CertificateDer<'static>> = certificates("tls.crt", tls_crt)?;
        let validity = Validity::of(&chain[0])?;
        let parsed = ParsedCertificate::try_from(&chain[0])
            .map_err(|error| CertificateError(format!("tls.crt: no certificate: {error}")))?;
        let algorithms = provider.signature_verification_algorithms.all;
        // At a time when it was valid: what it is worth now is asked on and on.
        let at = validity.made().duration_since(SystemTime::UNIX_EPOCH).map_err(failed)?;
        let at = UnixTime::since_unix_epoch(at.saturating_sub(Duration::from_secs(1)));
        let vouches = |authority: &&Authority| {
            Authorities::roots(authority).is_ok_and(|roots| {
                verify_server_cert_signed_by_trust_anchor(&parsed, &roots, &chain[1..], at, algorithms).is_ok()
            })
        };
        let issuer = authorities.all().iter().find(vouches).cloned();
        let issuer = issuer.ok_or_else(|| failed("tls.crt: no authority of ca.crt vouches for it"))?;
        let wrong = |error: String| CertificateError(format!("tls.key: {error}"));
        let key = PrivateKeyDer::from_pem_slice(tls_key.as_bytes()).map_err(|error| wrong(error.to_string()))?;
        let certified = CertifiedKey::from_der(chain, key, &provider).map_err(|error| wrong(error.to_string()))?;
        Ok(Self {
            certificate: tls_crt.to_owned(),
            key: tls_key.to_owned(),
            certified: Arc::new(certified),
            issuer,
            validity,
        })
    }

    /// Whether the API server accepts it now under this name, if it trusts the issuer.
    pub(super) fn check(&self, name: &str, now: SystemTime) -> Result<(), CertificateError> {
        self.check_time(now)?;
        let parsed = ParsedCertificate::try_from(&self.certified.cert[0]).map_err(failed)?;
        let server = ServerName::try_from(name).map_err(failed)?;
        verify_server_name(&parsed, &server)
            .map_err(|_| CertificateError(format!("tls.crt: it is not for the name {name}")))
    }

    /// Whether it is valid now, and all that vouch for it are.
    pub(super) fn check_time(&self, now: SystemTime) -> Result<(), CertificateError> {
        self.validity.check("the certificate", now)?;
        for intermediate in &self.certified.cert[1..] {
            Validity::of(intermediate)?.check("an intermediate certificate", now)?;
        }
        self.issuer.validity.check("the certificate's authority", now)
    }

    pub(super) fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }

    pub(super) fn issuer(&self) -> &Authority {
        &self.issuer
    }

    pub(super) fn validity(&self) -> Validity {
        self.validity
    }

    pub(super) fn certificate_pem(&self) -> &str {
        &self.certificate
    }

    pub(super) fn key_pem(&self) -> &str {
        &self.key
    }
}
