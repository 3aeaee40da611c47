//! `check` tries it out: a pod that asks, which the API server only pretends to create, or really does.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::finding::{Finding, Level};
use crate::annotations::INJECT;
use crate::cli::connection::told;
use crate::inject;

/// How long a test pod may take until it is Ready.
const READY: Duration = Duration::from_secs(90);
/// What it is called, with a number behind it.
const NAME: &str = "dot-sidecar-check-";

/// A pod that asks and that every Pod Security level lets through.
fn pod(image: &str, args: &[&str]) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"generateName": NAME, "annotations": {INJECT: "true"}},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 1,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "app", "image": image, "args": args,
                "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"cpu": "100m", "memory": "32Mi"}},
                "securityContext": {"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}},
            }],
        },
    })
}

/// Asks the API server what it would make of such a pod. The sidecar's image, where it gets one.
pub(super) async fn dry_run(client: &Client, namespace: &str) -> (Finding, Option<String>) {
    const WHAT: &str = "admission";
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let params = PostParams { dry_run: true, field_manager: None };
    let asked = Instant::now();
    let answer = match create(&pods, &params, &pod("registry.example/app:1", &[])).await {
        Ok(made) => made,
        Err(error) => return (refused(WHAT, namespace, &error), None),
    };
    let milliseconds = asked.elapsed().as_millis();
    let image = inject::sidecar_image(&answer).map(str::to_owned);
    let first = answer.pointer("/spec/initContainers/0/name").and_then(Value::as_str);
    let finding = match (inject::is_served(&answer), first) {
        (true, Some("dot-proxy")) => {
            let detail = format!("a pod that asks (dry run in {namespace}) gets the sidecar, after {milliseconds} ms");
            Finding::ok(WHAT, detail)
        }
        (true, first) => Finding::fail(
            WHAT,
            format!(
                "in a pod that asks (dry run in {namespace}) {} goes before the sidecar",
                first.unwrap_or_default()
            ),
            "another webhook puts it there: see \"other webhooks\"",
        ),
        (false, _) => Finding::fail(
            WHAT,
            format!("a pod that asks (dry run in {namespace}) does not get the sidecar"),
            "the webhook is not called, and not required: is the namespace excluded (webhook.excludedNamespaces)? Is the injector reachable from the API server?",
        ),
    };
    (finding, image)
}

fn refused(what: &'static str, namespace: &str, error: &kube::Error) -> Finding {
    let message = told(error);
    if message.contains("failed calling webhook") && message.contains("dot-sidecar.io") {
        return Finding::fail(
            what,
            format!("the API server does not reach the injector: {message}"),
            "see \"replicas\"; does a firewall keep the control plane from the injector's port (private GKE clusters reach 443 and 10250 alone: injector.ports.webhook), or an overlay network from pods?",
        );
    }
    if matches!(error, kube::Error::Api(status) if status.code == 403 && message.contains("cannot create resource")) {
        return Finding::warn(what, format!("not tried: {message}"), "run it as somebody who may create pods");
    }
    let remedy = "name a namespace in which pods can be made: --try-in";
    Finding::fail(what, format!("a pod that asks is refused in {namespace}: {message}"), remedy)
}

/// Creates such a pod, waits until it is Ready, and removes it.
pub(super) async fn real(client: &Client, namespace: &str, image: &str) -> Finding {
    const WHAT: &str = "test pod";
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    // The proxy's image is on the node anyway: as the app it listens on a port of its own, and does nothing.
    let idle = ["--host", "127.0.0.1", "--port", "1053", "--admin", "127.0.0.1:9854"];
    let made = match create(&pods, &PostParams::default(), &pod(image, &idle)).await {
        Ok(made) => made,
        Err(error) => return refused(WHAT, namespace, &error),
    };
    let name = made.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let finding = until_ready(&pods, namespace, &name).await;
    match pods.delete(&name, &DeleteParams::default()).await {
        Ok(_) => finding,
        Err(error) => {
            let detail = format!("{}; pod {namespace}/{name} could not be removed: {}", finding.detail, told(&error));
            let level = finding.level.max(Level::Warn);
            Finding { level, detail, remedy: "remove it by kubectl delete pod".to_owned(), ..finding }
        }
    }
}

async fn until_ready(pods: &Api<Pod>, namespace: &str, name: &str) -> Finding {
    const WHAT: &str = "test pod";
    let begun = Instant::now();
    let mut state = String::new();
    while begun.elapsed() < READY {
        match pods.get(name).await {
            Ok(pod) => {
                let pod = serde_json::to_value(pod).unwrap_or_default();
                if is_ready(&pod) {
                    let seconds = begun.elapsed().as_secs();
                    return Finding::ok(
                        WHAT,
                        format!("Ready in {namespace} after {seconds} s, with the sidecar before its container"),
                    );
                }
                state = waits_for(&pod);
            }
            Err(error) => state = told(&error),
        }
        sleep(Duration::from_millis(500)).await;
    }
    let detail = format!("not Ready in {namespace} within {} s: {state}", READY.as_secs());
    Finding::fail(WHAT, detail, "kubectl describe shows more while it is there: can the node pull the sidecar's image?")
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten();
    conditions.into_iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// What a pod waits for, by the first container that does.
fn waits_for(pod: &Value) -> String {
    let statuses = ["initContainerStatuses", "containerStatuses"].into_iter();
    let mut waiting =
        statuses.flat_map(|field| pod["status"][field].as_array().into_iter().flatten()).filter_map(|status| {
            let reason = status["state"]["waiting"]["reason"].as_str()?;
            let message = status["state"]["waiting"]["message"].as_str().unwrap_or_default();
            Some(format!("{}: {reason} {message}", status["name"].as_str().unwrap_or_default()))
        });
    waiting.next().unwrap_or_else(|| pod["status"]["phase"].as_str().unwrap_or("unknown").to_owned())
}

async fn create(pods: &Api<Pod>, params: &PostParams, pod: &Value) -> kube::Result<Value> {
    let pod: Pod = serde_json::from_value(pod.clone()).map_err(kube::Error::SerdeError)?;
    let made = pods.create(params, &pod).await?;
    serde_json::to_value(made).map_err(kube::Error::SerdeError)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::pod_security;

    fn api_error(message: &str, code: u16) -> kube::Error {
        kube::Error::Api(Box::new(kube::core::Status::failure(message, "Forbidden").with_code(code)))
    }

    #[test]
    fn the_pod_that_is_tried_passes_every_pod_security_level() {
        assert_eq!(pod_security::violations(&pod("a", &[]), pod_security::Level::Restricted), Vec::<String>::new());
    }

    #[test]
    fn an_injector_that_is_not_reached_is_told_apart_from_a_namespace_that_refuses_pods() {
        let away = api_error("failed calling webhook \"annotated.dot-sidecar.io\": connection refused", 500);
        let found = refused("admission", "default", &away);
        assert!(found.level == Level::Fail && found.remedy.contains("10250"), "{found:?}");
        let rights = api_error("pods is forbidden: User \"x\" cannot create resource \"pods\"", 403);
        assert_eq!(refused("admission", "default", &rights).level, Level::Warn);
        let quota = api_error("exceeded quota", 403);
        assert!(refused("admission", "default", &quota).remedy.contains("--try-in"));
    }
}
