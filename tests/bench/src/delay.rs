//! A path with a round trip: what either side sends over TCP arrives as it was, later.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::failure::{During, Outcome};
use crate::system;

/// How many pieces may be on their way in one direction.
const UNDER_WAY: usize = 4096;

/// Pass TCP connections on, later
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Where to listen
    #[arg(long)]
    listen: SocketAddrV4,
    /// Where to connect to
    #[arg(long)]
    to: SocketAddrV4,
    /// Milliseconds of the round trip: half of them each way
    #[arg(long)]
    round_trip: u64,
}

/// What was read, and when it is due on the other side. Nothing: the end.
type Piece = (Instant, Vec<u8>);

/// Runs until it is killed.
pub(crate) fn run(options: &Options) -> Outcome<()> {
    system::urgent();
    let listener = TcpListener::bind(options.listen).during(format_args!("listening on {}", options.listen))?;
    let (to, delay) = (options.to, Duration::from_millis(options.round_trip) / 2);
    for client in listener.incoming().flatten() {
        thread::spawn(move || {
            // Without the other side the client's connection ends at once, as it would without this proxy.
            let Ok(server) = TcpStream::connect(to) else { return };
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            let (Ok(client_too), Ok(server_too)) = (client.try_clone(), server.try_clone()) else { return };
            thread::spawn(move || pass(client, server, delay));
            pass(server_too, client_too, delay);
        });
    }
    Ok(())
}

fn pass(mut from: TcpStream, to: TcpStream, delay: Duration) {
    let (pieces, due) = sync_channel(UNDER_WAY);
    thread::spawn(move || deliver(&due, to));
    let mut buffer = vec![0; 1 << 16];
    loop {
        let octets = from.read(&mut buffer).unwrap_or(0);
        let gone = pieces.send((Instant::now() + delay, buffer[..octets].to_vec())).is_err();
        if octets == 0 || gone {
            return;
        }
    }
}

fn deliver(due: &Receiver<Piece>, mut to: TcpStream) {
    system::punctual();
    while let Ok((when, piece)) = due.recv() {
        thread::sleep(when.saturating_duration_since(Instant::now()));
        if piece.is_empty() || to.write_all(&piece).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
