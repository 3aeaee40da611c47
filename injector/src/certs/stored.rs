//! What the Secret holds: all of it is sound, or it is not used.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt as _;

use super::CertificateError;
use super::authority::Authorities;
use super::leaf::Leaf;

const AUTHORITIES: &str = "ca.crt";
const AUTHORITY_KEY: &str = "ca.key";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";

/// What cert-manager writes on a Secret that it keeps.
const KEPT_BY_CERT_MANAGER: &str = "cert-manager.io/certificate-name";

/// Authorities, and a leaf of one of them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pair {
    pub(super) authorities: Authorities,
    pub(super) leaf: Leaf,
}

/// The parts of a Secret, each judged by itself.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) authorities: Result<Authorities, CertificateError>,
    /// As vouched for by these authorities.
    pub(super) leaf: Result<Leaf, CertificateError>,
    /// Whether others (cert-manager) make what it holds.
    pub(super) is_kept_by_others: bool,
}

impl Pair {
    /// The Secret's data.
    pub(super) fn data(&self) -> BTreeMap<String, ByteString> {
        let mut data: BTreeMap<&str, String> = BTreeMap::new();
        data.insert(AUTHORITIES, self.authorities.pem());
        data.insert(CERTIFICATE, self.leaf.certificate_pem().to_owned());
        data.insert(KEY, self.leaf.key_pem().to_owned());
        if let Some(key) = self.authorities.key() {
            data.insert(AUTHORITY_KEY, key.to_owned());
        }
        data.into_iter().map(|(name, pem)| (name.to_owned(), ByteString(pem.into_bytes()))).collect()
    }
}

impl Stored {
    /// Reads a Secret; the key of the authority must be there unless others sign: because they always do, or because the Secret
    /// says so, which in an upgrade from or to cert-manager it does before or after the replicas know.
    pub(super) fn read(secret: &Secret, is_external: bool) -> Self {
        let is_kept_by_others = is_external || secret.annotations().contains_key(KEPT_BY_CERT_MANAGER);
        let part = |name: &str| {
            let bytes = secret.data.as_ref().and_then(|data| data.get(name));
            let bytes = bytes.ok_or_else(|| CertificateError(format!("{name} is missing")))?;
            std::str::from_utf8(&bytes.0).map_err(|_| CertificateError(format!("{name} is not readable as PEM")))
        };
        let key = if is_kept_by_others { Ok(None) } else { part(AUTHORITY_KEY).map(Some) };
        let authorities = key.and_then(|key| Authorities::read(part(AUTHORITIES)?, key));
        let leaf = match &authorities {
            Ok(authorities) => {
                part(CERTIFICATE).and_then(|certificate| Leaf::read(certificate, part(KEY)?, authorities))
            }
            Err(error) => Err(error.clone()),
        };
        Self { authorities, leaf, is_kept_by_others }
    }

    /// All of it, if all of it is sound.
    pub(super) fn whole(&self) -> Result<Pair, CertificateError> {
        Ok(Pair { authorities: self.authorities.clone()?, leaf: self.leaf.clone()? })
    }
}
