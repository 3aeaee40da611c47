//! The webhook's certificates: an authority of the injector's own, and the leaf that all replicas serve.
//!
//! ```text
//! Secret ──watch──► authority, leaf: sound? ──► served ──► TLS          every replica
//!    ▲                    │                        │
//!    └── plan: what to make anew ◄── now           └──► bundle ──► caBundle   whoever leads
//!                         ▲                                           │
//!                         └────────── trust: since when ◄──watch──────┘
//! ```
//!
//! `plan` is pure: it takes the time as an argument. [`Keeper`] watches and writes. A new authority is trusted for a while before
//! a leaf of it is made, and an old one until its last leaf has expired, so that no handshake ever fails for the change.

mod authority;
mod bundle;
mod keeper;
mod leaf;
mod pace;
mod plan;
mod served;
mod settings;
mod stored;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use time::OffsetDateTime;

pub(crate) use keeper::owner_reference;
pub use keeper::{Keeper, Place};
pub use served::Served;
pub use settings::CertificateSettings;

/// Certificates are valid from a little before they are made: clocks differ.
const CLOCK_SKEW: Duration = Duration::from_secs(3600);

/// What tells the time of day; tests have one of their own.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> SystemTime + Send + Sync>);

/// Why certificates cannot be made or used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateError(String);

impl Clock {
    /// The system's.
    pub fn system() -> Self {
        Self::new(SystemTime::now)
    }

    /// One that says what `tell` says.
    pub fn new(tell: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }

    /// The time.
    pub fn now(&self) -> SystemTime {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}

impl fmt::Display for CertificateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CertificateError {}

/// The names under which a Service is reached: first the one by which the API server does it.
pub fn service_names(service: &str, namespace: &str, domain: &str) -> [String; 2] {
    [format!("{service}.{namespace}.svc"), format!("{service}.{namespace}.svc.{domain}")]
}

/// When a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Validity {
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Validity {
    fn of(certificate: &CertificateDer<'_>) -> Result<Self, CertificateError> {
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(failed)?;
        let at = |time: x509_parser::time::ASN1Time| {
            let seconds = u64::try_from(time.timestamp()).unwrap_or_default();
            SystemTime::UNIX_EPOCH
                .checked_add(Duration::from_secs(seconds))
                .ok_or_else(|| failed("a date is too far off"))
        };
        Ok(Self { not_before: at(parsed.validity().not_before)?, not_after: at(parsed.validity().not_after)? })
    }

    /// For a certificate made now.
    fn from(now: SystemTime, lifetime: Duration) -> Result<Self, CertificateError> {
        // Beyond the year 9999 there are no dates in certificates.
        let latest = SystemTime::UNIX_EPOCH + Duration::from_secs(250_000_000_000);
        match (now.checked_sub(CLOCK_SKEW), now.checked_add(lifetime)) {
            (Some(not_before), Some(not_after)) if not_after < latest => Ok(Self { not_before, not_after }),
            _ => Err(failed("the clock is out of range")),
        }
    }

    fn check(&self, what: &str, now: SystemTime) -> Result<(), CertificateError> {
        let date = |time: SystemTime| OffsetDateTime::from(time).date();
        if now < self.not_before {
            return Err(CertificateError(format!("{what} is not valid yet: from {} on", date(self.not_before))));
        }
        if now >= self.not_after {
            return Err(CertificateError(format!("{what} expired on {}", date(self.not_after))));
        }
        Ok(())
    }

    /// When it was made, as far as that can be told.
    fn made(&self) -> SystemTime {
        (self.not_before + CLOCK_SKEW).min(self.not_after)
    }

    /// Whether two thirds of its time have passed, or it lasts longer than certificates should by now.
    fn is_due(&self, lifetime: Duration, now: SystemTime) -> bool {
        let made = self.made();
        let is_too_long = self.not_after.duration_since(now).is_ok_and(|left| left > lifetime + CLOCK_SKEW);
        is_too_long || now >= made + self.not_after.duration_since(made).unwrap_or_default() * 2 / 3
    }

    /// Whether five sixths of its time have passed: whoever was to renew it has not.
    fn is_nearly_over(&self, now: SystemTime) -> bool {
        now >= self.not_before + self.not_after.duration_since(self.not_before).unwrap_or_default() * 5 / 6
    }
}

fn certificates(what: &str, pem: &str) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let read = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    let read = read.map_err(|error| CertificateError(format!("{what} is not readable as PEM: {error}")))?;
    if read.is_empty() { Err(CertificateError(format!("{what} holds no certificate"))) } else { Ok(read) }
}

fn failed(error: impl fmt::Display) -> CertificateError {
    CertificateError(error.to_string())
}
