use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;

use super::*;
use crate::certs::service_names;

/// A leader whose clock and whose API server do what the test wants.
struct Leader {
    secret: Option<Secret>,
    remembered: Option<Pair>,
    trusted: bool,
    now: SystemTime,
    settings: CertificateSettings,
}

fn days(days: u64) -> Duration {
    Duration::from_secs(days * 86_400)
}

fn names() -> [String; 2] {
    service_names("dot-injector", "dot-sidecar", "cluster.local")
}

impl Leader {
    /// One that has just made everything.
    fn new() -> Self {
        let now = SystemTime::UNIX_EPOCH + days(20_000);
        let settings = CertificateSettings::default();
        let mut leader = Self { secret: None, remembered: None, trusted: true, now, settings };
        leader.act().unwrap();
        leader
    }

    /// Does what is planned; what that was.
    fn act(&mut self) -> Option<Plan> {
        let found = self.secret.as_ref().map(|secret| Stored::read(secret, false));
        let situation = Situation {
            found: found.as_ref(),
            remembered: self.remembered.as_ref(),
            is_trusted: &|_| self.trusted,
            names: &names(),
            settings: &self.settings,
            now: self.now,
        };
        let plan = plan(&situation).unwrap()?;
        // What was written is what is read.
        let secret = Secret { data: Some(plan.pair.data()), ..Secret::default() };
        assert_eq!(Stored::read(&secret, false).whole().unwrap(), plan.pair);
        plan.pair.leaf.check(&names()[0], self.now).unwrap();
        assert!(plan.pair.authorities.all().contains(plan.pair.leaf.issuer()));
        self.secret = Some(secret);
        self.remembered = Some(plan.pair.clone());
        Some(plan)
    }

    fn rests(&mut self) -> bool {
        self.act().is_none()
    }

    fn pair(&self) -> Pair {
        Stored::read(self.secret.as_ref().unwrap(), false).whole().unwrap()
    }

    fn data(&mut self) -> &mut BTreeMap<String, ByteString> {
        self.secret.as_mut().unwrap().data.as_mut().unwrap()
    }

    fn trusts(&self) -> usize {
        self.pair().authorities.all().len()
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }
}

#[test]
fn a_leaf_lasts_thirty_days_and_is_renewed_by_the_same_authority_after_twenty() {
    let mut leader = Leader::new();
    let first = leader.pair();
    assert_eq!(first.leaf.validity().not_after, leader.now + days(30));
    leader.pass(days(20) - Duration::from_secs(1));
    assert!(leader.rests());
    leader.pass(Duration::from_secs(1));
    let plan = leader.act().unwrap();
    assert!(plan.has_new_leaf && !plan.has_new_authority);
    assert_eq!(plan.pair.authorities, first.authorities);
    assert!(plan.pair.leaf != first.leaf && leader.rests());
}

#[test]
fn a_new_authority_is_trusted_before_it_signs_and_the_old_one_until_its_leaves_have_expired() {
    let mut leader = Leader::new();
    // The authority lasts a year.
    for _ in 0..12 {
        leader.pass(days(20));
        let plan = leader.act().unwrap();
        assert!(plan.has_new_leaf && !plan.has_new_authority);
    }
    let old = leader.pair();
    leader.trusted = false;
    leader.pass(days(4));
    let plan = leader.act().unwrap();
    assert!(plan.has_new_authority && !plan.has_new_leaf);
    assert_eq!((&plan.pair.leaf, leader.trusts()), (&old.leaf, 2));
    assert!(leader.pair().authorities.all()[1] == *old.authorities.signing());
    // Nobody trusts the new one yet.
    assert!(leader.rests());
    leader.trusted = true;
    let plan = leader.act().unwrap();
    assert!(plan.has_new_leaf && !plan.has_new_authority);
    assert_eq!(plan.pair.leaf.issuer(), plan.pair.authorities.signing());
    assert_eq!(leader.trusts(), 2);
    leader.pass(days(19));
    assert!(leader.rests());
    leader.pass(days(1));
    leader.act().unwrap();
    assert_eq!(leader.trusts(), 2);
    leader.pass(days(10));
    let plan = leader.act().unwrap();
    assert!(!plan.has_new_leaf && !plan.has_new_authority);
    assert_eq!(leader.trusts(), 1);
    assert!(leader.rests());
}

#[test]
fn what_lasts_longer_than_it_should_by_now_is_replaced() {
    let mut leader = Leader::new();
    leader.settings.leaf_seconds = 86_400;
    let plan = leader.act().unwrap();
    assert!(plan.has_new_leaf && !plan.has_new_authority);
    leader.settings.authority_seconds = 5 * 86_400;
    assert!(leader.act().unwrap().has_new_authority);
}

#[test]
fn a_deleted_secret_means_a_new_authority_while_the_old_leaf_is_served_on() {
    let mut leader = Leader::new();
    let first = leader.pair();
    leader.trusted = false;
    leader.secret = None;
    let plan = leader.act().unwrap();
    assert!(plan.has_new_authority && plan.pair.leaf == first.leaf);
    assert!(plan.pair.authorities.all().contains(first.authorities.signing()));
    // However often it is done, the bundle stays bounded.
    for _ in 0..20 {
        leader.secret = None;
        assert!(leader.act().unwrap().pair.leaf == first.leaf);
        assert_eq!(leader.trusts(), 2);
    }
    leader.trusted = true;
    for _ in 0..20 {
        leader.secret = None;
        assert!(leader.act().unwrap().has_new_leaf && leader.trusts() <= 8);
    }
    // Nothing is known by a replica that has just started.
    leader.secret = None;
    leader.remembered = None;
    let plan = leader.act().unwrap();
    assert!(plan.has_new_authority && plan.has_new_leaf && leader.trusts() == 1);
}

#[test]
fn garbage_is_never_half_used_and_gives_way_to_what_was_there() {
    let mut leader = Leader::new();
    let good = leader.pair();
    let stranger = Leader::new().pair().data();
    for broken in ["ca.crt", "ca.key", "tls.crt", "tls.key"] {
        let garbage = [
            None,
            Some(ByteString(Vec::new())),
            Some(ByteString(b"\xff\xfe".to_vec())),
            Some(ByteString(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_vec())),
            // Sound by itself, but of another's.
            Some(stranger[broken].clone()),
        ];
        for garbage in garbage {
            match garbage {
                Some(garbage) => drop(leader.data().insert(broken.to_owned(), garbage)),
                None => drop(leader.data().remove(broken)),
            }
            assert!(Stored::read(leader.secret.as_ref().unwrap(), false).whole().is_err());
            let plan = leader.act().unwrap();
            assert!(plan.pair == good && !plan.has_new_leaf, "{broken}: {:?}", plan.reasons);
        }
    }
    // A leader that knows nothing keeps the authority where it is whole.
    leader.remembered = None;
    leader.data().remove("tls.key");
    let plan = leader.act().unwrap();
    assert!(plan.pair.authorities == good.authorities && plan.has_new_leaf);
    leader.remembered = None;
    leader.data().remove("ca.key");
    assert!(leader.act().unwrap().has_new_authority);
}

#[test]
fn a_sound_secret_of_others_making_is_taken_over() {
    let mut leader = Leader::new();
    leader.secret = Some(Secret { data: Some(Leader::new().pair().data()), ..Secret::default() });
    assert!(leader.rests());
}

#[test]
fn a_clock_that_jumps_is_no_reason_to_stay_without_a_certificate() {
    let mut leader = Leader::new();
    // Nobody trusts anything for long enough: there is nothing to lose.
    leader.trusted = false;
    for jump in [29, 31, 300, 366, 100_000] {
        leader.pass(days(jump));
        assert!(leader.act().unwrap().has_new_leaf, "{jump} days");
        // The leaf is of an authority that was trusted, if that is still valid, which is replaced only then.
        while leader.act().is_some_and(|plan| plan.has_new_authority) {}
        assert!(leader.rests(), "{jump} days");
    }
    leader.now = SystemTime::UNIX_EPOCH + days(10_000);
    let plan = leader.act().unwrap();
    assert!(plan.has_new_authority && plan.has_new_leaf && leader.rests());
    // The authorities of the future went.
    assert_eq!(leader.trusts(), 1);
    // Nothing panics where no certificate can be made at all.
    for now in [SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + days(200_000_000)] {
        let found = Stored::read(leader.secret.as_ref().unwrap(), false);
        let (names, settings) = (names(), &leader.settings);
        let found = Some(&found);
        drop(super::plan(&Situation { found, remembered: None, is_trusted: &|_| true, names: &names, settings, now }));
    }
}

#[test]
fn another_name_means_another_leaf() {
    let leader = Leader::new();
    let found = Stored::read(leader.secret.as_ref().unwrap(), false);
    let other = service_names("other", "dot-sidecar", "cluster.local");
    let situation = Situation {
        found: Some(&found),
        remembered: None,
        is_trusted: &|_| true,
        names: &other,
        settings: &leader.settings,
        now: leader.now,
    };
    let plan = plan(&situation).unwrap().unwrap();
    assert!(plan.has_new_leaf && !plan.has_new_authority);
    assert!(plan.reasons[0].contains("other.dot-sidecar.svc"), "{:?}", plan.reasons);
}

#[test]
fn what_cert_manager_keeps_is_left_alone_until_it_is_not_renewed() {
    let mut leader = Leader::new();
    let theirs = leader.pair();
    let secret = leader.secret.as_mut().unwrap();
    let name = ("cert-manager.io/certificate-name".to_owned(), "dot-injector".to_owned());
    secret.metadata.annotations = Some([name].into());
    leader.data().remove("ca.key");
    leader.pass(days(24));
    assert!(leader.rests());
    leader.trusted = false;
    leader.pass(days(2));
    let plan = leader.act().unwrap();
    assert!(plan.has_new_authority && plan.pair.leaf == theirs.leaf);
    leader.trusted = true;
    let plan = leader.act().unwrap();
    assert!(plan.has_new_leaf && plan.pair.leaf.issuer() == plan.pair.authorities.signing());
}

#[test]
fn no_key_is_ever_printed() {
    let leader = Leader::new();
    let stored = Stored::read(leader.secret.as_ref().unwrap(), false);
    assert!(!format!("{stored:?} {:?}", leader.pair()).contains("PRIVATE"));
}
