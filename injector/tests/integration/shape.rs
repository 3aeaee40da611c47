//! Pods of many shapes, in `injector/tests/shapes`: a file a shape, whose name says what is particular about it.
//!
//! Beside the pod, or what makes pods, a file may hold what is around it: Namespaces, LimitRanges, ProxyProfiles, ResourceQuotas, and the
//! injector's configuration as a ConfigMap `dot-injector`, as the chart makes it. The tests of the chart put the same files to an API
//! server.

use std::path::Path;

use dot_injector::cluster::{ClusterDns, ResolvConf};
use dot_injector::manifest::{Finding, Manifest, Surroundings};
use dot_injector::profile::Profiles;
use dot_injector::settings::Settings;
use serde_json::Value;

/// The namespace of what names none.
pub(crate) const NAMESPACE: &str = "shop";

/// One file.
pub(crate) struct Shape {
    /// The file's name without its ending.
    pub(crate) name: String,
    /// Its documents, as they are written.
    pub(crate) text: String,
    surroundings: Surroundings,
}

impl Shape {
    /// All shapes of a folder, by name.
    pub(crate) fn all(folder: &Path) -> Vec<Self> {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = entries.filter(|path| path.extension().is_some_and(|it| it == "yaml")).collect();
        files.sort();
        files.iter().map(|file| Self::read(file)).collect()
    }

    fn read(file: &Path) -> Self {
        let text = std::fs::read_to_string(file).unwrap();
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        let configuration = documents(&text).into_iter().find(|it| it["metadata"]["name"] == "dot-injector");
        let configuration = configuration.as_ref().map_or("", |it| it["data"]["config.yaml"].as_str().unwrap());
        Self { surroundings: surroundings(configuration), name, text }
    }

    /// What injection makes of documents in the shape's surroundings: what is decided about each pod, and the documents as they are then.
    pub(crate) fn inject_into(&self, text: &str) -> (Vec<Finding>, String) {
        let mut manifest = Manifest::read(text, NAMESPACE).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let findings = manifest.inject(&self.surroundings);
        (findings, manifest.write().unwrap())
    }
}

/// The documents of a YAML stream.
pub(crate) fn documents(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap_or_else(|error| panic!("{error}:\n{text}"))
}

/// A cluster whose injector has this configuration; what it leaves out about DNS is as in the tests' cluster.
pub(crate) fn surroundings(configuration: &str) -> Surroundings {
    let mut settings = Settings::from_yaml(configuration).unwrap();
    if settings.cluster.dns_addresses.is_empty() {
        settings.cluster.dns_addresses.push([10, 96, 0, 10].into());
    }
    if settings.cluster.domain.is_empty() {
        settings.cluster.domain.push_str("cluster.local");
    }
    let cluster = ClusterDns::new(&settings.cluster, &ResolvConf::default()).unwrap();
    let profiles = Profiles::of_default(settings.profile.clone().unwrap());
    Surroundings { namespace: NAMESPACE.to_owned(), settings, cluster, profiles }
}
