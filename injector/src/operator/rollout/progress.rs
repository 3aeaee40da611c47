//! How far each profile has come, as its status tells it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::proof::Unproved;
use crate::profile::PodCounts;

/// The condition in which it is told.
pub(in crate::operator) const CONDITION: &str = "Propagated";

/// How far a profile has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::operator) enum Progress {
    Going,
    /// These servers are left out, as long as they cannot be proved.
    Unproved(Vec<Unproved>),
    /// Too many pods do not use it, as they say here.
    Rejected(String),
    /// The API server took so many writes not.
    Failed {
        pods: usize,
        example: String,
    },
    /// Every pod has it; what those say that were asked and have not taken it.
    Complete(String),
}

/// The progress of all profiles.
#[derive(Debug, Default)]
pub(in crate::operator) struct ProgressBoard(Mutex<BTreeMap<String, (Option<i64>, Progress)>>);

impl ProgressBoard {
    fn entries(&self) -> MutexGuard<'_, BTreeMap<String, (Option<i64>, Progress)>> {
        // Each change is one insertion or removal: nothing is ever half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whether that is news.
    pub(super) fn tell(&self, profile: &str, generation: Option<i64>, progress: Progress) -> bool {
        let told = (generation, progress);
        let mut entries = self.entries();
        let is_news = entries.get(profile) != Some(&told);
        entries.insert(profile.to_owned(), told);
        is_news
    }

    pub(super) fn forget(&self, profile: &str) {
        self.entries().remove(profile);
    }

    pub(super) fn is_failed(&self, profile: &str) -> bool {
        matches!(self.entries().get(profile), Some((_, Progress::Failed { .. })))
    }

    /// How far the profile has come, and of which generation of it that is told.
    pub(in crate::operator) fn of(&self, profile: &str) -> Option<(Option<i64>, Progress)> {
        self.entries().get(profile).cloned()
    }
}

impl Progress {
    /// Status and reason of the condition, and its message, given how the profile's pods stand.
    pub(in crate::operator) fn told(&self, pods: PodCounts) -> ((&'static str, &'static str), String) {
        let outdated = pods.total - pods.updated - pods.refused;
        let so_far = so_far(pods);
        match self {
            Self::Unproved(servers) => {
                let servers: Vec<String> = servers.iter().map(ToString::to_string).collect();
                let said = format!(
                    "not sent to pods, because the injector itself could not use it: {}; it is tried again; {so_far}",
                    servers.join(", ")
                );
                (("False", "Unproved"), said)
            }
            Self::Rejected(words) => {
                (("False", "Rejected"), format!("stopped, since pods go on with what they had: {words}; {so_far}"))
            }
            Self::Failed { pods, example } => (
                ("False", "NotWritten"),
                format!("the API server refused {pods} writes, for example {example}; {so_far}"),
            ),
            Self::Complete(words) if outdated == 0 && !words.is_empty() => {
                (("True", "Complete"), format!("{so_far}; {words}"))
            }
            Self::Complete(_) | Self::Going if outdated == 0 => (("True", "Complete"), so_far),
            Self::Complete(_) | Self::Going => (("False", "InProgress"), so_far),
        }
    }
}

fn so_far(pods: PodCounts) -> String {
    let mut said = match (pods.total, pods.updated, pods.refused) {
        (0, ..) => "no pod has the profile".to_owned(),
        (total, updated, 0) if total == updated => format!("all {total} pods have what the profile says"),
        (total, updated, _) => format!("{updated} of {total} pods have what the profile says"),
    };
    if pods.refused > 0 {
        said.push_str(&format!("; {} keep what they have, because it cannot be applied to them", pods.refused));
    }
    said
}
