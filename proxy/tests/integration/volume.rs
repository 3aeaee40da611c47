//! A configuration in a volume, as the kubelet writes it: a directory for each version, and a link that is exchanged.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use aws_lc_rs::digest::{SHA256, digest};

use crate::authority::Authority;
use crate::confinement::started::Directory;

/// The volume; gone with this value.
pub struct Volume {
    directory: Directory,
    version: AtomicU32,
}

impl Volume {
    /// A volume with this configuration.
    pub fn holding(text: &str) -> Self {
        let volume = Self { directory: Directory::new(), version: AtomicU32::new(0) };
        let first = volume.version(text);
        symlink(first, volume.path("..data")).unwrap();
        symlink("..data/config.json", volume.file()).unwrap();
        volume
    }

    /// The file as the proxy is told of it.
    pub fn file(&self) -> PathBuf {
        self.path("config.json")
    }

    /// Exchanges the configuration, in the steps of the kubelet's AtomicWriter.
    pub fn swap(&self, text: &str) {
        let before = fs::read_link(self.path("..data")).unwrap();
        symlink(self.version(text), self.path("..data_tmp")).unwrap();
        fs::rename(self.path("..data_tmp"), self.path("..data")).unwrap();
        fs::remove_dir_all(self.path(before.to_str().unwrap())).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn version(&self, text: &str) -> String {
        let version = format!("..2026_11_23_{}", self.version.fetch_add(1, Ordering::Relaxed));
        fs::create_dir(self.path(&version)).unwrap();
        fs::write(self.path(&version).join("config.json"), text).unwrap();
        version
    }
}

/// A configuration that has these servers asked, with more parts beside.
pub fn config(authority: &Authority, urls: &[&str], more: &str) -> String {
    let ca = authority.pem().replace('\n', "\\n");
    let listen = "listen: {host: 127.0.0.1, port: 0}, admin: {address: \"127.0.0.1:0\"}";
    format!("{{{listen}, upstream: {{servers: {urls:?}, ca: \"{ca}\", strategy: ordered}}, {more}}}")
}

/// What tells one configuration from another, as the injector computes it.
pub fn hash(text: &str) -> String {
    digest(&SHA256, text.as_bytes()).as_ref()[..8].iter().map(|octet| format!("{octet:02x}")).collect()
}
