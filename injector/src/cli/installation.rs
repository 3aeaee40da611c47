//! What the injector of a cluster was installed with, read from outside of it.

use std::collections::BTreeMap;

use clap::Args;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{ApiResource, DynamicObject, PartialObjectMeta};
use kube::{Api, Client, ResourceExt};
use serde_json::Value;

use super::Failure;
use super::connection::{all, told};
use crate::annotations::CLUSTER;
use crate::cluster::{ClusterDns, ResolvConf};
use crate::profile::{Condition, Profile, ProfileStatus, Profiles, ProxyProfile};
use crate::settings::Settings;

/// Where the injector is.
#[derive(Debug, Args)]
pub(super) struct Place {
    /// The injector's namespace
    #[arg(long, value_name = "NAME", default_value = "dot-sidecar", env = "POD_NAMESPACE")]
    pub(super) injector_namespace: String,
}

/// What the injector knows, as far as it can be read.
pub(super) struct Installation {
    pub(super) settings: Settings,
    /// `None`: neither the configuration nor the leader told.
    pub(super) cluster: Option<ClusterDns>,
    pub(super) profiles: Profiles,
    pub(super) told_of_profiles: Vec<ToldOf>,
    /// What could not be read, and what that means.
    pub(super) notes: Vec<String>,
}

/// A profile, as the cluster tells of it.
pub(super) struct ToldOf {
    pub(super) name: String,
    pub(super) status: ProfileStatus,
}

/// The ConfigMap of the chart, and its key.
const CONFIG_MAP: &str = "dot-injector";
const CONFIG_KEY: &str = "config.yaml";
/// The Lease of the chart.
const LEASE: &str = "dot-injector";

impl Installation {
    pub(super) async fn read(client: &Client, place: &Place) -> Result<Self, Failure> {
        let mut notes = Vec::new();
        let settings = settings(client, &place.injector_namespace, &mut notes).await?;
        let cluster = cluster(client, &place.injector_namespace, &settings, &mut notes).await;
        let (profiles, told_of_profiles) = profiles(client, &settings, &mut notes).await?;
        Ok(Self { settings, cluster, profiles, told_of_profiles, notes })
    }
}

impl ToldOf {
    /// The first condition that does not hold.
    pub(super) fn complaint(&self) -> Option<&Condition> {
        self.status.conditions.iter().find(|condition| condition.status == "False")
    }
}

async fn settings(client: &Client, namespace: &str, notes: &mut Vec<String>) -> Result<Settings, Failure> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let found = match maps.get_opt(CONFIG_MAP).await {
        Ok(found) => found,
        Err(error @ kube::Error::Api(_)) => {
            notes.push(format!(
                "the injector's configuration (ConfigMap {namespace}/{CONFIG_MAP}) is taken as the defaults: {}",
                told(&error)
            ));
            return Ok(Settings::default());
        }
        Err(error) => return Err(Failure::Work(format!("the API server could not be asked: {}", told(&error)))),
    };
    let text = found.and_then(|map| map.data).and_then(|mut data| data.remove(CONFIG_KEY));
    let Some(text) = text else {
        notes.push(format!(
            "there is no ConfigMap {namespace}/{CONFIG_MAP}: is the injector in another namespace (--injector-namespace)? Its configuration is taken as the defaults"
        ));
        return Ok(Settings::default());
    };
    match Settings::from_yaml(&text) {
        Ok(settings) => Ok(settings),
        Err(error) => {
            notes.push(format!(
                "the injector's configuration (ConfigMap {namespace}/{CONFIG_MAP}) is of another version than this program, and taken as the defaults: {error}"
            ));
            Ok(Settings::default())
        }
    }
}

/// As the configuration says it, else as the leader read it from its own resolv.conf.
async fn cluster(client: &Client, namespace: &str, settings: &Settings, notes: &mut Vec<String>) -> Option<ClusterDns> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
    let why = match leases.get_metadata_opt(LEASE).await {
        Ok(Some(lease)) => match lease.annotations().get(CLUSTER).map(|text| serde_json::from_str(text)) {
            Some(Ok(cluster)) => return Some(cluster),
            Some(Err(error)) => format!("annotation {CLUSTER} of Lease {namespace}/{LEASE}: {error}"),
            None => format!("Lease {namespace}/{LEASE} has no annotation {CLUSTER}"),
        },
        Ok(None) => format!("there is no Lease {namespace}/{LEASE}"),
        Err(error) => told(&error),
    };
    let cluster = ClusterDns::new(&settings.cluster, &ResolvConf::default()).ok();
    if cluster.is_none() {
        notes.push(format!(
            "whether configurations are outdated is not looked at: what the injector knows of cluster DNS cannot be read: {why}"
        ));
    }
    cluster
}

async fn profiles(
    client: &Client,
    settings: &Settings,
    notes: &mut Vec<String>,
) -> Result<(Profiles, Vec<ToldOf>), Failure> {
    let resource = ApiResource::erase::<ProxyProfile>(&());
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &resource);
    let objects = match all(&api).await {
        Ok(objects) => objects,
        Err(error @ kube::Error::Api(_)) => {
            notes.push(format!(
                "the ProxyProfiles cannot be read ({}): the default one is taken as configured",
                told(&error)
            ));
            return Ok((Profiles::of_default(settings.profile.clone().unwrap_or_default()), Vec::new()));
        }
        Err(error) => return Err(Failure::Work(format!("ProxyProfiles could not be read: {}", told(&error)))),
    };
    let mut profiles = Profiles::default();
    let mut told = Vec::new();
    for object in objects {
        let part = |name: &str| object.data.get(name).cloned();
        profiles.insert(object.name_any(), Profile::stored(part("spec").unwrap_or_default()));
        let status = part("status").and_then(|status| serde_json::from_value(status).ok()).unwrap_or_default();
        told.push(ToldOf { name: object.name_any(), status });
    }
    Ok((profiles, told))
}

/// The labels of one namespace, or of all.
pub(super) async fn namespace_labels(
    client: &Client,
    only: Option<&str>,
    notes: &mut Vec<String>,
) -> BTreeMap<String, BTreeMap<String, String>> {
    let api: Api<Namespace> = Api::all(client.clone());
    let found: kube::Result<Vec<PartialObjectMeta<Namespace>>> = match only {
        Some(name) => api.get_metadata_opt(name).await.map(|found| found.into_iter().collect()),
        None => all_metadata(&api).await,
    };
    match found {
        Ok(namespaces) => {
            namespaces.into_iter().map(|namespace| (namespace.name_any(), namespace.labels().clone())).collect()
        }
        Err(error) => {
            notes.push(format!(
                "the labels of namespaces cannot be read ({}): only pods that ask by annotation are found missing",
                told(&error)
            ));
            BTreeMap::new()
        }
    }
}

async fn all_metadata(api: &Api<Namespace>) -> kube::Result<Vec<PartialObjectMeta<Namespace>>> {
    Ok(api.list_metadata(&kube::api::ListParams::default()).await?.items)
}

/// A pod as JSON.
pub(super) fn value_of(object: &DynamicObject) -> Value {
    // Made of JSON, it has a JSON form.
    serde_json::to_value(object).unwrap_or_default()
}
