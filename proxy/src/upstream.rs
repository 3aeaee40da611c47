//! Asking servers.
//!
//! ```text
//! group (asks the best server at once) ──► server ──► dot ──► connect (TCP, TLS, who is it) ──► connection (many queries in flight)
//!   │  choice, health                        ▲  ├───► doh ──► connect ──► HTTP/2, a stream a query
//!   │                                        │  ├───► doq ──► QUIC, a stream a query
//!   │                                        │  ├───► command (a process of curl or kdig a query)
//!   └─► rescue (the next one, or again) ─────┘  └───► plain (UDP again and again, then TCP)
//!                                               kept: the one connection of dot, doh and doq, opened ahead, closed when idle
//! ```

pub mod cause;
pub mod choice;
pub mod command;
pub mod connect;
pub mod connection;
pub mod doh;
pub mod doq;
pub mod dot;
pub mod group;
pub mod health;
pub mod kept;
mod pins;
pub mod plain;
pub mod prompt;
pub mod proof;
pub mod rescue;
#[cfg(test)]
pub(crate) mod scripted;
pub mod server;
mod verifier;

/// A message id that a forger cannot guess (RFC 5452).
pub(crate) fn random_id() -> u16 {
    let mut bytes = [0; 2];
    // Without randomness from the system no TLS connection exists either; a constant id is then the least harm.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    u16::from_be_bytes(bytes)
}
