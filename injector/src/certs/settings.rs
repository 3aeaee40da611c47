//! How long certificates last, and who makes them.

use std::time::Duration;

use serde::Deserialize;

/// A leaf lasts no longer.
const LONGEST_LEAF: u64 = 30 * 86_400;
/// An authority lasts no longer.
const LONGEST_AUTHORITY: u64 = 10 * 365 * 86_400;
/// Rotations that follow each other more closely would only wear the API server.
const SHORTEST_LEAF: u64 = 15;
/// What the API server's processes take to learn of a changed webhook configuration is a matter of milliseconds, as a rule.
const LONGEST_GRACE: u64 = 3600;

/// The part `certificates` of the injector's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct CertificateSettings {
    /// Whether cert-manager (or whoever else) makes the Secret (`tls.crt`, `tls.key`, `ca.crt`): the injector then only reads it.
    pub external: bool,
    /// Seconds that an authority of our own is valid; it is replaced when two thirds have passed.
    pub authority_seconds: u64,
    /// Seconds that the certificate is valid; it is replaced when two thirds have passed.
    pub leaf_seconds: u64,
    /// Seconds that an authority must have been in the `caBundle` before a certificate of it is served.
    pub grace_seconds: u64,
}

impl Default for CertificateSettings {
    fn default() -> Self {
        Self { external: false, authority_seconds: 365 * 86_400, leaf_seconds: LONGEST_LEAF, grace_seconds: 60 }
    }
}

impl CertificateSettings {
    /// The field that cannot be meant, and why.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        if !(SHORTEST_LEAF..=LONGEST_LEAF).contains(&self.leaf_seconds) {
            return Err(("leafSeconds", format!("must be from {SHORTEST_LEAF} to {LONGEST_LEAF} (30 days)")));
        }
        if self.authority_seconds > LONGEST_AUTHORITY || self.authority_seconds < self.leaf_seconds * 3 {
            let sentence = format!("must be from three times leafSeconds to {LONGEST_AUTHORITY} (ten years)");
            return Err(("authoritySeconds", sentence));
        }
        if self.grace_seconds > LONGEST_GRACE {
            return Err(("graceSeconds", format!("must be {LONGEST_GRACE} at most")));
        }
        Ok(())
    }

    pub(super) fn authority(&self) -> Duration {
        Duration::from_secs(self.authority_seconds)
    }

    pub(super) fn leaf(&self) -> Duration {
        Duration::from_secs(self.leaf_seconds)
    }

    pub(super) fn grace(&self) -> Duration {
        Duration::from_secs(self.grace_seconds)
    }
}
