//! A resolver of DNS over QUIC, which unbound here does not speak: CoreDNS as a plain program, with the public names of the
//! other resolvers.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::authority::Identity;
use crate::background::Background;
use crate::command::Call;
use crate::deadline::eventually;
use crate::upstream::{PUBLIC, Upstream};

/// CoreDNS has no address of its own choice: it listens on this port of all of the node's.
const PORT: u16 = 8853;

/// The resolver; it ends with this value. There can be one at a time.
#[derive(Debug)]
pub struct QuicResolver {
    address: String,
    folder: PathBuf,
    _server: Background,
}

impl QuicResolver {
    /// A resolver that runs on the same address as this one, with this certificate.
    pub fn beside(upstream: &Upstream, identity: &Identity) -> Self {
        let folder = std::env::temp_dir().join(format!("dot-e2e-{}/quic", std::process::id()));
        fs::create_dir_all(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let file = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            path
        };
        let (certificate, key) = (file("certificate.pem", &identity.certificate), file("key.pem", &identity.key));
        let names: String = PUBLIC.iter().map(|(name, address)| format!("    {address} {name}\n")).collect();
        let (certificate, key) = (certificate.display(), key.display());
        let corefile =
            file("Corefile", &format!("quic://.:{PORT} {{\n  tls {certificate} {key}\n  hosts {{\n{names}  }}\n}}\n"));
        let mut coredns = Command::new("coredns");
        coredns.arg("-conf").arg(corefile);
        let server = Background::start(&coredns);
        eventually("CoreDNS listens", Duration::from_secs(30), || {
            let listening = Call::new("ss").words(&format!("-Hlun sport = :{PORT}")).output();
            if listening.stdout.trim().is_empty() { Err(format!("{listening}")) } else { Ok(()) }
        });
        Self { address: upstream.address().to_owned(), folder, _server: server }
    }

    /// The resolver as a configuration names it: address and the name to expect in the certificate.
    pub fn url(&self, name: &str) -> String {
        format!("quic://{}:{PORT}#{name}", self.address)
    }
}

impl Drop for QuicResolver {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}
