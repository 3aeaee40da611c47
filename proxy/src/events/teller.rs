//! Makes text of events and hands it to the destinations: a task that sleeps while nothing happens.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio::time::sleep_until;

use super::Hub;
use super::ecs::Writer;
use super::outlet::Outlet;
use super::sums::Told;

/// Tells of events until the hub is closed and everything in it was told.
pub(super) async fn tell(hub: Arc<Hub>, writer: Arc<Writer>, outlets: Vec<Outlet>) {
    let (mut due, mut closed) = (Vec::new(), false);
    while !closed {
        let (lost, next) = {
            let mut pending = hub.pending();
            due.extend(pending.queue.drain(..));
            let mut tell = |told| due.push(told);
            closed = pending.closed;
            if closed {
                pending.sums.rest(&mut tell);
            } else {
                pending.sums.due(Instant::now(), &mut tell);
            }
            (std::mem::take(&mut pending.lost), pending.sums.next())
        };
        for told in due.drain(..) {
            hand_out(&told, &writer, &outlets);
        }
        if lost > 0 {
            outlets.iter().for_each(|outlet| outlet.ledger().lose_unnumbered(lost, SystemTime::now()));
        }
        let changed = hub.changed.notified();
        match next {
            _ if closed => {}
            None => changed.await,
            Some(next) => tokio::select! {
                () = changed => {}
                () = sleep_until(next.into()) => {}
            },
        }
    }
}

fn hand_out(told: &Told, writer: &Writer, outlets: &[Outlet]) {
    let line = Arc::new(writer.write(told));
    outlets.iter().for_each(|outlet| outlet.offer(&line));
}
