//! Asks pods, on their proxy's admin port, which configuration they have taken.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use dot_proxy::reload::Hash;
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::super::fleet::{Answer, Place};
use super::super::pods::WatchedPods;
use super::waves::spread;
use crate::inject::ADMIN_PORT;

/// So many pods are asked at most, of which not all need run.
const SAMPLE: usize = 20;
const CANDIDATES: usize = 60;
const AT_ONCE: usize = 10;
/// How long a pod may take to answer once.
const ANSWER: Duration = Duration::from_secs(2);
/// How often it is asked while it has neither taken nor rejected what was written.
const POLL: Duration = Duration::from_millis(250);
/// The metrics of a proxy are some 20 KB.
const LONGEST_ANSWER: usize = 1 << 20;
/// Of so many is told what they said.
const QUOTED: usize = 3;

/// Asks pods.
pub(super) struct Asker {
    client: Client,
}

/// What pods said.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) taken: Vec<Place>,
    pub(super) rejected: Vec<(Place, Box<str>)>,
    pub(super) unknown: Vec<(Place, Box<str>)>,
}

/// What a proxy says of its configuration.
#[derive(Debug, Default, PartialEq, Eq)]
struct Report {
    in_force: Option<String>,
    /// Its hash, and why.
    rejected: Option<(String, String)>,
}

impl Asker {
    pub(super) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Asks a sample of these pods until each has taken or rejected the configuration that stands on it, or for so long. The fleet
    /// remembers what they say.
    pub(super) async fn ask(&self, places: Vec<Place>, pods: &WatchedPods, patience: Duration) -> Asked {
        let deadline = Instant::now() + patience;
        let mut asked = Asked::default();
        let answers = stream::iter(spread(&places, CANDIDATES)).map(|place| async move {
            let hash = pods.fleet().config(&place)?;
            let answer = self.ask_one(&place, hash, pods, deadline).await?;
            pods.fleet().answered(&place, hash, answer.clone());
            Some((place, answer))
        });
        let mut answers = std::pin::pin!(answers.buffer_unordered(AT_ONCE));
        while asked.heard() + asked.unknown.len() < SAMPLE
            && let Some(answer) = answers.next().await
        {
            match answer {
                Some((place, Answer::Taken)) => asked.taken.push(place),
                Some((place, Answer::Rejected(why))) => asked.rejected.push((place, why)),
                Some((place, Answer::Unknown(why))) => asked.unknown.push((place, why)),
                // It does not run, or is gone.
                None => {}
            }
        }
        asked
    }

    /// What a pod says; nothing if it does not run, or something else stands on it by now.
    async fn ask_one(&self, place: &Place, hash: Hash, pods: &WatchedPods, deadline: Instant) -> Option<Answer> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &place.namespace);
        let address = match api.get_opt(&place.name).await {
            Ok(Some(pod)) => running_at(&pod)?,
            Ok(None) => return None,
            Err(error) => return Some(Answer::Unknown(error.to_string().into())),
        };
        let wanted = hash.to_string();
        while pods.fleet().config(place) == Some(hash) {
            let why = match timeout(ANSWER, report(SocketAddr::new(address, ADMIN_PORT))).await {
                Ok(Ok(Report { in_force: Some(hash), .. })) if hash == wanted => return Some(Answer::Taken),
                Ok(Ok(Report { rejected: Some((hash, why)), .. })) if hash == wanted => {
                    return Some(Answer::Rejected(why.into()));
                }
                Ok(Ok(Report { in_force: None, .. })) => {
                    let why = "its proxy does not tell which configuration it has: it may be of an earlier version";
                    return Some(Answer::Unknown(why.into()));
                }
                Ok(Ok(_)) => "its proxy has neither taken nor rejected it yet".to_owned(),
                Ok(Err(why)) => why,
                Err(_) => format!("no answer within {} s", ANSWER.as_secs()),
            };
            if Instant::now() + POLL > deadline {
                return Some(Answer::Unknown(why.into()));
            }
            sleep(POLL).await;
        }
        None
    }
}

impl Asked {
    /// How many have taken or rejected it.
    pub(super) fn heard(&self) -> usize {
        self.taken.len() + self.rejected.len()
    }

    /// All that were asked.
    pub(super) fn places(&self) -> Vec<Place> {
        let open = self.rejected.iter().chain(&self.unknown).map(|(place, _)| place);
        self.taken.iter().chain(open).cloned().collect()
    }

    /// What those said that have not taken it; nothing if there are none.
    pub(super) fn summary(&self) -> String {
        let all = self.heard() + self.unknown.len();
        let quoted = |words: &[(Place, Box<str>)]| {
            let quoted: Vec<String> = words.iter().take(QUOTED).map(|(place, why)| format!("{place}: {why}")).collect();
            quoted.join(", ")
        };
        let mut parts = Vec::new();
        if !self.rejected.is_empty() {
            parts.push(format!(
                "{} of {all} that were asked rejected it ({})",
                self.rejected.len(),
                quoted(&self.rejected)
            ));
        }
        if !self.unknown.is_empty() {
            parts.push(format!(
                "{} of {all} that were asked did not say ({})",
                self.unknown.len(),
                quoted(&self.unknown)
            ));
        }
        parts.join("; ")
    }
}

/// Where a pod runs, if it does.
fn running_at(pod: &Pod) -> Option<IpAddr> {
    let status = pod.status.as_ref()?;
    let is_running = status.phase.as_deref() == Some("Running") && pod.metadata.deletion_timestamp.is_none();
    status.pod_ip.as_deref().filter(|_| is_running)?.parse().ok()
}

/// Reads the metrics of a proxy.
async fn report(address: SocketAddr) -> Result<Report, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{address}: {error}");
    let stream = TcpStream::connect(address).await.map_err(|error| failed(&error))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    let request = Request::get("/metrics").header("host", address.to_string()).body(Empty::<Bytes>::new());
    let request = request.map_err(|error| failed(&error))?;
    let answer = async {
        let answer = sender.send_request(request).await.map_err(|error| failed(&error))?;
        let body = Limited::new(answer.into_body(), LONGEST_ANSWER).collect().await.map_err(|error| failed(&error))?;
        Ok(Report::parse(&String::from_utf8_lossy(&body.to_bytes())))
    };
    tokio::select! {
        answer = answer => answer,
        // Then the answer ends too, and says more of why.
        Err(error) = connection => Err(failed(&error)),
    }
}

impl Report {
    fn parse(metrics: &str) -> Self {
        let labels = |name: &str| {
            metrics
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix('{')?.split_once('}'))
                .map(|(labels, _)| labels)
        };
        let in_force = labels("dot_proxy_config_info").and_then(|labels| label(labels, "hash"));
        let rejected = labels("dot_proxy_config_rejected").and_then(|labels| {
            let reason = match label(labels, "reason").as_deref() {
                Some("restart") => "it needs another program, and so a new pod".to_owned(),
                Some(reason) => reason.to_owned(),
                None => "rejected".to_owned(),
            };
            Some((label(labels, "hash")?, reason))
        });
        Self { in_force, rejected }
    }
}

/// A label's value; those of these metrics hold nothing that is escaped.
fn label(labels: &str, name: &str) -> Option<String> {
    labels.split(',').find_map(|label| {
        let value = label.trim().strip_prefix(name)?.strip_prefix("=\"")?;
        Some(value.strip_suffix('"')?.chars().filter(|char| !char.is_control()).take(100).collect())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_proxy_says_of_its_configuration_is_read_from_its_metrics() {
        let taken = "# TYPE dot_proxy_config info\ndot_proxy_config_info{hash=\"0123456789abcdef\"} 1\n";
        let report = Report { in_force: Some("0123456789abcdef".to_owned()), rejected: None };
        assert_eq!(Report::parse(taken), report);
        let rejected = format!("{taken}dot_proxy_config_rejected{{reason=\"unproved\",hash=\"00\"}} 1\n");
        let rejected = Report::parse(&rejected).rejected;
        assert_eq!(rejected, Some(("00".to_owned(), "unproved".to_owned())));
        for other in
            ["", "dot_proxy_config_info 1", "dot_proxy_config_info{", "dot_proxy_config_information{hash=\"1\"} 1"]
        {
            assert_eq!(Report::parse(other), Report::default(), "{other}");
        }
    }
}
