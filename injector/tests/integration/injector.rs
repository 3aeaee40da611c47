//! `serve`, running in the test's process.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dot_injector::app::{Config, Listeners, StartError, run};
use dot_injector::callers::Callers;
use dot_injector::certs::Clock;
use dot_injector::server::Limits;
use dot_injector::settings::Settings;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;

use crate::api_server::{ApiServer, SECRET};
use crate::http::{self, Version};

/// Nothing here takes longer, unless it is broken.
const DEADLINE: Duration = Duration::from_secs(20);

/// A running injector.
pub(crate) struct Injector {
    reviews: SocketAddr,
    admin: SocketAddr,
    api: ApiServer,
    stop: oneshot::Sender<()>,
    running: JoinHandle<Result<(), StartError>>,
}

/// How it differs from others.
pub(crate) struct Options {
    pub(crate) callers: Option<Callers>,
    pub(crate) limits: Limits,
    pub(crate) clock: Clock,
    /// How long admissions are taken after it was told to stop.
    pub(crate) linger: Duration,
    /// Further lines of the configuration.
    pub(crate) settings: String,
}

impl Default for Options {
    fn default() -> Self {
        let (callers, limits, settings) = (None, Limits::default(), String::new());
        Self { callers, limits, clock: Clock::system(), linger: Duration::ZERO, settings }
    }
}

impl Injector {
    /// Starts one, ready or not.
    pub(crate) async fn start(api: &ApiServer) -> Self {
        Self::start_as(api, Options::default()).await
    }

    /// Starts one for certain callers, with limits of the test's own, and waits until it is ready.
    pub(crate) async fn ready_with(api: &ApiServer, callers: Option<Callers>, limits: Limits) -> Self {
        let injector = Self::start_as(api, Options { callers, limits, ..Options::default() }).await;
        injector.until_ready().await;
        injector
    }

    /// Starts one with this part of a configuration, and waits until it is ready.
    pub(crate) async fn ready_as(api: &ApiServer, settings: &str) -> Self {
        let injector = Self::start_as(api, Options { settings: settings.to_owned(), ..Options::default() }).await;
        injector.until_ready().await;
        injector
    }

    /// Starts one with these options, ready or not.
    pub(crate) async fn start_as(api: &ApiServer, options: Options) -> Self {
        let any: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
        let listeners = Listeners::bind(Some(any), any).await.unwrap();
        let reviews = listeners.reviews.as_ref().unwrap().local_addr().unwrap();
        let admin = listeners.admin.local_addr().unwrap();
        let cluster = "cluster: {domain: cluster.local, dnsAddresses: [10.96.0.10]}";
        let config = Config {
            settings: Settings::from_yaml(&format!("{cluster}\n{}", options.settings)).unwrap(),
            namespace: "dot-sidecar".to_owned(),
            service: "dot-injector".to_owned(),
            secret: "dot-injector-tls".to_owned(),
            webhook_configuration: "dot-sidecar".to_owned(),
            deployment: "dot-injector".to_owned(),
            lease: "dot-injector".to_owned(),
            identity: format!("dot-injector-{}", reviews.port()),
            resolv_conf: PathBuf::from("/nonexistent"),
            linger: options.linger,
            callers: options.callers,
            clock: options.clock,
            limits: options.limits,
        };
        let (stop, stopped) = oneshot::channel();
        let client = api.client();
        let running = tokio::spawn(async move {
            run(config, client, listeners, async {
                stopped.await.unwrap();
            })
            .await
        });
        Self { reviews, admin, api: api.clone(), stop, running }
    }

    /// Starts one and waits until it is ready.
    pub(crate) async fn ready(api: &ApiServer) -> Self {
        let injector = Self::start(api).await;
        injector.until_ready().await;
        injector
    }

    /// Where reviews are taken.
    pub(crate) fn address(&self) -> SocketAddr {
        self.reviews
    }

    /// How often somebody was refused for this reason.
    pub(crate) async fn refused(&self, reason: &str) -> u64 {
        let line = format!("dot_injector_refused_total{{reason=\"{reason}\"}} ");
        let metrics = self.metrics().await;
        metrics.lines().find_map(|metric| metric.strip_prefix(&line)).map_or(0, |count| count.parse().unwrap())
    }

    /// Waits until somebody was refused for this reason, so often.
    pub(crate) async fn until_refused(&self, reason: &str, times: u64) {
        eventually(&format!("refused {times} times: {reason}"), async || self.refused(reason).await >= times).await;
    }

    pub(crate) async fn until_ready(&self) {
        eventually("the injector is ready", async || self.admin("/readyz").await.status() == StatusCode::OK).await;
    }

    pub(crate) async fn admin(&self, path: &str) -> Response<Bytes> {
        let request = Request::get(path).header("host", "test").body(Full::default()).unwrap();
        http::send(self.admin, request).await
    }

    pub(crate) async fn metrics(&self) -> String {
        String::from_utf8(self.admin("/metrics").await.into_body().to_vec()).unwrap()
    }

    /// The authority in the Secret, PEM.
    pub(crate) fn authority(&self) -> String {
        let secret = self.api.get(SECRET).unwrap();
        String::from_utf8(STANDARD.decode(secret["data"]["ca.crt"].as_str().unwrap()).unwrap()).unwrap()
    }

    /// The certificate that is served, DER.
    pub(crate) async fn certificate(&self) -> Vec<u8> {
        http::shown(self.reviews).await.to_vec()
    }

    pub(crate) async fn is_trusted_by(&self, authority: &str) -> bool {
        http::connect(self.reviews, authority, Version::Two).await.is_ok()
    }

    /// Opens TLS to it.
    pub(crate) async fn connect(&self, version: Version) -> TlsStream<TcpStream> {
        http::connect(self.reviews, &self.authority(), version).await.unwrap()
    }

    pub(crate) async fn post(&self, version: Version, request: Request<Full<Bytes>>) -> Response<Bytes> {
        http::send_tls(self.connect(version).await, version, request).await
    }

    /// Asks about the creation of a pod.
    pub(crate) async fn review(&self, path: &str, namespace: &str, pod: &Value) -> Value {
        self.review_with(path, review(namespace, pod)).await
    }

    /// Sends a review; the `response` of the answer.
    pub(crate) async fn review_with(&self, path: &str, review: Value) -> Value {
        let answer = self.post(Version::Two, post(path, review.to_string())).await;
        assert_eq!(answer.status(), StatusCode::OK);
        let answer: Value = serde_json::from_slice(answer.body()).unwrap();
        assert_eq!(answer["apiVersion"], "admission.k8s.io/v1");
        assert_eq!(answer["kind"], "AdmissionReview");
        assert_eq!(answer["response"]["uid"], review["request"]["uid"]);
        answer["response"].clone()
    }

    /// Stops it and waits until it is gone.
    pub(crate) async fn stop(self) {
        self.stop.send(()).unwrap();
        tokio::time::timeout(DEADLINE, self.running).await.unwrap().unwrap().unwrap();
    }
}

/// The review of a pod's creation.
pub(crate) fn review(namespace: &str, pod: &Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "requestKind": {"group": "", "version": "v1", "kind": "Pod"},
            "namespace": namespace, "operation": "CREATE", "dryRun": false,
            "userInfo": {"username": "someone"}, "object": pod, "oldObject": null, "options": {}
        }
    })
}

pub(crate) fn post(path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let request = Request::post(format!("https://dot-injector.dot-sidecar.svc{path}"));
    request.header("content-type", "application/json").body(Full::new(body.into())).unwrap()
}

/// The pod after the patch of an answer.
pub(crate) fn patched(response: &Value, pod: &Value) -> Value {
    assert_eq!(response["allowed"], true, "{response}");
    assert_eq!(response["patchType"], "JSONPatch");
    let patch = STANDARD.decode(response["patch"].as_str().unwrap()).unwrap();
    let patch: json_patch::Patch = serde_json::from_slice(&patch).unwrap();
    let mut pod = pod.clone();
    json_patch::patch(&mut pod, &patch).unwrap();
    pod
}

/// Waits for something to come about.
pub(crate) async fn eventually(what: &str, holds: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
