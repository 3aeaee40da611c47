//! The injector's program, in several replicas, with a real API server: what becomes of admissions while replicas, certificates, the
//! API server and its etcd come and go.
//!
//! Needs root, and helm in PATH or named by the variable `HELM`: each test starts an API server by `tests/cluster/cluster` and then runs
//! once more inside the network of that.
#![allow(clippy::unwrap_used, reason = "a test that panics fails, and says where")]
#![allow(clippy::print_stdout, reason = "figures for who runs the tests")]

mod availability;
mod balancer;
mod cert_manager;
mod chaos;
mod control_plane;
mod installation;
mod load;
mod replica;
mod self_check;

use std::time::{Duration, Instant};

/// Waits for something to come about.
async fn eventually(what: &str, within: Duration, holds: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + within;
    while !holds().await {
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
