//! How many instructions dot-proxy takes for a cached answer, as callgrind counts them: the same on every machine, and held
//! against what is kept in the repository.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use super::{Group, Row, Whom, verify};
use crate::failure::{During, Failure, Outcome};
use crate::run::Plan;
use crate::run::contender::{Contender, PROXY};
use crate::run::results::{Figure, Results};
use crate::run::site::{Server, Site, Start};

/// What was counted when it was last looked at: `make bench` tells the difference.
const KEPT: &str = include_str!("../../../instructions.json");
/// Answers that are counted; callgrind makes everything fifty times slower.
const HITS: u64 = 20_000;

pub(super) const INSTRUCTIONS: Group = Group {
    what: "instructions of a cached answer",
    rows: &[Row::Instructions],
    rounds: 1,
    whom: Whom::ProxyAlone,
    all_at_once: false,
    measure: instructions,
    figures: &[
        Figure { key: "instructions.single", heading: "instructions of a hit, one at a time", unit: "", digits: 0 },
        Figure { key: "instructions.batch", heading: "in batches", unit: "", digits: 0 },
        Figure { key: "instructions.growth", heading: "to those kept", unit: "×", digits: 3 },
    ],
};

#[derive(Deserialize)]
struct Kept {
    single: f64,
    batch: f64,
}

fn instructions(plan: &Plan, site: &Site, contenders: &[&Contender], results: &mut Results) -> Outcome<()> {
    if Command::new("valgrind").arg("--version").output().is_err() {
        results.remark("instructions were not counted: valgrind is not installed".to_owned());
        return Ok(());
    }
    let kept: Kept = serde_json::from_str(KEPT).during("instructions.json")?;
    let hits = if plan.short { HITS / 20 } else { HITS };
    for contender in contenders {
        let upstream = site.upstream()?;
        let counts = site.log();
        let out = format!("--callgrind-out-file={}", counts.display());
        let valgrind = ["valgrind", "--tool=callgrind", "--instr-atstart=no", &out];
        let mut server = site.serve_under(&valgrind, contender, Start::with(upstream.port))?;
        server.ready()?;
        let names = "--names lasting:0:100 --timeout 20000 --seconds 100";
        verify(
            "filling the cache",
            contender,
            &site.load(&server, &format!("{names} --count 100 --outstanding 20"))?,
            results,
        );
        control(&server, "--instr=on")?;
        let mut found = [0.0; 2];
        for (found, (index, how)) in
            found.iter_mut().zip([(1, "--clients 1 --outstanding 1"), (2, "--outstanding 200")])
        {
            let report = site.load(&server, &format!("{names} --count {hits} {how}"))?;
            verify("hits under callgrind", contender, &report, results);
            control(&server, "--dump")?;
            *found = total(&counts, index)? / report.answered.max(1) as f64;
        }
        results.add("instructions.single", PROXY, found[0]);
        results.add("instructions.batch", PROXY, found[1]);
        if !plan.short {
            results.add("instructions.growth", PROXY, (found[0] / kept.single).max(found[1] / kept.batch));
        }
    }
    Ok(())
}

fn control(server: &Server, what: &str) -> Outcome<()> {
    let output = Command::new("callgrind_control").args([what, &server.process.id().to_string()]).output();
    let output = output.during("running callgrind_control")?;
    if output.status.success() {
        return Ok(());
    }
    Err(Failure::new(format!("callgrind_control {what}: {}", String::from_utf8_lossy(&output.stderr).trim())))
}

/// The instructions of a dump.
fn total(counts: &Path, index: u32) -> Outcome<f64> {
    let path = PathBuf::from(format!("{}.{index}", counts.display()));
    let text = fs::read_to_string(&path).during(format_args!("reading {}", path.display()))?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: ").or_else(|| line.strip_prefix("summary: ")));
    let total = total.and_then(|total| total.trim().parse().ok());
    total.ok_or_else(|| Failure::new(format!("{} tells no total", path.display())))
}
