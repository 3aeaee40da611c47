//! The forwarders that are compared, as the folders of conf/ describe them: `command` is how one is started, `version` how it
//! tells its version, and every other file is its configuration, with places to be filled in:
//!
//! | | |
//! |---|---|
//! | `@PORT@` | where it listens, UDP and TCP |
//! | `@HOST@` | on which address: 127.0.0.1, but where addresses are forged |
//! | `@CACHE@` | how much dot-proxy may keep |
//! | `@UP@` | the port of the upstream, on 127.0.0.1 and, of a second one, on 127.0.0.2 |
//! | `@CA@` | the file of the authority that vouches for the upstream, `upstream.test` |
//! | `@THREADS@` | worker threads |
//! | `@RUN@` | a folder of its own, where the filled-in configuration is, too |
//! | `@BIN@` | the folder of programs that `peers install` compiled |
//! | `@PROXY@`, `@SELF@` | the dot-proxy that is measured; this program |
//! | `@ADMIN@` | another free port |
//!
//! Lines that begin with `#1#` or `#2#` are there only with one or two upstreams.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::{During, Failure, Outcome};

/// The one that everything is about.
pub(super) const PROXY: &str = "dot-proxy";
/// The limit: recvfrom and sendto.
pub(super) const ECHO: &str = "echo";
/// The limit: recvmmsg and sendmmsg.
pub(super) const ECHO_BATCHES: &str = "echo-batches";

/// The others, in the order in which they are measured.
const PEERS: [&str; 7] = ["unbound", "dnsdist", "knot-resolver", "smartdns", "hickory-dns", "coredns", "stubby"];

/// One of those that are compared.
#[derive(Debug, Clone)]
pub(super) struct Contender {
    pub(super) name: String,
    pub(super) version: String,
    folder: PathBuf,
    program: PathBuf,
}

/// What a contender's files are filled in with.
#[derive(Debug, Clone)]
pub(super) struct Places {
    pub(super) host: Ipv4Addr,
    pub(super) cache: &'static str,
    pub(super) port: u16,
    pub(super) admin: u16,
    pub(super) upstream: u16,
    pub(super) upstreams: usize,
    pub(super) threads: usize,
    pub(super) authority: PathBuf,
    pub(super) folder: PathBuf,
}

/// Where programs are.
#[derive(Debug, Clone)]
pub(super) struct Programs {
    /// Folder of conf/.
    pub(super) descriptions: PathBuf,
    /// Programs that were compiled for this.
    pub(super) compiled: PathBuf,
    pub(super) proxy: PathBuf,
    pub(super) own: PathBuf,
}

/// All that can be compared, in order.
pub(super) fn names() -> Vec<&'static str> {
    [ECHO, ECHO_BATCHES, PROXY].into_iter().chain(PEERS).collect()
}

impl Contender {
    /// The contender of this name, or why it cannot be had.
    pub(super) fn find(name: &str, programs: &Programs) -> Outcome<Self> {
        let folder = programs.descriptions.join(name);
        let line = fs::read_to_string(folder.join("command")).during(format_args!("conf/{name}/command"))?;
        let program = line.split_whitespace().find(|word| !word.contains('=')).unwrap_or_default();
        let program = programs.find(program).ok_or_else(|| Failure::new(format!("{program} is not installed")))?;
        let mut contender = Self { name: name.to_owned(), version: String::new(), folder, program };
        contender.version = contender.ask_version(programs);
        Ok(contender)
    }

    /// Whether it forwards: the echoes do not.
    pub(super) fn forwards(&self) -> bool {
        !self.name.starts_with(ECHO)
    }

    /// The first thing that looks like a version in what it says of itself.
    fn ask_version(&self, programs: &Programs) -> String {
        let Ok(line) = fs::read_to_string(self.folder.join("version")) else { return String::new() };
        let line = programs.fill(&line);
        let mut words = line.split_whitespace();
        let mut command = Command::new(programs.find(words.next().unwrap_or_default()).unwrap_or_default());
        let Ok(output) = command.args(words).output() else { return String::new() };
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        let numbers = || {
            let words = said.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '.'));
            words.filter(|word| word.starts_with(|first: char| first.is_ascii_digit()))
        };
        let version = numbers().find(|word| word.contains('.')).or_else(|| numbers().next());
        version.unwrap_or_default().trim_end_matches('.').to_owned()
    }

    /// Fills in its configuration and tells how to start it.
    pub(super) fn command(&self, places: &Places, programs: &Programs) -> Outcome<Command> {
        let entries = fs::read_dir(&self.folder).during(format_args!("reading {}", self.folder.display()))?;
        for entry in entries.flatten() {
            let text = fs::read_to_string(entry.path()).during(format_args!("reading {}", entry.path().display()))?;
            let target = places.folder.join(entry.file_name());
            fs::write(&target, places.fill(&programs.fill(&text)))
                .during(format_args!("writing {}", target.display()))?;
        }
        let line = fs::read_to_string(places.folder.join("command")).during("reading a command")?;
        let mut command = Command::new(&self.program);
        command.current_dir(&places.folder);
        let mut words = line.split_whitespace();
        // NAME=VALUE, as a shell has it, up to the program itself.
        while let Some((name, value)) = words.next().and_then(|word| word.split_once('=')) {
            command.env(name, value);
        }
        command.args(words);
        Ok(command)
    }

    /// Octets of its program and of the libraries that it is linked with.
    pub(super) fn size(&self) -> Outcome<u64> {
        let size = |path: &Path| {
            fs::metadata(path).during(format_args!("looking at {}", path.display())).map(|file| file.len())
        };
        let listed = Command::new("ldd").arg(&self.program).output().during("running ldd")?;
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        let libraries = listed.split_whitespace().filter(|word| word.starts_with('/'));
        libraries
            .map(|library| size(Path::new(library)))
            .sum::<Outcome<u64>>()
            .and_then(|sum| Ok(sum + size(&self.program)?))
    }
}

impl Places {
    fn fill(&self, text: &str) -> String {
        let (kept, left_out) = if self.upstreams == 1 { ("#1#", "#2#") } else { ("#2#", "#1#") };
        let lines = text.lines().filter(|line| !line.starts_with(left_out));
        let text: String = lines.flat_map(|line| [line.strip_prefix(kept).unwrap_or(line), "\n"]).collect();
        [
            ("@HOST@", self.host.to_string()),
            ("@CACHE@", self.cache.to_owned()),
            ("@PORT@", self.port.to_string()),
            ("@ADMIN@", self.admin.to_string()),
            ("@UP@", self.upstream.to_string()),
            ("@THREADS@", self.threads.to_string()),
            ("@CA@", self.authority.display().to_string()),
            ("@RUN@", self.folder.display().to_string()),
        ]
        .iter()
        .fold(text, |text, (place, value)| text.replace(place, value))
    }
}

impl Programs {
    fn fill(&self, text: &str) -> String {
        [("@BIN@", &self.compiled), ("@PROXY@", &self.proxy), ("@SELF@", &self.own)]
            .iter()
            .fold(text.to_owned(), |text, (place, path)| text.replace(place, &path.display().to_string()))
    }

    /// Where a program is, by its path or by its name alone.
    fn find(&self, program: &str) -> Option<PathBuf> {
        let path = PathBuf::from(self.fill(program));
        if path.is_absolute() {
            return path.is_file().then_some(path);
        }
        let folders = std::env::var_os("PATH").unwrap_or_default();
        let mut folders = std::env::split_paths(&folders).chain(["/usr/sbin".into(), "/sbin".into()]);
        folders.find_map(|folder| Some(folder.join(&path)).filter(|path| path.is_file()))
    }
}
