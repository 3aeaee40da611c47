//! An API server in memory, as far as the injector uses one: objects by path, creation once, server-side apply of bundles.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use http_body_util::BodyExt as _;
use hyper::{Method, Request, Response};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};

pub(crate) const SECRET: &str = "/api/v1/namespaces/dot-sidecar/secrets/dot-injector-tls";
pub(crate) const WEBHOOKS: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/dot-sidecar";
pub(crate) const PROFILES: &str = "/apis/dot-sidecar.io/v1alpha1/proxyprofiles";
const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/dot-sidecar/deployments/dot-injector";

/// What is stored, and what was asked. Clones share it.
#[derive(Clone)]
pub(crate) struct ApiServer(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    /// Method and path of what changed something.
    writes: Vec<String>,
}

impl ApiServer {
    /// One with the chart's objects in it.
    pub(crate) fn new() -> Self {
        let server = Self(Arc::default());
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

    pub(crate) fn put(&self, path: &str, object: Value) {
        self.0.lock().unwrap().objects.insert(path.to_owned(), object);
    }

    /// Stores a profile. Who watches already is not told.
    #[expect(clippy::needless_pass_by_value, reason = "called with literals")]
    pub(crate) fn profile(&self, name: &str, spec: Value) {
        let metadata = json!({"name": name});
        let profile = json!({"apiVersion": "dot-sidecar.io/v1alpha1", "kind": "ProxyProfile", "metadata": metadata, "spec": spec});
        self.put(&format!("{PROFILES}/{name}"), profile);
    }

    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.0.lock().unwrap().objects.get(path).cloned()
    }

    /// The objects whose path begins with `prefix`.
    pub(crate) fn under(&self, prefix: &str) -> Vec<Value> {
        let state = self.0.lock().unwrap();
        state.objects.iter().filter(|(path, _)| path.starts_with(prefix)).map(|(_, object)| object.clone()).collect()
    }

    pub(crate) fn writes(&self) -> Vec<String> {
        self.0.lock().unwrap().writes.clone()
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

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let path = head.uri.path().to_owned();
        if head.uri.query().is_some_and(|query| query.contains("watch=true")) {
            // Nothing ever changes here: a watch says nothing.
            std::future::pending::<()>().await;
        }
        let body = body.collect().await.unwrap().to_bytes();
        let sent: Value = serde_json::from_slice(&body).unwrap_or_default();
        let (code, answer) = self.0.lock().unwrap().apply(&head.method, &path, sent);
        Response::builder().status(code).body(Body::from(serde_json::to_vec(&answer).unwrap())).unwrap()
    }
}

impl State {
    fn apply(&mut self, method: &Method, path: &str, sent: Value) -> (u16, Value) {
        if method != Method::GET {
            self.writes.push(format!("{method} {path}"));
        }
        if *method == Method::GET && path == "/api/v1/limitranges" {
            return self.list("v1", "LimitRangeList", "/limitranges/");
        }
        if *method == Method::GET && path == PROFILES {
            return self.list("dot-sidecar.io/v1alpha1", "ProxyProfileList", "/proxyprofiles/");
        }
        match *method {
            Method::GET => match self.objects.get(path) {
                Some(object) => (200, object.clone()),
                None => status(404, "NotFound"),
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
            // Server-side apply of the default profile …
            Method::PATCH if path.starts_with(PROFILES) => self.store(path.to_owned(), sent),
            // … and of the bundles.
            Method::PATCH => {
                let mut object = self.objects.get(path).cloned().unwrap();
                for applied in sent["webhooks"].as_array().unwrap() {
                    let stored = object["webhooks"].as_array_mut().unwrap();
                    let entry = stored.iter_mut().find(|entry| entry["name"] == applied["name"]).unwrap();
                    entry["clientConfig"]["caBundle"] = applied["clientConfig"]["caBundle"].clone();
                }
                self.store(path.to_owned(), object)
            }
            _ => status(405, "MethodNotAllowed"),
        }
    }

    fn list(&self, api_version: &str, kind: &str, part: &str) -> (u16, Value) {
        let items = self.objects.iter().filter(|(path, _)| path.contains(part)).map(|(_, object)| object);
        let (metadata, items) = (json!({"resourceVersion": "1"}), items.collect::<Vec<_>>());
        (200, json!({"apiVersion": api_version, "kind": kind, "metadata": metadata, "items": items}))
    }

    fn store(&mut self, path: String, mut object: Value) -> (u16, Value) {
        object["metadata"]["resourceVersion"] = json!(self.writes.len().to_string());
        self.objects.insert(path, object.clone());
        (200, object)
    }
}

fn status(code: u16, reason: &str) -> (u16, Value) {
    (
        code,
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": reason, "code": code}),
    )
}
