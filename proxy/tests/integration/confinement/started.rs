//! The program, started as in a pod: no user's rights, no capability, nothing to write to.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// The user of the injected container.
const USER: u32 = 65532;

/// A running program; it ends with this value.
pub struct Started {
    pub address: SocketAddr,
    pub admin: SocketAddr,
    child: Child,
    log: BufReader<Box<dyn Read + Send>>,
}

/// A directory of one test, readable by everybody, gone with this value.
pub struct Directory(PathBuf);

impl Directory {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("dot-proxy-confinement-{}-{count}", std::process::id()));
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file, and gives its path.
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Whether this test may become somebody else; otherwise it is nobody particular already.
pub fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

/// A command run without rights; by root, as a user that has none.
pub fn without_rights(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={USER}"), format!("--regid={USER}")]);
    command.args(["--clear-groups", "--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all"]).arg(program);
    command
}

/// The program in a directory where that user finds it.
fn program_in(directory: &Directory) -> PathBuf {
    let program = directory.path().join("dot-proxy");
    fs::copy(env!("CARGO_BIN_EXE_dot-proxy"), &program).unwrap();
    program
}

/// The program with a configuration, to be run without rights; by root also with a root directory that cannot be
/// written to.
pub fn command(directory: &Directory, config: &Path) -> Command {
    let program = program_in(directory);
    let mut command = if is_root() {
        let mut command = Command::new("unshare");
        let rights = without_rights(&program);
        command.args(["--mount", "sh", "-c", "mount -o remount,bind,ro / && exec \"$@\"", "sh"]);
        command.arg(rights.get_program()).args(rights.get_args());
        command
    } else {
        without_rights(&program)
    };
    command.arg("--config").arg(config).args(["--log-format", "json"]);
    command
}

impl Started {
    pub fn by(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(Box::new(child.stdout.take().unwrap()) as Box<dyn Read + Send>);
        let mut first = String::new();
        log.read_line(&mut first).unwrap();
        let address = |name| crate::program::field(&first, name).parse().unwrap();
        Self { address: address("address"), admin: address("admin"), child, log }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line of its log.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.log.read_line(&mut line).unwrap();
        line
    }

    /// Has its log read from now on, so that it never waits for that.
    pub fn leave_the_log(&mut self) {
        let mut log = std::mem::replace(&mut self.log, BufReader::new(Box::new(std::io::empty())));
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
    }

    /// Values of a field in the status of each of its threads.
    pub fn status(&self, field: &str) -> Vec<String> {
        let threads = fs::read_dir(format!("/proc/{}/task", self.id())).unwrap();
        threads
            .map(|thread| {
                let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
                let line = status.lines().find_map(|line| line.strip_prefix(&format!("{field}:")));
                line.unwrap_or_else(|| panic!("no {field} in {status}")).trim().to_owned()
            })
            .collect()
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
