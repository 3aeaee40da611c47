//! recvmmsg and sendmmsg.
//!
//! Addresses and control messages are written and read here as the octets of the kernel's ABI, so that `unsafe` is left
//! with nothing but the system calls: each gets pointers made right before it, into buffers that this module owns or has
//! borrowed until after it, together with their lengths.

#![expect(unsafe_code, reason = "system calls that the standard library does not make; each with its safety argument")]

use std::ffi::c_int;
use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;

use socket2::SockRef;

use super::source::{Source, taking_a_part_of};
use super::{BATCH, Datagram, Local, Peer, Reply, SLOT, each};

/// From one slot to the next: two cache lines more than a slot, so that the starts of slots, which alone are used by
/// usual queries, do not fall into the same lines of the CPU's cache.
const STRIDE: usize = SLOT + 128;

/// sockaddr_in or sockaddr_in6.
#[derive(Debug, Clone, Copy)]
#[repr(align(8))]
struct Name([u8; NAME]);

/// Length of sockaddr_in6; sockaddr_in is 16 octets.
const NAME: usize = 28;

/// One control message (cmsg(3)): its length as a word of the machine, level, type, data.
#[derive(Debug, Clone, Copy)]
#[repr(align(8))]
struct Control([u8; CONTROL]);

/// Length of a control message's own header.
const CONTROL_HEADER: usize = size_of::<usize>() + 8;

/// Room for one with an in6_pktinfo (20 octets), the longer one, padded.
const CONTROL: usize = CONTROL_HEADER + 24;

/// What recvmmsg tells of a datagram.
#[derive(Debug, Clone, Copy, Default)]
struct Received {
    length: usize,
    truncated: bool,
    has_control: bool,
}

/// Slots for the datagrams of one batch.
#[derive(Debug)]
pub struct Inbox {
    slots: Vec<u8>,
    names: Vec<Name>,
    controls: Vec<Control>,
    received: Vec<Received>,
}

impl Default for Inbox {
    fn default() -> Self {
        Self {
            // Zeroed memory of this size comes from the system as it is: pages that nothing is written to cost nothing.
            slots: vec![0; BATCH * STRIDE],
            names: vec![Name([0; NAME]); BATCH],
            controls: vec![Control([0; CONTROL]); BATCH],
            received: Vec::with_capacity(BATCH),
        }
    }
}

impl Inbox {
    /// Waits for one, and takes those that have come with it, at most so many.
    pub(super) fn receive(&mut self, socket: &UdpSocket, most: usize) -> io::Result<usize> {
        self.received.clear();
        let mut vectors = [const { MaybeUninit::<libc::iovec>::uninit() }; BATCH];
        let mut headers = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; BATCH];
        let slots = self.slots.chunks_exact_mut(STRIDE);
        let parts = slots.zip(&mut self.names).zip(&mut self.controls).zip(&mut vectors).zip(&mut headers).take(most);
        let mut offered = 0;
        for ((((slot, name), control), vector), header) in parts {
            let vector = vector.write(libc::iovec { iov_base: slot.as_mut_ptr().cast(), iov_len: SLOT });
            name.0[..2].fill(0); // AF_UNSPEC, should the kernel leave it as it is
            header.write(mmsghdr(vector, name, NAME, control, CONTROL));
            offered += 1;
        }
        // SAFETY: the first `offered` headers are initialised. Each points to a vector, name and control of its own, with
        // their lengths, and each vector to a slot of at least SLOT octets; all are borrowed mutably above, none moves,
        // and all outlive the call. The kernel writes within those lengths, and keeps no pointer.
        let count = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr().cast(),
                offered,
                libc::MSG_WAITFORONE,
                std::ptr::null_mut(),
            )
        };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        self.received.extend(headers.iter().take(count).map(|header| {
            // SAFETY: the kernel reports at most as many messages as it was offered, and that many are initialised.
            let header = unsafe { header.assume_init_ref() };
            Received {
                length: usize::try_from(header.msg_len).unwrap_or(SLOT).min(SLOT),
                truncated: header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
                has_control: header.msg_hdr.msg_controllen > 0,
            }
        }));
        Ok(count)
    }

    /// A datagram of the last batch; none where the index is beyond it, or what came is no datagram but the end.
    pub fn get(&self, index: usize) -> Option<Datagram<'_>> {
        let received = self.received.get(index)?;
        let address = self.names[index].address()?;
        let local = received.has_control.then(|| self.controls[index].local()).flatten();
        let bytes = &self.slots[index * STRIDE..][..received.length];
        Some(Datagram { bytes, truncated: received.truncated, peer: Peer { address, local } })
    }
}

/// Has the kernel tell the address that each datagram was sent to, if the socket's own does not.
pub(super) fn prepare(socket: &UdpSocket, local: IpAddr) -> io::Result<()> {
    if !local.is_unspecified() {
        return Ok(());
    }
    let (level, option) = match local {
        IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_PKTINFO),
        IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
    };
    let on: c_int = 1;
    let length = libc::socklen_t::try_from(size_of::<c_int>()).expect("an int is a few octets");
    // SAFETY: the pointer is to an int that outlives the call, and the length is an int's.
    let outcome = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const on).cast(), length) };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Has the kernel drop what these sources send beyond a part of it, before it is queued.
pub(super) fn take_part_of(socket: &UdpSocket, sources: &[Source], part: u32) -> io::Result<()> {
    SockRef::from(socket).attach_filter(&taking_a_part_of(sources, part))
}

/// Has the kernel queue all that there is room for.
pub(super) fn take_all(socket: &UdpSocket) -> io::Result<()> {
    SockRef::from(socket).detach_filter()
}

/// What the kernel has dropped of a socket (SO_MEMINFO, since Linux 4.12; linux/sock_diag.h).
pub(super) fn dropped(socket: &UdpSocket) -> io::Result<u32> {
    const SO_MEMINFO: c_int = 55;
    let mut counts = [0_u32; 9];
    let index = usize::try_from(libc::SK_MEMINFO_DROPS).expect("the last of nine");
    let mut length = libc::socklen_t::try_from(size_of_val(&counts)).expect("some dozens of octets");
    // SAFETY: the descriptor is open while the socket is borrowed; the kernel writes at most `length` octets to the first
    // address, which is that of a live array of that length, and the length to the second, that of a live socklen_t.
    let outcome = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_MEMINFO, (&raw mut counts).cast(), &raw mut length)
    };
    if outcome == 0 { Ok(counts[index]) } else { Err(io::Error::last_os_error()) }
}

/// Ends a wait in recvmmsg, now and later: on an unconnected socket shutdown(2) says ENOTCONN, and does it all the same
/// (inet_shutdown in net/ipv4/af_inet.c: "Hack to wake up other listeners"; so since Linux 2.6). Sending still works.
pub(super) fn wake_reader(socket: &UdpSocket) {
    // SAFETY: no pointers; the descriptor is open while the socket is borrowed.
    let _ = unsafe { libc::shutdown(socket.as_raw_fd(), libc::SHUT_RD) };
}

/// Sends each, without waiting; tells how many went.
pub(super) fn send(socket: &UdpSocket, bytes: &[u8], replies: &[Reply]) -> usize {
    let mut each = each(bytes, replies);
    let mut sent = 0;
    for _ in 0..replies.len().div_ceil(BATCH) {
        sent += send_batch(socket, &mut each);
    }
    sent
}

fn send_batch<'a>(socket: &UdpSocket, messages: &mut impl Iterator<Item = (&'a [u8], Peer)>) -> usize {
    let mut vectors = [const { MaybeUninit::<libc::iovec>::uninit() }; BATCH];
    let mut names = [const { MaybeUninit::<Name>::uninit() }; BATCH];
    let mut controls = [const { MaybeUninit::<Control>::uninit() }; BATCH];
    let mut headers = [const { MaybeUninit::<libc::mmsghdr>::uninit() }; BATCH];
    let parts = vectors.iter_mut().zip(&mut names).zip(&mut controls).zip(&mut headers);
    let mut offered = 0;
    // The parts come first: they end a batch without taking a message of the next one.
    for ((((vector, name), control), header), (message, peer)) in parts.zip(messages) {
        let vector = vector.write(libc::iovec { iov_base: message.as_ptr().cast_mut().cast(), iov_len: message.len() });
        let (name_value, name_length) = Name::of(peer.address);
        let (control_value, control_length) = peer.local.map_or((Control([0; CONTROL]), 0), Control::from);
        let (name, control) = (name.write(name_value), control.write(control_value));
        header.write(mmsghdr(vector, name, name_length, control, control_length));
        offered += 1;
    }
    let (mut at, mut sent) = (0, 0);
    while at < offered {
        let rest = u32::try_from(offered - at).expect("a batch is small");
        // SAFETY: the headers from `at` to `offered` are initialised; each points to a vector, name and control of its
        // own, with their lengths, and each vector to a message, borrowed until after the call. sendmmsg writes to
        // nothing but the headers' msg_len.
        let count = unsafe {
            let first = headers.as_mut_ptr().add(at).cast();
            libc::sendmmsg(socket.as_raw_fd(), first, rest, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
        };
        match usize::try_from(count) {
            Ok(count) if count > 0 => (at, sent) = (at + count, sent + count),
            // What fails is the first one; the next may have a client that can be reached.
            _ if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted => at += 1,
            _ => {}
        }
    }
    sent
}

fn mmsghdr(
    vector: &mut libc::iovec,
    name: &mut Name,
    name_length: usize,
    control: &mut Control,
    control_length: usize,
) -> libc::mmsghdr {
    // SAFETY: integers and pointers, for which all bits zero is a value; some platforms have padding fields beside them.
    let mut header: libc::mmsghdr = unsafe { mem::zeroed() };
    header.msg_hdr.msg_name = (&raw mut name.0).cast();
    header.msg_hdr.msg_namelen = libc::socklen_t::try_from(name_length).expect("an address is short");
    header.msg_hdr.msg_iov = vector;
    header.msg_hdr.msg_iovlen = 1;
    header.msg_hdr.msg_control = (&raw mut control.0).cast();
    header.msg_hdr.msg_controllen = control_length as _;
    header
}

impl Name {
    /// The octets of an address, and how many they are.
    fn of(address: SocketAddr) -> (Self, usize) {
        let mut name = Self([0; NAME]);
        name.0[2..4].copy_from_slice(&address.port().to_be_bytes());
        let (family, length) = match address {
            SocketAddr::V4(v4) => {
                name.0[4..8].copy_from_slice(&v4.ip().octets());
                (libc::AF_INET, 16)
            }
            SocketAddr::V6(v6) => {
                name.0[4..8].copy_from_slice(&v6.flowinfo().to_ne_bytes());
                name.0[8..24].copy_from_slice(&v6.ip().octets());
                name.0[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
                (libc::AF_INET6, NAME)
            }
        };
        let family = libc::sa_family_t::try_from(family).expect("families are small numbers");
        name.0[..2].copy_from_slice(&family.to_ne_bytes());
        (name, length)
    }

    /// The address; none where the kernel wrote none.
    fn address(&self) -> Option<SocketAddr> {
        let port = u16::from_be_bytes([self.0[2], self.0[3]]);
        match c_int::from(u16::from_ne_bytes([self.0[0], self.0[1]])) {
            libc::AF_INET => Some(SocketAddrV4::new(Ipv4Addr::from(octets::<4>(&self.0, 4)), port).into()),
            libc::AF_INET6 => {
                let flow = u32::from_ne_bytes(octets(&self.0, 4));
                let scope = u32::from_ne_bytes(octets(&self.0, 24));
                Some(SocketAddrV6::new(Ipv6Addr::from(octets::<16>(&self.0, 8)), port, flow, scope).into())
            }
            _ => None,
        }
    }
}

impl Control {
    /// The control message that has a reply sent from an address, and its length.
    fn from(local: Local) -> (Self, usize) {
        let mut control = Self([0; CONTROL]);
        let data = &mut control.0[CONTROL_HEADER..];
        let (level, kind, length) = match local.address {
            IpAddr::V4(v4) => {
                // in_pktinfo: interface, source address, header's address (unused).
                data[..4].copy_from_slice(&local.interface.to_ne_bytes());
                data[4..8].copy_from_slice(&v4.octets());
                (libc::IPPROTO_IP, libc::IP_PKTINFO, 12)
            }
            IpAddr::V6(v6) => {
                // in6_pktinfo: source address, interface.
                data[..16].copy_from_slice(&v6.octets());
                data[16..20].copy_from_slice(&local.interface.to_ne_bytes());
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, 20)
            }
        };
        let (words, word) = (CONTROL_HEADER + length, size_of::<usize>());
        control.0[..word].copy_from_slice(&words.to_ne_bytes());
        control.0[word..word + 4].copy_from_slice(&level.to_ne_bytes());
        control.0[word + 4..word + 8].copy_from_slice(&kind.to_ne_bytes());
        (control, words.next_multiple_of(word))
    }

    /// The address that a datagram was sent to, as the kernel tells it.
    fn local(&self) -> Option<Local> {
        let word = size_of::<usize>();
        let level = c_int::from_ne_bytes(octets(&self.0, word));
        let kind = c_int::from_ne_bytes(octets(&self.0, word + 4));
        let data = &self.0[CONTROL_HEADER..];
        match (level, kind) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                // The second address is that of ours that was meant, also where the header's is a broadcast address.
                Some(Local { address: Ipv4Addr::from(octets::<4>(data, 4)).into(), interface: 0 })
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let address = Ipv6Addr::from(octets::<16>(data, 0));
                let interface = if address.is_unicast_link_local() { u32::from_ne_bytes(octets(data, 16)) } else { 0 };
                Some(Local { address: address.into(), interface })
            }
            _ => None,
        }
    }
}

/// So many octets from an offset, which the callers' constants keep within the array.
fn octets<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut octets = [0; N];
    octets.copy_from_slice(&bytes[at..at + N]);
    octets
}
