//! What is done at once of a changed configuration, and what waits until it is proved.
//!
//! A server that was in use with the same definition goes on as it is. Any other one is new, and has to be proved first.
//! Meanwhile
//!
//! - where each group has a server that is in use or proved, the new configuration holds as a whole, without the servers that are
//!   not proved: what it removes is gone, what it tightens is tight;
//! - where some group would be left without any, the last configuration goes on, so that nobody is left without DNS and no name
//!   goes where neither of the two would send it; but of each of its groups the servers that the new one no longer has are out at
//!   once, as long as others of the group stay.

use std::sync::Arc;
use std::time::Duration;

use dot_proxy_config::{Config, Network, Strategy};
use tokio::runtime::Handle;

use super::file::Hash;
use crate::cache;
use crate::config::Resolved;
use crate::policy::Policy;
use crate::resolve::Routing;
use crate::router::Router;
use crate::upstream::group::Group;
use crate::upstream::proof::{Challenge, Unproved};
use crate::upstream::server::{Metrics, Server};
use crate::wire::response::TtlBounds;

/// A configuration as it would be in force.
pub(super) struct Wanted {
    /// Of its text.
    pub(super) hash: Hash,
    /// Sources that are served beside private ones.
    pub(super) allow: Vec<Network>,
    /// How the cache keeps.
    pub(super) cache: cache::Settings,
    groups: Vec<WantedGroup>,
    router: Arc<Router>,
    policy: Arc<Policy>,
    deadline: Duration,
    bounds: TtlBounds,
}

struct WantedGroup {
    name: Arc<str>,
    strategy: Strategy,
    servers: Vec<Arc<Server>>,
    challenge: Challenge,
}

/// A server that is not in use yet.
#[derive(Clone)]
pub(super) struct Candidate {
    pub(super) server: Arc<Server>,
    /// What it is asked to be proved.
    pub(super) challenge: Challenge,
    pub(super) is_proved: bool,
    /// What came of the last attempt to prove it.
    failed: Option<Unproved>,
}

/// All of them.
#[derive(Default)]
pub(super) struct Candidates(Vec<Candidate>);

/// What can be done now.
pub(super) struct Settled {
    pub(super) routing: Routing,
    /// It is what was wanted, but for servers that are not proved; else the last one without what can be left out.
    pub(super) is_wanted: bool,
}

impl Wanted {
    /// A configuration, with servers that are in use, or known from an attempt before, where they are of the same definition.
    pub(super) fn new(
        hash: Hash,
        resolved: Resolved,
        written: &Config,
        routing: &Routing,
        known: &[Arc<Server>],
        metrics: &Metrics,
    ) -> Self {
        let challenges = written.routes.iter().filter_map(|route| route.suffixes.first());
        let challenges = challenges.map(Challenge::to_a_server_of);
        let challenges = std::iter::once(Challenge::to_a_resolver()).chain(challenges);
        let groups = resolved.groups.into_iter().zip(challenges).enumerate().map(|(index, (group, challenge))| {
            let current = current(routing, index, &group.name);
            let name = current.map_or_else(|| group.name.as_str().into(), |group| group.name());
            let servers = group.servers.into_iter().map(|configured| {
                let in_use = current.map_or(&[][..], |group| group.servers()).iter();
                let mut there = in_use.chain(known.iter().filter(|server| server.is_of(&name)));
                let same = there.find(|server| server.definition == configured.definition);
                same.map_or_else(|| Arc::new(Server::new(&name, configured, metrics)), Arc::clone)
            });
            WantedGroup { servers: servers.collect(), name, strategy: group.strategy, challenge }
        });
        Self {
            hash,
            groups: groups.collect(),
            allow: written.listen.allow.clone(),
            cache: cache::Settings {
                budget: resolved.cache_budget,
                stale_for: resolved.stale_for,
                prefetch: resolved.prefetch,
            },
            router: Arc::new(resolved.router),
            policy: Arc::new(resolved.policy),
            deadline: resolved.deadline,
            bounds: resolved.bounds,
        }
    }

    /// The servers that are not in use; what is known of them already stays known.
    pub(super) fn candidates(&self, routing: &Routing, before: &Candidates) -> Candidates {
        let mut candidates = Candidates::default();
        for group in &self.groups {
            for server in group.servers.iter().filter(|server| !is_in_use(routing, server)) {
                let is_proved = before.iter().any(|other| Arc::ptr_eq(&other.server, server) && other.is_proved);
                let (server, challenge) = (Arc::clone(server), group.challenge.clone());
                candidates.0.push(Candidate { server, challenge, is_proved, failed: None });
            }
        }
        candidates
    }

    /// What can be done now.
    pub(super) fn settled(&self, routing: &Routing, candidates: &Candidates, runtime: &Handle) -> Settled {
        let is_proved = |server: &&Arc<Server>| !candidates.has_unproved(server);
        let groups = self.groups.iter().enumerate().map(|(index, group)| {
            let servers: Vec<_> = group.servers.iter().filter(is_proved).map(Arc::clone).collect();
            if servers.is_empty() {
                return None;
            }
            Some(match current(routing, index, &group.name) {
                Some(current) => successor(current, servers, group.strategy, self.bounds),
                None => {
                    let name = Arc::clone(&group.name);
                    Arc::new(Group::of(name, servers, group.strategy, self.bounds, runtime.clone()))
                }
            })
        });
        match groups.collect() {
            Some(groups) => {
                let (policy, router) = (Arc::clone(&self.policy), Arc::clone(&self.router));
                Settled { routing: Routing { policy, router, groups, deadline: self.deadline }, is_wanted: true }
            }
            None => Settled { routing: self.tightened(routing), is_wanted: false },
        }
    }

    /// The routing in force, without servers that are not wanted any more and that others of their group stand in for.
    fn tightened(&self, routing: &Routing) -> Routing {
        let groups = routing.groups.iter().enumerate().map(|(index, group)| {
            let wanted = self.groups.iter().enumerate();
            let mut wanted = wanted.filter(|(at, wanted)| (*at == 0) == (index == 0) && *wanted.name == *group.name());
            let Some((_, wanted)) = wanted.next() else { return Arc::clone(group) };
            let stays = |server: &&Arc<Server>| wanted.servers.iter().any(|other| Arc::ptr_eq(server, other));
            let staying: Vec<_> = group.servers().iter().filter(stays).map(Arc::clone).collect();
            if staying.is_empty() { Arc::clone(group) } else { group.without_others_than(staying) }
        });
        Routing {
            policy: Arc::clone(&routing.policy),
            router: Arc::clone(&routing.router),
            groups: groups.collect(),
            deadline: routing.deadline,
        }
    }
}

/// The group in force of this name. The first is the default one, whatever suffix a route may begin with.
fn current<'a>(routing: &'a Routing, index: usize, name: &str) -> Option<&'a Arc<Group>> {
    let mut groups = routing.groups.iter().enumerate();
    groups.find(|(at, group)| (*at == 0) == (index == 0) && *group.name() == *name).map(|(_, group)| group)
}

/// The group itself where nothing changes of it.
fn successor(current: &Arc<Group>, servers: Vec<Arc<Server>>, strategy: Strategy, bounds: TtlBounds) -> Arc<Group> {
    if current.is_the_same_with(&servers, strategy, bounds) {
        return Arc::clone(current);
    }
    Arc::new(current.succeeded_by(servers, strategy, bounds))
}

fn is_in_use(routing: &Routing, server: &Arc<Server>) -> bool {
    routing.groups.iter().flat_map(|group| group.servers()).any(|other| Arc::ptr_eq(server, other))
}

impl Candidates {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Candidate> {
        self.0.iter()
    }

    pub(super) fn into_servers(self) -> Vec<Arc<Server>> {
        self.0.into_iter().map(|candidate| candidate.server).collect()
    }

    pub(super) fn some_are_unproved(&self) -> bool {
        self.0.iter().any(|candidate| !candidate.is_proved)
    }

    fn has_unproved(&self, server: &Arc<Server>) -> bool {
        self.0.iter().any(|candidate| Arc::ptr_eq(&candidate.server, server) && !candidate.is_proved)
    }

    pub(super) fn are_proved(&mut self, server: &Arc<Server>) {
        self.of(server).for_each(|candidate| (candidate.is_proved, candidate.failed) = (true, None));
    }

    pub(super) fn failed(&mut self, server: &Arc<Server>, cause: Unproved) {
        self.of(server).for_each(|candidate| candidate.failed = Some(cause));
    }

    fn of(&mut self, server: &Arc<Server>) -> impl Iterator<Item = &mut Candidate> {
        self.0.iter_mut().filter(move |candidate| Arc::ptr_eq(&candidate.server, server))
    }

    /// Which servers could not be proved, and why, in a sentence for a person.
    pub(super) fn failures(&self) -> Option<String> {
        let failed = self.0.iter().filter_map(|candidate| Some((&candidate.server.url, candidate.failed?)));
        let failed: Vec<_> = failed.map(|(url, cause)| format!("{cause} at {url}")).collect();
        (!failed.is_empty()).then(|| failed.join(", "))
    }
}
