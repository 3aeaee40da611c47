//! The configuration's file, as it is read again.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use aws_lc_rs::digest::{SHA256, digest};
use dot_proxy_config::ConfigError;

use super::state::{Reason, Rejected};

/// A larger file is no configuration, in octets. (In a pod the annotation has 64 KiB at most.)
const LARGEST: u64 = 1 << 20;

/// What tells one text of a configuration from another: the first eight octets of the SHA-256 of its octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hash([u8; 8]);

impl Hash {
    /// That of a text.
    pub fn of(text: &[u8]) -> Self {
        let digest = digest(&SHA256, text);
        let mut first = [0; 8];
        first.copy_from_slice(&digest.as_ref()[..8]);
        Self(first)
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

/// Reads the file. An empty one is what a file is for a moment while it is written, and what a pod's is without its annotation:
/// all defaults at once are nothing that anybody means by it.
pub(super) fn read(file: &Path) -> Result<(String, Hash), Rejected> {
    let told = |hash, why: &dyn fmt::Display| {
        Err(Rejected { hash, reason: Reason::Unreadable, why: format!("{}: {why}", file.display()) })
    };
    let mut octets = Vec::new();
    let opened = File::open(file).and_then(|opened| opened.take(LARGEST + 1).read_to_end(&mut octets));
    if let Err(error) = opened {
        return told(None, &format!("{error}{}", hint(error.kind())));
    }
    let hash = Hash::of(&octets);
    if octets.len() as u64 > LARGEST {
        return told(Some(hash), &"is larger than 1 MiB: no configuration is");
    }
    match String::from_utf8(octets) {
        Ok(text) if text.trim().is_empty() => told(Some(hash), &"is empty: write {} for all defaults"),
        Ok(text) => Ok((text, hash)),
        Err(_) => told(Some(hash), &"is not UTF-8"),
    }
}

/// The error, with what a person has to know who meets it in a running proxy.
pub(super) fn with_hint(error: &ConfigError) -> String {
    let denied = io::Error::from_raw_os_error(libc::EACCES).to_string();
    let hint = if error.message.contains(&denied) { hint(io::ErrorKind::PermissionDenied) } else { "" };
    format!("{error}{hint}")
}

fn hint(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::PermissionDenied => {
            " (a confined proxy reads no other directories than at its start: put the file beside the others, or restart)"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(octets: &[u8]) -> (Option<String>, String) {
        let file = std::env::temp_dir().join(format!("dot-proxy-file-{}-{}", std::process::id(), octets.len()));
        std::fs::write(&file, octets).unwrap();
        let refused = read(&file).unwrap_err();
        std::fs::remove_file(&file).unwrap();
        (refused.hash.map(|hash| hash.to_string()), refused.why)
    }

    #[test]
    fn the_hash_is_the_beginning_of_the_sha_256_of_the_octets() {
        assert_eq!(Hash::of(b"abc").to_string(), "ba7816bf8f01cfea");
    }

    #[test]
    fn what_cannot_be_meant_as_a_configuration_is_not_read_as_all_defaults() {
        let (hash, why) = refused(b"");
        assert_eq!(hash.as_deref(), Some("e3b0c44298fc1c14"));
        assert!(why.contains("is empty: write {}"), "{why}");
        assert!(refused(b" \n\n").1.contains("is empty"));
        assert!(refused(&[0xff; 7]).1.contains("not UTF-8"));
        assert!(refused(&vec![b'#'; 1 + (1 << 20)]).1.contains("larger than 1 MiB"));
        let missing = read(Path::new("/nonexistent/config.json")).unwrap_err();
        assert!(missing.hash.is_none() && missing.why.contains("No such file"), "{}", missing.why);
    }
}
