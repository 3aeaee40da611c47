use std::time::Duration;

use nix::sys::resource::{Usage, UsageWho, getrusage};
use nix::sys::time::TimeVal;

/// CPU that this process and its children that have ended used until now, in user mode and in the kernel.
pub(crate) fn used() -> Duration {
    [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN]
        .into_iter()
        .filter_map(|who| getrusage(who).ok())
        .map(|usage: Usage| duration(usage.user_time()) + duration(usage.system_time()))
        .sum()
}

fn duration(time: TimeVal) -> Duration {
    let part = |number: i64| u64::try_from(number).unwrap_or_default();
    Duration::from_secs(part(time.tv_sec())) + Duration::from_micros(part(time.tv_usec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_child_used_counts_when_it_has_ended() {
        let before = used();
        // 100,000 turns of a shell take some milliseconds on any machine.
        let script = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done";
        assert!(std::process::Command::new("/bin/sh").args(["-c", script]).status().unwrap().success());
        assert!(used() - before > Duration::from_millis(2), "{:?}", used() - before);
    }
}
