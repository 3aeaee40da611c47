//! Whether the injector can be sent admissions: all conditions hold, and it is not being stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// What must have come about before admissions can be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// A certificate is served that is valid.
    CertificateServed,
    /// The API server's webhook configuration trusts the certificate's authority.
    AuthorityTrusted,
    /// The LimitRanges of the cluster are known.
    LimitRangesKnown,
    /// The ProxyProfiles of the cluster are known.
    ProfilesKnown,
}

/// Which conditions hold. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<AtomicU8>);

const STOPPING: u8 = 1 << 7;

impl Condition {
    const ALL: [Self; 4] =
        [Self::CertificateServed, Self::AuthorityTrusted, Self::LimitRangesKnown, Self::ProfilesKnown];

    /// Those that admissions alone wait for.
    const OF_ADMISSIONS: [Self; 3] = [Self::CertificateServed, Self::AuthorityTrusted, Self::LimitRangesKnown];

    fn bit(self) -> u8 {
        match self {
            Self::CertificateServed => 1,
            Self::AuthorityTrusted => 1 << 1,
            Self::LimitRangesKnown => 1 << 2,
            Self::ProfilesKnown => 1 << 3,
        }
    }

    fn missing(self) -> &'static str {
        match self {
            Self::CertificateServed => "there is no valid certificate to serve",
            Self::AuthorityTrusted => "the webhook configuration does not trust the certificate's authority yet",
            Self::LimitRangesKnown => "the cluster's LimitRanges are not known yet",
            Self::ProfilesKnown => "the cluster's ProxyProfiles are not known yet: is their definition installed?",
        }
    }
}

impl Readiness {
    /// The condition holds from now on.
    pub fn set(&self, condition: Condition) {
        self.0.fetch_or(condition.bit(), Ordering::Relaxed);
    }

    /// The condition holds no longer.
    pub fn clear(&self, condition: Condition) {
        self.0.fetch_and(!condition.bit(), Ordering::Relaxed);
    }

    /// Nothing waits for what admissions alone need: none will come.
    pub fn without_admissions(&self) {
        Condition::OF_ADMISSIONS.into_iter().for_each(|condition| self.set(condition));
    }

    /// No new admissions should come from now on.
    pub fn stop(&self) {
        self.0.fetch_or(STOPPING, Ordering::Relaxed);
    }

    /// Whether it is being stopped.
    pub fn is_stopping(&self) -> bool {
        self.0.load(Ordering::Relaxed) & STOPPING != 0
    }

    /// `Ok` when admissions can be sent here, else why not.
    pub fn check(&self) -> Result<(), &'static str> {
        let state = self.0.load(Ordering::Relaxed);
        if self.is_stopping() {
            return Err("the injector is being stopped");
        }
        match Condition::ALL.into_iter().find(|condition| state & condition.bit() == 0) {
            Some(condition) => Err(condition.missing()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_admissions_profiles_are_all_that_is_waited_for() {
        let readiness = Readiness::default();
        readiness.without_admissions();
        assert_eq!(readiness.check(), Err(Condition::ProfilesKnown.missing()));
        readiness.set(Condition::ProfilesKnown);
        assert_eq!(readiness.check(), Ok(()));
    }

    #[test]
    fn ready_means_that_every_condition_holds_and_nothing_is_being_stopped() {
        let readiness = Readiness::default();
        for condition in Condition::ALL {
            assert_eq!(readiness.check(), Err(condition.missing()));
            readiness.set(condition);
        }
        assert_eq!(readiness.check(), Ok(()));
        readiness.clear(Condition::CertificateServed);
        assert_eq!(readiness.check(), Err(Condition::CertificateServed.missing()));
        readiness.set(Condition::CertificateServed);
        assert_eq!(readiness.check(), Ok(()));
        readiness.stop();
        assert!(readiness.check().is_err());
    }
}
