//! What has to be made anew, and what has to wait: by the leader alone. Pure.

use std::time::SystemTime;

use super::authority::{Authorities, Authority};
use super::leaf::Leaf;
use super::stored::{Pair, Stored};
use super::{CertificateError, CertificateSettings};

/// All that the decision depends on.
pub(super) struct Situation<'a> {
    /// What the Secret holds; `None` where there is no Secret.
    pub(super) found: Option<&'a Stored>,
    /// What the Secret held when it was sound, as far as this replica knows.
    pub(super) remembered: Option<&'a Pair>,
    /// Whether API servers have had the time to learn of this authority.
    pub(super) is_trusted: &'a dyn Fn(&Authority) -> bool,
    pub(super) names: &'a [String; 2],
    pub(super) settings: &'a CertificateSettings,
    pub(super) now: SystemTime,
}

/// What the Secret is to hold.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) pair: Pair,
    /// Why, for people.
    pub(super) reasons: Vec<String>,
    pub(super) has_new_authority: bool,
    pub(super) has_new_leaf: bool,
}

/// Whether the authority that signs may go on.
enum Fitness {
    Fit,
    /// It is valid, but two thirds of its time have passed.
    Due,
    /// Nobody accepts what it signed.
    Invalid(CertificateError),
}

impl Fitness {
    fn reason(self) -> Option<String> {
        match self {
            Self::Fit => None,
            Self::Due => Some("a new authority: two thirds of its time have passed".to_owned()),
            Self::Invalid(error) => Some(format!("a new authority: {error}")),
        }
    }
}

/// `None` where the Secret is as it should be.
///
/// A new authority is put before the old one, which vouches for the leaf until the new one is trusted. Where there is nothing to
/// lose (no leaf that the API server would accept now), nothing waits.
pub(super) fn plan(situation: &Situation<'_>) -> Result<Option<Plan>, CertificateError> {
    let Situation { settings, names, now, .. } = *situation;
    if situation.found.is_some_and(|found| is_others_work(found, &names[0], now)) {
        return Ok(None);
    }
    let mut reasons = Vec::new();
    let is_deleted = situation.found.is_none();
    let (known, leaf) = known(situation, &mut reasons);

    let unusable = match &leaf {
        None => Some("there is none that can be served".to_owned()),
        Some(leaf) => leaf.check(&names[0], now).err().map(|error| error.to_string()),
    };
    let fitness = known.as_ref().map(|known| fitness(known, settings, now));
    let (mut authorities, has_new_authority) = match (known, fitness) {
        (Some(known), Some(Fitness::Fit)) if !is_deleted => (known, false),
        // First a leaf of the authority that is trusted.
        (Some(known), Some(Fitness::Due)) if !is_deleted && unusable.is_some() => (known, false),
        (known, fitness) => {
            reasons.extend(fitness.and_then(Fitness::reason));
            (Authorities::new(earlier(known.as_ref(), leaf.as_ref()), settings.authority(), now)?, true)
        }
    };

    let signing = authorities.signing().clone();
    let why_anew = match (&leaf, unusable) {
        (Some(leaf), None) if *leaf.issuer() != signing => {
            (situation.is_trusted)(&signing).then(|| "the new authority is trusted by now".to_owned())
        }
        (Some(leaf), None) => {
            let is_due = leaf.validity().is_due(settings.leaf(), now);
            is_due.then(|| "two thirds of its time have passed".to_owned())
        }
        (_, unusable) => unusable,
    };
    let (leaf, has_new_leaf) = match (leaf, why_anew) {
        (Some(leaf), None) => (leaf, false),
        (_, why) => {
            reasons.extend(why.map(|why| format!("a new certificate: {why}")));
            (authorities.issue(names, settings.leaf(), now)?, true)
        }
    };

    // Whoever signed before lost its key when the one that signs now was made; its last leaf is no younger than that.
    let last_leaf_is_over = now >= signing.validity.made() + settings.leaf();
    let is_wanted = |authority: &Authority| {
        authority.validity.check("", now).is_ok() && (!last_leaf_is_over || authority == leaf.issuer())
    };
    if authorities.leave_out(is_wanted) && !has_new_authority {
        reasons.push("an old authority is left out: all its certificates have expired".to_owned());
    }
    let is_needed = is_deleted || !reasons.is_empty();
    Ok(is_needed.then(|| Plan { pair: Pair { authorities, leaf }, reasons, has_new_authority, has_new_leaf }))
}

/// Whose leaves may be served: not those of an authority that has signed nothing yet, which would be the last leaf.
fn earlier<'a>(known: Option<&'a Authorities>, leaf: Option<&Leaf>) -> &'a [Authority] {
    let all = known.map(Authorities::all).unwrap_or_default();
    match (all, leaf) {
        ([first, others @ ..], Some(leaf)) if first != leaf.issuer() => others,
        _ => all,
    }
}

/// Whether others keep the Secret and do so well: they renew in time.
fn is_others_work(found: &Stored, name: &str, now: SystemTime) -> bool {
    let is_in_time = |leaf: &Leaf| leaf.check(name, now).is_ok() && !leaf.validity().is_nearly_over(now);
    found.is_kept_by_others && found.leaf.as_ref().is_ok_and(is_in_time)
}

/// The authorities and the leaf to go on with.
fn known(situation: &Situation<'_>, reasons: &mut Vec<String>) -> (Option<Authorities>, Option<Leaf>) {
    let remembered = || {
        let pair = situation.remembered.cloned();
        pair.map_or((None, None), |pair| (Some(pair.authorities), Some(pair.leaf)))
    };
    let Some(found) = situation.found else {
        reasons.push("there is no Secret".to_owned());
        return remembered();
    };
    match (&found.authorities, &found.leaf) {
        (Ok(authorities), Ok(leaf)) => (Some(authorities.clone()), Some(leaf.clone())),
        (Ok(authorities), Err(error)) => {
            reasons.push(error.to_string());
            let leaf = situation.remembered.map(|pair| pair.leaf.clone());
            (Some(authorities.clone()), leaf.filter(|leaf| authorities.all().contains(leaf.issuer())))
        }
        (Err(error), _) => {
            reasons.push(error.to_string());
            remembered()
        }
    }
}

fn fitness(authorities: &Authorities, settings: &CertificateSettings, now: SystemTime) -> Fitness {
    let validity = authorities.signing().validity;
    if authorities.key().is_none() {
        return Fitness::Invalid(CertificateError("the one before was another's".to_owned()));
    }
    match validity.check("the authority", now) {
        Err(error) => Fitness::Invalid(error),
        Ok(()) if validity.is_due(settings.authority(), now) => Fitness::Due,
        Ok(()) => Fitness::Fit,
    }
}

#[cfg(test)]
mod tests;
