//! A real resolver: unbound, as a child process, with a zone of the test's own, in plain DNS, DNS over TLS and
//! DNS over HTTPS.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::net::TcpStream;

use crate::authority::{Authority, LAST_YEAR, NAME};
use crate::server::unused_address;
use crate::wait::until;

/// Where Debian's package `unbound` puts it.
const PROGRAM: &str = "/usr/sbin/unbound";

/// A running unbound; it ends with this value.
pub struct Unbound {
    /// Where it takes plain queries, over UDP and TCP.
    pub plain: SocketAddr,
    tls: SocketAddr,
    https: SocketAddr,
    child: Child,
    directory: PathBuf,
}

impl Unbound {
    /// Serves a zone, given as a master file (RFC 1035 §5), and nothing else; it asks nobody.
    pub async fn serving(origin: &str, zone: &str, authority: &Authority) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("dot-proxy-unbound-{}-{count}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let (certificate, key) = authority.certificate(NAME, LAST_YEAR);
        let (plain, tls, https) = (unused_address(), unused_address(), unused_address());
        let configuration = configuration(&directory.display().to_string(), [plain, tls, https], origin);
        for (file, text) in [
            ("unbound.conf", configuration),
            ("zone", zone.to_owned()),
            ("certificate.pem", certificate.pem()),
            ("key.pem", key.serialize_pem()),
        ] {
            fs::write(directory.join(file), text).unwrap();
        }
        let child = Command::new(PROGRAM)
            .args(["-d", "-p", "-c"])
            .arg(directory.join("unbound.conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{PROGRAM}: {error}; install Debian's package unbound"));
        let unbound = Self { plain, tls, https, child, directory };
        until("unbound takes connections", async || TcpStream::connect(tls).await.is_ok()).await;
        unbound
    }

    /// How the proxy is told of it.
    pub fn url(&self) -> String {
        format!("tls://{}#{NAME}", self.tls)
    }

    /// How the proxy is told of its DNS over HTTPS.
    pub fn https_url(&self) -> String {
        format!("https://{}/dns-query#{NAME}", self.https)
    }

    /// Stops it where it stands: the kernel still takes what is sent to it, and nobody reads that.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap().success());
    }
}

impl Drop for Unbound {
    fn drop(&mut self) {
        let _ = self.child.kill(); // SIGKILL ends who is stopped, too
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn configuration(directory: &str, [plain, tls, https]: [SocketAddr; 3], origin: &str) -> String {
    format!(
        "server:
  directory: \"{directory}\"
  chroot: \"\"
  username: \"\"
  pidfile: \"\"
  use-syslog: no
  logfile: \"{directory}/log\"
  interface: {plain_ip}@{plain_port}
  interface: {tls_ip}@{tls_port}
  interface: {https_ip}@{https_port}
  outgoing-interface: 127.0.0.1
  tls-port: {tls_port}
  https-port: {https_port}
  http-endpoint: \"/dns-query\"
  tls-service-key: \"{directory}/key.pem\"
  tls-service-pem: \"{directory}/certificate.pem\"
  incoming-num-tcp: 100
  module-config: \"iterator\"
  rrset-roundrobin: no
  edns-buffer-size: 1232
  max-udp-size: 1232
  access-control: 127.0.0.0/8 allow
remote-control:
  control-enable: no
auth-zone:
  name: \"{origin}\"
  zonefile: \"{directory}/zone\"
  for-downstream: yes
  for-upstream: no
",
        plain_ip = plain.ip(),
        plain_port = plain.port(),
        tls_ip = tls.ip(),
        tls_port = tls.port(),
        https_ip = https.ip(),
        https_port = https.port(),
    )
}
