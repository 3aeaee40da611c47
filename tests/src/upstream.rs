//! The resolver outside the cluster: unbound, over TLS and HTTPS alone, with a certificate of the test's choice.
//!
//! It answers from its own data and asks nobody. Each has an address of its own in the documentation range, so that tests do not
//! meet in one log.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use crate::authority::Identity;
use crate::background::Background;
use crate::command::Call;
use crate::deadline::eventually;

/// The name in the certificates of resolvers that do everything right.
pub const NAME: &str = "dns.resolver.test";

/// The public names that exist, and their addresses (documentation ranges all).
pub const PUBLIC: [(&str, &str); 4] = [
    ("www.example.com", "203.0.113.80"),
    ("example.org", "203.0.113.81"),
    ("mail.example.net", "203.0.113.82"),
    ("init.example.com", "203.0.113.83"),
];

static NEXT: AtomicU8 = AtomicU8::new(53);

/// A resolver of DNS over TLS and DNS over HTTPS on an address of the node.
#[derive(Debug)]
pub struct Upstream {
    address: String,
    folder: PathBuf,
    server: Option<Background>,
}

impl Upstream {
    /// An address with a resolver that is not running yet: connections to it are refused.
    pub fn stopped(identity: &Identity) -> Self {
        let address = format!("192.0.2.{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(format!("dot-e2e-{}/{address}", std::process::id()));
        add_address(&address);
        fs::create_dir_all(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        write(&folder, "certificate.pem", &identity.certificate);
        write(&folder, "key.pem", &identity.key);
        write(&folder, "unbound.conf", &configuration(&address, &folder));
        Self { address, folder, server: None }
    }

    /// A resolver that runs.
    pub fn running(identity: &Identity) -> Self {
        let mut upstream = Self::stopped(identity);
        upstream.start();
        upstream
    }

    /// Starts the resolver; returns when it takes connections.
    pub fn start(&mut self) {
        let mut unbound = Command::new("unbound");
        unbound.arg("-d").arg("-c").arg(self.folder.join("unbound.conf"));
        let server = Background::start(&unbound);
        eventually(&format!("unbound on {}", self.address), Duration::from_secs(10), || {
            if !server.is_running() {
                return Err(format!("unbound ended\n{}", self.log()));
            }
            TcpStream::connect((self.address.as_str(), 853)).map_err(|error| format!("{error}\n{}", self.log()))
        });
        self.server = Some(server);
    }

    /// Stops the resolver: connections to it are refused from now on.
    pub fn stop(&mut self) {
        self.server = None;
    }

    /// The resolver as a configuration names it: address and the name to expect in the certificate.
    pub fn url(&self, name: &str) -> String {
        format!("tls://{}:853#{name}", self.address)
    }

    /// The same, asked over HTTPS.
    pub fn https_url(&self, name: &str) -> String {
        format!("https://{}/dns-query#{name}", self.address)
    }

    /// The resolver's address.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What was asked, oldest first: `client name type`, the name with its last dot.
    pub fn questions(&self) -> Vec<String> {
        self.log()
            .lines()
            .filter_map(|line| line.split_once("query: "))
            .map(|(_, question)| question.trim_end_matches(" IN").to_owned())
            .collect()
    }

    /// What this client asked: the names, each with its last dot.
    pub fn names_asked_by(&self, client: &str) -> Vec<String> {
        self.questions()
            .iter()
            .filter_map(|question| question.strip_prefix(client)?.strip_prefix(' ')?.split(' ').next())
            .map(str::to_owned)
            .collect()
    }

    /// The resolver's log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop();
        if std::thread::panicking() {
            eprintln!("── unbound on {}\n{}", self.address, self.log());
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Gives the node one more address. Not every kernel has dummy devices: a bridge without ports carries them.
fn add_address(address: &str) {
    let _ = Call::new("ip").words("link add resolvers type bridge").output();
    Call::new("ip").words("link set resolvers up").succeed();
    Call::new("ip").words(&format!("address replace {address}/32 dev resolvers")).succeed();
}

fn configuration(address: &str, folder: &Path) -> String {
    let folder = folder.display();
    let data: String = PUBLIC.iter().map(|(name, ip)| format!("  local-data: \"{name}. 60 IN A {ip}\"\n")).collect();
    format!(
        "server:
  interface: {address}@853
  interface: {address}@443
  tls-port: 853
  https-port: 443
  tls-service-pem: {folder}/certificate.pem
  tls-service-key: {folder}/key.pem
  access-control: 0.0.0.0/0 allow
  directory: {folder}
  pidfile: \"\"
  chroot: \"\"
  username: \"\"
  use-syslog: no
  logfile: {folder}/log
  log-queries: yes
  log-tag-queryreply: yes
  module-config: iterator
  local-zone: \".\" static
  local-data: \". 60 IN SOA a.root. hostmaster.root. 1 60 60 60 60\"
{data}remote-control:
  control-enable: no
"
    )
}

fn write(folder: &Path, file: &str, text: &str) {
    let path = folder.join(file);
    fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
