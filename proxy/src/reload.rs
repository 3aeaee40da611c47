//! Live configuration: the file is watched, what it says is checked and proved, and then taken; or the last good one holds.
//!
//! ```text
//!  directory (inotify), SIGHUP ─► file ─► the parser and the resolution of the start ─► plan ─► Resolver::reroute
//!                                  │         no: rejected, all stays                     │
//!                                  └──────────────────────────────────────────────► state: metrics, /debug/config
//!                                                                    proof ◄────────────┘ servers that are new
//! ```
//!
//! What a change adds must prove itself first, by an authenticated exchange; what it removes or tightens holds at once:
//! `plan` says how the two go together. Nothing wakes up while the file stays as it is, but to try servers again that are not
//! proved yet.

mod fields;
mod file;
mod plan;
mod state;
#[cfg(target_os = "linux")]
mod watch;
#[cfg(not(target_os = "linux"))]
#[path = "reload/portable.rs"]
mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dot_proxy_config::Config;
use prometheus_client::registry::Registry;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{info, warn};

pub use self::file::Hash;
use self::plan::{Candidate, Candidates, Wanted};
pub use self::state::State;
use self::state::{Reason, Rejected};
use self::watch::Watch;
use crate::clients::Clients;
use crate::config::Resolved;
use crate::events::{Event, Events};
use crate::resolve::Resolver;
use crate::upstream::proof::Unproved;
use crate::upstream::server::{self, Server};

/// Who writes a file may do several things at once; after so long without another it is read.
const SETTLED: Duration = Duration::from_millis(10);

/// What a server may take to be proved.
const PATIENCE: Duration = Duration::from_secs(5);

/// Servers that are proved at once.
const AT_ONCE: usize = 8;

/// A server that is not proved is tried again after this, and each time after twice as long.
const AGAIN_AFTER: Duration = Duration::from_millis(250);

/// It is never left alone for longer.
const AGAIN_AT_LAST: Duration = Duration::from_secs(30);

/// Reads a configuration from its text, with the flags that go over it.
pub type Read = Box<dyn Fn(&str) -> Result<Config, String> + Send + Sync>;

/// Where the configuration comes from, and what it was at the start.
pub struct Source {
    /// The file.
    pub file: PathBuf,
    /// How its text is read.
    pub read: Read,
    /// What was read from it at the start.
    pub written: Config,
    /// Of the text that was read at the start.
    pub hash: Hash,
}

/// What a changed configuration changes.
pub struct Targets {
    /// Where names go, and what is kept of answers.
    pub resolver: Arc<Resolver>,
    /// Who may ask.
    pub clients: Arc<Clients>,
    /// What is counted of servers.
    pub servers: server::Metrics,
    /// Where is told that a configuration was not taken.
    pub events: Events,
}

/// The task that watches.
pub struct Reload {
    source: Source,
    targets: Targets,
    state: Arc<State>,
    watch: Watch,
    hangup: Option<Signal>,
    /// What the file says, if that can be used.
    wanted: Option<Wanted>,
    candidates: Candidates,
    proving: JoinSet<(Arc<Server>, Result<Duration, Unproved>)>,
    places: Arc<Semaphore>,
    attempts: u32,
    again_at: Instant,
}

impl Reload {
    /// From now on the directory of the file is watched, and SIGHUP no longer ends the process. To be called on the runtime.
    pub fn new(source: Source, targets: Targets, registry: &mut Registry) -> Self {
        let state = Arc::new(State::new(source.hash));
        state.register(registry);
        let hangup = signal(SignalKind::hangup())
            .inspect_err(|error| warn!(%error, "SIGHUP will not have the configuration read again"));
        Self {
            source,
            targets,
            state,
            watch: Watch::new(),
            hangup: hangup.ok(),
            wanted: None,
            candidates: Candidates::default(),
            proving: JoinSet::new(),
            places: Arc::new(Semaphore::new(AT_ONCE)),
            attempts: 0,
            again_at: Instant::now(),
        }
    }

    /// What is told of configurations.
    pub fn state(&self) -> Arc<State> {
        Arc::clone(&self.state)
    }

    /// Watches, for as long as it is polled.
    pub async fn run(mut self) {
        self.watch.look_at(&self.source.file, &self.source.written);
        self.reread(); // it may have changed since the start
        loop {
            tokio::select! {
                () = self.watch.changed() => {
                    sleep(SETTLED).await;
                    self.reread();
                }
                () = hung_up(&mut self.hangup) => self.reread(),
                Some(finished) = self.proving.join_next() => {
                    let Ok((server, outcome)) = finished else { continue }; // cancelled, and asked for by nobody
                    self.hear(&server, outcome);
                }
                () = sleep_until(self.again_at), if self.proving.is_empty() && self.candidates.some_are_unproved() => {
                    self.prove();
                }
            }
        }
    }

    /// Reads the file. A defect in what that leads to loses this reading alone.
    fn reread(&mut self) {
        self.watch.drain();
        let resolver = Arc::clone(&self.targets.resolver);
        resolver.panics().contain("reload", || {
            if let Err(rejected) = self.consider() {
                self.reject(rejected);
            }
        });
    }

    /// Takes what the file says as far as it may be taken now, and has the rest proved.
    fn consider(&mut self) -> Result<(), Rejected> {
        let (text, hash) = file::read(&self.source.file)?;
        let rejected = |reason, why| Rejected { hash: Some(hash), reason, why };
        let written = (self.source.read)(&text).map_err(|why| rejected(Reason::Invalid, why))?;
        fields::check_program(&self.source.written, &written).map_err(|why| rejected(Reason::Restart, why))?;
        let resolved =
            Resolved::from_written(&written).map_err(|error| rejected(Reason::Invalid, file::with_hint(&error)))?;
        self.watch.look_at(&self.source.file, &written);
        self.proving = JoinSet::new();
        let routing = self.targets.resolver.routing();
        let before = std::mem::take(&mut self.candidates);
        let known = before.iter().map(|candidate| Arc::clone(&candidate.server)).collect::<Vec<_>>();
        let wanted = Wanted::new(hash, resolved, &written, &routing, &known, &self.targets.servers);
        self.candidates = wanted.candidates(&routing, &before);
        self.state.considers(hash, fields::waiting_for_a_restart(&self.source.written, &written));
        self.wanted = Some(wanted);
        self.settle();
        self.drop_unwanted(&known);
        self.attempts = 0;
        self.prove();
        Ok(())
    }

    /// Has the proxy do what is wanted as far as it is proved.
    fn settle(&mut self) {
        let Some(wanted) = &self.wanted else { return };
        let Targets { resolver, clients, .. } = &self.targets;
        let routing = resolver.routing();
        let next = wanted.settled(&routing, &self.candidates, resolver.runtime());
        if next.is_wanted {
            clients.admit_only(&wanted.allow);
            resolver.configure_cache(wanted.cache);
        } else {
            clients.admit_no_longer(&wanted.allow);
        }
        let is_new = |group: &&Arc<_>| !routing.groups.iter().any(|other| Arc::ptr_eq(group, other));
        let next = Arc::new(next.routing);
        let gone = resolver.reroute(&next);
        gone.iter().for_each(|server| self.retire(server));
        next.groups.iter().filter(is_new).for_each(|group| group.warm_up());
        if !self.candidates.some_are_unproved() {
            self.candidates = Candidates::default(); // they are in use now
            if self.state.takes(wanted.hash) {
                info!(hash = %wanted.hash, "the configuration was taken");
            }
        }
    }

    /// Lets go of servers that were to be proved for a configuration that nobody wants any more.
    fn drop_unwanted(&self, servers: &[Arc<Server>]) {
        let wanted = |server: &Arc<Server>| self.some_server(|other| Arc::ptr_eq(server, other));
        servers.iter().filter(|server| !wanted(server)).for_each(|server| self.retire(server));
    }

    /// Whether one of the servers that are in use, or to be proved, is such.
    fn some_server(&self, is_such: impl Fn(&Arc<Server>) -> bool) -> bool {
        let routing = self.targets.resolver.routing();
        let in_use = routing.groups.iter().flat_map(|group| group.servers());
        in_use.chain(self.candidates.iter().map(|candidate| &candidate.server)).any(is_such)
    }

    /// Takes a server out of use, and what was counted of it, unless another of its URL is there.
    fn retire(&self, server: &Server) {
        server.retire();
        if !self.some_server(|other| other.is_counted_as(server)) {
            self.targets.servers.forget(server);
        }
    }

    /// Begins to prove what is not proved yet.
    fn prove(&mut self) {
        for Candidate { server, challenge, .. } in self.candidates.iter().filter(|candidate| !candidate.is_proved) {
            let (server, challenge, places) = (Arc::clone(server), challenge.clone(), Arc::clone(&self.places));
            self.proving.spawn(async move {
                let _place = places.acquire_owned().await; // the semaphore is never closed
                let outcome = challenge.put_to(&server, PATIENCE).await;
                (server, outcome)
            });
        }
        self.attempts = self.attempts.saturating_add(1);
        self.put_off();
    }

    /// Leaves what is not proved alone for a while from now on, the longer the more often it was tried.
    fn put_off(&mut self) {
        let pause = AGAIN_AFTER * 2_u32.saturating_pow(self.attempts.saturating_sub(1).min(16));
        self.again_at = Instant::now() + pause.min(AGAIN_AT_LAST);
    }

    /// A server was proved, or not.
    fn hear(&mut self, server: &Arc<Server>, outcome: Result<Duration, Unproved>) {
        match outcome {
            Ok(took) => {
                info!(server = %server.url, milliseconds = took.as_millis(), "a new upstream was proved");
                self.candidates.are_proved(server);
                let resolver = Arc::clone(&self.targets.resolver);
                resolver.panics().contain("reload", || self.settle());
            }
            Err(cause) => self.candidates.failed(server, cause),
        }
        self.put_off(); // from the end of the attempt on
        if let Some(why) = self.candidates.failures()
            && let Some(wanted) = &self.wanted
        {
            self.reject(Rejected { hash: Some(wanted.hash), reason: Reason::Unproved, why });
        }
    }

    /// Tells why a configuration was not taken, once.
    fn reject(&mut self, rejected: Rejected) {
        if rejected.reason != Reason::Unproved {
            self.give_up();
        }
        let (reason, why) = (rejected.reason, rejected.why.clone());
        if self.state.rejects(rejected) {
            warn!(reason = reason.as_str(), %why, "a changed configuration was not taken: {}", reason.consequence());
            self.targets.events.emit(Event::ConfigurationRefused { field: String::new(), reason: why });
        }
    }

    /// What was wanted before is what the file said then.
    fn give_up(&mut self) {
        self.wanted = None;
        self.proving = JoinSet::new();
        let unwanted = std::mem::take(&mut self.candidates).into_servers();
        self.drop_unwanted(&unwanted);
    }
}

async fn hung_up(hangup: &mut Option<Signal>) {
    if let Some(signal) = hangup
        && signal.recv().await.is_some()
    {
        return;
    }
    std::future::pending::<()>().await;
}
