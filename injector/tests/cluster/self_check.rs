//! The leader sees by itself when the API server does not call it, and says why.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kube::api::{DeleteParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;

use crate::balancer::Balancer;
use crate::control_plane::{kubectl, run, within};
use crate::eventually;
use crate::installation::{Installation, NAMESPACE};
use crate::replica::Replica;

const SOON: Duration = Duration::from_secs(60);
const CHECKED_IN: &str = "dot-sidecar-self-check";

async fn results(replica: &Replica, result: &str) -> f64 {
    replica.metric(&format!("dot_injector_self_checks_total{{result=\"{result}\"}}")).await
}

/// What stands on the profile `default`: whether the webhook is reached, why not, and as a sentence.
fn condition() -> [String; 3] {
    let profile: serde_json::Value = serde_json::from_str(&kubectl("get proxyprofile default -o json", "")).unwrap();
    let conditions = profile["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.into_iter().find(|condition| condition["type"] == "WebhookReached").unwrap_or_default();
    ["status", "reason", "message"].map(|part| found[part].as_str().unwrap_or_default().to_owned())
}

/// Waits for a warning in the log, an Event on the Deployment, and a condition of the profile `default` that hold these words.
async fn is_told(replica: &Replica, reason: &str, words: &[&str]) {
    let has_all = |text: &str| words.iter().all(|word| text.contains(word));
    eventually(&format!("the log says {words:?}"), SOON, async || {
        replica.log().lines().any(|line| line.contains("WARN") && has_all(line))
    })
    .await;
    eventually(&format!("an Event says {words:?}"), SOON, async || {
        let events = kubectl(&format!("get events -n {NAMESPACE} -o json"), "");
        let events: serde_json::Value = serde_json::from_str(&events).unwrap();
        events["items"].as_array().unwrap().iter().any(|event| {
            event["reason"] == "WebhookNotReached"
                && event["involvedObject"]["name"] == "dot-injector"
                && has_all(event["message"].as_str().unwrap())
        })
    })
    .await;
    eventually(&format!("the condition is {reason} and says {words:?}"), SOON, async || {
        let [status, why, message] = condition();
        status == "False" && why == reason && has_all(&message)
    })
    .await;
}

/// Rules by which connections there get no answer.
fn dropping(service: SocketAddr) -> String {
    let SocketAddr::V4(service) = service else { panic!("{service} is of the other family") };
    let (address, port) = (service.ip(), service.port());
    format!(
        "table ip silence {{ chain in {{ type filter hook input priority 0; ip daddr {address} tcp dport {port} drop; }}; }}"
    )
}

#[test]
fn what_keeps_the_api_server_from_calling_the_webhook_is_seen_and_told() {
    within(
        "self-check",
        concat!(module_path!(), "::what_keeps_the_api_server_from_calling_the_webhook_is_seen_and_told"),
        || async {
            let installation = Installation::new("selfCheck.seconds=5,webhook.timeoutSeconds=3").await;
            // The Deployment that the chart makes is what Events are about.
            let balancer = Balancer::start(installation.service).await;
            let replica = Replica::ready(&installation, 1).await;
            balancer.add(&replica);
            eventually("the webhook is reached", SOON, async || results(&replica, "reached").await >= 2.0).await;
            assert_eq!(kubectl(&format!("get pods -n {CHECKED_IN} -o name"), ""), "", "nothing was created");
            eventually("the condition says so", SOON, async || condition()[..2] == ["True", "Reached"]).await;

            // Nobody listens any more.
            drop(balancer);
            is_told(&replica, "Refused", &["connection refused", "injector.ports.webhook"]).await;

            let balancer = Balancer::start(installation.service).await;
            balancer.add(&replica);
            let events = || kubectl(&format!("get events -n {NAMESPACE} -o jsonpath={{.items[*].reason}}"), "");
            eventually("that it is reached again is told", SOON, async || events().contains("WebhookReached")).await;

            // Packets are lost, as between a private control plane and pods.
            run("nft", &["-f", "-"], &dropping(installation.service));
            let helpful =
                ["443 and 10250", "injector.ports.webhook=10250", "overlay network", "injector.hostNetwork=true"];
            is_told(&replica, "Silent", &helpful).await;
            run("nft", &["delete", "table", "ip", "silence"], "");
            eventually("it is reached again", SOON, async || condition()[..2] == ["True", "Reached"]).await;

            // The bundle is somebody else's, who writes it more often than it is put right.
            let is_over = Arc::new(AtomicBool::new(false));
            let seen = Arc::clone(&is_over);
            let fight = tokio::task::spawn_blocking(move || {
                while !seen.load(Ordering::Relaxed) {
                    Installation::overwrite_bundle(include_str!("stranger.pem"));
                }
            });
            is_told(&replica, "Certificate", &["x509", "caBundle"]).await;
            assert!(replica.log().contains("is overwritten again and again by somebody"), "{}", replica.log());
            is_over.store(true, Ordering::Relaxed);
            fight.await.unwrap();
            eventually("it is reached again", SOON, async || results(&replica, "reached").await > 5.0).await;

            let services: Api<k8s_openapi::api::core::v1::Service> =
                Api::namespaced(installation.client.clone(), NAMESPACE);
            let mut service = services.get("dot-injector").await.unwrap();
            services.delete("dot-injector", &DeleteParams::default()).await.unwrap();
            is_told(&replica, "NoService", &["service \"dot-injector\" not found", "helm upgrade"]).await;
            service.metadata.resource_version = None;
            service.metadata.uid = None;
            services.create(&PostParams::default(), &service).await.unwrap();
            assert_eq!(service.name_any(), "dot-injector");

            // The webhook is not asked at all any more.
            let patch =
                json!([{"op": "replace", "path": "/webhooks/0/rules/0/operations", "value": ["UPDATE"]}]).to_string();
            run("kubectl", &["patch", "mutatingwebhookconfiguration", "dot-sidecar", "--type=json", "-p", &patch], "");
            is_told(&replica, "NotCalled", &["do not get it", "failurePolicy"]).await;
        },
    );
}

#[test]
fn the_injectors_account_may_do_nothing_but_dry_runs_where_it_checks_itself() {
    within(
        "self-rights",
        concat!(module_path!(), "::the_injectors_account_may_do_nothing_but_dry_runs_where_it_checks_itself"),
        || async {
            let installation = Installation::new("webhook.annotated.failurePolicy=Ignore,guards.enabled=false").await;
            let config = installation.kubeconfig.to_string_lossy().into_owned();
            let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "p-"},
            "spec": {"securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [{"name": "a", "image": "a",
                    "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]}});
            let create = |namespace: &str, dry_run: &str| {
                let arguments = ["--kubeconfig", &config, "create", "-n", namespace, dry_run, "-f", "-"];
                let mut child = std::process::Command::new("kubectl")
                    .args(arguments)
                    .stdin(std::process::Stdio::piped())
                    .stdout(std::process::Stdio::piped())
                    .stderr(std::process::Stdio::piped())
                    .spawn()
                    .unwrap();
                std::io::Write::write_all(&mut child.stdin.take().unwrap(), pod.to_string().as_bytes()).unwrap();
                let output = child.wait_with_output().unwrap();
                String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
            };
            // Until the API server has read the policy, pods are created for good.
            eventually("the policy is in force", SOON, async || {
                create(CHECKED_IN, "--dry-run=none").contains("may do nothing but dry runs")
            })
            .await;
            let (tried, elsewhere) = (create(CHECKED_IN, "--dry-run=server"), create(NAMESPACE, "--dry-run=server"));
            assert!(tried.contains("created (server dry run)"), "{tried}");
            assert!(elsewhere.contains("forbidden"), "{elsewhere}");
        },
    );
}
