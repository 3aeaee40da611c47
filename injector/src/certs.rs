//! The webhook's certificates: an authority of the injector's own, and the leaf that it serves.
//!
//! They live in a Secret that all replicas share; [`Keeper`] makes and renews it, and tells the API server whom to trust.

mod keeper;
mod served;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use time::OffsetDateTime;

pub(crate) use keeper::owner_reference;
pub use keeper::{Keeper, Place};
pub use served::Served;

/// How long the authority is valid. Replacing it needs both trusted for a while, which is rare work.
const AUTHORITY_LIFETIME: Duration = Duration::from_secs(10 * 365 * 86_400);
/// How long the leaf is valid; it is made anew when two thirds of that have passed.
const LEAF_LIFETIME: Duration = Duration::from_secs(90 * 86_400);
/// Certificates are valid from a little before they are made: clocks differ.
const CLOCK_SKEW: Duration = Duration::from_secs(3600);

/// An authority and a leaf, with their keys, as they stand in the Secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Material {
    /// `ca.crt`, PEM.
    pub ca_certificate: String,
    /// `ca.key`, PEM. Secret.
    pub ca_key: String,
    /// `tls.crt`, PEM.
    pub certificate: String,
    /// `tls.key`, PEM. Secret.
    pub key: String,
}

/// Certificates that hold what the API server will check, ready to be served.
#[derive(Debug)]
pub struct Usable {
    /// What TLS serves.
    pub key: Arc<CertifiedKey>,
    /// From when the leaf is valid.
    pub not_before: SystemTime,
    /// Until when the leaf is valid.
    pub not_after: SystemTime,
}

/// Why certificates cannot be made or used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateError(String);

impl fmt::Debug for Material {
    /// Never the keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Material").finish_non_exhaustive()
    }
}

impl fmt::Display for CertificateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CertificateError {}

impl Material {
    /// A new authority, and a leaf for `names`.
    pub fn new(names: &[String], now: SystemTime) -> Result<Self, CertificateError> {
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = named("dot-sidecar injector CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        valid(&mut params, now, AUTHORITY_LIFETIME);
        let certificate = params.self_signed(&key).map_err(failed)?.pem();
        Self {
            ca_certificate: certificate,
            ca_key: key.serialize_pem(),
            certificate: String::new(),
            key: String::new(),
        }
        .with_new_leaf(names, now)
    }

    /// The same authority with a new leaf for `names`.
    pub fn with_new_leaf(&self, names: &[String], now: SystemTime) -> Result<Self, CertificateError> {
        let ca_key = KeyPair::from_pem(&self.ca_key).map_err(failed)?;
        let authority = Issuer::from_ca_cert_pem(&self.ca_certificate, ca_key).map_err(failed)?;
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = CertificateParams::new(names).map_err(failed)?;
        params.distinguished_name = named("dot-injector");
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        valid(&mut params, now, LEAF_LIFETIME);
        let certificate = params.signed_by(&key, &authority).map_err(failed)?.pem();
        Ok(Self { certificate, key: key.serialize_pem(), ..self.clone() })
    }

    /// Checks what the API server will check: that the leaf is for each of `names`, by this authority, and valid now.
    pub fn usable(&self, names: &[String], now: SystemTime) -> Result<Usable, CertificateError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let chain: Vec<CertificateDer<'static>> = certificates(&self.certificate)?;
        let leaf = chain.first().ok_or_else(|| CertificateError("tls.crt holds no certificate".to_owned()))?;
        let verifier = self.verifier(&provider)?;
        let at = now.duration_since(SystemTime::UNIX_EPOCH).map_err(failed)?;
        for name in names {
            let name = ServerName::try_from(name.as_str()).map_err(failed)?;
            verifier
                .verify_server_cert(leaf, &chain[1..], &name, &[], UnixTime::since_unix_epoch(at))
                .map_err(failed)?;
        }
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).map_err(failed)?;
        let (not_before, not_after) = validity(leaf)?;
        let key = CertifiedKey::from_der(chain, key, &provider).map_err(failed)?;
        Ok(Usable { key: Arc::new(key), not_before, not_after })
    }

    fn verifier(&self, provider: &Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>, CertificateError> {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in certificates(&self.ca_certificate)? {
            roots.add(certificate).map_err(failed)?;
        }
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build().map_err(failed)
    }
}

impl Usable {
    /// Whether two thirds of the leaf's time have passed.
    pub fn is_due(&self, now: SystemTime) -> bool {
        let lifetime = self.not_after.duration_since(self.not_before).unwrap_or_default();
        now >= self.not_before + lifetime * 2 / 3
    }
}

/// The names under which the API server reaches a Service.
pub fn service_names(service: &str, namespace: &str, domain: &str) -> Vec<String> {
    vec![format!("{service}.{namespace}.svc"), format!("{service}.{namespace}.svc.{domain}")]
}

fn valid(params: &mut CertificateParams, now: SystemTime, lifetime: Duration) {
    params.not_before = OffsetDateTime::from(now - CLOCK_SKEW);
    params.not_after = OffsetDateTime::from(now + lifetime);
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().map_err(failed)
}

fn validity(certificate: &CertificateDer<'_>) -> Result<(SystemTime, SystemTime), CertificateError> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(failed)?;
    let at = |time: x509_parser::time::ASN1Time| {
        SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or_default())
    };
    Ok((at(parsed.validity().not_before), at(parsed.validity().not_after)))
}

fn failed(error: impl fmt::Display) -> CertificateError {
    CertificateError(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<String> {
        service_names("dot-injector", "dot-sidecar", "cluster.local")
    }

    fn days(days: u64) -> Duration {
        Duration::from_secs(days * 86_400)
    }

    #[test]
    fn a_new_leaf_is_what_the_api_server_will_accept() {
        let now = SystemTime::now();
        let material = Material::new(&names(), now).unwrap();
        let usable = material.usable(&names(), now).unwrap();
        assert!(usable.not_after > now + days(89) && usable.not_before < now);
        assert!(!usable.is_due(now + days(59)));
        assert!(usable.is_due(now + days(61)));
    }

    #[test]
    fn a_renewed_leaf_is_trusted_by_whom_trusted_the_old_one() {
        let now = SystemTime::now();
        let old = Material::new(&names(), now).unwrap();
        let renewed = old.with_new_leaf(&names(), now + days(60)).unwrap();
        assert_eq!(renewed.ca_certificate, old.ca_certificate);
        assert_ne!(renewed.certificate, old.certificate);
        assert!(renewed.usable(&names(), now + days(100)).is_ok());
    }

    #[test]
    fn what_the_api_server_would_refuse_is_not_usable() {
        let now = SystemTime::now();
        let material = Material::new(&names(), now).unwrap();
        let other = Material::new(&names(), now).unwrap();
        let expired = material.usable(&names(), now + days(91)).unwrap_err().to_string();
        assert!(expired.contains("expired"), "{expired}");
        assert!(material.usable(&["other.dot-sidecar.svc".to_owned()], now).is_err());
        let of_another = Material { ca_certificate: other.ca_certificate.clone(), ..material.clone() };
        assert!(of_another.usable(&names(), now).is_err());
        let wrong_key = Material { key: other.key, ..material.clone() };
        assert!(wrong_key.usable(&names(), now).is_err());
        for broken in ["", "no certificate", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            assert!(Material { certificate: broken.to_owned(), ..material.clone() }.usable(&names(), now).is_err());
            assert!(Material { ca_certificate: broken.to_owned(), ..material.clone() }.usable(&names(), now).is_err());
        }
    }

    #[test]
    fn no_key_is_ever_printed() {
        let material = Material::new(&names(), SystemTime::now()).unwrap();
        assert!(!format!("{material:?}").contains("PRIVATE"));
    }
}
