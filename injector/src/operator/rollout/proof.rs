//! Whether servers that are new to pods can be used, those of the upstream and those of routes: the leader asks them itself, as strictly
//! as the pods would.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use dot_proxy::prove;
use dot_proxy_config::{Config, Route, Server, Suffix, Upstream};
use futures_util::{StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, ResourceExt};

use super::super::fleet::Place;
use crate::annotations::CONFIG;
use crate::profile::Profile;

/// How long a server may take to connect, prove who it is, and answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Servers that are asked at once.
const AT_ONCE: usize = 8;

/// Proves servers.
pub(super) struct Prover {
    client: Client,
    enabled: bool,
    /// What was proved, with what a server is asked by: not tried again by this leader.
    proved: Mutex<HashSet<String>>,
}

/// A server that cannot be used, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::operator) struct Unproved {
    server: Server,
    /// The first suffix of its route, by which the proxy knows that; `None` for one of the upstream.
    route: Option<Suffix>,
    why: String,
}

/// One server as it is to be asked: the only one of the upstream, or of the only route.
#[derive(Debug, Clone, PartialEq)]
struct Trial {
    server: Server,
    upstream: Upstream,
    route: Option<Route>,
}

impl fmt::Display for Unproved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(suffix) = &self.route {
            write!(f, "route for {suffix}: ")?;
        }
        write!(f, "{}: {}", self.server, self.why)
    }
}

impl Prover {
    pub(super) fn new(client: Client, enabled: bool) -> Self {
        Self { client, enabled, proved: Mutex::default() }
    }

    /// Those of the wanted servers that one of these pods does not ask yet, and that cannot be used.
    pub(super) async fn unproved(&self, wanted: &Config, pods: &[Place]) -> Vec<Unproved> {
        if !self.enabled {
            return Vec::new();
        }
        let mut new: Vec<Trial> = Vec::new();
        for place in pods {
            let present = self.present(place).await;
            let unknown =
                trials(wanted).filter(|trial| present.as_ref().is_none_or(|present| !trial.is_in_use(present)));
            new.extend(unknown.filter(|trial| !new.contains(trial)).collect::<Vec<_>>());
        }
        new.retain(|trial| !self.proved.lock().unwrap_or_else(PoisonError::into_inner).contains(&trial.key()));
        let outcomes: Vec<_> = stream::iter(new).map(Trial::run).buffered(AT_ONCE).collect().await;
        let mut unproved = Vec::new();
        for (trial, outcome) in outcomes {
            match outcome {
                Ok(()) => drop(self.proved.lock().unwrap_or_else(PoisonError::into_inner).insert(trial.key())),
                Err(why) => unproved.push(Unproved { route: trial.suffix().cloned(), server: trial.server, why }),
            }
        }
        unproved
    }

    /// The configuration that a pod has been told.
    async fn present(&self, place: &Place) -> Option<Config> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &place.namespace);
        let pod = pods.get_metadata_opt(&place.name).await.ok()??;
        Config::from_yaml(pod.annotations().get(CONFIG)?).ok()
    }
}

/// What of a profile can be used: without these servers. `None` where its upstream or one of its routes would be left without any:
/// without the route, names under its suffixes would go to the upstream.
pub(super) fn without(profile: &Profile, unproved: &[Unproved]) -> Option<Profile> {
    let mut usable = profile.clone();
    let stays = |route: Option<&Suffix>, server: &Server| {
        !unproved.iter().any(|unproved| unproved.server == *server && unproved.route.as_ref() == route)
    };
    usable.upstream.servers.retain(|server| stays(None, server));
    for route in &mut usable.routes {
        let suffix = route.suffixes.first();
        route.servers.retain(|server| stays(suffix, server));
    }
    let has_servers =
        !usable.upstream.servers.is_empty() && usable.routes.iter().all(|route| !route.servers.is_empty());
    has_servers.then_some(usable)
}

/// Each server that is wanted.
fn trials(wanted: &Config) -> impl Iterator<Item = Trial> {
    let upstream = &wanted.upstream;
    let of_upstream = upstream.servers.iter().map(|server| Trial {
        server: server.clone(),
        upstream: Upstream { servers: vec![server.clone()], ..upstream.clone() },
        route: None,
    });
    let of_routes = wanted.routes.iter().flat_map(move |route| {
        route.servers.iter().map(move |server| Trial {
            server: server.clone(),
            upstream: upstream.clone(),
            route: Some(Route { servers: vec![server.clone()], ..route.clone() }),
        })
    });
    of_upstream.chain(of_routes)
}

impl Trial {
    /// Whether the server is asked already in the way it is to be asked. To how one is asked in clear, nothing else matters.
    fn is_in_use(&self, present: &Config) -> bool {
        let how = |upstream: &Upstream| (upstream.protocol, upstream.http_method, upstream.ca.clone());
        let is_as_before = how(&present.upstream) == how(&self.upstream);
        match &self.route {
            None => {
                let is_pinned_as_before = present.upstream.pins == self.upstream.pins;
                is_as_before && is_pinned_as_before && present.upstream.servers.contains(&self.server)
            }
            Some(route) => {
                let same = present.routes.iter().find(|other| other.suffixes.first() == route.suffixes.first());
                let is_there = same.is_some_and(|other| other.servers.contains(&self.server));
                is_there && (is_as_before || matches!(self.server, Server::Plain(_)))
            }
        }
    }

    fn suffix(&self) -> Option<&Suffix> {
        self.route.as_ref()?.suffixes.first()
    }

    fn key(&self) -> String {
        let routes = self.route.clone().into_iter().collect();
        Config { upstream: self.upstream.clone(), routes, ..Config::default() }.to_json()
    }

    /// Asks the server; of a preset, one of its addresses.
    async fn run(self) -> (Self, Result<(), String>) {
        let proofs = match &self.route {
            None => prove::servers(&self.upstream, PATIENCE).await,
            Some(route) => prove::route(&self.upstream, route, PATIENCE).await,
        };
        let outcome = proofs.map_err(|error| error.to_string()).and_then(|proofs| {
            let mut outcomes = proofs.into_iter().map(|proof| proof.outcome);
            let first = outcomes.next().unwrap_or(Ok(Duration::ZERO));
            if first.is_ok() || outcomes.any(|outcome| outcome.is_ok()) {
                Ok(())
            } else {
                first.map(drop).map_err(|why| why.to_string())
            }
        });
        (self, outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn profile(upstream: &[&str], corp: &[&str], pins: bool) -> Profile {
        let pins = if pins { vec![format!("sha256/{}=", "A".repeat(43))] } else { Vec::new() };
        Profile::read(json!({
            "upstream": {"servers": upstream, "pins": pins},
            "routes": [{"suffixes": ["corp.example", "corp.test"], "servers": corp}],
        }))
        .unwrap()
    }

    fn new(before: &Profile, after: &Profile) -> Vec<String> {
        let (present, wanted) = (before.proxy_config(), after.proxy_config());
        let new = trials(&wanted).filter(|trial| !trial.is_in_use(&present));
        new.map(|trial| {
            Unproved { route: trial.suffix().cloned(), server: trial.server, why: "timeout".into() }.to_string()
        })
        .collect()
    }

    const TLS: &str = "tls://192.0.2.1:853#dns.example";

    #[test]
    fn a_server_is_new_where_its_group_has_not_asked_it_in_this_way() {
        let before = profile(&["quad9"], &["udp://192.0.2.1:53", TLS], false);
        assert_eq!(new(&before, &before), [""; 0]);
        let added = profile(&["quad9", TLS], &["udp://192.0.2.1:53", "udp://192.0.2.2:53", TLS], false);
        assert_eq!(
            new(&before, &added),
            [format!("{TLS}: timeout"), "route for corp.example: udp://192.0.2.2:53: timeout".to_owned()]
        );
        // Pins are of the upstream's servers alone.
        let pinned = profile(&["quad9"], &["udp://192.0.2.1:53", TLS], true);
        assert_eq!(new(&before, &pinned), ["quad9: timeout"]);
        let mut other = before.clone();
        other.upstream.http_method = dot_proxy_config::HttpMethod::Get;
        assert_eq!(
            new(&before, &other),
            ["quad9: timeout".to_owned(), format!("route for corp.example: {TLS}: timeout")]
        );
        let mut without_route = before.clone();
        without_route.routes.clear();
        assert_eq!(new(&without_route, &before).len(), 2);
    }

    #[test]
    fn what_cannot_be_used_is_left_out_of_its_group_and_a_group_without_a_server_stops_the_change() {
        let wanted = profile(&["quad9", TLS], &["udp://192.0.2.1:53", TLS], false);
        let dead = |server: &str, route: Option<&str>| Unproved {
            server: server.parse().unwrap(),
            route: route.map(|suffix| suffix.parse().unwrap()),
            why: "timeout".to_owned(),
        };
        let routed = dead(TLS, Some("corp.example"));
        let usable = without(&wanted, std::slice::from_ref(&routed)).unwrap();
        assert_eq!(usable, profile(&["quad9", TLS], &["udp://192.0.2.1:53"], false));
        assert_eq!(
            without(&wanted, &[dead(TLS, None)]).unwrap(),
            profile(&["quad9"], &["udp://192.0.2.1:53", TLS], false)
        );
        assert_eq!(without(&wanted, &[routed, dead("udp://192.0.2.1:53", Some("corp.example"))]), None);
        assert_eq!(without(&wanted, &[dead(TLS, None), dead("quad9", None)]), None);
    }
}
