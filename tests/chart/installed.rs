//! The chart on a real API server, with the injector as a process beside it: by the account, the rights, the certificate and the
//! Service that it has in a cluster.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::gate::{ControlPlane, Said};
use crate::{ROOT, render};

/// The injector's account.
pub(crate) const ACCOUNT: &str = "system:serviceaccount:release-space:dot-injector";

/// An API server with the chart installed.
pub(crate) struct Installed {
    pub(crate) control_plane: ControlPlane,
    folder: PathBuf,
    /// Ends with the cluster, whose PID namespace it is in.
    injector: Option<Child>,
}

impl Installed {
    /// Installs of the chart what is of these kinds; with no kind named, all of it. No injector runs.
    pub(crate) fn without_injector(name: &'static str, arguments: &[&str], kinds: &[&str]) -> Self {
        let control_plane = ControlPlane::start(name);
        for (namespace, labels) in [
            ("release-space", json!({})),
            ("kube-system", json!({})),
            ("left-out", json!({})),
            ("plain", json!({})),
            ("asking", json!({"dot-sidecar.io/inject": "true"})),
        ] {
            control_plane.namespace(namespace, &labels);
        }
        let folder = std::env::temp_dir().join(format!("dot-chart-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let this = Self { control_plane, folder, injector: None };
        this.apply(&chart(arguments, kinds));
        this
    }

    /// Installs the chart and runs an injector.
    pub(crate) fn with_injector(name: &'static str, arguments: &[&str]) -> Self {
        let mut this = Self::without_injector(name, arguments, &[]);
        this.start_injector();
        this
    }

    /// Applies documents, none of which may be complained of.
    pub(crate) fn apply(&self, documents: &[Value]) {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": documents});
        let said = self.kubectl("apply --server-side --force-conflicts --validate=strict -f -", &list);
        assert!(said.stderr.is_empty(), "{}", said.stderr);
    }

    /// Runs kubectl with this document on its standard input.
    pub(crate) fn kubectl(&self, arguments: &str, document: &Value) -> Said {
        self.control_plane.kubectl(arguments, document)
    }

    /// The pod as it is stored.
    pub(crate) fn pod(&self, namespace: &str, name: &str) -> Value {
        let said = self.kubectl(&format!("--namespace {namespace} get pod {name} -o json"), &Value::Null);
        serde_json::from_str(&said.stdout)
            .unwrap_or_else(|error| panic!("{namespace}/{name}: {error}: {}", said.stderr))
    }

    /// Waits until kubectl with these arguments says something in which this stands.
    pub(crate) fn until_said(&self, part: &str, arguments: &str, document: &Value) {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let said = self.kubectl(arguments, document);
            let said = said.stdout + &said.stderr;
            if said.contains(part) {
                return;
            }
            assert!(Instant::now() < deadline, "{arguments}: {part:?} is not said: {said}");
            sleep(Duration::from_millis(100));
        }
    }

    /// Runs an injector.
    pub(crate) fn spawn_injector(&mut self) {
        let said = |arguments: &str| self.kubectl(arguments, &Value::Null).stdout.trim().to_owned();
        let address =
            said("--namespace release-space get service dot-injector --ignore-not-found -o jsonpath={.spec.clusterIP}");
        let config = said("--namespace release-space get configmap dot-injector -o jsonpath={.data.config\\.yaml}");
        let token = said("--namespace release-space create token dot-injector");
        let authority = said("config view --raw -o jsonpath={.clusters[0].cluster.certificate-authority}");
        let kubeconfig = json!({"apiVersion": "v1", "kind": "Config", "current-context": "here",
            "clusters": [{"name": "here", "cluster": {"server": "https://127.0.0.1:6443", "certificate-authority": authority}}],
            "users": [{"name": "injector", "user": {"token": token}}],
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "injector"}}]});
        let write = |name: &str, text: &str| {
            let path = self.folder.join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let (kubeconfig, config) = (write("kubeconfig", &kubeconfig.to_string()), write("config.yaml", &config));
        let reviews = if address.is_empty() {
            // Where the API server injects by itself, there is no Service.
            vec!["--without-webhook".to_owned()]
        } else {
            // There is no kube-proxy: the Service's address is this machine's.
            let added = self.control_plane.cluster(&["exec", "ip", "address", "replace", &address, "dev", "lo"], "");
            assert!(added.stderr.is_empty(), "{}", added.stderr);
            vec!["--listen".to_owned(), format!("{address}:443")]
        };
        let log = std::fs::File::create(self.folder.join("log")).unwrap();
        let child = Command::new("tests/cluster/cluster")
            .args(["exec", "env"])
            .arg(format!("KUBECONFIG={kubeconfig}"))
            .args(["POD_NAMESPACE=release-space", &program().display().to_string(), "serve", "--config", &config])
            .args(reviews)
            .args(["--admin", "127.0.0.1:8080"])
            .env("DOT_CLUSTER", self.control_plane.name())
            .current_dir(ROOT)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        self.injector = Some(child);
    }

    /// Runs an injector, and waits until it is ready.
    fn start_injector(&mut self) {
        self.spawn_injector();
        let deadline = Instant::now() + Duration::from_secs(30);
        let probe = [
            "exec",
            "bash",
            "-c",
            "exec 3<>/dev/tcp/127.0.0.1/8080; printf 'GET /readyz HTTP/1.0\\r\\n\\r\\n' >&3; head -1 <&3",
        ];
        while !self.control_plane.cluster(&probe, "").stdout.contains("200") {
            assert!(Instant::now() < deadline, "the injector is not ready: {}", self.log());
            sleep(Duration::from_millis(100));
        }
    }

    /// Has the injector end, as a node ends it, and runs another one.
    pub(crate) fn restart_injector(&mut self) {
        self.control_plane.cluster(&["exec", "pkill", "-TERM", "-x", "dot-injector"], "");
        if let Some(mut injector) = self.injector.take() {
            injector.wait().unwrap();
        }
        self.start_injector();
    }

    /// Where its files are.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Runs the program with the rights of an administrator: what it printed, and its exit code.
    pub(crate) fn run(&self, arguments: &str) -> (String, i32) {
        let command = format!("{} {arguments}; echo \"exit $?\" >&2", program().display());
        let said = self.control_plane.cluster(&["exec", "sh", "-c", &command], "");
        let code = said.stderr.lines().rev().find_map(|line| line.strip_prefix("exit ")).unwrap().parse().unwrap();
        (said.stdout, code)
    }

    /// What the injector has logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the injector's log:\n{}", self.log());
        }
        self.control_plane.cluster(&["down"], "");
        if let Some(injector) = &mut self.injector {
            // Its namespace is gone, and so is it.
            let _ = injector.wait();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// What the chart renders, of these kinds.
pub(crate) fn chart(arguments: &[&str], kinds: &[&str]) -> Vec<Value> {
    let cluster = [
        "--set",
        "cluster.domain=cluster.local,cluster.dnsAddresses={10.96.0.10},webhook.excludedNamespaces={left-out}",
    ];
    let documents = render(&[&cluster, arguments].concat()).unwrap();
    let is_wanted = |document: &Value| kinds.is_empty() || kinds.iter().any(|kind| document["kind"] == *kind);
    // No controller would make pods of the Deployment.
    documents.into_iter().filter(is_wanted).filter(|document| document["kind"] != "Deployment").collect()
}

/// The program, built from this working tree, or that which the variable `DOT_INJECTOR` names.
pub(crate) fn program() -> PathBuf {
    if let Some(program) = std::env::var_os("DOT_INJECTOR") {
        return program.into();
    }
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let built = Command::new(cargo)
            .args(["build", "--locked", "--quiet", "--package", "dot-injector"])
            .current_dir(ROOT)
            .status();
        assert!(built.unwrap().success(), "dot-injector does not compile");
        // target/debug/deps/chart-HASH
        std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("dot-injector")
    };
    BUILT.get_or_init(build).clone()
}

/// The pod as `dot-injector inject` prints it, with the configuration that it has by itself.
pub(crate) fn injected(pod: &Value) -> Value {
    injected_with(pod, &["--cluster-dns", "10.96.0.10"])
}

/// The same, with these arguments.
pub(crate) fn injected_with(pod: &Value, arguments: &[&str]) -> Value {
    let folder = std::env::temp_dir().join(format!("dot-chart-offline-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join(format!("{}.json", pod["metadata"]["name"].as_str().unwrap()));
    std::fs::write(&file, pod.to_string()).unwrap();
    let output = Command::new(program()).arg("inject").args(arguments).arg("-f").arg(&file).output().unwrap();
    std::fs::remove_file(&file).unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}
