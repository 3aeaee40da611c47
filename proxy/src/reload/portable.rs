//! Where there is no inotify, for developing elsewhere: SIGHUP alone has the file read again.

use std::path::Path;

use dot_proxy_config::Config;

pub(super) struct Watch;

impl Watch {
    pub(super) fn new() -> Self {
        Self
    }

    pub(super) fn look_at(&mut self, _: &Path, _: &Config) {}

    pub(super) async fn changed(&self) {
        std::future::pending().await
    }

    pub(super) fn drain(&self) {}
}
