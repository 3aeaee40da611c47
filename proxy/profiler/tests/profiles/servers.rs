//! Real servers, as child processes, which answer every name with the same addresses.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dot_test_ports::reserve;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

/// The name in the servers' certificate.
pub const NAME: &str = "dns.test";

/// Another address of this machine, at which the servers listen too.
pub const OTHER_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Where Debian's package `unbound` puts it.
const UNBOUND: &str = "/usr/sbin/unbound";

/// What the servers complain of, in their folder.
const ERRORS: &str = "errors";

/// What is not there by then never will be.
const PATIENCE: Duration = Duration::from_secs(10);

/// Running servers; they end with this value.
pub struct Servers {
    directory: PathBuf,
    children: Vec<Child>,
    /// DNS over TLS.
    pub tls: SocketAddr,
    /// DNS over HTTPS.
    pub https: SocketAddr,
    /// DNS over QUIC; `None` where CoreDNS is not installed.
    pub quic: Option<SocketAddr>,
}

impl Servers {
    pub fn start() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("dot-profiler-{}-{count}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        write_certificates(&directory);
        let [plain, tls, https, quic] = std::array::from_fn(|_| SocketAddr::from((Ipv4Addr::LOCALHOST, reserve())));
        let mut servers = Self { directory, children: Vec::new(), tls, https, quic: None };
        let configuration = unbound(&servers.directory.display().to_string(), plain, tls, https);
        fs::write(servers.directory.join("unbound.conf"), configuration).unwrap();
        servers.run(Command::new(UNBOUND).args(["-d", "-p", "-c", "unbound.conf"]));
        servers.wait_until("unbound takes connections", || TcpStream::connect(https).is_ok()); // what it binds last
        if let Some(program) = coredns() {
            let corefile =
                format!("quic://.:{} {{\n    tls certificate.pem key.pem\n    forward . {plain}\n}}\n", quic.port());
            fs::write(servers.directory.join("Corefile"), corefile).unwrap();
            servers.run(&mut Command::new(program));
            servers.wait_until("CoreDNS listens", || listens_over_udp(quic.port()));
            servers.quic = Some(quic);
        }
        servers
    }

    /// The CA's file.
    pub fn ca(&self) -> String {
        self.directory.join("ca.pem").display().to_string()
    }

    /// Waits for what will be so of a server that was started.
    fn wait_until(&mut self, what: &str, holds: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds() {
            let ended = self.children.iter_mut().any(|child| !matches!(child.try_wait(), Ok(None)));
            let errors = || fs::read_to_string(self.directory.join(ERRORS)).unwrap();
            assert!(!ended && Instant::now() < deadline, "it never came about that {what}: {}", errors());
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn run(&mut self, command: &mut Command) {
        let errors = fs::File::options().create(true).append(true).open(self.directory.join(ERRORS)).unwrap();
        let command = command.current_dir(&self.directory).stdout(Stdio::null()).stderr(errors);
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}; see make install"));
        self.children.push(child);
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn write_certificates(directory: &std::path::Path) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let mut params = CertificateParams::new([NAME.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, NAME); // else OpenSSL takes it for self-signed
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &ca).unwrap();
    fs::write(directory.join("ca.pem"), ca.pem()).unwrap();
    fs::write(directory.join("certificate.pem"), certificate.pem()).unwrap();
    fs::write(directory.join("key.pem"), key.serialize_pem()).unwrap();
}

/// Whether a socket has this port, by the kernel's list.
fn listens_over_udp(port: u16) -> bool {
    let lists = ["/proc/net/udp", "/proc/net/udp6"].map(|list| fs::read_to_string(list).unwrap_or_default());
    lists.concat().contains(&format!(":{port:04X} "))
}

/// Where the recipe of the test cluster puts it (`tests/cluster/cluster build coredns`), or where `DOT_COREDNS` says.
fn coredns() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    let cache = || variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    let built = || Some(cache()?.join("dot-sidecar/cluster/bin/coredns"));
    variable("DOT_COREDNS").or_else(built).filter(|program| program.exists())
}

fn unbound(directory: &str, plain: SocketAddr, tls: SocketAddr, https: SocketAddr) -> String {
    let interfaces: String = [
        (Ipv4Addr::LOCALHOST, plain),
        (Ipv4Addr::LOCALHOST, tls),
        (OTHER_ADDRESS, tls),
        (Ipv4Addr::LOCALHOST, https),
        (OTHER_ADDRESS, https),
    ]
    .map(|(ip, address)| format!("  interface: {ip}@{}\n", address.port()))
    .concat();
    format!(
        "server:
  directory: \"{directory}\"
  chroot: \"\"
  username: \"\"
  pidfile: \"\"
  use-syslog: no
{interfaces}  tls-port: {tls_port}
  https-port: {https_port}
  http-endpoint: \"/dns-query\"
  tls-service-key: \"{directory}/key.pem\"
  tls-service-pem: \"{directory}/certificate.pem\"
  incoming-num-tcp: 100
  access-control: 127.0.0.0/8 allow
  local-zone: \".\" redirect
  local-data: \". 60 A 192.0.2.1\"
  local-data: \". 60 AAAA 2001:db8::1\"
remote-control:
  control-enable: no
",
        tls_port = tls.port(),
        https_port = https.port(),
    )
}
