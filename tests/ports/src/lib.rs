//! Ports for what tests and benchmarks start, and for where nobody is to listen.
//!
//! A port that the kernel chose and that was given back is anybody's: the next socket without a port of its own, of a test beside
//! this one, may have it before the server that was meant binds it. Even the connection that looks whether that server listens
//! may choose it, and be to itself. So ports are taken from below the range from which the kernel chooses
//! (`net.ipv4.ip_local_port_range`), and each is reserved, for other processes of tests too, until the process ends.

#![allow(clippy::expect_used, clippy::panic, reason = "for tests and benchmarks, which end where they cannot begin")]

use std::collections::BTreeMap;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Below it are ports of known services.
const LOWEST: u16 = 10_000;

/// Where the kernel's range begins if it does not say so: what IANA calls dynamic ports (RFC 6335 §6).
const DYNAMIC: u16 = 49_152;

/// Ports, each with what reserves it.
type Reserved = BTreeMap<u16, Sign>;

/// This process's own.
static RESERVED: Mutex<Reserved> = Mutex::new(Reserved::new());

/// A port that is free for TCP and UDP at every IPv4 address of this machine, and this process's own until it ends.
///
/// # Panics
///
/// When no port is free.
pub fn reserve() -> u16 {
    let ports = LOWEST..kernels_lowest();
    let mut reserved = RESERVED.lock().unwrap_or_else(PoisonError::into_inner);
    reserve_of(&ports, &mut reserved).unwrap_or_else(|| panic!("no port of {ports:?} is free for both TCP and UDP"))
}

/// The first that can be had from a random one on: processes that start together do not try the same ones.
fn reserve_of(ports: &Range<u16>, reserved: &mut Reserved) -> Option<u16> {
    let count = u64::from(ports.end - ports.start);
    let first = RandomState::new().hash_one(()) % count;
    (0..count)
        .map(|step| ports.start + u16::try_from((first + step) % count).expect("less than a difference of ports"))
        .find(|port| take(*port, reserved))
}

/// Reserves this port, unless somebody has it.
fn take(port: u16, reserved: &mut Reserved) -> bool {
    let Some(sign) = sign(port) else { return false };
    let everywhere = (Ipv4Addr::UNSPECIFIED, port);
    let free = TcpListener::bind(everywhere).is_ok() && UdpSocket::bind(everywhere).is_ok();
    free && reserved.insert(port, sign).is_none()
}

/// Where the range begins from which the kernel gives a port to sockets that name none.
fn kernels_lowest() -> u16 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let lowest = range.split_whitespace().next().and_then(|lowest| lowest.parse().ok()).unwrap_or(DYNAMIC);
    assert!(
        lowest > LOWEST,
        "net.ipv4.ip_local_port_range begins at {lowest}: tests need ports between {LOWEST} and it"
    );
    lowest
}

/// What tells other processes of tests that a port is somebody's. It goes with its process, however that ends.
#[cfg(target_os = "linux")]
type Sign = std::os::unix::net::UnixListener;

/// A name in the kernel's list of such sockets (unix(7), "abstract"), where one name is given once in a network namespace: as ports are.
#[cfg(target_os = "linux")]
fn sign(port: u16) -> Option<Sign> {
    use std::os::linux::net::SocketAddrExt as _;
    let name = std::os::unix::net::SocketAddr::from_abstract_name(format!("dot-test-port-{port}"));
    std::os::unix::net::UnixListener::bind_addr(&name.expect("a short name")).ok()
}

#[cfg(not(target_os = "linux"))]
type Sign = ();

/// Other systems have no such names: there a port is reserved within a process alone.
#[cfg(not(target_os = "linux"))]
fn sign(_: u16) -> Option<Sign> {
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_twice_and_none_is_the_kernels_to_give() {
        let mut ports: Vec<_> = (0..100).map(|_| reserve()).collect();
        assert!(ports.iter().all(|port| (LOWEST..kernels_lowest()).contains(port)), "{ports:?}");
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 100);
    }

    #[test]
    fn a_port_that_is_reserved_may_be_listened_at() {
        let everywhere = (Ipv4Addr::UNSPECIFIED, reserve());
        let _both = (TcpListener::bind(everywhere).expect("TCP"), UdpSocket::bind(everywhere).expect("UDP"));
    }

    #[test]
    fn a_port_that_a_program_listens_at_is_not_taken() {
        let tcp = free(9_000..9_100);
        let _listener = TcpListener::bind((Ipv4Addr::LOCALHOST, tcp)).expect("it is free");
        let udp = free(9_100..9_200);
        let _socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, udp)).expect("it is free");
        let mut reserved = Reserved::new();
        assert!(!take(tcp, &mut reserved) && !take(udp, &mut reserved));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_port_that_another_process_has_reserved_is_not_taken_until_that_process_ends() {
        let (port, mut reserved) = (free(9_200..9_300), Reserved::new());
        let of_another = sign(port).expect("nobody has it");
        assert!(!take(port, &mut reserved));
        drop(of_another);
        assert!(take(port, &mut reserved));
    }

    /// A port that nobody has: reserved, and given back. Each test looks among others.
    fn free(ports: Range<u16>) -> u16 {
        reserve_of(&ports, &mut Reserved::new()).expect("a free port")
    }
}
