//! CoreDNS, as the node runs it: it logs every question.

use std::time::Duration;

use crate::command::Call;
use crate::deadline::eventually;
use crate::reply::Reply;

/// The Service address of cluster DNS.
pub const ADDRESS: &str = "10.96.0.10";

/// Waits until cluster DNS knows this name. It keeps for a while that a name does not exist, but by the type of what was asked:
/// so another type is asked for each time, and none that a pod will ask for.
pub(crate) fn knows(name: &str) {
    let mut types = 65_280..; // RFC 6895: for private use
    eventually(&format!("cluster DNS knows {name}"), Duration::from_secs(60), || {
        let record_type = format!("TYPE{}", types.next().unwrap_or_default());
        let dig = Call::new("dig").arg(format!("@{ADDRESS}")).arg(name).arg(record_type).words("+tries=1 +time=2");
        let reply = Reply::read(&dig.output());
        if reply.status == "NOERROR" { Ok(()) } else { Err(reply.text) }
    });
}

/// The names that the pod at `ip` asked cluster DNS for, each with its last dot, oldest first.
pub fn names_asked_by(ip: &str) -> Vec<String> {
    let log = Call::kubectl("-n kube-system logs -l k8s-app=kube-dns --tail=-1").succeed();
    let client = format!("] {ip}:");
    // [INFO] 10.88.0.7:48962 - 31475 "A IN kubernetes.default.svc.cluster.local. udp 59 false 1232" NOERROR …
    log.lines()
        .filter(|line| line.contains(&client))
        .filter_map(|line| line.split('"').nth(1)?.split(' ').nth(2))
        .map(str::to_owned)
        .collect()
}
