//! The one file that names every module: builds the stages, binds the sockets, runs, and drains.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::admin::{self, Admin};
use crate::cache::{self, Cache};
use crate::clients::responses::ResponseLimit;
use crate::clients::{Clients, Telling};
use crate::config::{Resolved, without_ipv6};
use crate::drops::Drops;
use crate::events::{Carriers, Events};
use crate::listener::{self, Sockets, listen_tcp, tcp, udp};
use crate::panics::Panics;
use crate::reload::{Reload, Targets};
use crate::resolve::{Resolver, Stages};
use crate::upstream::{group, server};

/// What a drain may take beyond a query's deadline: replies still have to be written.
const DRAIN_MARGIN: Duration = Duration::from_secs(1);

/// A proxy whose sockets are bound.
pub struct App {
    sockets: Sockets,
    admin_listener: TcpListener,
    admin: Arc<Admin>,
    clients: Arc<Clients>,
    resolver: Arc<Resolver>,
    metrics: listener::Metrics,
    carriers: Carriers,
    limits: tcp::Limits,
    reload: Option<Reload>,
}

/// An address that could not be bound.
#[derive(Debug)]
pub struct BindError {
    flag: &'static str,
    address: SocketAddr,
    error: io::Error,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { flag, address, error } = self;
        write!(f, "cannot listen on {address} ({flag}): {error}")?;
        match error.kind() {
            io::ErrorKind::AddrInUse => {
                write!(f, "; another program listens there: stop it, or choose another with {flag}")
            }
            io::ErrorKind::PermissionDenied => write!(
                f,
                "; ports below net.ipv4.ip_unprivileged_port_start need privilege: choose another with {flag}, or lower that sysctl"
            ),
            io::ErrorKind::AddrNotAvailable => {
                write!(f, "; this machine has no such address: choose another with {flag}")
            }
            _ => Ok(()),
        }
    }
}

impl std::error::Error for BindError {}

/// The stages of a configuration, without any socket: what `serve` listens for and `query` asks once. To be called on the
/// runtime on which lookups are to run. And what is counted of servers.
pub fn resolver(config: Resolved, events: Events, registry: &mut Registry) -> (Resolver, server::Metrics) {
    let panics = Panics::telling(events.clone());
    panics.register(registry);
    let runtime = Handle::current();
    let cache = cache::Settings { budget: config.cache_budget, stale_for: config.stale_for, prefetch: config.prefetch };
    let metrics = server::Metrics::telling(events.clone(), panics.clone());
    metrics.register(registry);
    let bounds = config.bounds;
    let groups = config
        .groups
        .into_iter()
        .map(|group| group::Group::new(&group.name, group.servers, group.strategy, bounds, &metrics, runtime.clone()))
        .collect();
    let stages = Stages {
        policy: config.policy,
        cache: Cache::new(cache, registry),
        router: config.router,
        groups,
        events,
        panics,
        deadline: config.deadline,
        in_flight: config.in_flight,
        in_flight_of_one: config.clients.in_flight,
        cookies: config.cookies,
        responses: ResponseLimit::of(&config.clients.responses, Instant::now()).into(),
        drops: Drops::new(registry),
    };
    (Resolver::new(stages, runtime, registry), metrics)
}

impl App {
    /// Builds everything and binds the sockets, the admin's last: who can ask it knows that all is bound.
    pub fn bind(mut config: Resolved) -> Result<Self, BindError> {
        let mut registry = Registry::with_prefix("dot_proxy");
        register_build(&mut registry);
        config.confined.register(&mut registry);
        let (listen, admin_address) = (config.listen, config.admin);
        let threads = config.threads;
        let limits = tcp::Limits::of(config.connections, &config.clients);
        let (access, settings) = (config.access.clone(), config.clients.clone());
        let (events, carriers) = Events::start(std::mem::take(&mut config.events), &mut registry);
        config.confined.tell(&events);
        let source = config.source.take();
        let (resolver, servers) = resolver(config, events.clone(), &mut registry);
        let resolver = Arc::new(resolver);
        let metrics = listener::Metrics::telling(events.clone(), resolver.panics().clone());
        metrics.register(&mut registry);
        let telling = Telling {
            runtime: Handle::current(),
            drops: resolver.drops().clone(),
            responses: Arc::clone(resolver.responses()),
            events: events.clone(),
        };
        let clients = Clients::new(access, settings, telling, &mut registry);
        let sockets = Sockets::bind(listen, threads).map_err(|error| BindError {
            flag: "--host, --port",
            address: listen,
            error,
        })?;
        let admin_listener =
            bind_admin(admin_address).map_err(|error| BindError { flag: "--admin", address: admin_address, error })?;
        let targets = Targets { resolver: Arc::clone(&resolver), clients: Arc::clone(&clients), servers, events };
        let reload = source.map(|source| Reload::new(source, targets, &mut registry));
        let admin = Arc::new(Admin {
            registry,
            resolver: Arc::clone(&resolver),
            clients: Arc::clone(&clients),
            configuration: reload.as_ref().map(Reload::state),
        });
        Ok(Self { sockets, admin_listener, admin, clients, resolver, reload, metrics, carriers, limits })
    }

    /// Where queries are taken; UDP and TCP have the same port.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.sockets.tcp.local_addr()
    }

    /// Where health and metrics are served.
    pub fn admin_address(&self) -> io::Result<SocketAddr> {
        self.admin_listener.local_addr()
    }

    /// Serves until `shutdown` completes, then finishes what is in flight. False when a listener ended by itself.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> bool {
        let (stop, stopped) = watch::channel(false);
        let mut listeners = JoinSet::new();
        self.resolver.warm_up();
        let readers = match udp::Readers::start(self.sockets.udp, &self.clients, &self.resolver, &self.metrics) {
            Ok(readers) => readers,
            Err(error) => {
                warn!(%error, "no thread can read datagrams; the proxy stops");
                return false;
            }
        };
        let service = tcp::Service {
            listener: self.sockets.tcp,
            limits: self.limits,
            clients: self.clients,
            resolver: Arc::clone(&self.resolver),
            metrics: self.metrics,
        };
        listeners.spawn(service.run(stopped.clone()));
        listeners.spawn(admin::serve(self.admin_listener, self.admin, stopped));
        let reloading = self.reload.map(|reload| tokio::spawn(reload.run()));
        let asked_to_stop = tokio::select! {
            () = shutdown => true,
            () = readers.ended() => {
                warn!("reading datagrams ended by itself; the proxy stops");
                false
            }
            ended = listeners.join_next() => {
                warn!(?ended, "a listener ended by itself; the proxy stops");
                false
            }
        };
        info!("draining: no new queries are taken, those in flight are finished");
        if let Some(reloading) = reloading {
            reloading.abort();
        }
        readers.stop();
        let _ = stop.send(true); // a listener that has ended does not hear it
        let draining = async {
            self.resolver.drained().await;
            while listeners.join_next().await.is_some() {}
        };
        if tokio::time::timeout(self.resolver.deadline() + DRAIN_MARGIN, draining).await.is_err() {
            warn!("some clients did not take their replies in time");
        }
        self.carriers.finish().await;
        info!("stopped");
        asked_to_stop
    }
}

fn bind_admin(address: SocketAddr) -> io::Result<TcpListener> {
    listen_tcp(address).or_else(|error| match without_ipv6(address, &error) {
        Some(ipv4) => listen_tcp(ipv4),
        None => Err(error),
    })
}

fn register_build(registry: &mut Registry) {
    let build = Family::<[(&'static str, &'static str); 1], Gauge>::default();
    build.get_or_create(&[("version", env!("CARGO_PKG_VERSION"))]).set(1);
    registry.register("build_info", "Always 1; the label tells the version", build);
}
