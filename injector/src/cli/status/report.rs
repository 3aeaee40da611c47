//! What `status` tells. Pure.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use crate::annotations;
use crate::cli::installation::ToldOf;
use crate::cli::table::{Cell, Table, Tone};
use crate::inject::{self, Record};
use crate::state::{Facts, Namespace, State};

/// All that was found.
pub(super) struct Report {
    pub(super) rows: Vec<Row>,
    pub(super) profiles: Vec<ToldOf>,
    /// What could not be looked at.
    pub(super) notes: Vec<String>,
}

/// A pod that has the sidecar, or should.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Row {
    namespace: String,
    name: String,
    state: &'static str,
    profile: String,
    /// The version of the injector by which the pod was made.
    version: Option<String>,
    /// The sidecar's image.
    image: Option<String>,
    /// The pod's controller, such as `ReplicaSet/web-5d4f`.
    owner: Option<String>,
    node: Option<String>,
    /// Why it is so, and the remedy; empty where all is well.
    why: String,
    #[serde(skip)]
    is_well: bool,
}

/// The states that are counted, and what they are called in a sentence.
const COUNTED: [(&str, &str); 6] = [
    ("injected", "injected"),
    ("outdated-image", "outdated (image)"),
    ("outdated-config", "outdated (configuration)"),
    ("refused", "refused by their profile"),
    ("missing", "missing"),
    ("unserved", "not served"),
];

impl Row {
    /// What is told of a pod; nothing of one that did not ask or has ended.
    pub(super) fn of(pod: &Value, namespace: Namespace<'_>, facts: Facts<'_>) -> Option<Self> {
        let state = State::of(pod, namespace, facts);
        if matches!(state, State::NotAsked | State::Over) {
            return None;
        }
        let text = |path: &str| pod.pointer(path).and_then(Value::as_str).map(str::to_owned);
        let annotations: BTreeMap<String, String> = pod
            .pointer("/metadata/annotations")
            .and_then(|annotations| serde_json::from_value(annotations.clone()).ok())
            .unwrap_or_default();
        let owners = pod.pointer("/metadata/ownerReferences").and_then(Value::as_array).into_iter().flatten();
        let controller = owners.clone().find(|owner| owner["controller"] == json!(true));
        let shown = |owner: &Value| Some(format!("{}/{}", owner["kind"].as_str()?, owner["name"].as_str()?));
        Some(Self {
            namespace: namespace.name.to_owned(),
            name: text("/metadata/name").unwrap_or_default(),
            state: state.name(),
            profile: annotations::profile(&annotations).to_owned(),
            version: Record::read(&annotations).map(|record| record.injector),
            image: inject::sidecar_image(pod).map(str::to_owned),
            owner: controller.and_then(shown),
            node: text("/spec/nodeName"),
            why: state.to_string(),
            is_well: state.is_well(),
        })
    }
}

impl Report {
    /// Whether every pod has what it asked for, and every profile can be had.
    pub(super) fn is_well(&self) -> bool {
        self.rows.iter().all(|row| row.is_well) && self.profiles.iter().all(|profile| profile.complaint().is_none())
    }

    pub(super) fn table(&self, with_namespaces: bool, wide: bool, colour: bool) -> String {
        let mut text = self.pods(with_namespaces, wide, colour);
        text.push_str(&self.totals());
        if !self.profiles.is_empty() {
            text.push('\n');
            text.push_str(&self.profiles(colour));
        }
        text
    }

    fn pods(&self, with_namespaces: bool, wide: bool, colour: bool) -> String {
        if self.rows.is_empty() {
            return String::new();
        }
        let mut header = if with_namespaces { vec!["NAMESPACE"] } else { Vec::new() };
        header.extend(["POD", "STATE", "PROFILE", "VERSION"]);
        if wide {
            header.extend(["OWNER", "NODE", "IMAGE"]);
        }
        header.push("WHY");
        let mut table = Table::new(header);
        for row in &self.rows {
            let mut cells: Vec<Cell> = if with_namespaces { vec![row.namespace.clone().into()] } else { Vec::new() };
            let tone = match row.state {
                "injected" => Tone::Good,
                "missing" | "refused" => Tone::Bad,
                _ => Tone::Doubtful,
            };
            let or_dash = |text: &Option<String>| Cell::from(text.clone().unwrap_or_else(|| "-".to_owned()));
            cells.extend([row.name.clone().into(), Cell::new(row.state, tone), row.profile.clone().into()]);
            cells.push(or_dash(&row.version));
            if wide {
                cells.extend([or_dash(&row.owner), or_dash(&row.node), or_dash(&row.image)]);
            }
            cells.push(row.why.clone().into());
            table.push(cells);
        }
        table.text(colour) + "\n"
    }

    fn counts(&self) -> BTreeMap<&'static str, usize> {
        let mut counts: BTreeMap<&str, usize> = COUNTED.iter().map(|(state, _)| (*state, 0)).collect();
        for row in &self.rows {
            *counts.entry(row.state).or_default() += 1;
        }
        counts
    }

    fn totals(&self) -> String {
        let counts = self.counts();
        let total = self.rows.len();
        if total == 0 {
            return "No pod asks for the sidecar here.\n".to_owned();
        }
        let told = COUNTED.iter().filter_map(|(state, words)| {
            let count = counts.get(state).copied().unwrap_or_default();
            (count > 0).then(|| format!("{count} {words}"))
        });
        format!("{total} pod{}: {}\n", if total == 1 { "" } else { "s" }, told.collect::<Vec<_>>().join(", "))
    }

    fn profiles(&self, colour: bool) -> String {
        let mut table = Table::new(vec!["PROFILE", "PODS", "UPDATED", "CONDITIONS", "WHY"]);
        for profile in &self.profiles {
            let conditions = profile.status.conditions.iter().map(|condition| match condition.status.as_str() {
                "True" => condition.kind.clone(),
                status => format!("{}={status} ({})", condition.kind, condition.reason),
            });
            let conditions = conditions.collect::<Vec<_>>().join(", ");
            let complaint = profile.complaint();
            let tone = if complaint.is_some() { Tone::Bad } else { Tone::Good };
            let none_told = conditions.is_empty();
            table.push(vec![
                profile.name.clone().into(),
                profile.status.pods.total.to_string().into(),
                profile.status.pods.updated.to_string().into(),
                if none_told { "-".into() } else { Cell::new(conditions, tone) },
                complaint.map(|complaint| complaint.message.clone()).unwrap_or_default().into(),
            ]);
        }
        table.text(colour)
    }

    pub(super) fn json(&self) -> String {
        let profiles = self.profiles.iter().map(|profile| json!({"name": profile.name, "status": profile.status}));
        let report = json!({
            "pods": self.rows,
            "totals": self.counts(),
            "profiles": profiles.collect::<Vec<_>>(),
            "notes": self.notes,
            "healthy": self.is_well(),
        });
        format!("{report:#}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::{Profile, Profiles};
    use crate::settings::Settings;

    fn row(annotations: &Value, labels: &BTreeMap<String, String>) -> Option<Row> {
        let owner =
            json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d", "uid": "u", "controller": true});
        let pod = json!({
            "metadata": {"name": "web-5d-x", "annotations": annotations, "ownerReferences": [owner]},
            "spec": {"nodeName": "n1", "containers": [{"name": "app", "image": "app"}]}
        });
        let (settings, profiles) = (Settings::default(), Profiles::of_default(Profile::default()));
        let facts = Facts { settings: &settings, cluster: None, profiles: &profiles };
        Row::of(&pod, Namespace { name: "shop", labels }, facts)
    }

    fn missing() -> Row {
        row(&json!({"dot-sidecar.io/inject": "true"}), &BTreeMap::new()).unwrap()
    }

    fn profile(name: &str, ready: &str) -> ToldOf {
        let condition = json!({"type": "Ready", "status": ready, "observedGeneration": 1, "reason": "Unusable",
            "lastTransitionTime": "2026-01-01T00:00:00Z", "message": "spec.upstream: no"});
        let status = json!({"conditions": [condition], "pods": {"total": 3, "updated": 2}});
        ToldOf { name: name.to_owned(), status: serde_json::from_value(status).unwrap() }
    }

    #[test]
    fn what_is_missing_is_told_with_its_owner_and_the_remedy() {
        let report = Report { rows: vec![missing()], profiles: vec![profile("default", "True")], notes: Vec::new() };
        let table = report.table(true, false, false);
        assert!(table.starts_with("NAMESPACE  POD       STATE    PROFILE  VERSION  WHY\nshop       web-5d-x  missing  default  -        the injector never saw it"), "{table}");
        assert!(
            table.contains(
                "\n1 pod: 1 missing\n\nPROFILE  PODS  UPDATED  CONDITIONS  WHY\ndefault  3     2        Ready\n"
            ),
            "{table}"
        );
        assert!(report.table(false, true, false).contains("ReplicaSet/web-5d  n1    -"));
        assert!(!report.is_well());
    }

    #[test]
    fn a_profile_that_cannot_be_had_is_not_well() {
        let report = Report { rows: Vec::new(), profiles: vec![profile("bad", "False")], notes: Vec::new() };
        assert!(!report.is_well());
        let table = report.table(true, false, false);
        assert!(table.starts_with("No pod asks for the sidecar here.\n"), "{table}");
        assert!(table.contains("Ready=False (Unusable)  spec.upstream: no"), "{table}");
    }

    #[test]
    fn who_did_not_ask_is_not_listed() {
        assert_eq!(row(&json!({}), &BTreeMap::new()), None);
    }

    #[test]
    fn programs_are_told_the_same() {
        let report = Report { rows: vec![missing()], profiles: vec![profile("default", "True")], notes: Vec::new() };
        let json: Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(json["pods"][0]["state"], "missing");
        assert_eq!(json["pods"][0]["owner"], "ReplicaSet/web-5d");
        assert_eq!((&json["totals"]["missing"], &json["totals"]["injected"]), (&json!(1), &json!(0)));
        assert_eq!(json["profiles"][0]["status"]["pods"]["updated"], 2);
        assert_eq!(json["healthy"], false);
    }
}
