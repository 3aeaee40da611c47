//! Changes in the directories of the configuration and of the files that it names, by inotify(7).
//!
//! Directories, not files: the kubelet exchanges the link `..data` beside the file, editors rename a new file over the old one.
//! Nothing is read but the names of what changed.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use dot_proxy_config::Config;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tracing::warn;

use crate::config::files_named;

/// Room for what has changed: some twenty names.
const ROOM: usize = 1024;

/// What the kubelet calls what it writes a volume by.
const OF_A_VOLUME: &[u8] = b"..";

/// The directories that are watched.
pub(super) struct Watch {
    inotify: Option<AsyncFd<OwnedFd>>,
    /// Which names matter, of the directory of each descriptor.
    names: HashMap<i32, HashSet<OsString>>,
}

impl Watch {
    /// Watches nothing yet.
    pub(super) fn new() -> Self {
        let made = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).map_err(io::Error::from);
        let inotify = made.and_then(waited_for).inspect_err(|error| {
            warn!(%error, "the configuration cannot be watched (see fs.inotify.max_user_instances): SIGHUP has it read again");
        });
        Self { inotify: inotify.ok(), names: HashMap::new() }
    }

    /// Watches the directories of the file and of those that the configuration names, and no others.
    pub(super) fn look_at(&mut self, file: &Path, written: &Config) {
        let Some(inotify) = &self.inotify else { return };
        let mut names = HashMap::<i32, HashSet<OsString>>::new();
        for file in std::iter::once(file).chain(files_named(written)) {
            let Some((directory, name)) = place_of(file) else { continue };
            let events = WatchFlags::CLOSE_WRITE
                | WatchFlags::CREATE
                | WatchFlags::DELETE
                | WatchFlags::MOVED_FROM
                | WatchFlags::MOVED_TO
                | WatchFlags::ONLYDIR;
            match inotify::add_watch(inotify, &directory, events) {
                Ok(descriptor) => {
                    names.entry(descriptor).or_default().insert(name);
                }
                Err(error) => {
                    let directory = directory.display();
                    warn!(%error, %directory, "this directory cannot be watched: SIGHUP has its files read again");
                }
            }
        }
        for gone in self.names.keys().filter(|descriptor| !names.contains_key(descriptor)) {
            let _ = inotify::remove_watch(inotify, *gone); // a directory that was removed is watched no longer anyway
        }
        self.names = names;
    }

    /// Completes when something of what matters has changed.
    pub(super) async fn changed(&self) {
        let Some(inotify) = &self.inotify else { return std::future::pending().await };
        loop {
            let Ok(mut ready) = inotify.readable().await else { return std::future::pending().await };
            let matters = self.read();
            ready.clear_ready();
            if matters {
                return;
            }
        }
    }

    /// Forgets what has changed up to now.
    pub(super) fn drain(&self) {
        self.read();
    }

    /// Takes in what has changed, and tells whether it matters.
    fn read(&self) -> bool {
        let Some(inotify) = &self.inotify else { return false };
        let mut room = [MaybeUninit::uninit(); ROOM];
        let mut events = inotify::Reader::new(inotify, &mut room);
        let mut matters = false;
        loop {
            match events.next() {
                Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => matters = true,
                Ok(event) => {
                    let name = event.file_name().map(|name| name.to_bytes().to_vec()).unwrap_or_default();
                    let of_a_volume = name.starts_with(OF_A_VOLUME);
                    let name = OsString::from_vec(name);
                    let names = self.names.get(&event.wd());
                    matters |= names.is_some_and(|names| of_a_volume || names.contains(&name));
                }
                Err(Errno::INTR) => {}
                Err(_) => return matters, // nothing more for now
            }
        }
    }
}

/// A descriptor of which the runtime tells when it can be read.
#[expect(unsafe_code, reason = "the runtime wants to be told that the descriptor stays open")]
fn waited_for(descriptor: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd holds the one descriptor that it was made of, open until it is dropped, and it is given away here:
    // the runtime drops it after its own use of it. Nothing takes it out or replaces it.
    let registered = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
    registered.map_err(io::Error::from)
}

/// A file's directory, and its name there.
fn place_of(file: &Path) -> Option<(PathBuf, OsString)> {
    let file = std::path::absolute(file).ok()?;
    Some((file.parent()?.to_owned(), file.file_name()?.to_owned()))
}
