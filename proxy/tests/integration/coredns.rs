//! A real server of DNS over QUIC: CoreDNS, as a child process. It is built from Go modules for the test cluster
//! (`tests/cluster/cluster build coredns`); a machine without it leaves out what needs it, which `.ci/test` lists.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tokio::net::UdpSocket;

use crate::authority::{Authority, LAST_YEAR, NAME};
use crate::client::query;
use crate::server::unused_address;
use crate::wait::until;

/// A running CoreDNS; it ends with this value.
pub struct CoreDns {
    quic: SocketAddr,
    child: Child,
    directory: PathBuf,
}

/// Where the recipe of the test cluster puts it, or where `DOT_COREDNS` says.
fn program() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    let cache = || variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    let built = || Some(cache()?.join("dot-sidecar/cluster/bin/coredns"));
    variable("DOT_COREDNS").or_else(built).filter(|program| program.exists())
}

impl CoreDns {
    /// Asks this resolver whatever it is asked. `None` where it is not installed.
    pub async fn before(resolver: SocketAddr, authority: &Authority) -> Option<Self> {
        let program = program()?;
        let directory = std::env::temp_dir().join(format!("dot-proxy-coredns-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let (certificate, key) = authority.certificate(NAME, LAST_YEAR);
        let (plain, quic) = (unused_address(), unused_address());
        for (file, text) in [
            ("Corefile", corefile(plain.port(), quic.port(), resolver)),
            ("certificate.pem", certificate.pem()),
            ("key.pem", key.serialize_pem()),
        ] {
            fs::write(directory.join(file), text).unwrap();
        }
        let child =
            Command::new(program).current_dir(&directory).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let coredns = Self { quic, child, directory };
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(plain).await.unwrap();
        let question = query(1, "example.com.", hickory_proto::rr::RecordType::A);
        until("CoreDNS answers", async || {
            // Until it listens the kernel refuses.
            let asked = socket.send(&question).await.is_ok();
            let answer = tokio::time::timeout(std::time::Duration::from_millis(50), socket.recv(&mut [0; 512])).await;
            asked && matches!(answer, Ok(Ok(_)))
        })
        .await;
        Some(coredns)
    }

    /// How the proxy is told of it.
    pub fn url(&self) -> String {
        format!("quic://{}#{NAME}", self.quic)
    }
}

impl Drop for CoreDns {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The test cluster's CoreDNS has no `bind`: it listens on all addresses of the machine.
fn corefile(plain: u16, quic: u16, resolver: SocketAddr) -> String {
    let forward = format!("    forward . {resolver} {{\n        force_tcp\n    }}\n");
    format!(".:{plain} {{\n{forward}}}\nquic://.:{quic} {{\n    tls certificate.pem key.pem\n{forward}}}\n")
}
