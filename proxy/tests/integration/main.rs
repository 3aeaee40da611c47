//! The proxy as a whole, over real sockets and real TLS: in this process, against servers that do what a test tells them
//! and against a real resolver, and as the program that users start.

#![allow(unreachable_pub, clippy::unwrap_used, clippy::panic, reason = "a test program: what is wrong ends it")]

// What the tests are made of: clients, the proxy, servers.
mod answers;
mod authority;
mod blackhole;
mod client;
mod conversation;
mod coredns;
mod https_server;
mod load;
mod numbers;
mod proxy;
mod quic_server;
mod reaction;
mod rsyslog;
mod server;
mod unbound;
mod volume;
mod wait;

// The tests.
mod bounds;
mod caching;
mod confinement;
mod connection_faults;
mod connections;
mod decoders;
mod differential;
mod events;
mod failures;
mod forwarding;
mod frozen;
mod groups;
mod hostile_connections;
mod https;
mod idle;
mod listeners;
mod odd_answers;
mod program;
mod programs;
mod prompt;
mod proving;
mod queries;
mod quic;
mod reflection;
mod reload;
mod replies;
mod restraint;
mod routes;
mod strategies;
mod strictness;
