//! The upstream: DNS over TLS (RFC 7858) for the made-up zone, on one thread, fast enough never to be what limits; it does on
//! request what an upstream should not do.
//!
//! Requests come as lines on its standard input, and each gets one line of JSON, the counts so far, on its standard output:
//! `count`, `reset` (count anew), `delay MILLISECONDS` (each answer so much later), `away` (listener and connections closed at
//! once), `back`, `hang-up` (connections closed). It ends when its standard input does.

mod connection;

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddrV4, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use connection::Connection;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};

use crate::failure::{During, Failure, Outcome};
use crate::system::{self, Readiness};

/// How long it waits when nothing is due.
const FOREVER: Duration = Duration::from_secs(3600);
/// Tokens of what is no connection.
const REQUESTS: usize = 0;
const LISTENER: usize = 1;

/// Answer over TLS for the zone bench.test
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Where to listen
    #[arg(long)]
    listen: SocketAddrV4,
    /// The certificate, in PEM
    #[arg(long)]
    certificate: PathBuf,
    /// Its key, in PEM
    #[arg(long)]
    key: PathBuf,
}

/// What happened since it began, or was told to count anew.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the fields say it")]
pub(crate) struct Counts {
    /// Connections accepted.
    pub(crate) connections: u64,
    /// Connections that are open.
    pub(crate) open: u64,
    pub(crate) queries: u64,
    /// The most queries that one read brought.
    pub(crate) batch: u64,
    /// Connections that ended otherwise than by the client's closing them.
    pub(crate) errors: u64,
}

/// The server's state.
struct Upstream {
    address: SocketAddrV4,
    tls: Arc<ServerConfig>,
    readiness: Readiness,
    listener: Option<TcpListener>,
    connections: HashMap<usize, Connection>,
    next_token: usize,
    delay: Duration,
    /// Whether any answer may be held back: without, no connection needs to be looked at for one.
    holding: bool,
    counts: Counts,
    requests: Vec<u8>,
}

/// Runs until standard input ends.
pub(crate) fn run(options: &Options) -> Outcome<()> {
    system::punctual();
    let mut upstream = Upstream::new(options)?;
    let mut ready = Vec::new();
    loop {
        let pause = upstream.next_due().map_or(FOREVER, |due| due.saturating_duration_since(Instant::now()));
        upstream.readiness.wait(pause, &mut ready).during("waiting")?;
        for &token in &ready {
            match token {
                REQUESTS if upstream.obey()? => {}
                REQUESTS => return Ok(()),
                LISTENER => upstream.accept()?,
                token => upstream.serve(token),
            }
        }
        upstream.deliver();
    }
}

impl Upstream {
    fn new(options: &Options) -> Outcome<Self> {
        let readiness = Readiness::new().during("epoll")?;
        readiness.add(io::stdin(), REQUESTS).during("watching standard input")?;
        let mut upstream = Self {
            address: options.listen,
            tls: tls(options)?,
            readiness,
            listener: None,
            connections: HashMap::new(),
            next_token: LISTENER + 1,
            delay: Duration::ZERO,
            holding: false,
            counts: Counts::default(),
            requests: Vec::new(),
        };
        upstream.listen()?;
        Ok(upstream)
    }

    fn listen(&mut self) -> Outcome<()> {
        let listener = TcpListener::bind(self.address).during(format_args!("listening on {}", self.address))?;
        listener.set_nonblocking(true).during("listening")?;
        self.readiness.add(&listener, LISTENER).during("watching the listener")?;
        self.listener = Some(listener);
        Ok(())
    }

    fn accept(&mut self) -> Outcome<()> {
        while let Some(Ok((stream, _))) = self.listener.as_ref().map(TcpListener::accept) {
            let connection = Connection::new(stream, &self.tls).during("accepting")?;
            self.readiness.add(connection.stream(), self.next_token).during("watching a connection")?;
            self.connections.insert(self.next_token, connection);
            self.next_token += 1;
            self.counts.connections += 1;
        }
        Ok(())
    }

    fn serve(&mut self, token: usize) {
        let Some(connection) = self.connections.get_mut(&token) else { return };
        match connection.serve(self.delay) {
            Ok(queries) => {
                self.counts.queries += queries;
                self.counts.batch = self.counts.batch.max(queries);
                if connection.writability_changed() {
                    // A connection that cannot be watched ends when its client gives up on it.
                    let _ = self.readiness.watch_writable(connection.stream(), token, connection.wants_write());
                }
            }
            Err(ended) => {
                self.counts.errors += u64::from(!matches!(ended, connection::Ended::ByClient));
                self.connections.remove(&token);
            }
        }
    }

    fn next_due(&self) -> Option<Instant> {
        if !self.holding {
            return None;
        }
        self.connections.values().filter_map(Connection::next_due).min()
    }

    /// Sends the answers that were held back until now.
    fn deliver(&mut self) {
        if self.holding {
            let now = Instant::now();
            self.connections.retain(|_, connection| connection.deliver(now).is_ok());
            self.holding = !self.delay.is_zero() || self.next_due().is_some();
        }
    }

    /// Does what the lines on standard input say. False when it has ended.
    fn obey(&mut self) -> Outcome<bool> {
        let mut buffer = [0; 1024];
        let octets = io::stdin().read(&mut buffer).during("reading standard input")?;
        self.requests.extend_from_slice(&buffer[..octets]);
        while let Some(end) = self.requests.iter().position(|&octet| octet == b'\n') {
            let line: Vec<u8> = self.requests.drain(..=end).collect();
            self.request(String::from_utf8_lossy(&line).trim())?;
            self.counts.open = self.connections.len() as u64;
            let line = serde_json::to_string(&self.counts).during("writing the counts")?;
            writeln!(io::stdout(), "{line}").during("writing the counts")?;
        }
        Ok(octets > 0)
    }

    fn request(&mut self, line: &str) -> Outcome<()> {
        match line.split_once(' ').unwrap_or((line, "")) {
            ("count", _) => {}
            ("reset", _) => self.counts = Counts::default(),
            ("delay", milliseconds) => {
                self.delay =
                    Duration::from_millis(milliseconds.parse().during(format_args!("delay '{milliseconds}'"))?);
                self.holding = true;
            }
            ("away", _) => {
                self.listener = None;
                self.connections.clear();
            }
            ("back", _) => self.listen()?,
            ("hang-up", _) => self.connections.clear(),
            _ => return Err(Failure::new(format!("there is no request '{line}'"))),
        }
        Ok(())
    }
}

fn tls(options: &Options) -> Outcome<Arc<ServerConfig>> {
    let reading = |path: &PathBuf| format!("reading {}", path.display());
    let certificates = CertificateDer::pem_file_iter(&options.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .during(reading(&options.certificate))?;
    let key = PrivateKeyDer::from_pem_file(&options.key).during(reading(&options.key))?;
    let mut tls = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .during("TLS")?
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .during("TLS")?;
    // Some clients name another protocol than `dot`, or none: none is refused.
    tls.ticketer = aws_lc_rs::Ticketer::new().during("TLS")?;
    Ok(Arc::new(tls))
}
