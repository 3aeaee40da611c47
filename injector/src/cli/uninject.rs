//! `dot-injector uninject`

use clap::Args;

use super::offline::Manifests;
use super::{Failure, print, say};

/// Print manifests without the sidecar and all that came with it, as they were before, without a cluster
#[derive(Debug, Args)]
#[command(
    after_help = "Takes out what `inject` or admission has put in: the container, its volume, annotations and label; DNS fields \
and the sysctl are as the annotation dot-sidecar.io/status has recorded them. The annotation dot-sidecar.io/inject is yours, \
and stays. Other documents pass through as they are.\n\nExample:\n  kubectl get deployment web -o yaml | dot-injector uninject -f -"
)]
pub(super) struct Uninject {
    #[command(flatten)]
    manifests: Manifests,
}

impl Uninject {
    pub(super) fn run(self) -> Result<(), Failure> {
        let mut manifest = self.manifests.read("default")?;
        for unrecorded in manifest.uninject() {
            say(format_args!(
                "warning: {unrecorded}: what spec.dnsPolicy was before is not recorded: written as ClusterFirst\n"
            ));
        }
        print(&manifest.write().map_err(Failure::work)?)
    }
}
