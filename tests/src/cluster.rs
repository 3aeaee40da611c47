//! The cluster that all tests share: prepared once, by whichever test comes first.

use std::collections::BTreeSet;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use serde_json::Value;

use crate::authority::Authority;
use crate::chart::{self, Chart};
use crate::command::Call;
use crate::deadline::eventually;
use crate::namespace::Namespace;
use crate::pod::Pod;
use crate::upstream::{self, Upstream};

/// The node with the chart installed and a resolver outside.
#[derive(Debug)]
pub struct Cluster {
    /// Vouches for the resolvers; the installed profile trusts it alone.
    pub authority: Authority,
    /// The resolver of the installed profile. It stays as it is: tests that stop one bring their own.
    pub upstream: Upstream,
    /// The installed release.
    pub chart: Chart,
    before: Before,
}

/// What was there before the installation.
#[derive(Debug)]
pub struct Before {
    /// Every object of the cluster: kind, namespace, name.
    pub objects: BTreeSet<String>,
    /// Pods that ask for nothing, as the API server made them: `pods_that_ask_for_nothing`, in order.
    pub pods: Vec<Value>,
}

/// The cluster while other tests use it too.
#[derive(Debug)]
pub struct Shared {
    cluster: &'static Cluster,
    _turn: RwLockReadGuard<'static, ()>,
}

/// The cluster for one test alone, which may stop what the others need if it puts it back.
#[derive(Debug)]
pub struct Alone {
    cluster: &'static Cluster,
    _turn: RwLockWriteGuard<'static, ()>,
}

static TURN: RwLock<()> = RwLock::new(());
static CLUSTER: OnceLock<Option<Cluster>> = OnceLock::new();

impl Cluster {
    /// The cluster, beside other tests.
    pub fn shared() -> Shared {
        let turn = TURN.read().unwrap_or_else(PoisonError::into_inner);
        Shared { cluster: prepared(), _turn: turn }
    }

    /// The cluster, when no other test uses it.
    pub fn alone() -> Alone {
        let turn = TURN.write().unwrap_or_else(PoisonError::into_inner);
        Alone { cluster: prepared(), _turn: turn }
    }

    /// What was there before the installation.
    pub fn before_installation(&self) -> &Before {
        &self.before
    }

    /// Sets the number of the injector's replicas and waits until it is reached.
    pub fn scale_injector(&self, replicas: u8) {
        let deployment = format!("deployment/{}", chart::INJECTOR);
        let namespace = chart::NAMESPACE;
        Call::kubectl(&format!("--namespace {namespace} scale {deployment} --replicas={replicas}")).succeed();
        eventually(&format!("{replicas} replicas of the injector"), Duration::from_secs(90), || {
            let pods = Call::kubectl(&format!("--namespace {namespace} get pods -o json")).json();
            let ready = |pod: &Value| pod["status"]["conditions"].as_array().into_iter().flatten().any(is_ready);
            let states: Vec<bool> = pods["items"].as_array().into_iter().flatten().map(ready).collect();
            let wanted = states.len() == usize::from(replicas) && states.iter().all(|ready| *ready);
            if wanted { Ok(()) } else { Err(format!("ready: {states:?}")) }
        });
    }

    fn prepare() -> Self {
        assert_inside_the_node();
        let authority = Authority::new("the tests' authority");
        let upstream = Upstream::running(&authority.identity(upstream::NAME));
        let chart = Chart::new(&upstream.url(upstream::NAME), authority.certificate());
        chart.uninstall();
        Call::kubectl("delete namespace --ignore-not-found --wait --timeout=60s").arg(chart::NAMESPACE).succeed();
        Call::kubectl("create namespace").arg(chart::NAMESPACE).succeed();
        let before = Before { pods: pods_as_created(), objects: objects() };
        chart.install();
        Self { authority, upstream, chart, before }
    }
}

/// Pods that ask for nothing, of the shapes that injection would change most.
pub fn pods_that_ask_for_nothing() -> [Pod; 3] {
    let plain = Pod::new("plain");
    let initialised = Pod::new("initialised")
        .init("first", "exit 0")
        .label("some", "label")
        .annotation("example.com/some", "annotation");
    let dns = serde_json::json!({"spec": {
        "dnsConfig": {"nameservers": ["192.0.2.1"], "options": [{"name": "ndots", "value": "2"}]},
        "securityContext": {"sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "1000"}]}
    }});
    [plain, initialised, Pod::new("resolving").with(dns)]
}

/// Creates the pods that ask for nothing and returns them as the API server and the node made them, apart from what differs
/// between any two pods: ids, times, addresses, generated names.
pub fn pods_as_created() -> Vec<Value> {
    let namespace = Namespace::create("nothing-asked");
    let pods = pods_that_ask_for_nothing();
    let admitted: Vec<_> = pods.iter().map(|pod| namespace.admit(pod)).collect();
    admitted
        .iter()
        .map(|pod| {
            namespace.wait(&format!("pod/{}", pod.name()), "condition=Ready");
            without_what_always_differs(pod.json())
        })
        .collect()
}

/// Every object that is not a test's own and stays when nothing happens: kind, namespace and name.
pub fn objects() -> BTreeSet<String> {
    let kinds = Call::kubectl("api-resources --verbs=list -o name").succeed();
    let passing = ["events", "events.events.k8s.io", "componentstatuses"];
    let kinds: Vec<&str> = kinds.lines().filter(|kind| !passing.contains(kind)).collect();
    let columns = "--no-headers -o custom-columns=KIND:.kind,NAMESPACE:.metadata.namespace,NAME:.metadata.name";
    let all = Call::kubectl("get --all-namespaces").words(columns).arg(kinds.join(",")).succeed();
    let lines = all.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    // Addresses are objects named by number; which Service has them does not matter once the Service is listed.
    lines.filter(|line| !line.contains(" e2e-") && !line.starts_with("IPAddress ")).collect()
}

fn without_what_always_differs(mut pod: Value) -> Value {
    let metadata = &mut pod["metadata"];
    for field in ["uid", "resourceVersion", "creationTimestamp", "managedFields", "namespace"] {
        metadata.as_object_mut().map(|metadata| metadata.remove(field));
    }
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    let conditions: Vec<Value> =
        conditions.map(|condition| serde_json::json!([condition["type"], condition["status"]])).collect();
    pod["status"] = serde_json::json!({"qosClass": pod["status"]["qosClass"], "conditions": conditions});
    // kube-api-access-x7k2p: the API server makes the ending up.
    let text = pod.to_string();
    let volume = text.split("kube-api-access-").nth(1).and_then(|rest| rest.get(..5)).unwrap_or_default().to_owned();
    let text = text.replace(&format!("kube-api-access-{volume}"), "kube-api-access");
    serde_json::from_str(&text).expect("a name was replaced by a name")
}

fn is_ready(condition: &Value) -> bool {
    condition["type"] == "Ready" && condition["status"] == "True"
}

fn prepared() -> &'static Cluster {
    let cluster = CLUSTER.get_or_init(|| catch_unwind(AssertUnwindSafe(Cluster::prepare)).ok());
    cluster.as_ref().expect("the cluster could be prepared: the first test's failure says why it was not")
}

/// These tests add addresses, capture packets and install things: in the node's namespaces, and nowhere else.
fn assert_inside_the_node() {
    let links = Call::new("ip").words("-o address show").succeed();
    assert!(
        links.contains("10.89.0.1/"),
        "these tests run inside the node of a test cluster: tests/cluster/cluster up, then tests/cluster/cluster exec cargo test --offline --package dot-e2e --test e2e"
    );
}

impl Deref for Shared {
    type Target = Cluster;
    fn deref(&self) -> &Cluster {
        self.cluster
    }
}

impl Deref for Alone {
    type Target = Cluster;
    fn deref(&self) -> &Cluster {
        self.cluster
    }
}
