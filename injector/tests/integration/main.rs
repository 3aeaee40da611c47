//! The injector as a whole: the real HTTPS server on loopback against an API server of the test's, and the program's
//! command line.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test that panics fails, and says where")]

mod admission;
mod api_server;
mod certificates;
mod command_line;
mod election;
mod hostile;
mod http;
mod injector;
mod laws;
mod live;
mod properties;
mod proxies;
mod resolver;
mod shape;
mod shapes;
mod status;
mod valid_pods;
