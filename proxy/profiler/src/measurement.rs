//! Measuring, in rounds: in each, every combination is asked a slice of the questions, at every concurrency.

mod slice;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dot_proxy::upstream::server::Server;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::runtime::{Builder, Runtime};

use self::slice::{Asking, ask};
use crate::combination::Combination;
use crate::interrupt::Interrupt;
use crate::plan::{Plan, ROUNDS};
use crate::traffic::Relay;

/// A combination that was not answered at the start of so many slices in a row is given up: every one of them costs the whole
/// of the timeout.
const PATIENCE: usize = 3;

/// Queries by which the octets of one are told.
const COUNTED: usize = 10;

/// What comes after the last answer is still counted for so long: acknowledgements of QUIC, and the end of connections.
const TRAILING: Duration = Duration::from_millis(100);

/// Queries under way at once when servers are first told the questions.
const TELLING: usize = 8;

/// What came of one slice.
#[derive(Debug, Clone, Default)]
pub struct Slice {
    /// From nothing to the first answer: connection, handshake, query. That query is not counted below.
    pub cold_start: Option<Duration>,
    /// Of the queries that were answered, in no order.
    pub latencies: Vec<Duration>,
    /// How many queries were not, by cause.
    pub errors: BTreeMap<String, usize>,
    /// From the first query to the last answer.
    pub elapsed: Duration,
    /// CPU of the profiler and of the programs that it ran in that time, in user mode and in the kernel.
    pub cpu: Duration,
}

/// A combination at a concurrency.
#[derive(Debug, Clone, Default)]
pub struct Cell {
    /// Place of the combination in the plan.
    pub combination: usize,
    /// Queries under way at once.
    pub concurrency: usize,
    /// One a round, as far as it was measured; `None` after the combination was given up.
    pub slices: Vec<Option<Slice>>,
}

/// What was measured.
#[derive(Debug, Default)]
pub struct Measured {
    /// Every combination at every concurrency, by concurrency.
    pub cells: Vec<Cell>,
    /// Octets sent and received for a query, for each combination.
    pub octets: Vec<Option<f64>>,
    /// Ctrl-C came before the end.
    pub interrupted: bool,
}

/// The measurement under way.
struct Run<'a> {
    plan: &'a Plan,
    interrupt: &'a Interrupt,
    progress: ProgressBar,
    measured: Measured,
    /// For each combination, how many slices in a row had no answer at their start.
    silent: Vec<usize>,
}

/// Measures what is planned, until the end or until Ctrl-C. An error is of this machine: it has no more files or memory.
pub(crate) fn measure(plan: &Plan, interrupt: &Interrupt) -> Result<Measured, String> {
    let count = plan.combinations.len();
    let cells = plan.concurrency.iter().flat_map(|concurrency| {
        (0..count).map(|combination| Cell { combination, concurrency: *concurrency, slices: Vec::new() })
    });
    let measured = Measured { cells: cells.collect(), octets: vec![None; count], interrupted: false };
    let slices = ROUNDS * measured.cells.len();
    let mut run = Run { plan, interrupt, progress: progress_bar(slices), measured, silent: vec![0; count] };
    let outcome = run.all();
    run.progress.finish_and_clear();
    run.measured.interrupted = interrupt.has_happened();
    outcome.map(|()| run.measured)
}

/// A bar on standard error; none where that is not a terminal.
fn progress_bar(slices: usize) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(slices as u64), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{bar:30} {percent}% {msg} (some {eta} left)");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

impl Run<'_> {
    fn all(&mut self) -> Result<(), String> {
        self.tell_questions()?;
        for round in 0..ROUNDS {
            for level in 0..self.plan.concurrency.len() {
                for combination in order(round, self.plan.combinations.len()) {
                    self.slice(round, level, combination)?;
                    if self.interrupt.has_happened() {
                        return Ok(());
                    }
                }
            }
        }
        self.count_octets()
    }

    /// Has every upstream look the questions up once, so that the first combination to ask does not pay for the others.
    fn tell_questions(&mut self) -> Result<(), String> {
        let combinations = &self.plan.combinations;
        for (index, combination) in combinations.iter().enumerate() {
            // One stub will do for an upstream.
            let told = combinations[..index].iter().any(|earlier| earlier.upstream == combination.upstream);
            if told || self.interrupt.has_happened() {
                continue;
            }
            self.progress.set_message(format!("getting ready: {combination}"));
            let questions = self.plan.questions.len().min(ROUNDS * self.plan.slice);
            let asking = Asking { plan: self.plan, first: 0, count: questions, concurrency: TELLING };
            self.on_a_runtime(combination, 1, async |servers| {
                if ask(&servers[0], self.plan.questions.nth(0), self.plan.timeout).await.is_ok() {
                    asking.all(servers).await;
                }
            })?;
        }
        Ok(())
    }

    fn slice(&mut self, round: usize, level: usize, index: usize) -> Result<(), String> {
        let combination = &self.plan.combinations[index];
        let concurrency = self.plan.concurrency[level];
        self.progress.set_message(format!("round {} of {ROUNDS}: {combination}, {concurrency} at once", round + 1));
        let slice = if self.silent[index] >= PATIENCE {
            None
        } else {
            let asking =
                Asking { plan: self.plan, first: round * self.plan.slice, count: self.plan.slice, concurrency };
            let servers =
                if self.plan.cold && !combination.stub.protocol().is_a_program() { asking.count + 1 } else { 1 };
            let slice = self.on_a_runtime(combination, servers, async |servers| asking.slice(servers).await)?;
            let Some(slice) = slice else { return Ok(()) }; // interrupted: half a slice would be compared with whole ones
            self.silent[index] = if slice.cold_start.is_some() { 0 } else { self.silent[index] + 1 };
            Some(slice)
        };
        self.measured.cells[level * self.plan.combinations.len() + index].slices.push(slice);
        self.progress.inc(1);
        Ok(())
    }

    /// Asks each combination once more, by way of a relay that counts.
    fn count_octets(&mut self) -> Result<(), String> {
        for (index, combination) in self.plan.combinations.iter().enumerate() {
            let Some(server) = combination.address() else { continue };
            if self.silent[index] > 0 || self.interrupt.has_happened() {
                continue;
            }
            self.progress.set_message(format!("counting octets: {combination}"));
            let counting = async {
                let relay = Relay::to(server).await.ok()?;
                let combination = combination.by_way_of(relay.address);
                let kept = combination.fresh().ok()?;
                let before_all = relay.count.octets();
                ask(&kept, self.plan.questions.nth(0), self.plan.timeout).await.ok()?;
                let before = if self.plan.cold { before_all } else { settled(&relay).await };
                for number in 1..COUNTED {
                    let server = if self.plan.cold { combination.fresh().ok()? } else { Arc::clone(&kept) };
                    ask(&server, self.plan.questions.nth(number), self.plan.timeout).await.ok()?;
                }
                let asked = if self.plan.cold { COUNTED } else { COUNTED - 1 };
                Some((settled(&relay).await - before) as f64 / asked as f64)
            };
            self.measured.octets[index] = runtime()?.block_on(async {
                tokio::select! {
                    octets = counting => octets,
                    () = self.interrupt.happens() => None,
                }
            });
        }
        Ok(())
    }

    /// Runs something with so many servers, each not yet connected to, on a runtime of its own: with that, their connections
    /// end. `None` if Ctrl-C came first.
    fn on_a_runtime<T>(
        &self,
        combination: &Combination,
        servers: usize,
        work: impl AsyncFnOnce(&[Arc<Server>]) -> T,
    ) -> Result<Option<T>, String> {
        runtime()?.block_on(async {
            let servers: Result<Vec<_>, _> = (0..servers).map(|_| combination.fresh()).collect();
            let servers = servers.map_err(|error| format!("{combination}: {}", error.message))?;
            tokio::select! {
                done = work(&servers) => Ok(Some(done)),
                () = self.interrupt.happens() => Ok(None),
            }
        })
    }
}

async fn settled(relay: &Relay) -> u64 {
    tokio::time::sleep(TRAILING).await;
    relay.count.octets()
}

/// One thread, as the proxy has in a pod.
fn runtime() -> Result<Runtime, String> {
    Builder::new_current_thread().enable_all().build().map_err(|error| format!("cannot go on measuring: {error}"))
}

/// Who comes when in a round: everybody once in each place, before and behind everybody else.
fn order(round: usize, count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(
        move |place| {
            if round.is_multiple_of(2) { (place + round) % count } else { (count - 1 - place + round) % count }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_round_asks_everybody_once_and_nobody_is_always_before_another() {
        let rounds: Vec<Vec<usize>> = (0..ROUNDS).map(|round| order(round, 3).collect()).collect();
        for round in &rounds {
            let mut sorted = round.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2]);
        }
        let place = |round: &Vec<usize>, who| round.iter().position(|other| *other == who);
        for (one, other) in [(0, 1), (0, 2), (1, 2)] {
            let before = rounds.iter().filter(|round| place(round, one) < place(round, other)).count();
            assert_eq!(before, ROUNDS / 2);
        }
    }
}
