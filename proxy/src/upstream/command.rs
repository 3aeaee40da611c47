//! A server asked by a program of its own for each query: `curl` (DNS over HTTPS) or `kdig` (DNS over TLS).
//!
//! ```text
//! Tool (found at start, what it trusts) ──► Command (one server) ──► curl or kdig (arguments, and what came of them)
//!                                                                      └─► process (at most so many, killed at the deadline)
//! ```
//!
//! A program gets an empty environment, no shell, and nothing of a query that it could take for an option: curl reads the
//! question from its standard input, kdig the name behind `-q` with all but letters and digits escaped. What comes back is
//! the message as the server sent it, octet for octet, so that every type, flag and option is carried.

mod curl;
mod dnstap;
mod inherited;
mod kdig;
mod process;

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dot_proxy_config::{CaCertificates, HttpMethod, Pin, Server};

use self::curl::Curl;
use self::inherited::InheritedFile;
use self::kdig::Kdig;
pub use self::process::Slots;
use super::cause::Cause;
use super::connection::Query;

/// Where programs are looked for when the environment says nothing.
const USUAL_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Where Debian, Fedora and Alpine keep the public roots.
const PUBLIC_ROOTS: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// A program that can ask servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// `curl`, for DNS over HTTPS.
    Curl,
    /// `kdig`, for DNS over TLS.
    Kdig,
}

/// Whom a program is to trust, and how it proves who we are.
#[derive(Default)]
pub struct Trust<'a> {
    /// CAs that may vouch for servers; without any, the system's public roots.
    pub ca: Option<&'a CaCertificates>,
    /// Public keys, one of which must be the server's.
    pub pins: &'a [Pin],
    /// A client certificate and its key, both in PEM.
    pub identity: Option<(&'a [u8], &'a [u8])>,
}

/// Why a program cannot be used, for the person who configured it.
#[derive(Debug, PartialEq, Eq)]
pub struct Unusable(String);

/// A program that is installed, and all that its processes share.
#[derive(Clone)]
pub struct Tool {
    shared: Arc<Shared>,
}

struct Shared {
    program: Program,
    executable: PathBuf,
    roots: Roots,
    identity: Option<(InheritedFile, InheritedFile)>,
    pins: Vec<Pin>,
    /// What GnuTLS is told beside its own defaults.
    gnutls: InheritedFile,
    slots: Slots,
}

enum Roots {
    Given(InheritedFile),
    Public(&'static str),
}

/// A server, and the program that asks it.
#[derive(Clone)]
pub enum Command {
    /// Over HTTPS.
    Curl(Curl),
    /// Over TLS.
    Kdig(Kdig),
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unusable {}

impl Program {
    fn name(self) -> &'static str {
        match self {
            Self::Curl => "curl",
            Self::Kdig => "kdig",
        }
    }

    /// The package that has it, in Debian.
    fn package(self) -> &'static str {
        match self {
            Self::Curl => "curl",
            Self::Kdig => "knot-dnsutils",
        }
    }

    /// The program's file, along `PATH`.
    fn find(self, path: Option<OsString>) -> Result<PathBuf, Unusable> {
        let path = path.unwrap_or_else(|| USUAL_PATH.into());
        let candidates = env::split_paths(&path).filter(|directory| directory.is_absolute());
        candidates.map(|directory| directory.join(self.name())).find(|file| is_executable(file)).ok_or_else(|| {
            Unusable(format!(
                "needs the program {}, which is not in PATH ({}): install it (Debian's package {}), or use the image built with STUB={}",
                self.name(),
                path.display(),
                self.package(),
                self.name()
            ))
        })
    }
}

fn is_executable(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

impl Tool {
    /// Finds the program, and puts what it is to trust where its processes can read it.
    pub fn find(program: Program, trust: &Trust<'_>, slots: Slots) -> Result<Self, Unusable> {
        let executable = program.find(env::var_os("PATH"))?;
        if program == Program::Kdig {
            kdig::check(&executable, trust)?;
        }
        let unwritable =
            |error| Unusable(format!("cannot keep certificates in memory for {}: {error}", program.name()));
        let roots = match trust.ca {
            Some(ca) => Roots::Given(InheritedFile::holding("ca", ca.as_pem().as_bytes()).map_err(unwritable)?),
            None => Roots::Public(public_roots(program)?),
        };
        let identity = match trust.identity {
            Some((certificate, key)) => Some((
                InheritedFile::holding("certificate", certificate).map_err(unwritable)?,
                InheritedFile::holding("key", key).map_err(unwritable)?,
            )),
            None => None,
        };
        let gnutls = InheritedFile::holding("gnutls", kdig::GNUTLS_CONFIGURATION).map_err(unwritable)?;
        let pins = trust.pins.to_vec();
        Ok(Self { shared: Arc::new(Shared { program, executable, roots, identity, pins, gnutls, slots }) })
    }

    /// The program's file.
    pub fn executable(&self) -> &Path {
        &self.shared.executable
    }

    /// What asks this server, over HTTPS by this method; `None` for a server of a transport that the program is not used for.
    pub fn asking(&self, server: &Server, method: HttpMethod) -> Option<Command> {
        match (self.shared.program, server) {
            (Program::Curl, Server::Https(server)) => Some(Command::Curl(Curl::asking(self, server, method))),
            (Program::Kdig, Server::Tls(server)) => Some(Command::Kdig(Kdig::asking(self, server))),
            _ => None,
        }
    }
}

impl Shared {
    fn roots(&self) -> String {
        match &self.roots {
            Roots::Given(file) => file.path(),
            Roots::Public(path) => (*path).to_owned(),
        }
    }
}

fn public_roots(program: Program) -> Result<&'static str, Unusable> {
    PUBLIC_ROOTS.into_iter().find(|path| Path::new(path).is_file()).ok_or_else(|| {
        Unusable(format!(
            "{} needs the public CAs as a file, and there is none at {}: install Debian's package ca-certificates, or name your own by upstream.caFile (--tls-ca)",
            program.name(),
            PUBLIC_ROOTS.join(", ")
        ))
    })
}

impl Command {
    /// Runs the program, and gives the server's answer and how long it took without the wait for a free process.
    pub async fn exchange(&self, query: Query<'_>) -> Result<(Vec<u8>, Duration), Cause> {
        match self {
            Self::Curl(curl) => curl.exchange(query).await,
            Self::Kdig(kdig) => kdig.exchange(query).await,
        }
    }
}

/// Whether there is a way to an address at all, as the routing table tells without a packet being sent: the programs do
/// not say it, and where there is no IPv6 no process need be started to learn it.
fn is_routable(server: SocketAddr) -> bool {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    UdpSocket::bind((any, 0)).is_ok_and(|socket| socket.connect(server).is_ok())
}

/// What the fuzz targets reach of this module; there is none of it in a build of another kind.
#[cfg(fuzzing)]
pub mod fuzzing {
    use std::process::ExitStatus;
    use std::time::Duration;

    use hyper::http::response::Parts;

    use super::process::Finished;
    use super::{curl, kdig};
    use crate::wire::request::{Asked, Question};

    fn finished(output: Vec<u8>, tap: Vec<u8>) -> Finished {
        Finished { status: ExitStatus::default(), output, complaint: String::new(), tap, took: Duration::ZERO }
    }

    /// The response that curl wrote.
    pub fn of_curl(output: Vec<u8>) -> Option<(Parts, Vec<u8>)> {
        let (head, body, _) = curl::read(finished(output, Vec::new())).ok()?;
        Some((head, body))
    }

    /// The answer that kdig wrote down, if it asked what it was to ask.
    pub fn of_kdig(tap: Vec<u8>, asked: Asked, question: Question<'_>) -> Option<Vec<u8>> {
        let (message, _) = kdig::read(&finished(Vec::new(), tap), asked, question).ok()?;
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_missing_is_named_with_its_package() {
        for (program, package) in [(Program::Curl, "package curl"), (Program::Kdig, "package knot-dnsutils")] {
            let Unusable(text) = program.find(Some("/nonexistent:relative".into())).unwrap_err();
            assert!(text.contains(package) && text.contains("/nonexistent:relative"), "{text}");
        }
    }

    #[test]
    fn a_program_is_an_executable_file_of_an_absolute_directory() {
        let directory = env::temp_dir().join(format!("dot-proxy-programs-{}", std::process::id()));
        let file = directory.join("curl");
        fs::create_dir(&directory).unwrap();
        fs::write(&file, "").unwrap();
        let path = || Some(directory.clone().into_os_string());
        let found_plain = Program::Curl.find(path());
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        let found_executable = Program::Curl.find(path());
        fs::remove_dir_all(&directory).unwrap();
        assert!(found_plain.is_err());
        assert_eq!(found_executable, Ok(file));
    }

    #[test]
    fn loopback_can_be_routed_to() {
        assert!(is_routable("127.0.0.1:853".parse().unwrap()));
    }
}
