//! What a person writes to configure `dot-proxy`, and nothing else: no sockets, no files, no TLS.
//!
//! The injector validates with these types exactly what the proxy will accept. Everything is parsed into a type that
//! can only hold what is usable; an error names the path of the field and the remedy.
//!
//! ```text
//! YAML or JSON ──Config::from_yaml──► Config ──to_json──► the pod's annotation dot-sidecar.io/config
//!                                       │
//!     certificates  Pin  Server  ServerName  UrlPath  Preset  Protocol  Strategy  Suffix  Network  ByteSize  log  Collector
//! ```

mod certificates;
mod clients;
mod collector;
mod config;
mod error;
mod events;
mod http_method;
pub mod log;
mod network;
mod path;
mod pin;
mod preset;
mod protocol;
mod rules;
mod server;
mod size;
mod strategy;
mod suffix;
mod text;

pub use certificates::CaCertificates;
pub use clients::{Clients, Connection, Responses, ShutOut, Weights};
pub use collector::Collector;
pub use config::{
    Admin, Cache, ClientCertificate, Cluster, Config, Confinement, Listen, Query, Route, Threads, Upstream,
};
pub use error::{ConfigError, ParseError};
pub use events::{Events, Labels, Syslog};
pub use http_method::HttpMethod;
pub use network::Network;
pub use path::UrlPath;
pub use pin::Pin;
pub use preset::Preset;
pub use protocol::Protocol;
pub use server::{HttpsServer, Server, ServerName, TlsServer};
pub use size::ByteSize;
pub use strategy::Strategy;
pub use suffix::Suffix;
