//! A real collector: rsyslog, as a child process, which takes syslog over TLS or TCP and writes what it got into a file.

use std::collections::HashSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::authority::{Authority, LAST_YEAR};
use crate::wait::{until, until_within};
use serde_json::Value;
use socket2::{Domain, Socket, Type};

/// Where Debian's package `rsyslog` puts it; `rsyslog-gnutls` brings TLS.
const PROGRAM: &str = "/usr/sbin/rsyslogd";

/// The name in its certificate.
pub const NAME: &str = "siem.test";

/// How it takes syslog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    Tls,
    /// It asks the client for a certificate, too, that the same authority signed.
    MutualTls,
    Tcp,
}

/// An address and a directory for a collector, be it running or not; all ends with this value.
pub struct Rsyslog {
    over: Over,
    address: SocketAddr,
    /// Bound to that address, so that no other program gets it while the collector does not run.
    _place: Socket,
    child: Option<Child>,
    directory: PathBuf,
}

/// A message as it was received.
#[derive(Debug, Clone)]
pub struct Message {
    /// Priority, application, message id, structured data: the header's fields as rsyslog parsed them.
    pub header: Vec<String>,
    pub json: Value,
}

impl Rsyslog {
    /// One that does not run yet.
    pub async fn stopped(over: Over, authority: &Authority) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("dot-proxy-rsyslog-{}-{count}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let place = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        place.set_reuse_address(true).unwrap(); // as rsyslog does, which then may have the same
        place.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        let address = place.local_addr().unwrap().as_socket().unwrap();
        let (certificate, key) = authority.certificate(NAME, LAST_YEAR);
        let rsyslog = Self { over, address, _place: place, child: None, directory };
        for (file, text) in [
            ("rsyslog.conf", rsyslog.configuration()),
            ("ca.pem", authority.pem()),
            ("certificate.pem", certificate.pem()),
            ("key.pem", key.serialize_pem()),
        ] {
            fs::write(rsyslog.directory.join(file), text).unwrap();
        }
        rsyslog
    }

    /// One that runs.
    pub async fn running(over: Over, authority: &Authority) -> Self {
        let mut rsyslog = Self::stopped(over, authority).await;
        rsyslog.start().await;
        rsyslog
    }

    /// Starts it, for the first time or again; what it received before stays in its file.
    pub async fn start(&mut self) {
        let child = Command::new(PROGRAM)
            .args(["-n", "-i", "NONE", "-f"])
            .arg(self.directory.join("rsyslog.conf"))
            .stdout(Stdio::null())
            .stderr(fs::File::create(self.directory.join("errors")).unwrap())
            .spawn()
            .unwrap_or_else(|error| panic!("{PROGRAM}: {error}; install Debian's packages rsyslog and rsyslog-gnutls"));
        self.child = Some(child);
        // Not by connecting: to a port that nobody listens on yet, a connection may choose that very port, and be to itself.
        // For TLS it looks for a large prime number first: mostly two seconds, and by chance, or beside other work, many more.
        until_within(Duration::from_secs(180), "rsyslog listens", async || listens(self.address.port())).await;
    }

    /// Tells it to stop, and waits until it has.
    pub fn stop(&mut self) {
        let mut child = self.child.take().unwrap();
        assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
        child.wait().unwrap();
    }

    /// Stops it where it stands: the kernel still takes what is sent to it, and nobody reads that. Its threads go on until
    /// one of them has had a turn to take the signal, which on a busy machine is long enough to read on.
    pub async fn freeze(&self) {
        let id = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args(["-STOP", &id]).status().unwrap().success());
        let is_stopped = |thread: fs::DirEntry| {
            let status = fs::read_to_string(thread.path().join("status")).unwrap();
            status.lines().any(|line| line.starts_with("State:\tT"))
        };
        let all_stopped =
            || fs::read_dir(format!("/proc/{id}/task")).unwrap().all(|thread| is_stopped(thread.unwrap()));
        until("rsyslog stands still", async || all_stopped()).await;
    }

    /// Ends it at once.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// How the proxy is told of a certificate that it knows.
    pub fn client_certificate(&self) -> String {
        let directory = self.directory.display();
        format!("clientCertificate: {{certificateFile: {directory}/certificate.pem, keyFile: {directory}/key.pem}}")
    }

    /// How the proxy is told of it.
    pub fn url(&self) -> String {
        match self.over {
            Over::Tls | Over::MutualTls => format!("tls://{}#{NAME}", self.address),
            Over::Tcp => format!("tcp://{}", self.address),
        }
    }

    /// How many messages it has received so far.
    pub fn received(&self) -> usize {
        let octets = fs::read(self.directory.join("received")).unwrap_or_default();
        octets.iter().filter(|octet| **octet == b'\n').count()
    }

    /// All that it has received so far.
    pub fn messages(&self) -> Vec<Message> {
        let text = fs::read_to_string(self.directory.join("received")).unwrap_or_default();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]); // the last line may be half written
        whole
            .lines()
            .map(|line| {
                let mut parts = line.splitn(6, '|').map(str::to_owned);
                let header = parts.by_ref().take(5).collect();
                Message { header, json: serde_json::from_str(&parts.next().unwrap()).unwrap() }
            })
            .collect()
    }

    /// Waits until it has received so many messages with this action.
    pub async fn has(&self, count: usize, action: &str) -> Vec<Message> {
        let of_action = || {
            let mut messages = self.messages();
            messages.retain(|message| message.json["event"]["action"] == action);
            messages
        };
        until(&format!("rsyslog has {count} messages {action}"), async || of_action().len() >= count).await;
        let messages = of_action();
        let ids: HashSet<_> = messages.iter().map(|message| message.json["event"]["id"].to_string()).collect();
        assert_eq!((messages.len(), ids.len()), (count, count), "{messages:#?}");
        messages
    }

    fn configuration(&self) -> String {
        let directory = self.directory.display();
        let mode = match self.over {
            Over::Tls => "StreamDriver.Name=\"gtls\" StreamDriver.Mode=\"1\" StreamDriver.AuthMode=\"anon\"",
            Over::MutualTls => {
                "StreamDriver.Name=\"gtls\" StreamDriver.Mode=\"1\" StreamDriver.AuthMode=\"x509/certvalid\""
            }
            Over::Tcp => "",
        };
        format!(
            "global(workDirectory=\"{directory}\" net.enableDNS=\"off\" maxMessageSize=\"64k\"
  defaultNetstreamDriverCAFile=\"{directory}/ca.pem\"
  defaultNetstreamDriverCertFile=\"{directory}/certificate.pem\"
  defaultNetstreamDriverKeyFile=\"{directory}/key.pem\")
module(load=\"imtcp\" {mode})
input(type=\"imtcp\" address=\"127.0.0.1\" port=\"{port}\" ruleset=\"received\")
template(name=\"all\" type=\"string\" string=\"%pri%|%hostname%|%app-name%|%msgid%|%structured-data%|%msg%\\n\")
ruleset(name=\"received\") {{
  action(type=\"omfile\" file=\"{directory}/received\" template=\"all\" flushOnTXEnd=\"on\" asyncWriting=\"off\")
}}
",
            port = self.address.port()
        )
    }
}

/// Whether a socket listens on this port, as the kernel tells.
fn listens(port: u16) -> bool {
    const LISTENING: &str = "0A";
    let local = format!(":{port:04X}");
    let sockets = fs::read_to_string("/proc/net/tcp").unwrap();
    let mut fields = sockets.lines().map(|line| line.split_whitespace().skip(1).collect::<Vec<_>>());
    fields.any(|fields| fields[0].ends_with(&local) && fields[2] == LISTENING)
}

impl Drop for Rsyslog {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}
