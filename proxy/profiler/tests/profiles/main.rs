//! The profiler against real servers on loopback: unbound (DNS over TLS, DNS over HTTPS) and CoreDNS (DNS over QUIC), each
//! directly, at another address of the same server, and over a path with a known round trip.

#![allow(unreachable_pub, clippy::unwrap_used, clippy::panic, reason = "a test program: what is wrong ends it")]

mod delay;
mod delayed;
mod profiler;
mod reports;
mod servers;
