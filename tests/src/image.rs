//! An image archive, read as the tests of the images read it.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::command::Call;

/// An image in an archive (`docker-archive`).
#[derive(Debug)]
pub struct Image {
    archive: PathBuf,
}

impl Image {
    /// The image called `name` among those that `make images.test` has built.
    pub fn built(name: &str) -> Self {
        let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = cache.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".cache")));
        let archive = cache.expect("HOME is set").join(format!("dot-sidecar/images/{name}.tar"));
        assert!(archive.exists(), "{} is missing: make images.test", archive.display());
        Self { archive }
    }

    /// Its configuration: user, entry point, labels, …
    pub fn config(&self) -> Value {
        let manifest: Value = self.member("manifest.json");
        let config: Value = self.member(manifest[0]["Config"].as_str().expect("a manifest names its configuration"));
        config["config"].clone()
    }

    /// The paths of its files, over all layers; directories left out.
    pub fn files(&self) -> Vec<String> {
        let manifest: Value = self.member("manifest.json");
        let layers = manifest[0]["Layers"].as_array().cloned().unwrap_or_default();
        let list = |layer: &Value| {
            let layer = layer.as_str().expect("a layer is named by its file");
            let script = format!("tar -xOf {} {layer} | tar -tf -", self.archive.display());
            Call::new("sh").arg("-c").arg(script).succeed()
        };
        layers
            .iter()
            .map(list)
            .collect::<Vec<_>>()
            .join("\n")
            .lines()
            .filter(|path| !path.ends_with('/'))
            .map(str::to_owned)
            .collect()
    }

    fn member(&self, path: &str) -> Value {
        Call::new("tar").arg("-xOf").arg(&self.archive).arg(path).json()
    }
}
