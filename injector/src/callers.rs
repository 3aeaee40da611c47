//! Who may call, where a client CA is configured: the API server alone, by a certificate that this CA vouches for and, if
//! names are given, that carries one of them. Without one, anybody who reaches the port is answered.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::extensions::GeneralName;

/// Who may call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Callers {
    /// Certificates of the authorities that may vouch for a client, PEM.
    pub authorities: PathBuf,
    /// Names of which the client's certificate must carry one, as its common name or as a DNS name; any if there are none.
    pub names: Vec<String>,
}

/// Why a file of authorities cannot be used.
#[derive(Debug)]
pub struct CallersError(String);

impl fmt::Display for CallersError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CallersError {}

impl Callers {
    /// What checks a client's certificate.
    pub fn verifier(&self, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, CallersError> {
        let roots = roots(&self.authorities)?;
        let by_authority = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
            .build()
            .map_err(|error| self::error(&self.authorities, &error))?;
        Ok(Arc::new(Named { by_authority, names: self.names.clone() }))
    }
}

fn roots(file: &Path) -> Result<RootCertStore, CallersError> {
    let pem = fs::read(file).map_err(|reason| error(file, &reason))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|reason| error(file, &reason))?;
        roots.add(certificate).map_err(|reason| error(file, &reason))?;
    }
    if roots.is_empty() {
        return Err(error(file, &"holds no certificate in PEM"));
    }
    Ok(roots)
}

fn error(file: &Path, reason: &dyn fmt::Display) -> CallersError {
    CallersError(format!("--client-ca {}: {reason}", file.display()))
}

/// Checks the authority, then the name.
#[derive(Debug)]
struct Named {
    by_authority: Arc<dyn ClientCertVerifier>,
    names: Vec<String>,
}

impl Named {
    fn carries_a_name(&self, certificate: &CertificateDer<'_>) -> bool {
        let Ok((_, certificate)) = x509_parser::parse_x509_certificate(certificate) else { return false };
        let allowed = |name: &str| self.names.iter().any(|allowed| allowed == name);
        let mut common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
        let alternative = certificate.subject_alternative_name().ok().flatten();
        let mut names = alternative.iter().flat_map(|extension| &extension.value.general_names);
        common.any(allowed) || names.any(|name| matches!(name, GeneralName::DNSName(name) if allowed(name)))
    }
}

impl ClientCertVerifier for Named {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.by_authority.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.by_authority.verify_client_cert(end_entity, intermediates, now)?;
        if self.names.is_empty() || self.carries_a_name(end_entity) {
            return Ok(verified);
        }
        Err(CertificateError::NotValidForName.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.by_authority.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.by_authority.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.by_authority.supported_verify_schemes()
    }
}
