//! A namespace of a test's own, and the pods that run in it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster_dns;
use crate::command::{Call, Output};
use crate::deadline::eventually;
use crate::pod::Pod;
use crate::reply::Reply;

/// How long a pod may take until it is Ready, in seconds. All tests' pods start on one small node.
const READY: u64 = 90;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A namespace that goes with the test. When the test fails, it says first what ran in it and why it did not.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

/// What the API server said to something that was to be created.
#[derive(Debug)]
pub struct Admission {
    /// Whether it was created.
    pub accepted: bool,
    /// The warnings that its author saw.
    pub warnings: Vec<String>,
    /// Why it was not created.
    pub refusal: String,
}

/// A pod that was created.
#[derive(Debug)]
pub struct RunningPod<'a> {
    namespace: &'a Namespace,
    name: String,
}

impl Namespace {
    /// Makes a namespace whose name begins with `theme`.
    pub fn create(theme: &str) -> Self {
        let name = format!("e2e-{theme}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Self::create_exactly(&name)
    }

    /// Makes a namespace of just this name.
    pub fn create_exactly(name: &str) -> Self {
        Call::kubectl("create namespace").arg(name).succeed();
        let namespace = Self { name: name.to_owned() };
        namespace.kubectl("wait --for=create serviceaccount/default --timeout=30s").succeed();
        namespace
    }

    /// The namespace enforces Pod Security `restricted`.
    #[must_use]
    pub fn restricted(self) -> Self {
        self.label("pod-security.kubernetes.io/enforce=restricted")
    }

    /// The namespace asks for the sidecar on behalf of all its pods.
    #[must_use]
    pub fn asking(self) -> Self {
        self.label("dot-sidecar.io/inject=true")
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `kubectl` in this namespace.
    pub fn kubectl(&self, arguments: &str) -> Call {
        Call::new("kubectl").words(&format!("--namespace {} {arguments}", self.name))
    }

    /// Creates whatever this is.
    pub fn create_object(&self, object: &Value) -> Admission {
        Admission::read(&self.kubectl("create -f -").input(object).output())
    }

    /// Creates a pod that must be admitted, and waits for nothing.
    pub fn admit(&self, pod: &Pod) -> RunningPod<'_> {
        let admission = self.create_object(pod.json());
        assert!(admission.accepted, "{}: {}", pod.name(), admission.refusal);
        self.pod(pod.name())
    }

    /// Creates a pod and waits until it is Ready.
    pub fn run(&self, pod: &Pod) -> RunningPod<'_> {
        let running = self.admit(pod);
        self.wait(&format!("pod/{}", pod.name()), "condition=Ready");
        running
    }

    /// Creates a Service that selects the pods with the label `app=NAME` and returns its address, once cluster DNS knows it.
    pub fn service(&self, name: &str) -> String {
        let service = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name},
            "spec": {"selector": {"app": name}, "ports": [{"port": 80}]}
        });
        let admission = self.create_object(&service);
        assert!(admission.accepted, "{}", admission.refusal);
        cluster_dns::knows(&format!("{name}.{}.svc.cluster.local", self.name));
        self.kubectl("get service -o jsonpath={.spec.clusterIP}").arg(name).succeed()
    }

    /// Waits until `object` fulfils `condition`, as `kubectl wait --for` has it.
    pub fn wait(&self, object: &str, condition: &str) {
        self.kubectl(&format!("wait {object} --for={condition} --timeout={READY}s")).succeed();
    }

    /// The pod called `name`, which was created.
    pub fn pod(&self, name: &str) -> RunningPod<'_> {
        RunningPod { namespace: self, name: name.to_owned() }
    }

    /// The pod with the label `app=NAME` of a workload.
    pub fn pod_of(&self, name: &str) -> RunningPod<'_> {
        let selector = format!("get pods -l app={name} -o jsonpath={{.items[0].metadata.name}}");
        self.pod(&self.kubectl(&selector).succeed())
    }

    /// The Events about `kind`/`name`: their notes.
    pub fn events_about(&self, kind: &str, name: &str) -> Vec<String> {
        let events = self.kubectl("get events.events.k8s.io -o json").json();
        let about = |event: &&Value| event["regarding"]["kind"] == kind && event["regarding"]["name"] == name;
        let note = |event: &Value| event["note"].as_str().map(str::to_owned);
        events["items"].as_array().into_iter().flatten().filter(about).filter_map(note).collect()
    }

    fn label(self, label: &str) -> Self {
        Call::kubectl("label namespace").arg(&self.name).arg(label).succeed();
        self
    }

    /// What a person would look at next.
    fn report(&self) -> String {
        let mut report = String::new();
        for arguments in
            ["get pods,deployments,statefulsets,jobs -o wide", "get events --sort-by=.lastTimestamp", "describe pods"]
        {
            report += &self.kubectl(arguments).output().to_string();
        }
        let pods = self.kubectl("get pods -o name").output().stdout;
        for pod in pods.lines() {
            report += &self.kubectl("logs --all-containers --prefix --tail=40").arg(pod).output().to_string();
        }
        report
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("── namespace {}\n{}", self.name, self.report());
        }
        Call::kubectl("delete namespace --wait=false").arg(&self.name).output();
    }
}

impl Admission {
    fn read(output: &Output) -> Self {
        let warnings =
            output.stderr.lines().filter_map(|line| line.strip_prefix("Warning: ")).map(str::to_owned).collect();
        Self {
            accepted: output.success,
            warnings,
            refusal: if output.success { String::new() } else { output.stderr.clone() },
        }
    }
}

impl RunningPod<'_> {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The pod as the API server has it.
    pub fn json(&self) -> Value {
        self.kubectl("get pod -o json").arg(&self.name).json()
    }

    /// Its address.
    pub fn ip(&self) -> String {
        self.kubectl("get pod -o jsonpath={.status.podIP}").arg(&self.name).succeed()
    }

    /// Runs a shell script in its container `app`.
    pub fn sh(&self, script: &str) -> Output {
        self.kubectl("exec").arg(&self.name).words("-c app -- sh -c").arg(script).output()
    }

    /// Asks its resolver for `name`, by dig: once, so that a failure is seen. `options` as dig has them.
    pub fn dig(&self, name: &str, options: &str) -> Reply {
        Reply::read(&self.sh(&format!("dig +tries=1 +time=10 {options} {name}")))
    }

    /// Asks its resolver for `name`, by kdig: once, so that a failure is seen. `options` as kdig has them.
    pub fn kdig(&self, name: &str, options: &str) -> Reply {
        Reply::read(&self.sh(&format!("kdig +retry=0 +timeout=10 {options} {name}")))
    }

    /// What `container` has logged.
    pub fn log(&self, container: &str) -> String {
        let output = self.kubectl("logs").arg(&self.name).arg("-c").arg(container).output();
        format!("{}{}", output.stdout, output.stderr)
    }

    /// What the proxy measures.
    pub fn metrics(&self) -> String {
        Call::new("curl")
            .words("--silent --show-error --max-time 10")
            .arg(format!("http://{}:9853/metrics", self.ip()))
            .succeed()
    }

    /// The sum of the samples of `metric` whose labels hold `label` (`cause="…"`).
    pub fn metric(&self, metric: &str, label: &str) -> f64 {
        self.metrics()
            .lines()
            .filter(|line| line.split(['{', ' ']).next() == Some(metric) && line.contains(label))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// The root of the file system that `container` sees, as a path on the node.
    pub fn root_of(&self, container: &str) -> PathBuf {
        let pod = self.json();
        let statuses = ["initContainerStatuses", "containerStatuses"];
        let statuses = statuses.iter().flat_map(|kind| pod["status"][*kind].as_array().into_iter().flatten());
        let id = statuses
            .filter(|status| status["name"] == container)
            .find_map(|status| status["containerID"].as_str()?.strip_prefix("containerd://").map(str::to_owned))
            .unwrap_or_else(|| panic!("{}: no container {container} runs", self.name));
        let tasks = Call::new("ctr").words("--namespace k8s.io tasks list").succeed();
        let process = tasks
            .lines()
            .filter(|line| line.starts_with(&id))
            .find_map(|line| line.split_whitespace().nth(1))
            .unwrap_or_else(|| panic!("{id} is no task of containerd: {tasks}"));
        PathBuf::from(format!("/proc/{process}/root"))
    }

    /// Waits until `check` holds of the pod as the API server has it.
    pub fn eventually(&self, what: &str, check: impl Fn(&Value) -> bool) -> Value {
        eventually(&format!("pod {}: {what}", self.name), Duration::from_secs(READY), || {
            let pod = self.json();
            if check(&pod) { Ok(pod) } else { Err(format!("{:#}", pod["status"])) }
        })
    }

    fn kubectl(&self, arguments: &str) -> Call {
        self.namespace.kubectl(arguments)
    }
}
