//! `dot-injector`: the Kubernetes admission webhook that gives pods the DNS-over-TLS sidecar `dot-proxy`.
//!
//! ```text
//!            kube-apiserver                                   manifests
//!                  │ AdmissionReview                             │
//!  server ──► webhook ──────────────► inject ◄──────────────  manifest
//!                  │      pod, namespace, profiles, settings,     │
//!                  │      cluster, limits → Inject | Skip | Deny  │
//!                  ▼                                              ▼
//!        patch, warnings, sentence                       cli inject, explain
//! ```
//!
//! [`inject`] is pure and decides everything; it reads a pod by way of [`annotations`], [`profile`], [`settings`],
//! [`cluster`], [`limits`] and [`quantity`], which are pure as well. Around it: [`webhook`] and [`server`] speak with the
//! API server, [`callers`] keeps others out, [`certs`] keeps the certificate, [`operator`] is what one replica does for all,
//! [`events`] tells owners, [`admin`], [`metrics`] and [`readiness`] tell
//! operators. [`manifest`] does offline what the webhook does. [`app`] alone knows all of them.

pub mod admin;
pub mod annotations;
pub mod app;
pub mod callers;
mod causes;
pub mod certs;
pub mod cli;
pub mod cluster;
pub mod events;
pub mod inject;
pub mod limits;
pub mod manifest;
pub mod metrics;
pub mod operator;
mod pages;
pub mod profile;
pub mod quantity;
pub mod readiness;
pub mod server;
pub mod settings;
pub mod state;
pub mod webhook;
