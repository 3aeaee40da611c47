//! The proxy as a whole, over real sockets and real TLS: in this process, against servers that do what a test tells them,
//! and as the program that users start.

#![allow(unreachable_pub, clippy::unwrap_used, clippy::panic, reason = "a test program: what is wrong ends it")]

mod client;
mod connections;
mod failures;
mod forwarding;
mod listeners;
mod program;
mod proxy;
mod routes;
mod server;
mod strictness;
