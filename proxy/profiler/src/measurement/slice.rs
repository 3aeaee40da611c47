use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dot_proxy::upstream::connection::Query;
use dot_proxy::upstream::kept::Which;
use dot_proxy::upstream::server::Server;
use dot_proxy::wire::request::{Asked, Edns, Question};
use dot_proxy::wire::response::TtlBounds;
use dot_proxy::wire::{Rcode, UDP_PAYLOAD, flag};
use tokio::task::JoinSet;

use super::Slice;
use crate::cpu;
use crate::plan::Plan;

/// What a client of the proxy usually asks: recursion desired, EDNS, no DNSSEC records.
const ASKED: Asked = Asked {
    id: 0, // the transport chooses its own
    flags: flag::RD,
    edns: Some(Edns { udp_payload: UDP_PAYLOAD, version: 0, dnssec_ok: false, cookie: None }),
};

/// TTLs are as the server says: nothing is kept.
const BOUNDS: TtlBounds = TtlBounds { min: 0, max: u32::MAX };

/// So many questions in a row, so many at once.
pub(super) struct Asking<'a> {
    pub(super) plan: &'a Plan,
    /// The place of the first one among all questions.
    pub(super) first: usize,
    pub(super) count: usize,
    pub(super) concurrency: usize,
}

/// Latencies of those that were answered, and the causes why others were not.
#[derive(Debug, Default)]
pub(super) struct Outcomes {
    latencies: Vec<Duration>,
    errors: BTreeMap<String, usize>,
}

/// Asks through the code of the proxy, and waits for the answer. The error is the proxy's word for the cause, or the code of
/// an answer which says that there is none.
pub(super) async fn ask(server: &Server, question: &[u8], timeout: Duration) -> Result<Duration, String> {
    let question = Question::starting(question).expect("questions are read when the profiler starts");
    let began = Instant::now();
    let query = Query { asked: ASKED, question, until: (began + timeout).into() };
    let answer = server.resolve(query, Which::Any, BOUNDS).await.map_err(|cause| cause.to_string())?;
    match answer.rcode() {
        Rcode::NOERROR | Rcode::NXDOMAIN => Ok(began.elapsed()),
        rcode => Err(rcode.to_string()),
    }
}

impl Asking<'_> {
    /// A connection and its first query, then the questions of the slice: of one server on the connection that is open now,
    /// of several each on one of its own.
    pub(super) async fn slice(&self, servers: &[Arc<Server>]) -> Slice {
        let cold_start = match ask(&servers[0], self.plan.questions.nth(self.first), self.plan.timeout).await {
            Ok(latency) => Some(latency),
            Err(cause) => return Slice { errors: BTreeMap::from([(cause, 1)]), ..Slice::default() },
        };
        let (began, cpu_before) = (Instant::now(), cpu::used());
        let Outcomes { latencies, errors } = self.all(servers).await;
        let (elapsed, cpu) = (began.elapsed(), cpu::used().saturating_sub(cpu_before));
        Slice { cold_start, latencies, errors, elapsed, cpu }
    }

    /// Asks all the questions.
    pub(super) async fn all(&self, servers: &[Arc<Server>]) -> Outcomes {
        let next = Arc::new(AtomicUsize::new(0));
        let mut workers = JoinSet::new();
        for _ in 0..self.concurrency.min(self.count) {
            let (next, servers, questions) = (Arc::clone(&next), servers.to_vec(), self.plan.questions.clone());
            let (first, count, timeout) = (self.first, self.count, self.plan.timeout);
            workers.spawn(async move {
                let mut outcomes = Outcomes::default();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return outcomes;
                    }
                    let server = servers.get(number + 1).unwrap_or(&servers[0]);
                    outcomes.add(ask(server, questions.nth(first + number), timeout).await);
                }
            });
        }
        let mut all = Outcomes::default();
        while let Some(worker) = workers.join_next().await {
            // A worker that panicked has told so itself; what it had measured is gone.
            let Outcomes { latencies, errors } = worker.unwrap_or_default();
            all.latencies.extend(latencies);
            errors.into_iter().for_each(|(cause, count)| *all.errors.entry(cause).or_default() += count);
        }
        all
    }
}

impl Outcomes {
    fn add(&mut self, outcome: Result<Duration, String>) {
        match outcome {
            Ok(latency) => self.latencies.push(latency),
            Err(cause) => *self.errors.entry(cause).or_default() += 1,
        }
    }
}
