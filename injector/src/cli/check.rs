//! `dot-injector check`

use clap::Args;

use super::Failure;

/// Check whether the cluster can run the sidecar, and whether the installation is healthy
#[derive(Debug, Args)]
pub(super) struct Check {}

impl Check {
    pub(super) fn run(self) -> Result<(), Failure> {
        Ok(())
    }
}
