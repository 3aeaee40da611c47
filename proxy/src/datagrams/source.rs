//! Where datagrams come from, in a form that the kernel can compare before it queues them.

use std::net::{IpAddr, SocketAddr};

/// Who sends datagrams, as one is told from others on a socket that is flooded: of loopback the port, else the IPv4 address or
/// the first 64 bits of the IPv6 address, which are mixed into 32, so that two may be taken for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source(u32);

/// What a port of loopback is put into.
const LOOPBACK: u32 = 127 << 24;

/// What of an IPv4 address tells loopback.
const LOOPBACK_NETWORK: u32 = 255 << 24;

/// What the first word of an IPv6 address is multiplied by: any odd number without a pattern.
const MIX: u32 = 0x9e37_79b1;

impl Source {
    /// Nobody.
    pub const NONE: Self = Self(0);

    /// Whom a datagram is from.
    pub fn of(address: SocketAddr) -> Self {
        let port = || LOOPBACK | u32::from(address.port());
        Self(match address.ip().to_canonical() {
            IpAddr::V4(v4) if v4.is_loopback() => port(),
            IpAddr::V4(v4) => v4.to_bits(),
            IpAddr::V6(v6) => {
                let [.., second, first] = [0, 32, 64, 96].map(|shift| {
                    u32::try_from(v6.to_bits() >> shift & u128::from(u32::MAX)).expect("32 bits are left")
                });
                // Of loopback both are 0.
                match first.wrapping_mul(MIX) ^ second {
                    0 => port(),
                    mixed => mixed,
                }
            }
        })
    }
}

#[cfg(target_os = "linux")]
pub(super) use filter::taking_a_part_of;

/// The same in classic BPF (Documentation/networking/filter.rst), which every process may give to its own sockets.
#[cfg(target_os = "linux")]
mod filter {
    use libc::{
        BPF_ABS, BPF_ALU, BPF_AND, BPF_B, BPF_H, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_K, BPF_LD, BPF_MISC, BPF_MUL,
        BPF_OR, BPF_RET, BPF_RSH, BPF_TAX, BPF_TXA, BPF_W, BPF_X, BPF_XOR, SKF_AD_OFF, SKF_AD_RANDOM, SKF_NET_OFF,
        c_int,
    };
    use socket2::SockFilter;

    use super::{LOOPBACK, LOOPBACK_NETWORK, MIX, Source};

    /// Offsets in the headers of IPv4 and IPv6: the version, and where the source begins.
    const VERSION: u32 = 0;
    const V4_SOURCE: u32 = 12;
    const V6_SOURCE: u32 = 8;

    /// Where the source port is: the filter of a UDP socket sees its header first.
    const PORT: u32 = 0;

    /// Verdicts: how many octets of a packet are taken.
    const WHOLE: u32 = u32::MAX;
    const NOTHING: u32 = 0;

    /// Takes all datagrams but those of these sources, and of those as large a part as `part` is of 2³², by chance.
    ///
    /// There may be 250 sources at most: jumps are that short.
    pub(in crate::datagrams) fn taking_a_part_of(sources: &[Source], part: u32) -> Vec<SockFilter> {
        let program = [
            load(BPF_B, network(VERSION)),
            plain(BPF_ALU | BPF_RSH | BPF_K, 4),
            jump(BPF_JEQ, 4, 6, 0),
            // IPv6: the source, mixed, or what is at `port`.
            load(BPF_W, network(V6_SOURCE)),
            plain(BPF_ALU | BPF_MUL | BPF_K, MIX),
            plain(BPF_MISC | BPF_TAX, 0),
            load(BPF_W, network(V6_SOURCE + 4)),
            plain(BPF_ALU | BPF_XOR | BPF_X, 0),
            jump(BPF_JEQ, 0, 6, 8),
            // IPv4: the source, or what is at `port`.
            load(BPF_W, network(V4_SOURCE)),
            plain(BPF_MISC | BPF_TAX, 0),
            plain(BPF_ALU | BPF_AND | BPF_K, LOOPBACK_NETWORK),
            jump(BPF_JEQ, LOOPBACK, 2, 0),
            plain(BPF_MISC | BPF_TXA, 0),
            plain(BPF_JMP | BPF_JA | BPF_K, 2),
            // `port`
            load(BPF_H, PORT),
            plain(BPF_ALU | BPF_OR | BPF_K, LOOPBACK),
        ];
        // Those compared go behind the verdict on all others.
        let to_chance = |index| u8::try_from(sources.len() - index).expect("so few sources that jumps reach");
        let compared = sources.iter().enumerate().map(|(index, source)| jump(BPF_JEQ, source.0, to_chance(index), 0));
        let verdicts = [
            plain(BPF_RET | BPF_K, WHOLE),
            load(BPF_W, ancillary(SKF_AD_RANDOM)),
            jump(BPF_JGE, part, 1, 0),
            plain(BPF_RET | BPF_K, WHOLE),
            plain(BPF_RET | BPF_K, NOTHING),
        ];
        program.into_iter().chain(compared).chain(verdicts).collect()
    }

    fn load(size: u32, offset: u32) -> SockFilter {
        plain(BPF_LD | size | BPF_ABS, offset)
    }

    fn plain(code: u32, value: u32) -> SockFilter {
        instruction(code, 0, 0, value)
    }

    fn jump(comparison: u32, value: u32, so: u8, otherwise: u8) -> SockFilter {
        instruction(BPF_JMP | comparison | BPF_K, so, otherwise, value)
    }

    fn instruction(code: u32, so: u8, otherwise: u8, value: u32) -> SockFilter {
        SockFilter::new(u16::try_from(code).expect("codes have two octets"), so, otherwise, value)
    }

    /// Of the IP header.
    fn network(offset: u32) -> u32 {
        SKF_NET_OFF.cast_unsigned().wrapping_add(offset)
    }

    /// What the kernel knows beside the packet.
    fn ancillary(what: c_int) -> u32 {
        SKF_AD_OFF.cast_unsigned().wrapping_add(what.cast_unsigned())
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::time::Duration;

    use prometheus_client::metrics::counter::Counter;

    use crate::datagrams::{BATCH, DatagramSocket, Inbox};

    fn client(from: &str, to: SocketAddr) -> UdpSocket {
        let client = UdpSocket::bind(from).unwrap();
        client.connect(to).unwrap();
        client
    }

    /// Sends so many from each; tells how many of each arrived.
    fn arrived(socket: &DatagramSocket, clients: &[&UdpSocket], times: usize) -> Vec<usize> {
        let mut counts = vec![0; clients.len()];
        let mut inbox = Inbox::default();
        for _ in 0..times {
            for client in clients {
                client.send(b"query").unwrap();
            }
            while let Ok(received) = socket.receive(&mut inbox, BATCH) {
                for datagram in (0..received).filter_map(|index| inbox.get(index)) {
                    let from =
                        |client: &&UdpSocket| client.local_addr().unwrap().port() == datagram.peer.address.port();
                    counts[clients.iter().position(from).unwrap()] += 1;
                }
            }
        }
        counts
    }

    #[test]
    fn of_those_named_a_part_is_taken_and_of_others_all() {
        for (host, from) in [("127.0.0.1:0", "127.0.0.1:0"), ("[::1]:0", "[::1]:0"), ("[::]:0", "127.0.0.1:0")] {
            let socket = DatagramSocket::new(UdpSocket::bind(host).unwrap(), Counter::default()).unwrap();
            socket.wait_at_most(Some(Duration::from_millis(1))).unwrap();
            let to = SocketAddr::new(from.parse::<SocketAddr>().unwrap().ip(), socket.local_addr().unwrap().port());
            let (named, other) = (client(from, to), client(from, to));
            let source = Source::of(named.local_addr().unwrap());
            // There may be as many as one likes before and behind it.
            let mut sources = vec![Source(1); 200];
            sources[100] = source;
            let before = socket.dropped().unwrap();
            socket.take_part_of(&sources, 0).unwrap();
            assert_eq!(arrived(&socket, &[&named, &other], 20), [0, 20], "{host}");
            assert_eq!(socket.dropped().unwrap() - before, 20);
            socket.take_part_of(&[source], u32::MAX / 2).unwrap();
            let half = arrived(&socket, &[&named, &other], 200);
            assert!((50..150).contains(&half[0]) && half[1] == 200, "{half:?} {host}");
            socket.take_all().unwrap();
            assert_eq!(arrived(&socket, &[&named, &other], 20), [20, 20], "{host}");
        }
    }

    #[test]
    fn sources_are_ports_of_loopback_addresses_and_prefixes() {
        let of = |address: &str| Source::of(address.parse().unwrap());
        for (one, other) in [
            ("192.0.2.1:5", "192.0.2.1:6"),
            ("[::ffff:192.0.2.1]:5", "192.0.2.1:6"),
            ("[2001:db8::1]:5", "[2001:db8::2]:6"),
            ("127.0.0.1:5", "[::1]:5"),
        ] {
            assert_eq!(of(one), of(other));
        }
        for (one, other) in [
            ("127.0.0.1:5", "127.0.0.1:6"),
            ("[::1]:5", "[::1]:6"),
            ("192.0.2.1:5", "192.0.2.2:5"),
            ("[2001:db8:0:1::1]:5", "[2001:db8::1]:5"),
            ("[2001:db9::1]:5", "[2001:db8::1]:5"),
        ] {
            assert_ne!(of(one), of(other));
        }
    }
}
