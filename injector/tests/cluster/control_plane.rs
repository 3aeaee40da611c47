//! An API server and its etcd with nothing around them, and the way into their network.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The project's folder.
pub(crate) const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// Names the control plane to a test that runs inside its network.
const INSIDE: &str = "DOT_INSIDE";

/// Starts a control plane of this name for a test, has the test (by its whole name) run once more inside its network, and stops it.
pub(crate) fn within<Running>(name: &str, test: &str, body: impl FnOnce() -> Running)
where
    Running: Future<Output = ()>,
{
    if std::env::var(INSIDE).is_ok_and(|inside| inside == name) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        return runtime.block_on(body());
    }
    let up = cluster(name).args(["up", "--control-plane"]).output().unwrap();
    assert!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));
    let _down = Down(name.to_owned());
    let test = test.split_once("::").map_or(test, |(_, test)| test);
    let status = cluster(name)
        .arg("exec")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, name)
        .status()
        .unwrap();
    assert!(status.success(), "{test} failed inside the network of its control plane; see above");
}

/// Stops the control plane, and all that was started in its network.
struct Down(String);

impl Drop for Down {
    fn drop(&mut self) {
        let _ = cluster(&self.0).arg("down").stdout(Stdio::null()).status();
    }
}

/// Where a test that runs inside puts its files: a folder that goes with its control plane. Ids of processes would not tell such tests
/// apart, because each control plane counts its own from 1.
pub(crate) fn folder() -> PathBuf {
    let kubeconfig = PathBuf::from(std::env::var_os("KUBECONFIG").unwrap());
    let folder = kubeconfig.ancestors().nth(2).unwrap().join("test");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn cluster(name: &str) -> Command {
    let mut command = Command::new(Path::new(ROOT).join("tests/cluster/cluster"));
    command.env("DOT_CLUSTER", name).current_dir(ROOT);
    command
}

/// A program that ends well, with this input; what it printed.
pub(crate) fn run(program: &str, arguments: &[&str], input: &str) -> String {
    use std::io::Write as _;
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir(ROOT)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {complaint}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs kubectl as the cluster's administrator.
pub(crate) fn kubectl(arguments: &str, input: &str) -> String {
    run("kubectl", &arguments.split_whitespace().collect::<Vec<_>>(), input)
}

/// Sends a signal to a process of the control plane, or of the test.
pub(crate) fn signal(signal: &str, process: u32) {
    run("kill", &["-s", signal, &process.to_string()], "");
}

/// A running part of the control plane: `etcd` or `kube-apiserver`.
pub(crate) struct Part {
    pub(crate) process: u32,
    arguments: Vec<String>,
}

impl Part {
    /// Looks for it among the processes of this PID namespace.
    pub(crate) fn find(program: &str) -> Self {
        let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
        let arguments = |process: &PathBuf| -> Option<Vec<String>> {
            let line = std::fs::read_to_string(process.join("cmdline")).ok()?;
            Some(line.split_terminator('\0').map(str::to_owned).collect())
        };
        let is_it = |process: &PathBuf| {
            let started = arguments(process).and_then(|arguments| arguments.first().cloned());
            started.is_some_and(|started| Path::new(&started).file_name().is_some_and(|name| name == program))
        };
        let found = processes.into_iter().find(is_it).unwrap_or_else(|| panic!("{program} does not run"));
        let process = found.file_name().unwrap().to_string_lossy().parse().unwrap();
        Self { process, arguments: arguments(&found).unwrap() }
    }

    /// Kills it and starts it again, as it was started.
    pub(crate) fn restart(self) {
        signal("KILL", self.process);
        while !self.has_ended() {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let (program, arguments) = self.arguments.split_first().unwrap();
        let mut command = Command::new(program);
        // Ends with the node's first process.
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    }

    /// Whether all its threads are gone, and with them its ports, which the next one needs: the first may be gone long before the last.
    fn has_ended(&self) -> bool {
        let process = Path::new("/proc").join(self.process.to_string());
        let threads = std::fs::read_dir(process.join("task")).map_or(0, Iterator::count);
        let status = std::fs::read_to_string(process.join("status")).unwrap_or_default();
        threads == 0 || (threads == 1 && status.contains("State:\tZ"))
    }
}
