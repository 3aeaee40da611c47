//! CoreDNS, as the node runs it: it logs every question.

use crate::command::Call;

/// The Service address of cluster DNS.
pub const ADDRESS: &str = "10.96.0.10";

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
