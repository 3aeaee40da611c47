//! `dot-injector inject`

use clap::Args;

use super::offline::Offline;
use super::{Failure, print, say};
use crate::inject::Decision;

/// Print manifests as admission would make them, without a cluster
#[derive(Debug, Args)]
#[command(
    after_help = "Pods and the pod templates of Deployments, StatefulSets, DaemonSets, ReplicaSets, ReplicationControllers, \
Jobs, CronJobs and Lists are decided about; Namespaces, LimitRanges and ProxyProfiles in the same input are heeded (where there is none called default, it is that of --config); other documents pass through \
as they are.\n\nWhere a pod is denied, the reason is on standard error, nothing is printed, and the exit code is 1.\n\nExample:\n  \
dot-injector inject -f pod.yaml --cluster-dns 10.96.0.10 | kubectl apply -f -"
)]
pub(super) struct Inject {
    #[command(flatten)]
    offline: Offline,
}

impl Inject {
    pub(super) fn run(self) -> Result<(), Failure> {
        let (manifest, findings) = self.offline.decide()?;
        for finding in &findings {
            let (object, namespace) = (&finding.object, &finding.namespace);
            for warning in &finding.verdict.warnings {
                say(format_args!("warning: {object} in {namespace}: {warning}\n"));
            }
            if let Decision::Deny(refusal) = &finding.verdict.decision {
                say(format_args!("denied: {object} in {namespace}: {refusal}\n"));
            }
        }
        if findings.iter().any(crate::manifest::Finding::is_denied) {
            return Err(Failure::Negative);
        }
        print(&manifest.write().map_err(Failure::work)?)
    }
}
