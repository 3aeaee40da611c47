//! Brings what a profile says now to the pods that have it, without a restart: by their annotation, in waves.
//!
//! ```text
//! pods behind ──► proof (new servers, by the leader itself) ──► a wave ──► writing, paced ──► asking (a sample, what they took)
//!      ▲                 │ none: they are left out                                                  │ too many rejected it: stop
//!      └─────────────────┴──────────────────────── the next wave, five times as many ◄──────────────┘
//! ```
//!
//! Nothing is kept but in the cluster: which pods are behind stands on the pods, so that who leads next goes on.

mod asking;
mod progress;
mod proof;
mod waves;
mod writing;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep};
use tracing::info;

use super::fleet::{Behind, Place};
use super::pods::WatchedPods;
use crate::cluster::ClusterDns;
use crate::metrics::Metrics;
use crate::profile::{Profiles, WatchedProfiles};
use crate::settings;

pub(super) use progress::{CONDITION, Progress, ProgressBoard};

use asking::{Asked, Asker};
use proof::Prover;
use writing::{Outcome, Writer};

/// What happens in so short a time is looked at once.
const SETTLE: Duration = Duration::from_millis(20);
/// How soon servers that could not be proved, pods that rejected, and writes that failed are tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How long pods may take to take what was written.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pods without an answer, or with one that rejects, are asked again after so long, and then less and less often.
const ASK_AGAIN: Duration = Duration::from_secs(60);
const ASK_AGAIN_AT_LEAST: Duration = Duration::from_secs(960);

/// Rolls out what profiles say.
pub(super) struct Rollouts {
    shared: Arc<Shared>,
}

struct Shared {
    cluster: ClusterDns,
    known: WatchedProfiles,
    pods: Arc<WatchedPods>,
    board: Arc<ProgressBoard>,
    writer: Writer,
    asker: Asker,
    prover: Prover,
    settings: settings::Rollout,
    metrics: Metrics,
}

/// One profile on its way to its pods.
struct Rollout {
    shared: Arc<Shared>,
    name: String,
    generation: Option<i64>,
    /// Whether its servers were proved before.
    proved: bool,
    /// Pods whose write has failed come last.
    failing: HashSet<Place>,
}

impl Rollouts {
    pub(super) fn new(
        client: &Client,
        (cluster, known): (ClusterDns, WatchedProfiles),
        (pods, board): (Arc<WatchedPods>, Arc<ProgressBoard>),
        settings: settings::Rollout,
        metrics: Metrics,
    ) -> Self {
        let writer = Writer::new(client.clone(), settings.writes_per_second, metrics.clone());
        let (asker, prover) = (Asker::new(client.clone()), Prover::new(client.clone(), settings.prove_upstreams));
        Self { shared: Arc::new(Shared { cluster, known, pods, board, writer, asker, prover, settings, metrics }) }
    }

    /// Works until it is dropped.
    pub(super) async fn run(self) {
        let mut news = self.shared.pods.news();
        let mut going: BTreeMap<String, (Option<i64>, AbortHandle)> = BTreeMap::new();
        // Dropped with this function, and so stopped.
        let mut tasks = JoinSet::new();
        loop {
            tokio::select! {
                listed = news.wait_for(|listed| *listed) => if listed.is_err() { return },
                Some(_) = tasks.join_next() => {}
            }
            news.borrow_and_update();
            let profiles = self.shared.known.now();
            going.retain(|name, (generation, task)| {
                let is_of_now = profiles.get(name).is_some() && profiles.generation(name) == *generation;
                if !is_of_now {
                    task.abort();
                    self.shared.board.forget(name);
                }
                is_of_now && !task.is_finished()
            });
            for name in self.to_be_rolled_out(&profiles) {
                going.entry(name).or_insert_with_key(|name| {
                    let rollout = Rollout::new(&self.shared, name, &profiles);
                    (rollout.generation, tasks.spawn(rollout.run()))
                });
            }
            sleep(SETTLE).await;
            tokio::select! {
                changed = news.changed() => if changed.is_err() { return },
                Some(_) = tasks.join_next() => {}
            }
        }
    }

    /// Profiles with pods that are behind, and those of which who led before has told that something is wrong.
    fn to_be_rolled_out(&self, profiles: &Profiles) -> Vec<String> {
        let behind = self.shared.pods.fleet().profiles_behind();
        let is_usable = |name: &&str| profiles.get(name).is_some_and(|profile| profile.is_ok());
        let needs = |name: &&str| behind.contains(*name) || self.is_unfinished(name, profiles);
        profiles.names().filter(is_usable).filter(needs).map(str::to_owned).collect()
    }

    fn is_unfinished(&self, name: &str, profiles: &Profiles) -> bool {
        let told = profiles.status(name).and_then(|status| status.condition(CONDITION));
        let was_wrong =
            told.is_some_and(|told| told.status == "False" && told.observed_generation == profiles.generation(name));
        was_wrong && self.shared.board.of(name).is_none()
    }
}

impl Rollout {
    fn new(shared: &Arc<Shared>, name: &str, profiles: &Profiles) -> Self {
        let generation = profiles.generation(name);
        let told = profiles.status(name).and_then(|status| status.condition(CONDITION));
        // By who led before, or by this leader.
        let proved = told.is_some_and(|told| told.status == "True" && told.observed_generation == generation)
            || matches!(shared.board.of(name), Some((of, Progress::Complete(_))) if of == generation);
        shared.board.tell(name, generation, Progress::Going);
        Self { shared: Arc::clone(shared), name: name.to_owned(), generation, proved, failing: HashSet::new() }
    }

    /// Works until every pod has what the profile says, and those that were asked have taken it.
    async fn run(mut self) {
        info!(profile = self.name, "bringing what the profile says to the pods that have it");
        let mut asked = self.earlier_waves().await;
        loop {
            if self.is_too_much(&asked) {
                asked = self.rejected(asked).await;
            }
            let (profiles, unproved) = self.target().await;
            let behind = self.behind(&profiles);
            if !unproved.is_empty() {
                self.tell(Progress::Unproved(unproved));
                self.shared.metrics.rollout("unproved");
                if behind.outdated.is_empty() {
                    sleep(RETRY).await;
                    continue;
                }
            } else if behind.outdated.is_empty() {
                self.proved = true;
                self.shared.metrics.rollout("complete");
                info!(profile = self.name, "every pod that has the profile has what it says");
                if self.follow_up(asked.summary()).await {
                    return;
                }
            }
            let wave = waves::next(&behind.outdated, behind.updated.len(), &self.failing);
            let written = self.write(wave, &profiles).await;
            asked = self.ask(written, PATIENCE).await;
        }
    }

    /// The profiles as they are to be applied: without the servers of this one that could not be proved, which are told.
    async fn target(&self) -> (Arc<Profiles>, Vec<proof::Unproved>) {
        let profiles = self.shared.known.now();
        let Some(Ok(profile)) = profiles.get(&self.name) else { return (profiles, Vec::new()) };
        let outdated = if self.proved { Vec::new() } else { self.behind(&profiles).outdated };
        let unproved = self.shared.prover.unproved(&profile.proxy_config(), &waves::spread(&outdated, 3)).await;
        if unproved.is_empty() {
            return (profiles, unproved);
        }
        let Some(usable) = proof::without(profile, &unproved) else {
            // Nothing else of the change would be of use: pods keep all that they have.
            return (Arc::default(), unproved);
        };
        let mut target = Profiles::clone(&profiles);
        target.insert(self.name.clone(), Ok(usable));
        (Arc::new(target), unproved)
    }

    fn behind(&self, profiles: &Profiles) -> Behind {
        self.shared.pods.fleet().behind(&self.name, &self.shared.cluster, profiles)
    }

    /// Writes to these pods; those that have it now.
    async fn write(&mut self, wave: Vec<Place>, profiles: &Profiles) -> Vec<Place> {
        let shared = Arc::clone(&self.shared);
        let task = |place: &Place| shared.pods.fleet().task(place, &shared.cluster, profiles);
        let (mut written, mut failed) = (Vec::new(), None);
        let (number, began) = (wave.len(), Instant::now());
        for (place, outcome) in shared.writer.write(wave, task, &shared.pods).await {
            match outcome {
                Outcome::Written => {
                    self.failing.remove(&place);
                    written.push(place);
                }
                Outcome::Gone => {}
                Outcome::Failed(why) => {
                    failed = Some(format!("{place}: {why}"));
                    self.failing.insert(place);
                }
            }
        }
        info!(
            profile = self.name,
            pods = number,
            written = written.len(),
            milliseconds = began.elapsed().as_millis(),
            "a wave"
        );
        if let Some(why) = failed {
            self.tell(Progress::Failed { pods: self.failing.len(), example: why });
            sleep(RETRY).await;
        } else if self.failing.is_empty() && self.shared.board.is_failed(&self.name) {
            self.tell(Progress::Going);
        }
        written
    }

    async fn ask(&self, places: Vec<Place>, patience: Duration) -> Asked {
        let asked = self.shared.asker.ask(places, &self.shared.pods, patience).await;
        self.shared.pods.stir();
        asked
    }

    fn is_too_much(&self, asked: &Asked) -> bool {
        asked.rejected.len() * 100 > asked.heard() * usize::from(self.shared.settings.most_rejected_percent)
    }

    /// What the pods say onto which this was written before, by this leader or the one before it.
    async fn earlier_waves(&self) -> Asked {
        let updated = self.behind(&self.shared.known.now()).updated;
        self.ask(updated, Duration::ZERO).await
    }

    /// Stops until the pods have taken it that rejected it: they go on trying by themselves.
    async fn rejected(&self, mut asked: Asked) -> Asked {
        self.shared.metrics.rollout("rejected");
        while self.is_too_much(&asked) {
            self.tell(Progress::Rejected(asked.summary()));
            sleep(RETRY).await;
            asked = self.ask(asked.places(), Duration::ZERO).await;
        }
        self.tell(Progress::Going);
        asked
    }

    /// Asks those again of whom it is not known that they have taken it. True when all have, or false when pods have fallen
    /// behind.
    async fn follow_up(&self, mut words: String) -> bool {
        let (mut pause, mut news) = (ASK_AGAIN, self.shared.pods.news());
        loop {
            self.tell(Progress::Complete(words));
            let again = sleep(pause);
            tokio::pin!(again);
            loop {
                // Anything that happens from here on wakes the wait below.
                news.borrow_and_update();
                let (behind, open) = {
                    let fleet = self.shared.pods.fleet();
                    (fleet.profiles_behind().contains(&self.name), fleet.open(&self.name))
                };
                if behind {
                    return false;
                }
                if open.is_empty() {
                    return true;
                }
                tokio::select! {
                    () = &mut again => {
                        words = self.ask(open, Duration::ZERO).await.summary();
                        break;
                    }
                    changed = news.changed() => if changed.is_err() { return true },
                }
                sleep(SETTLE).await;
            }
            pause = ASK_AGAIN_AT_LEAST.min(pause * 2);
        }
    }

    fn tell(&self, progress: Progress) {
        if self.shared.board.tell(&self.name, self.generation, progress) {
            self.shared.pods.stir();
        }
    }
}
