//! An API server in memory, as far as the injector uses one: objects by path, creation once, replacement of what was read, patches,
//! lists and watches. Selectors are not heeded.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::{StreamExt as _, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use hyper::{Method, Request, Response};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::watch;

pub(crate) const SECRET: &str = "/api/v1/namespaces/dot-sidecar/secrets/dot-injector-tls";
pub(crate) const WEBHOOKS: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/dot-sidecar";
pub(crate) const PROFILES: &str = "/apis/dot-sidecar.io/v1alpha1/proxyprofiles";
pub(crate) const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/dot-sidecar/leases/dot-injector";
pub(crate) const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/dot-sidecar/deployments/dot-injector";

/// What the watched resources are called, and the kinds of their lists.
const LISTED: [(&str, &str, &str); 5] = [
    ("/api/v1/namespaces/dot-sidecar/secrets", "v1", "SecretList"),
    (
        "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations",
        "admissionregistration.k8s.io/v1",
        "MutatingWebhookConfigurationList",
    ),
    ("/api/v1/limitranges", "v1", "LimitRangeList"),
    ("/api/v1/pods", "meta.k8s.io/v1", "PartialObjectMetadataList"),
    (PROFILES, "dot-sidecar.io/v1alpha1", "ProxyProfileList"),
];

/// What is stored, and what was asked. Clones share it.
#[derive(Clone)]
pub(crate) struct ApiServer {
    state: Arc<Mutex<State>>,
    /// Whether nobody is answered who came this way.
    away: Arc<AtomicBool>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    /// Method and path of what changed something.
    writes: Vec<String>,
    /// What has become of which object.
    changes: Vec<(String, Value)>,
    /// How many changes there were.
    version: watch::Sender<usize>,
}

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

impl ApiServer {
    /// One with the chart's objects in it.
    pub(crate) fn new() -> Self {
        let server = Self { state: Arc::default(), away: Arc::default() };
        server.put(DEPLOYMENT, json!({"metadata": {"name": "dot-injector", "uid": "deployment-uid"}}));
        let entry = |name: &str| {
            json!({"name": name, "admissionReviewVersions": ["v1"], "sideEffects": "NoneOnDryRun",
                   "clientConfig": {"service": {"name": "dot-injector", "namespace": "dot-sidecar"}}})
        };
        let webhooks = json!([entry("annotated.dot-sidecar.io"), entry("namespace.dot-sidecar.io")]);
        server.put(WEBHOOKS, json!({"metadata": {"name": "dot-sidecar"}, "webhooks": webhooks}));
        server.profile("default", json!({}));
        server
    }

    /// Creates an object, or replaces it.
    pub(crate) fn put(&self, path: &str, object: Value) {
        self.state.lock().unwrap().store(path.to_owned(), object);
    }

    pub(crate) fn delete(&self, path: &str) {
        self.state.lock().unwrap().delete(path);
    }

    /// Stores a profile, of the next generation where there is one of the name.
    #[expect(clippy::needless_pass_by_value, reason = "called with literals")]
    pub(crate) fn profile(&self, name: &str, spec: Value) {
        let path = format!("{PROFILES}/{name}");
        let generation = self.get(&path).and_then(|stored| stored["metadata"]["generation"].as_i64()).unwrap_or(0) + 1;
        let metadata = json!({"name": name, "generation": generation});
        let profile = json!({"apiVersion": "dot-sidecar.io/v1alpha1", "kind": "ProxyProfile", "metadata": metadata, "spec": spec});
        self.put(&path, profile);
    }

    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.state.lock().unwrap().objects.get(path).cloned()
    }

    /// The objects whose path begins with `prefix`.
    pub(crate) fn under(&self, prefix: &str) -> Vec<Value> {
        let state = self.state.lock().unwrap();
        state.objects.iter().filter(|(path, _)| path.starts_with(prefix)).map(|(_, object)| object.clone()).collect()
    }

    pub(crate) fn writes(&self) -> Vec<String> {
        self.state.lock().unwrap().writes.clone()
    }

    /// The same one, by a way that [`Self::away`] concerns alone.
    pub(crate) fn with_a_way_of_its_own(&self) -> Self {
        Self { state: Arc::clone(&self.state), away: Arc::default() }
    }

    /// Answers nobody any more who comes this way, or everybody again.
    pub(crate) fn away(&self, away: bool) {
        self.away.store(away, Ordering::Relaxed);
    }

    /// A client that talks to it.
    pub(crate) fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        Client::new(service, "dot-sidecar")
    }

    async fn answer(&self, request: Request<Body>) -> Answer {
        let (head, body) = request.into_parts();
        let path = head.uri.path().to_owned();
        if self.away.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        let query = head.uri.query().unwrap_or_default();
        if query.contains("watch=true") {
            let since = query.split('&').find_map(|part| part.strip_prefix("resourceVersion="));
            return self.watch(path, since.and_then(|since| since.parse().ok()).unwrap_or_default());
        }
        let body = body.collect().await.unwrap().to_bytes();
        let sent: Value = serde_json::from_slice(&body).unwrap_or_default();
        let (code, answer) = self.state.lock().unwrap().apply(&head.method, &path, sent);
        let body = Full::new(Bytes::from(serde_json::to_vec(&answer).unwrap()));
        Response::builder().status(code).body(body.boxed_unsync()).unwrap()
    }

    /// What has happened since to the objects of a collection, and what will, a line each.
    fn watch(&self, collection: String, since: usize) -> Answer {
        let version = self.state.lock().unwrap().version.subscribe();
        let server = self.clone();
        let lines = stream::unfold((since, version), move |(seen, mut version)| {
            let (server, collection) = (server.clone(), collection.clone());
            async move {
                version.wait_for(|version| *version > seen).await.ok()?;
                let state = server.state.lock().unwrap();
                let news = state.changes[seen..].iter().filter(|(path, _)| is_of(path, &collection));
                let lines: String = news.map(|(_, event)| format!("{event}\n")).collect();
                Some((Ok(Frame::data(Bytes::from(lines))), (state.changes.len(), version.clone())))
            }
        });
        Response::new(StreamBody::new(lines.boxed()).boxed_unsync())
    }
}

/// Whether an object is of a collection, such as `/api/v1/pods`, whatever its namespace.
fn is_of(path: &str, collection: &str) -> bool {
    let resource = collection.rsplit('/').next().unwrap();
    path.rsplit('/').nth(1) == Some(resource)
}

impl State {
    fn apply(&mut self, method: &Method, path: &str, sent: Value) -> (u16, Value) {
        if method != Method::GET {
            self.writes.push(format!("{method} {path}"));
        }
        match *method {
            Method::GET => match (LISTED.iter().find(|(listed, ..)| *listed == path), self.objects.get(path)) {
                (Some(listed), _) => self.list(*listed),
                (None, Some(object)) => (200, object.clone()),
                (None, None) => status(404, "NotFound"),
            },
            Method::POST => {
                let path = format!("{path}/{}", sent["metadata"]["name"].as_str().unwrap());
                if self.objects.contains_key(&path) {
                    return status(409, "AlreadyExists");
                }
                self.store(path, sent)
            }
            Method::PUT => {
                let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
                match self.objects.get(path) {
                    None => status(404, "NotFound"),
                    Some(stored) if version(stored) != version(&sent) => status(409, "Conflict"),
                    Some(_) => self.store(path.to_owned(), sent),
                }
            }
            Method::PATCH => self.patch(path, sent),
            _ => status(405, "MethodNotAllowed"),
        }
    }

    fn patch(&mut self, path: &str, sent: Value) -> (u16, Value) {
        let (path, is_status) = match path.strip_suffix("/status") {
            Some(path) => (path, true),
            None => (path, false),
        };
        let mut object = self.objects.get(path).cloned();
        match &mut object {
            None if is_status => return status(404, "NotFound"),
            // Server-side apply of a status, …
            Some(object) if is_status => object["status"] = sent["status"].clone(),
            // … of the default profile, …
            _ if path.starts_with(PROFILES) => object = Some(sent),
            None => return status(404, "NotFound"),
            // … and of the bundles; a patch of a pod's annotations, if it is the pod that is meant.
            Some(pod) if path.contains("/pods/") => {
                if sent["metadata"]["uid"] != pod["metadata"]["uid"] {
                    let (code, mut answer) = status(422, "Invalid");
                    answer["details"] = json!({"causes": [{"field": "metadata.uid", "message": "field is immutable"}]});
                    return (code, answer);
                }
                for (name, value) in sent["metadata"]["annotations"].as_object().unwrap() {
                    pod["metadata"]["annotations"][name] = value.clone();
                }
            }
            Some(object) => {
                for applied in sent["webhooks"].as_array().unwrap() {
                    let stored = object["webhooks"].as_array_mut().unwrap();
                    let entry = stored.iter_mut().find(|entry| entry["name"] == applied["name"]).unwrap();
                    entry["clientConfig"]["caBundle"] = applied["clientConfig"]["caBundle"].clone();
                }
            }
        }
        self.store(path.to_owned(), object.unwrap())
    }

    fn list(&self, (collection, api_version, kind): (&str, &str, &str)) -> (u16, Value) {
        let items = self.objects.iter().filter(|(path, _)| is_of(path, collection)).map(|(_, object)| object);
        let (metadata, items) = (json!({"resourceVersion": self.changes.len().to_string()}), items.collect::<Vec<_>>());
        (200, json!({"apiVersion": api_version, "kind": kind, "metadata": metadata, "items": items}))
    }

    fn store(&mut self, path: String, mut object: Value) -> (u16, Value) {
        object["metadata"]["resourceVersion"] = json!((self.changes.len() + 1).to_string());
        let kind = if self.objects.contains_key(&path) { "MODIFIED" } else { "ADDED" };
        self.objects.insert(path.clone(), object.clone());
        self.tell(path, kind, &object);
        (200, object)
    }

    fn delete(&mut self, path: &str) {
        let object = self.objects.remove(path).unwrap();
        self.tell(path.to_owned(), "DELETED", &object);
    }

    fn tell(&mut self, path: String, kind: &str, object: &Value) {
        self.changes.push((path, json!({"type": kind, "object": object})));
        self.version.send_replace(self.changes.len());
    }
}

fn status(code: u16, reason: &str) -> (u16, Value) {
    (
        code,
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": reason, "code": code}),
    )
}
