//! What a Service does: connections go to a replica that is ready, as it was a moment ago.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::replica::{Replica, is_ready};

/// How often readiness is looked at. A kubelet sees a dead process about as soon.
pub(crate) const PERIOD: Duration = Duration::from_millis(500);

/// Replicas by their addresses: of reviews and of health, and whether they are ready.
type Backends = Arc<Mutex<Vec<(SocketAddr, SocketAddr, bool)>>>;

/// A balancer in front of replicas; stops when it is dropped.
pub(crate) struct Balancer {
    backends: Backends,
    _tasks: JoinSet<()>,
}

impl Balancer {
    pub(crate) async fn start(service: SocketAddr) -> Self {
        let listener = TcpListener::bind(service).await.unwrap();
        let backends = Backends::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(probe(Arc::clone(&backends)));
        tasks.spawn(accept(listener, Arc::clone(&backends)));
        Self { backends, _tasks: tasks }
    }

    /// From when it is ready on, the replica gets connections.
    pub(crate) fn add(&self, replica: &Replica) {
        self.backends.lock().unwrap().push((replica.reviews, replica.admin, false));
    }
}

async fn probe(backends: Backends) {
    loop {
        let known = backends.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for (reviews, admin, _) in known {
            let ready = is_ready(admin).await;
            let mut backends = backends.lock().unwrap_or_else(PoisonError::into_inner);
            backends.iter_mut().filter(|(other, ..)| *other == reviews).for_each(|backend| backend.2 = ready);
        }
        tokio::time::sleep(PERIOD).await;
    }
}

async fn accept(listener: TcpListener, backends: Backends) {
    let mut number = 0;
    let mut connections = JoinSet::new();
    loop {
        let Ok((mut client, _)) = listener.accept().await else { continue };
        while connections.try_join_next().is_some() {}
        number += 1;
        let ready: Vec<SocketAddr> = {
            let backends = backends.lock().unwrap_or_else(PoisonError::into_inner);
            backends.iter().filter(|(_, _, ready)| *ready).map(|(reviews, ..)| *reviews).collect()
        };
        connections.spawn(async move {
            // One that is gone and not yet known to be gets its share, and refuses.
            let Some(chosen) = ready.get(number % ready.len().max(1)) else { return };
            if let Ok(mut replica) = TcpStream::connect(chosen).await {
                let _ = copy_bidirectional(&mut client, &mut replica).await;
            }
        });
    }
}
