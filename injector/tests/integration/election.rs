//! Which replica leads: one at most, at any time.

use std::time::Duration;

use dot_injector::operator::Candidate;
use serde_json::Value;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::api_server::{ApiServer, LEASE};

/// A replica that stands for election.
struct Replica {
    name: &'static str,
    /// Its way to the API server.
    api: ApiServer,
    leading: watch::Receiver<bool>,
    stop: oneshot::Sender<()>,
    running: JoinHandle<()>,
}

impl Replica {
    fn new(name: &'static str, api: &ApiServer) -> Self {
        let api = api.with_a_way_of_its_own();
        let candidate = Candidate::new(api.client(), "dot-sidecar", "dot-injector", name.to_owned());
        let (candidate, leading) = candidate.owned_by("dot-injector").stand();
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(candidate.run(async {
            stopped.await.unwrap();
        }));
        Self { name, api, leading, stop, running }
    }

    fn leads(&self) -> bool {
        *self.leading.borrow()
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.running.await.unwrap();
    }
}

fn leaders(replicas: &[Replica]) -> Vec<&'static str> {
    replicas.iter().filter(|replica| replica.leads()).map(|replica| replica.name).collect()
}

/// Looks ten times a second: there may never be two. Returns when there is one, and how long that took.
async fn until_one_leads(replicas: &[Replica]) -> (&'static str, Duration) {
    let began = Instant::now();
    loop {
        let leaders = leaders(replicas);
        assert!(leaders.len() < 2, "{leaders:?} lead at once");
        if let [leader] = leaders[..] {
            return (leader, began.elapsed());
        }
        assert!(began.elapsed() < Duration::from_secs(60), "nobody leads");
        sleep(Duration::from_millis(100)).await;
    }
}

/// So it stays for that long.
async fn lasting(seconds: u64, holds: impl Fn() -> bool) {
    for _ in 0..seconds * 10 {
        assert!(holds());
        sleep(Duration::from_millis(100)).await;
    }
}

fn lease(api: &ApiServer) -> Value {
    api.get(LEASE).unwrap()["spec"].clone()
}

#[tokio::test(start_paused = true)]
async fn one_replica_leads_and_the_lease_which_goes_with_the_deployment_says_which() {
    let api = ApiServer::new();
    let replicas = ["a", "b", "c"].map(|name| Replica::new(name, &api));
    let (leader, _) = until_one_leads(&replicas).await;
    lasting(60, || leaders(&replicas) == [leader]).await;
    assert_eq!(lease(&api)["holderIdentity"], leader);
    assert_eq!(api.get(LEASE).unwrap()["metadata"]["ownerReferences"][0]["uid"], "deployment-uid");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_stops_hands_over_within_three_seconds() {
    let api = ApiServer::new();
    let first = Replica::new("first", &api);
    until_one_leads(std::slice::from_ref(&first)).await;
    let others = ["second", "third"].map(|name| Replica::new(name, &api));
    lasting(10, || leaders(&others).is_empty()).await;
    first.stop().await;
    let (leader, took) = until_one_leads(&others).await;
    assert!(took <= Duration::from_secs(3), "{took:?}");
    assert_eq!((&lease(&api)["holderIdentity"], &lease(&api)["leaseTransitions"]), (&leader.into(), &1.into()));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_dies_is_followed_when_its_lease_is_over_and_not_before() {
    let api = ApiServer::new();
    let first = Replica::new("first", &api);
    until_one_leads(std::slice::from_ref(&first)).await;
    let second = Replica::new("second", &api);
    lasting(10, || !second.leads()).await;
    first.running.abort();
    let (_, took) = until_one_leads(std::slice::from_ref(&second)).await;
    assert!((Duration::from_secs(12)..Duration::from_secs(20)).contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_leader_cut_off_from_the_api_server_gives_up_before_another_can_lead() {
    let api = ApiServer::new();
    let replicas = ["first", "second"].map(|name| Replica::new(name, &api));
    let (leader, _) = until_one_leads(&replicas).await;
    lasting(5, || leaders(&replicas) == [leader]).await;
    let cut_off = replicas.iter().find(|replica| replica.leads()).unwrap();
    cut_off.api.away(true);
    let began = Instant::now();
    while leaders(&replicas) == [leader] {
        sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(leaders(&replicas), [""; 0]);
    assert!((7..11).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    let (follower, _) = until_one_leads(&replicas).await;
    assert_ne!(follower, leader);
    cut_off.api.away(false);
    lasting(60, || leaders(&replicas) == [follower]).await;
}

#[tokio::test(start_paused = true)]
async fn when_the_api_server_was_away_and_is_back_somebody_leads_again() {
    let api = ApiServer::new();
    let replicas = ["first", "second"].map(|name| Replica::new(name, &api));
    until_one_leads(&replicas).await;
    for replica in &replicas {
        replica.api.away(true);
    }
    sleep(Duration::from_secs(60)).await;
    assert_eq!(leaders(&replicas), [""; 0]);
    for replica in &replicas {
        replica.api.away(false);
    }
    until_one_leads(&replicas).await;
}

/// Each way to the API server fails and comes back by itself, in many orders: nobody ever sees two leaders.
#[tokio::test(start_paused = true)]
async fn however_the_api_server_fails_there_are_never_two_leaders() {
    let api = ApiServer::new();
    let replicas = ["a", "b", "c"].map(|name| Replica::new(name, &api));
    let mut state: u32 = 7;
    let mut followed = 0;
    let mut last = "";
    for _ in 0..20_000 {
        // Numerical Recipes' generator: what matters is that it is the same each time.
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let drawn = (state >> 16) % 600;
        if let Some(replica) = replicas.get(drawn as usize / 2) {
            replica.api.away(drawn.is_multiple_of(2));
        }
        let leaders = leaders(&replicas);
        assert!(leaders.len() < 2, "{leaders:?} lead at once");
        if let [leader] = leaders[..]
            && leader != last
        {
            (followed, last) = (followed + 1, leader);
        }
        sleep(Duration::from_millis(100)).await;
    }
    assert!(followed > 10, "the leader changed {followed} times");
}
