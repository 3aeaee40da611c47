//! Addresses that lead nowhere, for packets whose sources are forged: a pair of devices in this process's own network, the second
//! of which takes what comes out of the first and throws it away.

use std::fs;
use std::net::Ipv4Addr;
use std::process::Command;

use crate::failure::{During, Failure, Outcome};

/// Where a server listens that is attacked from there; who behaves has this address too.
pub(super) const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// The device that leads to all other addresses of 10.0.0.0/8.
const DEVICE: &str = "nowhere";
/// Octets before a DNS message in what the device counts: Ethernet, IPv4, UDP.
const HEADERS: u64 = 14 + 28;

/// Makes the devices, in the network that this process is in.
pub(super) fn nowhere() -> Outcome<()> {
    for line in [
        "link add nowhere type veth peer name nobody",
        "link set nowhere arp off up",
        "link set nobody arp off up",
        "address add 10.0.0.1/24 dev nowhere",
        "route add 10.0.0.0/8 via 10.0.0.2 dev nowhere",
    ] {
        let output = Command::new("ip").args(line.split(' ')).output().during("running ip, of iproute2")?;
        if !output.status.success() {
            return Err(Failure::new(format!("ip {line}: {}", String::from_utf8_lossy(&output.stderr).trim())));
        }
    }
    Ok(())
}

/// Octets of DNS messages that were sent to addresses that lead nowhere.
pub(super) fn sent_nowhere() -> u64 {
    let text = fs::read_to_string("/proc/net/dev").unwrap_or_default();
    let line = text.lines().find_map(|line| line.trim().strip_prefix(DEVICE)?.strip_prefix(':'));
    let field = |index| line.and_then(|line| line.split_whitespace().nth(index)?.parse().ok()).unwrap_or(0_u64);
    field(8).saturating_sub(field(9) * HEADERS)
}

/// Datagrams that the kernel dropped because the sockets at this port were full.
pub(super) fn dropped_at(port: u16) -> Outcome<u64> {
    let text = fs::read_to_string("/proc/net/udp").during("reading /proc/net/udp")?;
    let ending = format!(":{port:04X}");
    let rows = text.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let those = rows.filter(|row| row.get(1).is_some_and(|local| local.ends_with(&ending)));
    Ok(those.filter_map(|row| row.last()?.parse::<u64>().ok()).sum())
}

/// Connections that the kernel dropped because those that wait to be accepted were too many, in this network.
pub(super) fn not_accepted() -> u64 {
    let text = fs::read_to_string("/proc/net/netstat").unwrap_or_default();
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else { return 0 };
    let found = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == "ListenDrops");
    found.and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
}
