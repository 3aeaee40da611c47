//! The harness of the end-to-end tests: a real cluster, a real resolver and a real capture, behind names that let a test read
//! like the sentence it proves.
//!
//! ```text
//!  test ──► Cluster (chart installed, resolver up) ──► Namespace ──► Pod / RunningPod ──► dig, kdig, getent, resolve
//!                    │                                     │
//!                    ├─► Upstream   unbound over TLS, its log: what was asked outside
//!                    ├─► cluster_dns  CoreDNS's log: what was asked inside
//!                    └─► Capture    tcpdump: what left the pods, whoever asked
//! ```
//!
//! Everything here runs inside the node's namespaces (`tests/cluster/cluster exec`), uses `kubectl` and `helm` as a person would,
//! and panics with what a person would look at next: the logs, the events, the description of the pods.
#![allow(
    clippy::panic,
    clippy::print_stderr,
    clippy::needless_pass_by_value,
    reason = "this crate is test code: a harness that fails is a test that fails, and says why"
)]

pub mod authority;
pub mod background;
pub mod capture;
pub mod chart;
pub mod cluster;
pub mod cluster_dns;
pub mod command;
pub mod deadline;
pub mod image;
pub mod namespace;
pub mod pod;
pub mod quic;
pub mod reply;
pub mod upstream;

pub use authority::Authority;
pub use capture::Capture;
pub use cluster::Cluster;
pub use command::{Call, Output};
pub use deadline::eventually;
pub use namespace::{Admission, Namespace, RunningPod};
pub use pod::Pod;
pub use quic::QuicResolver;
pub use reply::Reply;
pub use upstream::Upstream;
