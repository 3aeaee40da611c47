//! The memory that a sidecar has by default, as a limit of a control group (cgroup v2), where one can be made here.

use std::fs;
use std::path::{Path, PathBuf};

use crate::failure::{During, Failure, Outcome};

/// Of the chart's sidecar: `sidecar.resources.limits.memory`.
pub(super) const OCTETS: u64 = 128 << 20;

/// A control group with that limit; it goes when this does.
#[derive(Debug)]
pub(super) struct MemoryLimit {
    folder: PathBuf,
}

impl MemoryLimit {
    /// Makes the group, or tells why it cannot be.
    pub(super) fn new() -> Outcome<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").during("reading /proc/self/mounts")?;
        let root = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let root = root.filter(|fields| fields.get(2) == Some(&"cgroup2")).find_map(|fields| fields.get(1).copied());
        let root = Path::new(root.ok_or_else(|| Failure::new("no cgroup v2 here"))?);
        let controllers = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        if !controllers.split_whitespace().any(|name| name == "memory") {
            return Err(Failure::new("cgroup v2 has no memory controller here"));
        }
        // Most systems have done so already.
        let _ = fs::write(root.join("cgroup.subtree_control"), "+memory");
        let limit = Self { folder: root.join(format!("dot-bench-{}", std::process::id())) };
        fs::create_dir(&limit.folder).during(format_args!("making {}", limit.folder.display()))?;
        let set = |file: &str, value: &str| fs::write(limit.folder.join(file), value).during(format_args!("{file}"));
        set("memory.max", &OCTETS.to_string())?;
        // Not everywhere: a kernel without swap has no such file.
        let _ = set("memory.swap.max", "0");
        Ok(limit)
    }

    /// The command in front of which a program's own command starts it in the group.
    pub(super) fn wrapper(&self) -> [String; 4] {
        let enter = "echo $$ >\"$0\" && exec \"$@\"";
        let processes = self.folder.join("cgroup.procs");
        ["sh".to_owned(), "-c".to_owned(), enter.to_owned(), processes.display().to_string()]
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.folder);
    }
}
