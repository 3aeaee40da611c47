//! `dot-injector serve`

use std::io::{IsTerminal as _, stdout};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use dot_proxy::logging::{Unblocked, note_as_json, note_as_text};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::{Failure, block_on, offline};
use crate::app;
use crate::callers::Callers;
use crate::certs::Clock;
use crate::server::Limits;

/// Run the admission webhook
#[derive(Debug, Args)]
#[command(
    after_help = "The cluster's DNS address and domain are read from /etc/resolv.conf, which the kubelet wrote for this \
pod, where the configuration does not say them.\n\nSIGTERM: no longer ready, a few seconds more of admissions, then what was begun \
is finished; exit 0."
)]
pub(super) struct Serve {
    /// Configuration in YAML: sidecar, cluster, and the ProxyProfile default that is to be kept (left out: the defaults)
    #[arg(long, value_name = "FILE", env = "DOT_INJECTOR_CONFIG")]
    config: Option<PathBuf>,
    /// Where the API server sends admission reviews (HTTPS)
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "[::]:8443", env = "DOT_INJECTOR_LISTEN")]
    listen: SocketAddr,
    /// Where /livez, /readyz and /metrics are (HTTP)
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "[::]:8080", env = "DOT_INJECTOR_ADMIN")]
    admin: SocketAddr,
    /// The injector's own namespace
    #[arg(long, value_name = "NAME", default_value = "dot-sidecar", env = "POD_NAMESPACE")]
    namespace: String,
    /// The Service by which the API server reaches the injector: the certificate is for its name
    #[arg(long, value_name = "NAME", default_value = "dot-injector", env = "DOT_INJECTOR_SERVICE")]
    service: String,
    /// The Secret in which the replicas share the certificate; made when it is missing
    #[arg(long, value_name = "NAME", default_value = "dot-injector-tls", env = "DOT_INJECTOR_SECRET")]
    secret: String,
    /// The MutatingWebhookConfiguration whose caBundle is written
    #[arg(long, value_name = "NAME", default_value = "dot-sidecar", env = "DOT_INJECTOR_WEBHOOK_CONFIGURATION")]
    webhook_configuration: String,
    /// Answer no admissions: where the API server injects by policy, only profiles and pods are looked after
    #[arg(long, conflicts_with_all = ["listen", "client_ca"], env = "DOT_INJECTOR_WITHOUT_WEBHOOK")]
    without_webhook: bool,
    /// The Deployment that owns the Secret and the Lease
    #[arg(long, value_name = "NAME", default_value = "dot-injector", env = "DOT_INJECTOR_DEPLOYMENT")]
    deployment: String,
    /// Authorities (PEM) of which one must vouch for whoever calls: the API server, once it is configured to show a certificate
    /// (left out: anybody who reaches the port is answered)
    #[arg(long, value_name = "FILE", env = "DOT_INJECTOR_CLIENT_CA")]
    client_ca: Option<PathBuf>,
    /// A name that the caller's certificate must carry, as its common name or as a DNS name; repeatable [default: any]
    #[arg(long, value_name = "NAME", requires = "client_ca", value_delimiter = ',', env = "DOT_INJECTOR_CLIENT_NAME")]
    client_name: Vec<String>,
    /// The Lease by which one replica leads; made when it is missing
    #[arg(long, value_name = "NAME", default_value = "dot-injector", env = "DOT_INJECTOR_LEASE")]
    lease: String,
    /// What this replica is called among the others
    #[arg(long, value_name = "NAME", env = "HOSTNAME", default_value = "dot-injector")]
    identity: String,
    /// How to log: text for people, json for machines
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = LogFormat::Text, env = "DOT_INJECTOR_LOG_FORMAT")]
    log_format: LogFormat,
    /// Log debug messages too
    #[arg(long, short)]
    verbose: bool,
}

/// Long enough for the endpoint's removal to reach every kube-proxy as a rule.
const LINGER: Duration = Duration::from_secs(3);

/// The log's form.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

impl Serve {
    pub(super) fn run(self) -> Result<(), Failure> {
        start_log(self.log_format, self.verbose);
        let settings = offline::settings(self.config.as_deref())?;
        let config = app::Config {
            settings,
            namespace: self.namespace,
            service: self.service,
            secret: self.secret,
            webhook_configuration: self.webhook_configuration,
            deployment: self.deployment,
            lease: self.lease,
            identity: self.identity,
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            linger: LINGER,
            callers: self.client_ca.map(|authorities| Callers { authorities, names: self.client_name }),
            clock: Clock::system(),
            limits: Limits::default(),
        };
        block_on(async {
            let listeners = app::Listeners::bind((!self.without_webhook).then_some(self.listen), self.admin)
                .await
                .map_err(Failure::work)?;
            let client = app::client().await.map_err(Failure::work)?;
            app::run(config, client, listeners, told_to_stop()?).await.map_err(Failure::work)
        })?
    }
}

/// Logs to standard output, where the platform collects it; an admission does not wait until it has.
fn start_log(format: LogFormat, verbose: bool) {
    let ours = if verbose { LevelFilter::DEBUG } else { LevelFilter::INFO };
    let filter = Targets::new().with_default(LevelFilter::WARN).with_target("dot_injector", ours);
    // It says "failed", and not what or why: whoever asked tells both.
    let filter = filter.with_target("kube_client::client::builder", LevelFilter::OFF);
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_target(false);
    match format {
        LogFormat::Text => {
            let layer = layer.with_writer(Unblocked::new(stdout(), note_as_text));
            registry.with(layer.with_ansi(stdout().is_terminal())).init();
        }
        LogFormat::Json => {
            let layer = layer.with_writer(Unblocked::new(stdout(), note_as_json));
            registry.with(layer.json().flatten_event(true)).init();
        }
    }
}

/// Ends when the process is told to stop: SIGTERM by the kubelet, SIGINT by a person.
fn told_to_stop() -> Result<impl Future<Output = ()>, Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let handler = |kind| signal(kind).map_err(|error| Failure::Work(format!("signals: {error}")));
    let (mut terminate, mut interrupt) = (handler(SignalKind::terminate())?, handler(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
