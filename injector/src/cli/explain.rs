//! `dot-injector explain`

use std::fmt::Write as _;

use clap::Args;

use super::offline::Offline;
use super::{Failure, print};
use crate::inject::Decision;
use crate::manifest::Finding;

/// Say what would happen to the pods of manifests, and why
#[derive(Debug, Args)]
#[command(
    after_help = "Exit code 1 where a pod is denied.\n\nExample:\n  kubectl get deployments -A -o yaml | dot-injector explain \
-f - --cluster-dns 10.96.0.10"
)]
pub(super) struct Explain {
    #[command(flatten)]
    offline: Offline,
}

impl Explain {
    pub(super) fn run(self) -> Result<(), Failure> {
        let (_, findings) = self.offline.decide()?;
        if findings.is_empty() {
            return print("There is no pod in the input, nor anything that makes pods.\n");
        }
        let mut text = String::new();
        for finding in &findings {
            explain(&mut text, finding).map_err(Failure::work)?;
        }
        print(&text)?;
        if findings.iter().any(Finding::is_denied) { Err(Failure::Negative) } else { Ok(()) }
    }
}

fn explain(text: &mut String, finding: &Finding) -> std::fmt::Result {
    let decision = &finding.verdict.decision;
    writeln!(text, "{} in {}: {}", finding.object, finding.namespace, decision.outcome())?;
    match decision {
        Decision::Inject(plan) => {
            plan.facts().iter().try_for_each(|(name, value)| writeln!(text, "  {name}: {value}"))?;
        }
        Decision::Skip(skip) => writeln!(text, "  {skip}")?,
        Decision::Deny(refusal) => writeln!(text, "  {refusal}")?,
    }
    finding.verdict.warnings.iter().try_for_each(|warning| writeln!(text, "  warning: {warning}"))
}
