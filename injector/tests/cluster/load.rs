//! Pods that are created all the while: some ask for the sidecar, the others must never notice that there is one.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use tokio::task::JoinSet;

use crate::balancer::PERIOD;
use crate::installation::{Installation, PODS};

/// So many create at once.
const STREAMS: usize = 4;
/// So long it may take until as many pods have the sidecar as are waited for.
const PATIENCE: Duration = Duration::from_secs(90);
/// So much later than it would a busy machine does something.
const BUSY: Duration = Duration::from_secs(3);
/// The pause after each pod.
const PAUSE: Duration = Duration::from_millis(100);

/// What became of the pods so far.
#[derive(Debug, Default)]
pub(crate) struct Record {
    /// Created with the sidecar, as they asked.
    pub(crate) injected: usize,
    /// Created as they were, as they did not ask.
    pub(crate) plain: usize,
    /// Pods that asked and were refused because the webhook failed, and when.
    pub(crate) lost: Vec<(Instant, String)>,
    /// What must never be: one that asked and has no sidecar, or one that did not ask and was changed or refused because of us.
    pub(crate) wrong: Vec<String>,
    /// What the API server said to pods for reasons of its own.
    pub(crate) others: Vec<String>,
}

/// Pods being created; stops when it is dropped.
pub(crate) struct Load {
    record: Arc<Mutex<Record>>,
    _tasks: JoinSet<()>,
}

impl Load {
    pub(crate) fn start(installation: &Installation) -> Self {
        let record = Arc::<Mutex<Record>>::default();
        let mut tasks = JoinSet::new();
        for stream in 0..STREAMS {
            // Every fourth does not ask.
            tasks.spawn(create(installation.client.clone(), stream % 4 != 3, Arc::clone(&record)));
        }
        Self { record, _tasks: tasks }
    }

    /// Waits until so many more pods have got the sidecar.
    pub(crate) async fn go_on_for(&self, pods: usize) {
        self.until(pods, "pods with the sidecar", |record| record.injected).await;
    }

    /// Waits until so many more pods that do not ask were created.
    pub(crate) async fn others_go_on_for(&self, pods: usize) {
        self.until(pods, "pods without it", |record| record.plain).await;
    }

    async fn until(&self, pods: usize, what: &str, count: impl Fn(&Record) -> usize) {
        let (target, deadline) = (count(&self.record.lock().unwrap()) + pods, Instant::now() + PATIENCE);
        while count(&self.record.lock().unwrap()) < target {
            if Instant::now() > deadline {
                let record = self.record.lock().unwrap();
                let lost = record.lost.iter().map(|(_, why)| why);
                let said: Vec<_> = lost.rev().take(5).chain(record.others.iter().rev().take(5)).collect();
                panic!("not {pods} more {what} within {PATIENCE:?}; what was said last: {said:#?}");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Asserts that nothing went wrong for ever, and gives how many pods were lost since it was asked last.
    pub(crate) fn take_lost(&self, during: &str) -> Vec<(Instant, String)> {
        let mut record = self.record.lock().unwrap();
        assert!(record.wrong.is_empty(), "{during}: {:#?}", record.wrong);
        let lost = std::mem::take(&mut record.lost);
        println!(
            "{during}: {} pods with the sidecar, {} without, {} lost, {} refused by the API server for reasons of its own",
            record.injected,
            record.plain,
            lost.len(),
            record.others.len(),
        );
        lost
    }
}

/// Asserts that these pods were lost to a replica that was killed at this time: a review that it had in hand, or for which a connection to
/// it was opened as long as the balancer did not know. API servers do not send it again; who creates the pod once more gets it.
pub(crate) fn were_on_their_way(lost: &[(Instant, String)], killed: Instant) {
    let reasons = ["EOF", "reset", "refused", "connection lost", "closed network connection"];
    assert!(lost.iter().all(|(_, why)| reasons.iter().any(|word| why.contains(word))), "{lost:#?}");
    let Some((last, _)) = lost.last() else { return };
    let last = last.duration_since(killed);
    println!("   the last one was lost after {last:?}");
    assert!(last < PERIOD + BUSY, "{lost:#?}");
}

async fn create(client: Client, asks: bool, record: Arc<Mutex<Record>>) {
    let pods: Api<Pod> = Api::namespaced(client, PODS);
    let annotations = if asks { json!({"dot-sidecar.io/inject": "true"}) } else { json!({"team": "shop"}) };
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"generateName": "pod-", "annotations": annotations},
        "spec": {"containers": [{"name": "app", "image": "app"}]}
    }))
    .unwrap();
    loop {
        let answer = tokio::time::timeout(Duration::from_secs(40), pods.create(&PostParams::default(), &pod)).await;
        note(&mut record.lock().unwrap(), asks, answer);
        tokio::time::sleep(PAUSE).await;
    }
}

fn note(record: &mut Record, asks: bool, answer: Result<kube::Result<Pod>, tokio::time::error::Elapsed>) {
    match answer {
        Ok(Ok(pod)) => {
            let first = pod.spec.as_ref().and_then(|spec| spec.init_containers.as_deref()?.first());
            let is_injected = first.is_some_and(|container| container.name == "dot-proxy");
            match (asks, is_injected) {
                (true, true) => record.injected += 1,
                (false, false) if pod.annotations().len() == 1 => record.plain += 1,
                _ => record.wrong.push(format!("asked: {asks}, got: {:?}", pod.metadata)),
            }
        }
        Ok(Err(error)) => {
            let message = error.to_string();
            match (message.contains("dot-sidecar.io"), asks) {
                (true, true) => record.lost.push((Instant::now(), message)),
                (true, false) => record.wrong.push(message),
                (false, _) => record.others.push(message),
            }
        }
        Err(elapsed) => record.others.push(elapsed.to_string()),
    }
}
