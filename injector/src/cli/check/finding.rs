//! What `check` says: a line each.

use serde::Serialize;
use serde_json::json;

use crate::cli::table::{Cell, Table, Tone};

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) check: &'static str,
    pub(super) level: Level,
    pub(super) detail: String,
    /// What to do about it; empty where all is well.
    pub(super) remedy: String,
}

/// How good it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum Level {
    Ok,
    /// It works; something is worth knowing.
    Warn,
    Fail,
}

/// So many names are told; of more, the number.
const MOST_NAMED: usize = 5;

impl Finding {
    pub(super) fn ok(check: &'static str, detail: impl Into<String>) -> Self {
        Self { check, level: Level::Ok, detail: detail.into(), remedy: String::new() }
    }

    pub(super) fn warn(check: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, level: Level::Warn, detail: detail.into(), remedy: remedy.into() }
    }

    pub(super) fn fail(check: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, level: Level::Fail, detail: detail.into(), remedy: remedy.into() }
    }

    /// What could not be looked at, because whoever runs this may not.
    pub(super) fn unseen(check: &'static str, error: &kube::Error) -> Self {
        let detail = format!("not looked at: {}", crate::cli::connection::told(error));
        Self::warn(check, detail, "run it as somebody who may read it")
    }
}

impl Level {
    const fn name(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Warn => "WARN",
            Self::Fail => "FAIL",
        }
    }

    const fn tone(self) -> Tone {
        match self {
            Self::Ok => Tone::Good,
            Self::Warn => Tone::Doubtful,
            Self::Fail => Tone::Bad,
        }
    }
}

pub(super) fn table(findings: &[Finding], colour: bool) -> String {
    let mut table = Table::new(vec!["CHECK", "STATE", "DETAIL"]);
    for Finding { check, level, detail, remedy } in findings {
        let told = if remedy.is_empty() { detail.clone() } else { format!("{detail}: {remedy}") };
        table.push(vec![(*check).into(), Cell::new(level.name(), level.tone()), told.into()]);
    }
    table.text(colour)
}

pub(super) fn json(findings: &[Finding]) -> String {
    let worst = findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok);
    format!("{:#}\n", json!({"checks": findings, "worst": worst}))
}

/// Some of the names, and how many more there are.
pub(super) fn listed(names: &[String]) -> String {
    let named = names.iter().take(MOST_NAMED).cloned().collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(MOST_NAMED) {
        Some(more @ 1..) => format!("{named} and {more} more"),
        _ => named,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings() -> Vec<Finding> {
        vec![Finding::ok("nodes", "3"), Finding::fail("API server", "v1.28.0", "upgrade")]
    }

    #[test]
    fn the_table_is_plain_and_aligned() {
        let expected = "CHECK       STATE  DETAIL\nnodes       OK     3\nAPI server  FAIL   v1.28.0: upgrade\n";
        assert_eq!(table(&findings(), false), expected);
    }

    #[test]
    fn programs_are_told_level_and_remedy_apart() {
        let told: serde_json::Value = serde_json::from_str(&json(&findings())).unwrap();
        assert_eq!(told["worst"], "FAIL");
        assert_eq!(
            told["checks"][1],
            json!({"check": "API server", "level": "FAIL", "detail": "v1.28.0", "remedy": "upgrade"})
        );
    }
}
