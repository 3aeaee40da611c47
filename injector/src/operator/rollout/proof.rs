//! Whether servers that are new to pods can be used: the leader asks them itself, as strictly as the pods would.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use dot_proxy::prove;
use dot_proxy_config::{Config, Server};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, ResourceExt};

use super::super::fleet::Place;
use crate::annotations::CONFIG;

/// How long a server may take to connect, prove who it is, and answer.
const PATIENCE: Duration = Duration::from_secs(5);

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
    pub(super) server: Server,
    why: String,
}

impl fmt::Display for Unproved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.server, self.why)
    }
}

impl Prover {
    pub(super) fn new(client: Client, enabled: bool) -> Self {
        Self { client, enabled, proved: Mutex::default() }
    }

    /// Those of the wanted servers that one of these pods does not ask yet, and that cannot be used.
    pub(super) async fn unproved(&self, wanted: &dot_proxy_config::Upstream, pods: &[Place]) -> Vec<Unproved> {
        if !self.enabled {
            return Vec::new();
        }
        let mut new: Vec<&Server> = Vec::new();
        for place in pods {
            let present = self.present(place).await;
            let is_asked = |server: &Server| present.as_ref().is_some_and(|present| is_same(present, wanted, server));
            let unknown = wanted.servers.iter().filter(|server| !is_asked(server));
            new.extend(unknown.filter(|server| !new.contains(server)).collect::<Vec<_>>());
        }
        let mut unproved = Vec::new();
        for server in new {
            let alone = dot_proxy_config::Upstream { servers: vec![server.clone()], ..wanted.clone() };
            let key = Config { upstream: alone.clone(), ..Config::default() }.to_json();
            if self.proved.lock().unwrap_or_else(PoisonError::into_inner).contains(&key) {
                continue;
            }
            match prove_one(&alone).await {
                Ok(()) => drop(self.proved.lock().unwrap_or_else(PoisonError::into_inner).insert(key)),
                Err(why) => unproved.push(Unproved { server: server.clone(), why }),
            }
        }
        unproved
    }

    /// The upstream that a pod has been told to ask.
    async fn present(&self, place: &Place) -> Option<dot_proxy_config::Upstream> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &place.namespace);
        let pod = pods.get_metadata_opt(&place.name).await.ok()??;
        let config = Config::from_yaml(pod.annotations().get(CONFIG)?).ok()?;
        Some(config.upstream)
    }
}

/// Whether a server is asked already in the way it is to be asked.
fn is_same(present: &dot_proxy_config::Upstream, wanted: &dot_proxy_config::Upstream, server: &Server) -> bool {
    let how = |upstream: &dot_proxy_config::Upstream| {
        (upstream.protocol, upstream.http_method, upstream.ca.clone(), upstream.pins.clone())
    };
    present.servers.contains(server) && how(present) == how(wanted)
}

/// One server; of a preset, one of its addresses.
async fn prove_one(upstream: &dot_proxy_config::Upstream) -> Result<(), String> {
    let proofs = prove::servers(upstream, PATIENCE).await.map_err(|error| error.to_string())?;
    let mut why = String::new();
    for proof in proofs {
        match proof.outcome {
            Ok(_) => return Ok(()),
            Err(unproved) if why.is_empty() => why = unproved.to_string(),
            Err(_) => {}
        }
    }
    Err(why)
}
