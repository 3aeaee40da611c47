//! Giving up, after the start, what answering queries does not need. Whoever takes the process over by a defect of it finds
//! little: no program to run, no file to write, few to read, no new privilege, no other process to look into.
//!
//! ```text
//! Confinement::for_config ──► apply ──┬─► undumpable, no core    nobody reads the memory, in which TLS secrets are
//!                                     ├─► no_new_privs           set-user-ID programs give nothing
//!                                     ├─► landlock               files beside the configured ones, read only; two TCP ports
//!                                     └─► seccomp                system calls that nothing here makes
//! ```
//!
//! Where a program asks the servers (curl, kdig), that one can be run still, and read the system's libraries and settings.
//!
//! Each holds by itself. What a kernel does not have is left out, said once in the log, and told by a metric: an old kernel
//! is no reason for a pod to have no DNS. All but the core's limit cannot be undone, and hold for every thread, because
//! [`Confinement::apply`] is called before there is a second one.

#[cfg(target_os = "linux")]
mod landlock;
#[cfg(not(target_os = "linux"))]
#[path = "confine/portable.rs"]
mod platform;
#[cfg(target_os = "linux")]
#[path = "confine/linux.rs"]
mod platform;
mod program;
#[cfg(target_os = "linux")]
mod seccomp;
#[cfg(target_os = "linux")]
mod system;

use std::path::{Path, PathBuf};

use dot_proxy_config::Config;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tracing::{info, warn};

use crate::config::{MEMORY_LIMIT_FILES, files_named};
use crate::events::{Event, Events};

/// Where libraries read random numbers that do not find the system call: in a static program they look for it in vain.
const RANDOM_FILES: [&str; 2] = ["/dev/random", "/dev/urandom"];

/// What is still needed after the start; all else is given up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Confinement {
    /// Files and directories that may be read, with all below.
    readable: Vec<PathBuf>,
    /// Ports that may be listened on by TCP; any if one of them is 0, which the system chooses.
    tcp_ports: Vec<u16>,
    /// Files that may be run.
    programs: Vec<PathBuf>,
}

/// Where the programs that ask find their libraries and settings.
const SYSTEM_DIRECTORIES: [&str; 5] = ["/usr", "/lib", "/lib64", "/etc", "/opt"];

/// What was given up, and what the kernel did not have.
#[derive(Debug, Clone, Default)]
pub struct InForce {
    /// Each measure that was tried, and why it is not in force if it is not.
    outcomes: Vec<(Measure, Result<(), String>)>,
}

/// One of the things that are given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Measure {
    /// Other processes of the same user cannot read memory, descriptors or environment, or trace (`PR_SET_DUMPABLE`).
    Undumpable,
    /// No core file is written, and a larger limit cannot be asked for (`RLIMIT_CORE`).
    NoCore,
    /// Programs run with no more rights than this one has (`PR_SET_NO_NEW_PRIVS`).
    NoNewPrivileges,
    /// Files and ports (landlock(7)).
    Landlock,
    /// System calls (seccomp(2)).
    Seccomp,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MeasureLabel {
    measure: &'static str,
}

impl Measure {
    const ALL: [Self; 5] = [Self::Undumpable, Self::NoCore, Self::NoNewPrivileges, Self::Landlock, Self::Seccomp];

    fn as_str(self) -> &'static str {
        match self {
            Self::Undumpable => "undumpable",
            Self::NoCore => "no-core",
            Self::NoNewPrivileges => "no-new-privileges",
            Self::Landlock => "landlock",
            Self::Seccomp => "seccomp",
        }
    }
}

impl Confinement {
    /// What a configuration, read from this file if from any, needs: to read the directories of the files that it names,
    /// because files are replaced and links exchanged when a volume changes; to listen where it says; and to run the
    /// program that asks servers, if one does, with what interprets it and what programs of this system read.
    pub fn for_config(written: &Config, config_file: Option<&Path>, program: Option<&Path>) -> Self {
        let files = config_file.into_iter().chain(files_named(written));
        let mut readable: Vec<_> = files.flat_map(places_of).collect();
        readable.extend(MEMORY_LIMIT_FILES.iter().chain(&RANDOM_FILES).map(PathBuf::from));
        let programs = program.map(program::files_to_run).unwrap_or_default();
        if !programs.is_empty() {
            readable.extend(SYSTEM_DIRECTORIES.map(PathBuf::from));
        }
        readable.sort();
        readable.dedup();
        Self { readable, tcp_ports: vec![written.listen.port, written.admin.address.port()], programs }
    }

    /// Gives up all else, for good. To be called while the process has one thread: those started later inherit it.
    pub fn apply(&self) -> InForce {
        let apply = |measure| (measure, platform::apply(measure, self).map_err(|error| error.to_string()));
        InForce { outcomes: Measure::ALL.map(apply).into() }
    }
}

/// Where a file is looked for when it is read again: its directory as it was named, and the one that links lead to now.
/// Of the root directory the file alone: it would be everything.
fn places_of(file: &Path) -> Vec<PathBuf> {
    let real = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    let named = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    [named, real]
        .into_iter()
        .map(|file| match file.parent() {
            Some(directory) if directory.parent().is_some() => directory.to_owned(),
            _ => file,
        })
        .collect()
}

impl InForce {
    /// Says once what is in force, and what the kernel does not have.
    pub fn log(&self) {
        let (held, missing): (Vec<_>, Vec<_>) = self.outcomes.iter().partition(|(_, outcome)| outcome.is_ok());
        let held: Vec<_> = held.iter().map(|(measure, _)| measure.as_str()).collect();
        let missing: Vec<_> = missing
            .iter()
            .filter_map(|(measure, outcome)| Some(format!("{}: {}", measure.as_str(), outcome.as_ref().err()?)))
            .collect();
        let in_force = held.join(", ");
        if self.outcomes.is_empty() {
            warn!("not confined: the configuration says confinement: false");
        } else if missing.is_empty() {
            info!(in_force, "confined");
        } else {
            warn!(in_force, missing = missing.join(", "), "confined, but for what this system does not have");
        }
    }

    /// Hands in an event for each measure that is missing.
    pub fn tell(&self, events: &Events) {
        for (measure, _) in self.outcomes.iter().filter(|(_, outcome)| outcome.is_err()) {
            events.emit(Event::ConfinementMissing { means: measure.as_str() });
        }
    }

    /// Registers what is in force, of all that could be.
    pub fn register(&self, registry: &mut Registry) {
        let family = Family::<MeasureLabel, Gauge>::default();
        for measure in Measure::ALL {
            let holds = self.outcomes.iter().any(|(held, outcome)| *held == measure && outcome.is_ok());
            family.get_or_create(&MeasureLabel { measure: measure.as_str() }).set(holds.into());
        }
        registry.register("confinement", "1 for each measure of confinement that is in force", family);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readable(yaml: &str, config_file: &str) -> Vec<PathBuf> {
        Confinement::for_config(&Config::from_yaml(yaml).unwrap(), Some(Path::new(config_file)), None).readable
    }

    #[test]
    fn the_directories_of_all_files_named_stay_readable_and_nothing_else() {
        let yaml = "upstream: {caFile: /a/ca.pem, clientCertificate: {certificateFile: /b/tls.crt, keyFile: /c/tls.key}}\n\
            events: {syslog: {server: \"tls://192.0.2.1#logs.example\", caFile: /d/ca.pem}}";
        let [version_2, version_1] = MEMORY_LIMIT_FILES.map(PathBuf::from);
        let directories = ["/a", "/b", "/c", "/config", "/d"].map(PathBuf::from);
        let random = RANDOM_FILES.map(PathBuf::from);
        assert_eq!(
            readable(yaml, "/config/config.json"),
            [&directories[..], &random, &[version_1, version_2]].concat()
        );
    }

    #[test]
    fn a_file_in_the_root_directory_stays_readable_but_not_the_root_directory() {
        let readable = readable("{}", "/config.json");
        assert!(readable.contains(&PathBuf::from("/config.json")) && !readable.contains(&PathBuf::from("/")));
    }

    #[test]
    fn where_links_lead_stays_readable_too() {
        let directory = std::env::temp_dir().join(format!("dot-proxy-confine-{}", std::process::id()));
        let (named, real) = (directory.join("named"), directory.join("real"));
        std::fs::create_dir_all(&named).unwrap();
        std::fs::create_dir_all(&real).unwrap();
        std::fs::write(real.join("config"), "").unwrap();
        std::os::unix::fs::symlink(real.join("config"), named.join("config")).unwrap();
        let readable = readable("{}", named.join("config").to_str().unwrap());
        let real = real.canonicalize().unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
        assert!(readable.contains(&named) && readable.contains(&real), "{readable:?}");
    }

    #[test]
    fn the_metric_tells_of_each_measure_whether_it_is_in_force() {
        let mut registry = Registry::default();
        let missing = Err("unsupported".to_owned());
        let in_force = InForce { outcomes: vec![(Measure::Landlock, missing), (Measure::Seccomp, Ok(()))] };
        in_force.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(text.contains("confinement{measure=\"landlock\"} 0"), "{text}");
        assert!(text.contains("confinement{measure=\"seccomp\"} 1"), "{text}");
    }
}
