//! `dot-injector crd`

use clap::Args;
use kube::CustomResourceExt as _;

use super::{Failure, print};
use crate::profile::ProxyProfile;

/// Print the definition of ProxyProfile
#[derive(Debug, Args)]
#[command(
    after_help = "The chart installs and upgrades it (values crds.install and crds.keep).\n\nExample:\n  dot-injector crd | kubectl \
apply --server-side -f -"
)]
pub(super) struct Crd {}

impl Crd {
    pub(super) fn run(self) -> Result<(), Failure> {
        print(&serde_saphyr::to_string(&ProxyProfile::crd()).map_err(Failure::work)?)
    }
}
