//! `dot-proxy`: a DNS-over-TLS forwarder (RFC 7858), strict about who it talks to.
//!
//! ```text
//!  client ─► listener/{udp,tcp} ─► resolve ─► wire      what does the message say
//!                                     │   ─► policy    answered here, refused, or forwarded
//!                                     │   ─► cache     answered before
//!                                     │   ─► router    which group
//!                                     └──────► upstream/group ─► dot ─► connect ─► connection ─► server
//!                                                            └─► plain ─────────────────────────► cluster DNS
//! ```
//!
//! `wire`, `policy`, `cache` and `router` know no socket and no clock. Stages never call each other: `resolve` calls
//! them. `clients` knows who may ask and who misbehaved. `listener` knows `clients` and `resolve`; only `app` knows all. `config`
//! turns what was written into what is run, `cli` is the command line, `admin` serves health and metrics, `reload`
//! takes a configuration that has changed, `prove` tries an upstream from outside, `events` tells a SIEM what the others hand in, `confine` gives up after the start what is not needed.

pub mod admin;
pub mod app;
pub mod cache;
pub mod cli;
pub mod clients;
pub mod config;
pub mod confine;
pub mod datagrams;
pub mod drops;
pub mod events;
mod kernel;
pub mod listener;
pub mod logging;
pub mod lookup;
pub mod memory;
pub mod panics;
pub mod policy;
pub mod prove;
pub mod reload;
pub mod replies;
pub mod resolve;
pub mod router;
mod unacknowledged;
pub mod upstream;
pub mod wire;
