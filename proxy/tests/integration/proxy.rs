//! The proxy under test, in this process.

use std::net::SocketAddr;
use std::path::Path;

use dot_proxy::app::App;
use dot_proxy::config::Resolved;
use dot_proxy::reload::{Hash, Source};
use dot_proxy_config::Config;
use hickory_proto::op::ResponseCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::authority::Authority;
use crate::client::{ask, extended_error};
use crate::server::Server;

/// What a configuration says beside its servers, in YAML.
#[derive(Default)]
pub struct Written<'a> {
    /// More fields of `listen`.
    pub listen: &'a str,
    /// More fields of `upstream`.
    pub upstream: &'a str,
    /// More parts, a line each.
    pub more: &'a str,
}

pub struct Proxy {
    pub address: SocketAddr,
    pub admin: SocketAddr,
    stop: oneshot::Sender<()>,
    running: JoinHandle<bool>,
}

impl Proxy {
    /// A proxy that asks this server.
    pub fn asking(server: &Server, authority: &Authority) -> Self {
        Self::with(&[&server.url()], authority, "")
    }

    /// A proxy that asks these servers, trusts this authority, and has these lines of YAML beside.
    pub fn with(servers: &[&str], authority: &Authority, more: &str) -> Self {
        Self::written(servers, authority, &Written { more, ..Written::default() })
    }

    /// The same, with all that a configuration can say beside.
    pub fn written(servers: &[&str], authority: &Authority, written: &Written<'_>) -> Self {
        Self::run(Self::resolved(servers, authority, written))
    }

    /// A proxy to which clients on loopback are strangers: limited, and shut out.
    pub fn among_strangers(servers: &[&str], authority: &Authority, more: &str) -> Self {
        let resolved = Self::resolved(servers, authority, &Written { more, ..Written::default() });
        Self::run(Resolved { access: resolved.access.clone().judging_loopback(), ..resolved })
    }

    fn resolved(servers: &[&str], authority: &Authority, written: &Written<'_>) -> Resolved {
        let ca = authority.pem().replace('\n', "\\n");
        let Written { listen, upstream, more } = written;
        let yaml = format!(
            "listen: {{host: 127.0.0.1, port: 0, {listen}}}\nadmin: {{address: \"127.0.0.1:0\"}}\nupstream: {{servers: {servers:?}, ca: \"{ca}\", {upstream}}}\n{more}"
        );
        let config = Config::from_yaml(&yaml).unwrap();
        Resolved::from_written(&config).unwrap_or_else(|error| panic!("{error}"))
    }

    /// A proxy with the configuration in this file, which it watches.
    pub fn watching(file: &Path) -> Self {
        let text = std::fs::read_to_string(file).unwrap();
        let written = Config::from_yaml(&text).unwrap();
        let read = |text: &str| Config::from_yaml(text).map_err(|error| error.to_string());
        let resolved = Resolved::from_written(&written).unwrap_or_else(|error| panic!("{error}"));
        let (file, hash) = (file.to_owned(), Hash::of(text.as_bytes()));
        let source = Source { file, read: Box::new(read), written, hash };
        Self::run(Resolved { source: Some(source), ..resolved })
    }

    /// The hash of the configuration in force; and that of the one that was not taken, with the reason, if there is one.
    pub async fn configuration(&self) -> (String, Option<(String, String)>) {
        configuration(self.admin).await
    }

    /// Whether the metrics have a series of this server.
    pub async fn counts(&self, url: &str) -> bool {
        self.admin("/metrics").await.1.contains(&format!("server=\"{url}\""))
    }

    fn run(resolved: Resolved) -> Self {
        let app = App::bind(resolved).unwrap();
        let (address, admin) = (app.address().unwrap(), app.admin_address().unwrap());
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(app.run(async { drop(stopped.await) }));
        Self { address, admin, stop, running }
    }

    /// Asks the admin endpoint: status and body.
    pub async fn admin(&self, path: &str) -> (u16, String) {
        admin(self.admin, path).await
    }

    /// The sum of a counter over all its labels.
    pub async fn total(&self, name: &str) -> u64 {
        self.sum(&format!("{name}{{")).await
    }

    /// A query ends in SERVFAIL, the client is told that this server failed and why, and so is who reads the metrics.
    pub async fn fails(&self, server: &str, cause: &str) {
        let reply = ask(self.address, "www.example.com.").await;
        assert_eq!((reply.metadata.response_code, reply.answers.len()), (ResponseCode::ServFail, 0), "{cause}");
        assert_eq!(extended_error(&reply), format!("{cause} at {server}"));
        assert!(self.failures(server, cause).await >= 1, "{cause}");
    }

    /// How often this server failed for this cause.
    pub async fn failures(&self, server: &str, cause: &str) -> u64 {
        let labels = format!("{{group=\"upstream\",server=\"{server}\",cause=\"{cause}\"}}");
        self.sum(&format!("dot_proxy_upstream_failures_total{labels}")).await
    }

    async fn sum(&self, beginning: &str) -> u64 {
        let (_, body) = self.admin("/metrics").await;
        let lines = body.lines().filter(|line| line.starts_with(beginning));
        lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap()).sum()
    }

    /// The value of a metric, given with its labels.
    pub async fn metric(&self, name: &str) -> u64 {
        let (_, body) = self.admin("/metrics").await;
        let value = body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        value.unwrap_or_else(|| panic!("no metric {name} in\n{body}"))
    }

    /// Tells the proxy to stop and waits until it has drained.
    pub async fn stop(self) -> bool {
        self.stop.send(()).unwrap();
        self.running.await.unwrap()
    }
}

/// What a proxy tells of its configuration: the hash of that in force; and of one that was not taken, with the reason.
pub async fn configuration(address: SocketAddr) -> (String, Option<(String, String)>) {
    let (_, body) = admin(address, "/metrics").await;
    let labels = |name: &str| {
        let mut lines = body.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{')?.strip_suffix("} 1"));
        let labels = lines.next().map(|line| line.split('"').map(str::to_owned).collect::<Vec<_>>());
        assert!(lines.next().is_none(), "two of {name}");
        labels
    };
    let in_force = labels("dot_proxy_config_info").expect("one is in force").swap_remove(1);
    (in_force, labels("dot_proxy_config_rejected").map(|labels| (labels[1].clone(), labels[3].clone())))
}

/// Asks a proxy's admin endpoint: status and body.
pub async fn admin(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), body.to_owned())
}
