//! `dot-proxy probe`: is the proxy on this machine up? Never asks about upstreams: a pod must not hang for a resolver's outage.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::options::read_config;
use super::{Failure, block_on};

/// Ask a running proxy on this machine whether it is up (a container's startup probe)
#[derive(Debug, Args)]
pub(super) struct Probe {
    /// Configuration file of the running proxy, which tells its admin address
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The running proxy's admin address [default: 127.0.0.1:9853]
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with = "config")]
    admin: Option<SocketAddr>,
}

const TIMEOUT: Duration = Duration::from_secs(1);

impl Probe {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let configured = match (&self.config, self.admin) {
            (Some(file), _) => read_config(file)?.admin.address,
            (None, Some(admin)) => admin,
            (None, None) => dot_proxy_config::Admin::default().address,
        };
        let address = reachable(configured);
        block_on(async {
            let answered = tokio::time::timeout(TIMEOUT, livez(address)).await;
            let outcome = answered.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
            match outcome {
                Ok(true) => Ok(()),
                Ok(false) => Err(Failure::Work(format!("what listens on {address} is no dot-proxy in good health"))),
                Err(error) => Err(Failure::Work(format!("no dot-proxy answers on {address} (--admin): {error}"))),
            }
        })
    }
}

/// An address to connect to, for one that stands for all addresses.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) | IpAddr::V6(Ipv6Addr::UNSPECIFIED) => {
            SocketAddr::new(Ipv4Addr::LOCALHOST.into(), address.port())
        }
        _ => address,
    }
}

async fn livez(address: SocketAddr) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut status = [0; 12];
    stream.read_exact(&mut status).await?;
    Ok(&status == b"HTTP/1.1 200")
}
