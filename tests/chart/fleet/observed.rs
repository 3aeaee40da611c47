//! What can be seen of a change on its way to pods: when they are written, by the injector's own count, and what somebody else's
//! requests take meanwhile.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use super::TOLD;
use crate::ROOT;
use crate::installed::Installed;

/// Over less time a pace says little: what is counted and when do not agree to the millisecond.
const WINDOW: f64 = 3.0;

/// Runs beside the injector until it has written so often, or for so long. The other one has rights of its own, and reads and
/// creates something small, each ten times a second, over a connection that stays open.
const OBSERVE: &str = r#"
folder=$1 target=$2 end=$((SECONDS + $3))
api=https://127.0.0.1:6443/api/v1/namespaces/plain
ask() {
  local name=$1
  shift
  exec curl --silent --show-error --insecure --header "@$folder/other" --rate 10/s --max-time 60 --output /dev/null \
    --write-out "%{stderr}$name %{http_code} %{time_pretransfer} %{time_total}\n" "$@" 2>"$folder/$name"
}
ask read "$api/serviceaccounts/default?number=[1-9999]" &
ask create --json '{"metadata": {"generateName": "other-"}}' "$api/configmaps?number=[1-9999]" &
while :; do
  before=$EPOCHREALTIME
  written=$(curl --silent http://127.0.0.1:8080/metrics | sed -n 's/^dot_injector_configuration_writes_total{outcome="written"} //p')
  echo "written $before ${written:-0}"
  [ "${written:-0}" -lt "$target" ] && [ "$SECONDS" -lt "$end" ] || break
  sleep 0.2
done
kill %1 %2
wait
cat "$folder/read" "$folder/create"
"#;

/// What was seen.
#[derive(Debug, Default)]
pub(super) struct Observed {
    /// Writes so far, and when they were counted: seconds since 1970.
    written: Vec<(f64, f64)>,
    /// What the other one's requests took.
    read: Vec<Duration>,
    create: Vec<Duration>,
    /// Requests of the other one that were not served.
    pub(super) failed: Vec<String>,
}

impl Installed {
    /// Gives somebody else an account of their own: an administrator's requests would come before all others.
    pub(super) fn welcome_another(&self) {
        let rules = json!([{"apiGroups": [""], "resources": ["serviceaccounts"], "verbs": ["get"]},
            {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create"]}]);
        let named = json!({"name": "other", "namespace": "plain"});
        let api = "rbac.authorization.k8s.io";
        self.apply(&[
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": named}),
            json!({"apiVersion": format!("{api}/v1"), "kind": "Role", "metadata": named, "rules": rules}),
            json!({"apiVersion": format!("{api}/v1"), "kind": "RoleBinding", "metadata": named,
                "roleRef": {"apiGroup": api, "kind": "Role", "name": "other"},
                "subjects": [{"kind": "ServiceAccount", "name": "other", "namespace": "plain"}]}),
        ]);
        let token = self.kubectl("--namespace plain create token other --duration 2h", &Value::Null).stdout;
        std::fs::write(self.folder().join("other"), format!("Authorization: Bearer {}", token.trim())).unwrap();
    }

    /// Does something, and sees what follows until the injector has written so often since it started, or for so long.
    pub(super) fn observe(&self, target: f64, within: Duration, doing: impl FnOnce()) -> Observed {
        let mut child = Command::new("tests/cluster/cluster")
            .args(["exec", "bash", "-c", OBSERVE, "observe"])
            .arg(self.folder())
            .args([target.to_string(), within.as_secs().to_string()])
            .env("DOT_CLUSTER", self.control_plane.name())
            .current_dir(ROOT)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut observed = Observed::default();
        // It sees how things were before.
        observed.add(&lines.next().unwrap());
        doing();
        let mut told = Instant::now();
        for line in lines {
            observed.add(&line);
            if told.elapsed() > TOLD {
                told = Instant::now();
                eprintln!("   {} written", observed.total());
            }
        }
        assert!(child.wait().unwrap().success());
        observed
    }
}

impl Observed {
    /// Takes note of what `OBSERVE` says.
    pub(super) fn add(&mut self, line: &str) {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |word: &str| word.parse::<f64>().unwrap_or_else(|error| panic!("{line}: {error}"));
        match words[..] {
            ["written", when, count] => self.written.push((number(when), number(count))),
            [kind @ ("read" | "create"), "200" | "201", sent, answered] => {
                let took = Duration::from_secs_f64(number(answered) - number(sent));
                if kind == "read" { &mut self.read } else { &mut self.create }.push(took);
            }
            _ => self.failed.push(line.to_owned()),
        }
    }

    /// Writes since the injector was started.
    pub(super) fn total(&self) -> f64 {
        self.written.last().map_or(0.0, |(_, written)| *written)
    }

    /// From then until so often was written.
    pub(super) fn took(&self, since: SystemTime, target: f64) -> Option<Duration> {
        let since = since.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
        let (when, _) = self.written.iter().find(|(_, written)| *written >= target)?;
        Some(Duration::from_secs_f64(when - since))
    }

    /// Writes a second, at most, over some seconds.
    pub(super) fn pace(&self) -> f64 {
        let paces = self.written.iter().flat_map(|(from, before)| {
            let later = self.written.iter().find(|(to, _)| *to >= *from + WINDOW);
            later.map(|(to, after)| (after - before) / (to - from))
        });
        paces.fold(0.0, f64::max)
    }

    /// The other one's reading and creating, in so many of a hundred cases at most.
    pub(super) fn other(&self, of_a_hundred: usize) -> [Duration; 2] {
        [&self.read, &self.create].map(|took| {
            let mut took = took.clone();
            took.sort();
            took.get((took.len() * of_a_hundred / 100).min(took.len().saturating_sub(1))).copied().unwrap_or_default()
        })
    }

    /// How often the other one was served.
    pub(super) fn served(&self) -> usize {
        self.read.len() + self.create.len()
    }
}
