//! A replica: the program in a process of its own.

use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::control_plane::signal;
use crate::installation::{Installation, NAMESPACE};

/// A running replica; killed when dropped.
pub(crate) struct Replica {
    pub(crate) name: String,
    pub(crate) reviews: SocketAddr,
    pub(crate) admin: SocketAddr,
    log: PathBuf,
    process: Child,
}

impl Replica {
    /// Starts the one of this number.
    pub(crate) fn start(installation: &Installation, number: u8) -> Self {
        let name = format!("dot-injector-{number}");
        let reviews: SocketAddr = ([127, 0, 1, number], 8443).into();
        let admin: SocketAddr = ([127, 0, 1, number], 8080).into();
        let log = installation.config.with_file_name(format!("{name}.log"));
        let process = Command::new(env!("CARGO_BIN_EXE_dot-injector"))
            .arg("serve")
            .arg("--config")
            .arg(&installation.config)
            .args(["--namespace", NAMESPACE, "--identity", &name, "--verbose"])
            .args(["--listen", &reviews.to_string(), "--admin", &admin.to_string()])
            .env("KUBECONFIG", &installation.kubeconfig)
            .stdin(Stdio::null())
            .stdout(File::options().create(true).append(true).open(&log).unwrap())
            .stderr(File::options().create(true).append(true).open(&log).unwrap())
            .spawn()
            .unwrap();
        Self { name, reviews, admin, log, process }
    }

    /// Starts it and waits until it is ready.
    pub(crate) async fn ready(installation: &Installation, number: u8) -> Self {
        let replica = Self::start(installation, number);
        replica.until_ready().await;
        replica
    }

    pub(crate) async fn until_ready(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !is_ready(self.admin).await {
            assert!(Instant::now() < deadline, "{} is not ready. It says:\n{}", self.name, self.says());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The end of its log.
    fn says(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().rev().take(30).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(name, self.process.id());
    }

    /// Tells it to stop, and waits until it has.
    pub(crate) async fn stop(mut self) {
        self.signal("TERM");
        self.until_gone().await;
    }

    /// Ends it without a word.
    pub(crate) async fn kill(mut self) {
        self.signal("KILL");
        self.until_gone().await;
    }

    async fn until_gone(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.process.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "{} does not end", self.name);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A metric's value; 0 where it is not told.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let metrics = get(self.admin, "/metrics").await.unwrap_or_default();
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().unwrap())
    }

    pub(crate) async fn leads(&self) -> bool {
        self.metric("dot_injector_leader").await > 0.5
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Whether the replica that has its admin port there is ready.
pub(crate) async fn is_ready(admin: SocketAddr) -> bool {
    get(admin, "/readyz").await.is_some()
}

/// The body of what was found there.
async fn get(address: SocketAddr, path: &str) -> Option<String> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let exchange = async {
        let mut stream = tokio::net::TcpStream::connect(address).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        head.starts_with("HTTP/1.1 200 ").then(|| body.to_owned())
    };
    tokio::time::timeout(Duration::from_secs(2), exchange).await.ok()?
}
