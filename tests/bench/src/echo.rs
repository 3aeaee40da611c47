//! The limit of what a server of UDP can do: each datagram goes back as it came, but for the bit that makes it a reply.

use std::net::{SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;

use crate::failure::{During, Outcome};
use crate::system::{self, Datagrams};

/// Send back what comes, as a reply
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Where to listen
    #[arg(long)]
    listen: SocketAddrV4,
    /// Many datagrams a system call: recvmmsg and sendmmsg in place of recvfrom and sendto
    #[arg(long)]
    batches: bool,
}

/// Runs until it is killed.
pub(crate) fn run(options: &Options) -> Outcome<()> {
    let socket = UdpSocket::bind(options.listen).during(format_args!("listening on {}", options.listen))?;
    system::buffer(&socket, 4 << 20);
    if options.batches {
        let mut datagrams = Datagrams::returning(64);
        loop {
            // An error is a client that is gone: the next datagram is another's.
            let Ok(count) = datagrams.receive(&socket, true) else { continue };
            (0..count).for_each(|index| make_reply(datagrams.received(index)));
            let _ = datagrams.send(&socket, count);
        }
    }
    let mut buffer = [0; 4096];
    loop {
        let _ = system::bounce(socket.as_raw_fd(), &mut buffer, make_reply);
    }
}

fn make_reply(message: &mut [u8]) {
    if let Some(flags) = message.get_mut(2) {
        *flags |= 0x80;
    }
}
