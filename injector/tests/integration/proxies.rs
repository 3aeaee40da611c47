//! Proxies of pods, as far as the injector asks them: which configuration they have taken. Each has an address of its own.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use dot_proxy::reload::Hash;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::api_server::ApiServer;
use crate::injector::Injector;
use crate::status::{PODS, admitted};

/// A pod that runs, with its proxy.
pub(crate) struct Pod {
    pub(crate) name: String,
    api: ApiServer,
    rejects: Arc<AtomicBool>,
}

/// Of each address one proxy is the only one, in all tests.
static NETWORK: AtomicU8 = AtomicU8::new(1);

impl Pod {
    /// So many pods of a workload, admitted by the injector.
    pub(crate) async fn start(injector: &Injector, api: &ApiServer, number: u8) -> Vec<Self> {
        let network = NETWORK.fetch_add(1, Ordering::Relaxed);
        let mut pods = Vec::new();
        for index in 1..=number {
            let (name, address) = (format!("web-{index:02}"), Ipv4Addr::new(127, 53, network, index));
            let mut pod = admitted(injector, &name).await;
            pod["status"] = json!({"phase": "Running", "podIP": address.to_string()});
            api.put(&format!("{PODS}/{name}"), pod);
            let pod = Self { name, api: api.clone(), rejects: Arc::default() };
            pod.serve(TcpListener::bind((address, 9853)).await.unwrap());
            pods.push(pod);
        }
        pods
    }

    /// Whether it rejects what is new to it from now on.
    pub(crate) fn rejects(&self, rejects: bool) {
        self.rejects.store(rejects, Ordering::Relaxed);
    }

    pub(crate) fn path(&self) -> String {
        format!("{PODS}/{}", self.name)
    }

    /// What stands on the pod.
    pub(crate) fn config(&self) -> Value {
        serde_json::from_str(&annotation(&self.api, &self.path())).unwrap()
    }

    pub(crate) fn servers(&self) -> Value {
        self.config()["upstream"]["servers"].clone()
    }

    fn serve(&self, listener: TcpListener) {
        let (api, path, rejects) = (self.api.clone(), self.path(), Arc::clone(&self.rejects));
        let in_force = Arc::new(Mutex::new(hash(&annotation(&api, &path))));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (api, path) = (api.clone(), path.clone());
                let (rejects, in_force) = (Arc::clone(&rejects), Arc::clone(&in_force));
                let answer = move |_: Request<_>| {
                    let (mut in_force, seen) = (in_force.lock().unwrap(), hash(&annotation(&api, &path)));
                    let mut metrics = String::from("# TYPE dot_proxy_config info\n");
                    if rejects.load(Ordering::Relaxed) && *in_force != seen {
                        metrics
                            .push_str(&format!("dot_proxy_config_rejected{{hash=\"{seen}\",reason=\"unproved\"}} 1\n"));
                    } else {
                        *in_force = seen;
                    }
                    metrics.push_str(&format!("dot_proxy_config_info{{hash=\"{in_force}\"}} 1\n# EOF\n"));
                    let answer = Response::new(Full::new(Bytes::from(metrics)));
                    async { Ok::<_, Infallible>(answer) }
                };
                let connection = hyper::server::conn::http1::Builder::new();
                tokio::spawn(connection.serve_connection(TokioIo::new(stream), service_fn(answer)));
            }
        });
    }
}

fn annotation(api: &ApiServer, path: &str) -> String {
    let pod = api.get(path).unwrap_or_default();
    pod["metadata"]["annotations"]["dot-sidecar.io/config"].as_str().unwrap_or_default().to_owned()
}

/// As a proxy tells it in its metrics.
fn hash(config: &str) -> String {
    Hash::of(config.as_bytes()).to_string()
}
