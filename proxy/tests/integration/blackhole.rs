//! An address on loopback from which nothing ever comes back: not even a refusal.

use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::authority::NAME;

/// A listener whose queue of connections is full: the kernel then drops what asks for one more.
pub struct Blackhole {
    address: SocketAddr,
    _listener: Socket,
    _queued: Vec<Socket>,
}

impl Blackhole {
    pub fn new() -> Self {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queued = Vec::new();
        loop {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            let connected = socket.connect_timeout(&address, Duration::from_millis(50));
            queued.push(socket);
            if connected.is_err() {
                break;
            }
        }
        Self { address: address.as_socket().unwrap(), _listener: listener, _queued: queued }
    }

    pub fn url(&self) -> String {
        format!("tls://{}#{NAME}", self.address)
    }
}
