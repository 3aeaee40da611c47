//! Files and ports, by landlock(7): a few directories are read, nothing is written, made or removed, nothing is run but the
//! program that asks if there is one, and no port is listened on but those of the configuration. Connections out are not restricted: servers change with the configuration,
//! and with them their ports, while what was given up does not come back.
//!
//! From ABI 6 on (Linux 6.12) processes outside cannot be signalled, nor abstract Unix sockets of theirs connected to. What
//! the kernel is too old for is not asked of it.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::Confinement;
use super::system::{self, Ruleset};

/// Rights on files by the ABI that brought them: the first thirteen, then REFER, TRUNCATE and IOCTL_DEV.
const FILE_RIGHTS: [(u32, u64); 4] = [(1, (1 << 13) - 1), (2, 1 << 13), (3, 1 << 14), (5, 1 << 15)];
const EXECUTE: u64 = 1;
const WRITE_FILE: u64 = 1 << 1;
const READ_FILE: u64 = 1 << 2;
const READ_DIRECTORY: u64 = 1 << 3;

/// LANDLOCK_ACCESS_NET_BIND_TCP, and the ABI that brought it.
const BIND_TCP: (u32, u64) = (4, 1);

/// LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET and LANDLOCK_SCOPE_SIGNAL, and the ABI that brought them.
const SCOPES: (u32, u64) = (6, 0b11);

/// Programs open it for what they do not want to read or write.
const NULL: &str = "/dev/null";

/// Restricts this thread, and those that it will start.
pub(super) fn restrict(confinement: &Confinement) -> io::Result<()> {
    let Confinement { readable, tcp_ports, programs } = confinement;
    let abi = system::landlock_abi()?;
    let known = |(since, right): (u32, u64)| if abi >= since { right } else { 0 };
    let files = FILE_RIGHTS.map(known).iter().sum();
    // A port that the system is to choose cannot be told beforehand.
    let bind = if tcp_ports.contains(&0) { 0 } else { known(BIND_TCP) };
    let ruleset = Ruleset::handling(files, bind, known(SCOPES))?;
    for path in readable {
        allow(&ruleset, path, READ_FILE | READ_DIRECTORY)?;
    }
    for program in programs {
        allow(&ruleset, program, READ_FILE | EXECUTE)?;
    }
    if !programs.is_empty() {
        allow(&ruleset, Path::new(NULL), READ_FILE | WRITE_FILE)?;
    }
    if bind != 0 {
        for port in tcp_ports {
            ruleset.allow_port(*port, bind)?;
        }
    }
    ruleset.restrict_self()
}

/// Allows rights on a file, or on a directory and all below it.
fn allow(ruleset: &Ruleset, path: &Path, rights: u64) -> io::Result<()> {
    // What is not there now cannot be allowed; opening it later fails with "Permission denied".
    let Ok(file) = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path) else { return Ok(()) };
    // A right that only directories can have is refused for a file.
    let possible = if file.metadata()?.is_dir() { rights } else { rights & !READ_DIRECTORY };
    ruleset.allow_beneath(file.as_fd(), possible)
}
