//! `dot-profiler`: compares resolvers (`--stub`) and upstreams on the user's own network, through the code of `dot-proxy`.
//!
//! ```text
//!  cli ─► plan (combinations, questions) ─► measurement (rounds ─► slices; traffic) ─► report ─► table, json, csv, plot
//!                                                                                        └─ verdict ─ statistics
//! ```
//!
//! Every combination of a stub and an upstream is measured in slices, a slice in every round, so that a noisy moment hits
//! all alike; what the verdict compares is the slices of the same round.

pub mod cli;
pub mod combination;
mod cpu;
mod interrupt;
pub mod measurement;
pub mod plan;
mod plot;
pub mod questions;
pub mod report;
pub mod statistics;
mod traffic;
pub mod verdict;
