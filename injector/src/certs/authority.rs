//! Authorities: the one that signs, and those before it whose leaves may still be served.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use time::OffsetDateTime;

use super::leaf::Leaf;
use super::{CertificateError, Validity, certificates, failed};

/// More authorities than this are never trusted at once: the oldest are left out.
const MOST: usize = 8;

/// The certificate of an authority.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Authority {
    pub(super) der: CertificateDer<'static>,
    pub(super) validity: Validity,
}

/// All that are trusted, the one that signs first.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Authorities {
    /// Never empty.
    all: Vec<Authority>,
    /// The key (PEM) of the first; none where others sign.
    key: Option<String>,
}

impl Authority {
    fn read(der: CertificateDer<'static>) -> Result<Self, CertificateError> {
        let (_, parsed) = x509_parser::parse_x509_certificate(&der)
            .map_err(|error| CertificateError(format!("ca.crt: no certificate: {error}")))?;
        if !parsed.is_ca() {
            return Err(CertificateError(format!("ca.crt: {} is no authority", parsed.subject())));
        }
        Ok(Self { validity: Validity::of(&der)?, der })
    }

    /// As it stands in `ca.crt` and in a `caBundle`.
    pub(super) fn pem(&self) -> String {
        pem_of(&self.der)
    }
}

impl std::fmt::Debug for Authorities {
    /// Never the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authorities").field("count", &self.all.len()).finish_non_exhaustive()
    }
}

impl Authorities {
    /// A new authority that signs, before those of `earlier`.
    pub(super) fn new(earlier: &[Authority], lifetime: Duration, now: SystemTime) -> Result<Self, CertificateError> {
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = named("dot-sidecar injector CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let validity = Validity::from(now, lifetime)?;
        set_validity(&mut params, validity);
        let certificate = params.self_signed(&key).map_err(failed)?;
        let mut all = vec![Authority::read(certificate.der().clone())?];
        all.extend_from_slice(earlier);
        all.truncate(MOST);
        Ok(Self { all, key: Some(key.serialize_pem()) })
    }

    /// Reads `ca.crt` and `ca.key`: each certificate is an authority's, and the key is the first one's.
    pub(super) fn read(ca_crt: &str, ca_key: Option<&str>) -> Result<Self, CertificateError> {
        let all = certificates("ca.crt", ca_crt)?.into_iter().map(Authority::read).collect::<Result<Vec<_>, _>>()?;
        if let (Some(key), Some(first)) = (ca_key, all.first()) {
            let provider = rustls::crypto::aws_lc_rs::default_provider();
            let wrong = |error| CertificateError(format!("ca.key: {error}"));
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| wrong(error.to_string()))?;
            CertifiedKey::from_der(vec![first.der.clone()], key, &provider)
                .map_err(|error| wrong(error.to_string()))?;
        }
        Ok(Self { all, key: ca_key.map(str::to_owned) })
    }

    /// The one that signs.
    pub(super) fn signing(&self) -> &Authority {
        &self.all[0]
    }

    /// All that are trusted.
    pub(super) fn all(&self) -> &[Authority] {
        &self.all
    }

    pub(super) fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// `ca.crt`.
    pub(super) fn pem(&self) -> String {
        self.all.iter().map(Authority::pem).collect()
    }

    /// Leaves out earlier ones: those that `keep` does not hold on to. `true` when some went.
    pub(super) fn leave_out(&mut self, keep: impl Fn(&Authority) -> bool) -> bool {
        let before = self.all.len();
        let mut is_first = true;
        self.all.retain(|authority| std::mem::take(&mut is_first) || keep(authority));
        self.all.len() < before
    }

    /// A leaf for `names`, no longer valid than the authority that signs it.
    pub(super) fn issue(
        &self,
        names: &[String],
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Leaf, CertificateError> {
        let key = self.key.as_ref().ok_or_else(|| failed("there is no key to sign with"))?;
        let ca_key = KeyPair::from_pem(key).map_err(failed)?;
        let issuer = Issuer::from_ca_cert_der(&self.signing().der, ca_key).map_err(failed)?;
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = CertificateParams::new(names.to_vec()).map_err(failed)?;
        params.distinguished_name = named("dot-injector");
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let mut validity = Validity::from(now, lifetime)?;
        validity.not_after = validity.not_after.min(self.signing().validity.not_after);
        set_validity(&mut params, validity);
        let certificate = params.signed_by(&key, &issuer).map_err(failed)?;
        Leaf::read(&pem_of(certificate.der()), &key.serialize_pem(), self)
    }

    /// Whose certificates TLS would accept, as rustls wants them.
    pub(super) fn roots(of: &Authority) -> Result<rustls::RootCertStore, CertificateError> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(of.der.clone()).map_err(failed)?;
        Ok(roots)
    }
}

/// One certificate in PEM.
pub(super) fn pem_of(der: &CertificateDer<'_>) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

fn set_validity(params: &mut CertificateParams, validity: Validity) {
    params.not_before = OffsetDateTime::from(validity.not_before);
    params.not_after = OffsetDateTime::from(validity.not_after);
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}
