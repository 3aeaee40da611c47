//! The one file that names every module: `serve`, from settings to a drained stop.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::{Request, Version};
use kube::{Api, Client};
use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;
use tracing::{info, warn};

use crate::admin::Admin;
use crate::callers::Callers;
use crate::certs::{Clock, Keeper, Place, Served, service_names};
use crate::cluster::{ClusterDns, ResolvConf};
use crate::events::Teller;
use crate::inject::search_warnings;
use crate::limits::LimitRanges;
use crate::metrics::Metrics;
use crate::operator::{Candidate, Operator};
use crate::profile::{WatchedProfiles, keep_default};
use crate::readiness::Readiness;
use crate::server::{Answer, Limits};
use crate::settings::Settings;
use crate::webhook::{Facts, Webhook};
use crate::{events, server};

/// What `serve` was told.
#[derive(Debug)]
pub struct Config {
    /// The configuration file, read.
    pub settings: Settings,
    /// The injector's namespace.
    pub namespace: String,
    /// The Service by which the API server reaches the injector.
    pub service: String,
    /// The Secret of the certificates.
    pub secret: String,
    /// The MutatingWebhookConfiguration.
    pub webhook_configuration: String,
    /// The Deployment that owns the Secret and the Lease.
    pub deployment: String,
    /// The Lease by which one replica leads.
    pub lease: String,
    /// What this replica is called among the others: its pod's name.
    pub identity: String,
    /// The injector's own resolv.conf.
    pub resolv_conf: PathBuf,
    /// How long admissions are still taken after the signal to stop: the API server's side learns by and by that this
    /// replica is leaving (its endpoint is removed, kube-proxy follows).
    pub linger: Duration,
    /// Who may call; anybody where it is not said.
    pub callers: Option<Callers>,
    /// What tells the time of day, by which certificates are judged.
    pub clock: Clock,
    /// What clients may take.
    pub limits: Limits,
}

/// Where the injector listens.
#[derive(Debug)]
pub struct Listeners {
    /// Reviews, over TLS. Without it no admissions are answered, and nothing is done for them: there is no certificate.
    pub reviews: Option<TcpListener>,
    /// Health and metrics.
    pub admin: TcpListener,
}

/// Why `serve` could not start.
#[derive(Debug)]
pub struct StartError(String);

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StartError {}

/// Serves until `shutdown`, then drains.
pub async fn run(
    config: Config,
    client: Client,
    listeners: Listeners,
    shutdown: impl Future<Output = ()>,
) -> Result<(), StartError> {
    let cluster = cluster_dns(&config)?;
    let metrics = Metrics::default();
    let readiness = Readiness::default();
    let (profiles, watch_profiles) =
        WatchedProfiles::watch(&client, config.settings.profile.is_some(), readiness.clone());
    // Dropped when this function returns, and so stopped.
    let mut background = JoinSet::new();
    if let Some(profile) = &config.settings.profile {
        background.spawn(keep_default(client.clone(), profile.clone(), profiles.clone()));
    }
    let candidate = Candidate::new(client.clone(), &config.namespace, &config.lease, config.identity.clone());
    let (candidate, leading) = candidate.owned_by(&config.deployment).telling(&cluster).stand();
    let (teller, worker) = events::queue(client.clone(), Some(config.identity.clone()), metrics.clone());
    let operator = Operator {
        client: client.clone(),
        cluster: cluster.clone(),
        settings: config.settings.clone(),
        teller: teller.clone(),
        profiles: profiles.clone(),
        rollout: config.settings.rollout.clone(),
        metrics: metrics.clone(),
        self_check: config.settings.self_check.clone(),
        deployment: (config.namespace.clone(), config.deployment.clone()),
    };
    background.spawn(operator.run(leading.clone()));
    background.spawn(watch_profiles);
    background.spawn(worker.run());

    let (stop, stopped) = watch::channel(false);
    let (stop_leading, stopping_soon) = watch::channel(false);
    let reviews = match listeners.reviews {
        Some(listener) => {
            let counted = metrics.clone();
            let (metrics, readiness) = (metrics.clone(), readiness.clone());
            let leaving = readiness.clone();
            let shared = Shared { client, cluster, profiles, teller, metrics, readiness };
            let (tls, webhook) = answering(&config, shared, leading, &mut background)?;
            let answer = move |request: Request<Incoming>| {
                let (version, leaving) = (request.version(), leaving.clone());
                let answering = Arc::clone(&webhook).handle(request);
                async move { parting(answering.await, version, &leaving) }
            };
            let stop = until(stopped.clone());
            Some(server::serve(listener, Some(tls), &config.limits, counted, answer, stop))
        }
        None => {
            readiness.without_admissions();
            None
        }
    };
    let reviews = async {
        if let Some(reviews) = reviews {
            reviews.await;
        }
    };
    let show = Admin { readiness: readiness.clone(), metrics: metrics.clone() };
    let answer_admin = move |request| show.clone().handle(request);
    let health = server::serve(listeners.admin, None, &config.limits, metrics, answer_admin, until(stopped.clone()));
    // Handed over while admissions are still taken.
    let standing = candidate.run(until(stopping_soon));
    let stopping = async {
        shutdown.await;
        info!(seconds = config.linger.as_secs(), "stopping: no longer ready, and taking admissions a little longer");
        readiness.stop();
        stop_leading.send_replace(true);
        sleep(config.linger).await;
        // Nobody listening any more would be just as well.
        stop.send_replace(true);
    };
    tokio::join!(reviews, health, standing, stopping);
    info!("stopped");
    Ok(())
}

/// What admissions are answered with, and the rest of the program has too.
struct Shared {
    client: Client,
    cluster: ClusterDns,
    profiles: WatchedProfiles,
    teller: Teller,
    metrics: Metrics,
    readiness: Readiness,
}

/// What answers admissions, and by which certificate. What it needs beside that is put to work: who keeps the certificate, and who
/// knows the LimitRanges.
fn answering(
    config: &Config,
    shared: Shared,
    leading: watch::Receiver<bool>,
    background: &mut JoinSet<()>,
) -> Result<(TlsAcceptor, Arc<Webhook>), StartError> {
    let Shared { client, cluster, profiles, teller, metrics, readiness } = shared;
    let served = Served::default();
    let tls = TlsAcceptor::from(Arc::new(tls_config(served.clone(), config.callers.as_ref())?));
    let certificates = config.settings.certificates.clone();
    let keeper = Keeper::new(&client, place(config, &cluster), certificates, config.clock.clone());
    background.spawn(keeper.telling(served, readiness.clone(), metrics.clone()).run(leading));
    let (limits, watch_limits) = LimitRanges::watch(&client, readiness);
    background.spawn(watch_limits);
    let facts = Facts { settings: config.settings.clone(), cluster, limits, profiles };
    Ok((tls, Arc::new(Webhook::new(facts, Api::all(client), teller, metrics, config.limits.clone()))))
}

impl Listeners {
    /// Listens on these addresses.
    pub async fn bind(reviews: Option<SocketAddr>, admin: SocketAddr) -> Result<Self, StartError> {
        let reviews = match reviews {
            Some(reviews) => Some(bind(reviews, "--listen").await?),
            None => None,
        };
        Ok(Self { reviews, admin: bind(admin, "--admin").await? })
    }
}

/// A client of the API server: of the pod's service account, or of KUBECONFIG.
///
/// It tells at once what the API server has no time for. kube's own policy would ask again for minutes, in which neither a disruption
/// budget's "no" is heard nor anything else is done; and whoever asks here tries again later anyway.
pub async fn client() -> Result<Client, StartError> {
    let unknown = |error: &dyn fmt::Display| {
        StartError(format!("the API server is not known: {error}; run in a pod, or set KUBECONFIG"))
    };
    let mut config = kube::Config::infer().await.map_err(|error| unknown(&error))?;
    config.default_retry = false;
    Client::try_from(config).map_err(|error| unknown(&error))
}

/// Once this replica is leaving, each connection of HTTP/1.1 goes with its next answer, which says so. One that is closed between two
/// requests may meet the second on its way, and API servers do not send a review again.
fn parting(mut answer: Answer, version: Version, readiness: &Readiness) -> Answer {
    if readiness.is_stopping() && version == Version::HTTP_11 {
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

async fn until(mut stopped: watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a stop too.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

fn cluster_dns(config: &Config) -> Result<ClusterDns, StartError> {
    let text = std::fs::read_to_string(&config.resolv_conf).unwrap_or_else(|error| {
        warn!(%error, file = %config.resolv_conf.display(), "the injector's own resolv.conf could not be read");
        String::new()
    });
    let cluster = ClusterDns::new(&config.settings.cluster, &ResolvConf::parse(&text))
        .map_err(|error| StartError(error.to_string()))?;
    let servers: Vec<String> = cluster.servers.iter().map(ToString::to_string).collect();
    info!(domain = %cluster.domain, servers = servers.join(","), searches = cluster.searches.join(","), "cluster DNS");
    search_warnings(&cluster).iter().for_each(|warning| warn!("{warning}"));
    Ok(cluster)
}

fn place(config: &Config, cluster: &ClusterDns) -> Place {
    Place {
        namespace: config.namespace.clone(),
        secret: config.secret.clone(),
        deployment: config.deployment.clone(),
        webhook_configuration: config.webhook_configuration.clone(),
        names: service_names(&config.service, &config.namespace, cluster.domain.as_str()),
    }
}

/// Listens; where there is no IPv6, `[::]` means 0.0.0.0.
async fn bind(address: SocketAddr, flag: &str) -> Result<TcpListener, StartError> {
    let bound = match TcpListener::bind(address).await {
        Err(_) if address.ip() == std::net::Ipv6Addr::UNSPECIFIED => {
            TcpListener::bind((std::net::Ipv4Addr::UNSPECIFIED, address.port())).await
        }
        bound => bound,
    };
    let listener = bound.map_err(|error| StartError(format!("{flag} {address}: {error}")))?;
    if let Ok(address) = listener.local_addr() {
        info!(%address, flag, "listening");
    }
    Ok(listener)
}

/// TLS 1.2 and 1.3, with whatever certificate is served at the time of the handshake; for certain callers alone if they are
/// told.
fn tls_config(served: Served, callers: Option<&Callers>) -> Result<ServerConfig, StartError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = match callers {
        Some(callers) => callers.verifier(&provider).map_err(|error| StartError(error.to_string()))?,
        None => WebPkiClientVerifier::no_client_auth(),
    };
    let builder = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| StartError(format!("TLS: {error}")))?;
    let mut config = builder.with_client_cert_verifier(verifier).with_cert_resolver(Arc::new(served));
    if callers.is_some() {
        // A resumed session would not show its certificate again, which may have expired since.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
