//! A path with a round trip: what either side sends, over TCP or UDP, arrives as it was, later. The TCP handshake itself is
//! with this end of the path, and not late.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// How much may be on its way in one direction.
const UNDER_WAY: usize = 4096;

/// What was read, and when it is due on the other side. Nothing: the end.
type Piece = (Instant, Vec<u8>);

/// Where the path to this server begins, over TCP and UDP. It is there until the test's process ends.
pub fn path_to(server: SocketAddr, round_trip: Duration) -> SocketAddr {
    let (listener, socket) = loop {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        if let Ok(socket) = UdpSocket::bind(listener.local_addr().unwrap()) {
            break (listener, socket);
        }
    };
    let address = listener.local_addr().unwrap();
    let delay = round_trip / 2;
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            connection(client, TcpStream::connect(server).unwrap(), delay);
        }
    });
    thread::spawn(move || datagrams(&Arc::new(socket), server, delay));
    address
}

fn connection(client: TcpStream, server: TcpStream, delay: Duration) {
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    for (mut from, mut to) in [(client.try_clone().unwrap(), server.try_clone().unwrap()), (server, client)] {
        let pieces = later(move |piece| {
            let passed = !piece.is_empty() && to.write_all(piece).is_ok();
            if !passed {
                let _ = to.shutdown(Shutdown::Write); // it may be shut already
            }
        });
        thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            loop {
                let octets = from.read(&mut buffer).unwrap_or(0);
                let gone = pieces.send((Instant::now() + delay, buffer[..octets].to_vec())).is_err();
                if octets == 0 || gone {
                    return;
                }
            }
        });
    }
}

fn datagrams(socket: &Arc<UdpSocket>, server: SocketAddr, delay: Duration) {
    let mut clients: HashMap<SocketAddr, SyncSender<Piece>> = HashMap::new();
    let mut buffer = vec![0; 1 << 16];
    while let Ok((octets, client)) = socket.recv_from(&mut buffer) {
        let pieces = clients.entry(client).or_insert_with(|| {
            let towards = Arc::new(UdpSocket::bind("127.0.0.1:0").unwrap());
            towards.connect(server).unwrap();
            let (back, answering) = (Arc::clone(socket), Arc::clone(&towards));
            let answers = later(move |piece| {
                let _ = back.send_to(piece, client); // the client may be gone
            });
            thread::spawn(move || {
                let mut buffer = vec![0; 1 << 16];
                while let Ok(octets) = answering.recv(&mut buffer) {
                    answers.send((Instant::now() + delay, buffer[..octets].to_vec())).unwrap();
                }
            });
            later(move |piece| {
                let _ = towards.send(piece); // so may the server
            })
        });
        pieces.send((Instant::now() + delay, buffer[..octets].to_vec())).unwrap();
    }
}

/// Delivers each piece when it is due.
fn later(mut deliver: impl FnMut(&[u8]) + Send + 'static) -> SyncSender<Piece> {
    let (pieces, due): (_, Receiver<Piece>) = sync_channel(UNDER_WAY);
    thread::spawn(move || {
        while let Ok((when, piece)) = due.recv() {
            thread::sleep(when.saturating_duration_since(Instant::now()));
            deliver(&piece);
        }
    });
    pieces
}
