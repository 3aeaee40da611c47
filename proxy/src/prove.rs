//! Proving an upstream from outside the proxy: with its own transports and its own strictness, before any proxy is told to use
//! it. The injector's leader does, so that what cannot work is not sent to every pod.

use std::sync::Arc;
use std::time::Duration;

use dot_proxy_config::{Config, ConfigError, Protocol, Route, Upstream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::config::{GroupServers, Resolved};
pub use crate::upstream::cause::Cause;
use crate::upstream::proof::Challenge;
pub use crate::upstream::proof::Unproved;
use crate::upstream::server::{Metrics, Server};

/// Servers that are asked at once.
const AT_ONCE: usize = 8;

/// What came of proving a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// The server's URL, such as `tls://192.0.2.1:853#dns.example`.
    pub server: String,
    /// How long it took to connect, have the server prove who it is, and get an answer; or why there is none.
    pub outcome: Result<Duration, Unproved>,
}

/// Proves each server of an upstream as the proxy does before it uses a new one: by a connection of its own transport (TLS with
/// the strict name, the CA and the pins; HTTPS; QUIC), and one answered query, for `localhost`. Any answer but REFUSED will do.
///
/// Presets stand as their servers, in the order in which they are written. At most eight are asked at once, each for `within`.
/// For the programs curl and kdig, the transports that they speak are asked by the proxy's own.
///
/// To be called on a tokio runtime with I/O and time.
///
/// # Errors
///
/// An upstream that cannot be used as it is written, with the path of the field: a CA or pin that is none, a file that cannot be
/// read, a server in clear.
pub async fn servers(upstream: &Upstream, within: Duration) -> Result<Vec<Proof>, ConfigError> {
    let written = Config { upstream: by_own_transports(upstream), ..Config::default() };
    prove(&written, 0, Challenge::to_a_resolver(), within).await
}

/// Proves each server of a route in the same way, by the upstream's CA; its query is for the zone of the first suffix. One in clear is
/// proved by its answer alone.
///
/// To be called on a tokio runtime with I/O and time.
///
/// # Errors
///
/// An upstream or a route that cannot be used as it is written, with the path of the field: the route's begin with `routes[0]`.
pub async fn route(upstream: &Upstream, route: &Route, within: Duration) -> Result<Vec<Proof>, ConfigError> {
    let upstream = by_own_transports(upstream);
    let challenge = route.suffixes.first().map_or_else(Challenge::to_a_resolver, Challenge::to_a_server_of);
    let written = Config { upstream, routes: vec![route.clone()], ..Config::default() };
    prove(&written, 1, challenge, within).await
}

/// The same without a program that asks.
fn by_own_transports(upstream: &Upstream) -> Upstream {
    let protocol = match upstream.protocol {
        Protocol::Curl => Protocol::Doh,
        Protocol::Kdig => Protocol::Dot,
        own => own,
    };
    Upstream { protocol, ..upstream.clone() }
}

/// Proves the servers of the group at this place: the upstream's, then each route's.
async fn prove(
    written: &Config,
    group: usize,
    challenge: Challenge,
    within: Duration,
) -> Result<Vec<Proof>, ConfigError> {
    let resolved = Resolved::from_written(written)?;
    let (places, name) = (Arc::new(Semaphore::new(AT_ONCE)), Arc::<str>::from("proof"));
    let metrics = Metrics::default();
    let mut proving = JoinSet::new();
    let servers =
        resolved.groups.into_iter().nth(group).map(|GroupServers { servers, .. }| servers).unwrap_or_default();
    for (index, configured) in servers.into_iter().enumerate() {
        let (url, server) = (configured.url.clone(), Server::new(&name, configured, &metrics));
        let (places, challenge) = (Arc::clone(&places), challenge.clone());
        proving.spawn(async move {
            let _place = places.acquire().await; // the semaphore is never closed
            let outcome = challenge.put_to(&server, within).await;
            server.retire();
            (index, Proof { server: url, outcome })
        });
    }
    let mut proofs = proving.join_all().await;
    proofs.sort_by_key(|(index, _)| *index);
    Ok(proofs.into_iter().map(|(_, proof)| proof).collect())
}
