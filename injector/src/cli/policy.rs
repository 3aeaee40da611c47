//! `dot-injector policy`

use clap::Args;

use super::{Failure, print};
use crate::inject::policy;

/// Print injection as CEL, which the chart puts into MutatingAdmissionPolicies
#[derive(Debug, Args)]
#[command(
    after_help = "With admission.mode: policy the chart (files/policy.yaml holds what is printed here) has the API server inject the sidecar by itself, without a \
webhook. Values of the chart take the place of the variables under \"given\"."
)]
pub(super) struct Policy {}

impl Policy {
    pub(super) fn run(self) -> Result<(), Failure> {
        print(&serde_saphyr::to_string(&policy::parts()).map_err(Failure::work)?)
    }
}
