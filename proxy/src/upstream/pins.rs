//! Public keys that a server's chain must show (SPKI pins, RFC 7858 §4.2, RFC 7469 §2.6), on top of the name and the CA.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use dot_proxy_config::Pin;
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, Error, RootCertStore};
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};

use super::verifier::{Judge, Shown};

/// Verifies a chain as ever, and then that a pinned key stands in it: the server's own, or that of a CA which vouches for it.
///
/// A certificate that the server merely sent along does not count, since anybody can send a copy of it: from a pinned CA
/// there must lead a path of signatures to the server's certificate.
#[derive(Debug)]
pub(super) struct Pinned {
    pins: Vec<Pin>,
    chain: Arc<WebPkiServerVerifier>,
    /// Those of the trusted roots whose keys are pinned.
    roots: RootCertStore,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Pinned {
    /// `chain` verifies against `roots`; a pinned key is asked for beyond that.
    pub(super) fn new(
        pins: &[Pin],
        chain: Arc<WebPkiServerVerifier>,
        roots: &RootCertStore,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Self {
        let mut pinned = Self { pins: pins.to_vec(), chain, roots: RootCertStore::empty(), algorithms };
        let roots = roots.roots.iter().filter(|root| pinned.pins_key(&public_key_of(root))).cloned().collect();
        pinned.roots = RootCertStore { roots };
        pinned
    }

    /// Whether the digest of this SubjectPublicKeyInfo (DER, with its outer tag) is pinned.
    fn pins_key(&self, key: &[u8]) -> bool {
        let digest = digest(&SHA256, key);
        self.pins.iter().any(|pin| pin.sha256() == digest.as_ref())
    }

    fn pins_certificate(&self, certificate: &CertificateDer<'_>) -> bool {
        ParsedCertificate::try_from(certificate).is_ok_and(|parsed| self.pins_key(&parsed.subject_public_key_info()))
    }

    /// Whether a pinned CA, a trusted root or one of the intermediates, vouches for the certificate.
    fn pinned_ca_vouches(&self, end_entity: &CertificateDer<'_>, sent: &[CertificateDer<'_>], now: UnixTime) -> bool {
        let mut anchors = self.roots.clone();
        for certificate in sent.iter().filter(|certificate| self.pins_certificate(certificate)) {
            let _ = anchors.add(certificate.clone().into_owned()); // one that cannot be read vouches for nothing
        }
        !anchors.is_empty()
            && ParsedCertificate::try_from(end_entity).is_ok_and(|parsed| {
                verify_server_cert_signed_by_trust_anchor(&parsed, &anchors, sent, now, self.algorithms.all).is_ok()
            })
    }
}

impl Judge for Pinned {
    fn verifier(&self) -> &dyn ServerCertVerifier {
        &*self.chain
    }

    fn judge(&self, shown: &Shown<'_>) -> Result<ServerCertVerified, Error> {
        let verified = shown.to(&*self.chain)?;
        if self.pins_certificate(shown.end_entity)
            || self.pinned_ca_vouches(shown.end_entity, shown.intermediates, shown.now)
        {
            return Ok(verified);
        }
        Err(CertificateError::ApplicationVerificationFailure.into())
    }
}

/// A root's SubjectPublicKeyInfo with the outer tag and length (X.690 §8.1), which trust anchors are kept without.
fn public_key_of(root: &TrustAnchor<'_>) -> Vec<u8> {
    const SEQUENCE: u8 = 0x30;
    let content = root.subject_public_key_info.as_ref();
    let length = content.len().to_be_bytes();
    let significant = &length[length.iter().position(|octet| *octet != 0).unwrap_or(length.len() - 1)..];
    let mut encoded = vec![SEQUENCE];
    if content.len() >= 0x80 {
        encoded.push(0x80 | u8::try_from(significant.len()).expect("a usize has at most eight octets"));
    }
    encoded.extend_from_slice(significant);
    encoded.extend_from_slice(content);
    encoded
}
