//! The profiles of the cluster, watched, so that an admission need not ask the API server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{info, warn};

use super::{DEFAULT, Profile, ProfileError, ProfileStatus, ProxyProfile};
use crate::causes::with_causes;
use crate::readiness::{Condition, Readiness};

/// Field manager of the profile that is kept as the injector's configuration says it.
const FIELD_MANAGER: &str = "dot-injector";
/// How soon the profile is written again after a failure, or when somebody removed it.
const RETRY: Duration = Duration::from_secs(2);

/// All profiles at one time, each read once: usable, or why not.
#[derive(Debug, Clone, Default)]
pub struct Profiles(BTreeMap<String, Arc<Known>>);

#[derive(Debug)]
struct Known {
    profile: Result<Profile, ProfileError>,
    generation: Option<i64>,
    status: Option<ProfileStatus>,
}

/// The profiles that are known now. Clones share them.
#[derive(Debug, Clone)]
pub struct WatchedProfiles(watch::Receiver<Arc<Profiles>>);

impl Profiles {
    /// One profile, called `default`.
    pub fn of_default(profile: Profile) -> Self {
        let mut profiles = Self::default();
        profiles.insert(DEFAULT.to_owned(), Ok(profile));
        profiles
    }

    /// The profile of this name: usable, or why not; `None` where there is no such profile.
    pub fn get(&self, name: &str) -> Option<Result<&Profile, &ProfileError>> {
        self.0.get(name).map(|known| known.profile.as_ref())
    }

    /// The generation of the profile of this name.
    pub fn generation(&self, name: &str) -> Option<i64> {
        self.0.get(name).and_then(|known| known.generation)
    }

    /// The status of the profile of this name, as it was when the profile was last read.
    pub fn status(&self, name: &str) -> Option<&ProfileStatus> {
        self.0.get(name).and_then(|known| known.status.as_ref())
    }

    /// The names of all profiles.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Adds a profile, or replaces the one of its name.
    pub fn insert(&mut self, name: String, profile: Result<Profile, ProfileError>) {
        self.0.insert(name, Arc::new(Known { profile, generation: None, status: None }));
    }

    /// Adds a profile as the API server keeps it. Tells whether it was not known yet, or another one.
    fn put(&mut self, object: &DynamicObject) -> bool {
        let name = object.name_any();
        let generation = object.metadata.generation;
        // The status changes with every pod; what it is about does not.
        if generation.is_some() && self.generation(&name) == generation {
            return false;
        }
        let profile = Profile::stored(object.data.get("spec").cloned().unwrap_or_default());
        if let Err(error) = &profile {
            warn!(profile = name, %error, "a ProxyProfile cannot be used");
        }
        let status = object.data.get("status").and_then(|status| serde_json::from_value(status.clone()).ok());
        self.0.insert(name, Arc::new(Known { profile, generation, status }));
        true
    }
}

impl WatchedProfiles {
    /// What is known, and the work that keeps it so until it is dropped. Ready when all of them are known, and there is a default
    /// one where one is `expected`.
    pub fn watch(client: &Client, expected: bool, readiness: Readiness) -> (Self, impl Future<Output = ()> + use<>) {
        let (sender, receiver) = watch::channel(Arc::default());
        // As values, not as profiles: one that cannot be read must not keep the others from being seen.
        let profiles = Api::<DynamicObject>::all_with(client.clone(), &ApiResource::erase::<ProxyProfile>(&()));
        let events = watcher(profiles, watcher::Config::default());
        (Self(receiver), follow(sender, events.default_backoff(), expected, readiness))
    }

    /// These, for ever.
    pub fn fixed(profiles: Profiles) -> Self {
        Self(watch::channel(Arc::new(profiles)).1)
    }

    /// The profiles when they have changed since they were last waited for; `None` when they never will again.
    pub async fn changed(&mut self) -> Option<Arc<Profiles>> {
        self.0.changed().await.ok()?;
        Some(Arc::clone(&self.0.borrow_and_update()))
    }

    /// The profiles as they are now.
    pub fn now(&self) -> Arc<Profiles> {
        Arc::clone(&self.0.borrow())
    }
}

async fn follow(
    sender: watch::Sender<Arc<Profiles>>,
    events: impl Stream<Item = watcher::Result<watcher::Event<DynamicObject>>>,
    expected: bool,
    readiness: Readiness,
) {
    let mut events = std::pin::pin!(events);
    let mut profiles = Profiles::default();
    let mut complete = false;
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Init) => {
                profiles = Profiles::default();
                continue;
            }
            Ok(watcher::Event::InitApply(object)) => {
                profiles.put(&object);
                continue;
            }
            Ok(watcher::Event::InitDone) => complete = true,
            Ok(watcher::Event::Apply(object)) => {
                if !profiles.put(&object) {
                    continue;
                }
            }
            Ok(watcher::Event::Delete(object)) => {
                profiles.0.remove(&object.name_any());
            }
            Err(watcher::Error::InitialListFailed(kube::Error::Api(status))) if status.is_not_found() => {
                warn!("the cluster has no resource proxyprofiles.dot-sidecar.io: install the chart, or its definition");
                profiles = Profiles::default();
            }
            Err(error) => {
                warn!(error = with_causes(&error), "the cluster's ProxyProfiles could not be watched; trying again");
                continue;
            }
        }
        sender.send_replace(Arc::new(profiles.clone()));
        if complete && (!expected || profiles.get(DEFAULT).is_some()) {
            readiness.set(Condition::ProfilesKnown);
        }
    }
}

/// Keeps the profile `default` in the cluster: as the injector's configuration says it at the start, and whenever it is gone.
/// Works until it is dropped.
pub async fn keep_default(client: Client, profile: Profile, mut known: WatchedProfiles) {
    let profiles = Api::<ProxyProfile>::all(client);
    let resource = json!({
        "apiVersion": ProxyProfile::api_version(&()),
        "kind": ProxyProfile::kind(&()),
        "metadata": {"name": DEFAULT, "labels": {"app.kubernetes.io/managed-by": FIELD_MANAGER}},
        "spec": profile,
    });
    let params = PatchParams::apply(FIELD_MANAGER).force();
    // The first listing. An error means that nobody watches any more: the injector is being stopped.
    if known.0.changed().await.is_err() {
        return;
    }
    let mut is_kept = known.now().get(DEFAULT) == Some(Ok(&profile));
    loop {
        if !is_kept {
            match profiles.patch(DEFAULT, &params, &Patch::Apply(&resource)).await {
                Ok(_) => info!(profile = DEFAULT, "the ProxyProfile is as the configuration says it"),
                Err(error) => {
                    warn!(
                        error = with_causes(&error),
                        profile = DEFAULT,
                        "the ProxyProfile could not be written; trying again"
                    );
                    sleep(RETRY).await;
                    continue;
                }
            }
        }
        let is_there = |profiles: &Arc<Profiles>| profiles.get(DEFAULT).is_some();
        // Seen first, then missed.
        if known.0.wait_for(is_there).await.is_err() || known.0.wait_for(|profiles| !is_there(profiles)).await.is_err()
        {
            return;
        }
        is_kept = false;
        sleep(RETRY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;

    #[expect(clippy::needless_pass_by_value, reason = "called with literals")]
    fn object(name: &str, spec: serde_json::Value) -> DynamicObject {
        DynamicObject::new(name, &ApiResource::erase::<ProxyProfile>(&())).data(json!({"spec": spec}))
    }

    async fn after(events: Vec<watcher::Result<watcher::Event<DynamicObject>>>) -> Arc<Profiles> {
        let (sender, receiver) = watch::channel(Arc::default());
        follow(sender, stream::iter(events), false, Readiness::default()).await;
        WatchedProfiles(receiver).now()
    }

    #[tokio::test]
    async fn profiles_are_those_of_the_last_listing_and_what_has_changed_since() {
        let quad9 = json!({"upstream": {"servers": ["quad9"]}});
        let profiles = after(vec![
            Ok(watcher::Event::Init),
            Ok(watcher::Event::InitApply(object("gone", json!({})))),
            Ok(watcher::Event::InitDone),
            Ok(watcher::Event::Init),
            Ok(watcher::Event::InitApply(object("default", json!({})))),
            Ok(watcher::Event::InitApply(object("removed", json!({})))),
            Ok(watcher::Event::InitDone),
            Ok(watcher::Event::Apply(object("default", quad9))),
            Ok(watcher::Event::Delete(object("removed", json!({})))),
        ])
        .await;
        assert_eq!(profiles.names().collect::<Vec<_>>(), ["default"]);
        assert_eq!(profiles.get("default").unwrap().unwrap().upstream.servers[0].to_string(), "quad9");
    }

    #[tokio::test]
    async fn a_profile_that_cannot_be_read_keeps_no_other_from_being_seen() {
        let profiles = after(vec![
            Ok(watcher::Event::Init),
            Ok(watcher::Event::InitApply(object("bad", json!({"upstream": {"servers": ["dns.example"]}})))),
            Ok(watcher::Event::InitApply(object("default", json!({})))),
            Ok(watcher::Event::InitDone),
        ])
        .await;
        assert!(profiles.get("bad").unwrap().unwrap_err().to_string().starts_with("upstream.servers[0]: "));
        assert!(profiles.get("default").unwrap().is_ok());
    }

    #[tokio::test]
    async fn where_the_resource_itself_was_removed_there_is_no_profile() {
        let missing = kube::core::Status::failure("the server could not find the requested resource", "NotFound");
        let missing = kube::Error::Api(Box::new(missing.with_code(404)));
        let profiles = after(vec![
            Ok(watcher::Event::Init),
            Ok(watcher::Event::InitApply(object("default", json!({})))),
            Ok(watcher::Event::InitDone),
            Err(watcher::Error::InitialListFailed(missing)),
        ])
        .await;
        assert_eq!(profiles.names().count(), 0);
    }
}
