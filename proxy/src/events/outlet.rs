//! The way to one destination: bounded, and what finds no room is counted and told of later.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::ecs::{Line, Writer};
use super::event::Event;
use super::sums::Told;

/// What is counted of events, by destination.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    delivered: Family<DestinationLabel, Counter>,
    dropped: Family<DestinationLabel, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DestinationLabel {
    destination: &'static str,
}

/// A line, and its number among all that were meant for that destination; a gap shows that some were lost.
#[derive(Debug, Clone)]
pub(super) struct Numbered {
    pub(super) number: u64,
    pub(super) line: Arc<Line>,
}

/// The end at which events are handed in.
#[derive(Debug)]
pub(super) struct Outlet {
    sender: Sender<Numbered>,
    ledger: Arc<Ledger>,
}

/// The end at which a destination takes them.
#[derive(Debug)]
pub(super) struct Inlet {
    receiver: Receiver<Numbered>,
    writer: Arc<Writer>,
    ledger: Arc<Ledger>,
}

/// What became of the events for a destination.
#[derive(Debug)]
pub(super) struct Ledger {
    destination: &'static str,
    /// Given out so far.
    numbers: AtomicU64,
    accepted: AtomicU64,
    delivered: Counter,
    dropped: Counter,
    loss: Mutex<Option<Loss>>,
}

/// What was lost and has not been told of yet.
#[derive(Debug, Clone, Copy)]
struct Loss {
    count: u64,
    start: SystemTime,
    end: SystemTime,
}

impl Metrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("events_delivered", "Events that a destination took", self.delivered.clone());
        registry.register(
            "events_dropped",
            "Events lost because a destination did not take them",
            self.dropped.clone(),
        );
    }
}

/// The way to a destination for so many events that wait.
pub(super) fn way_to(
    destination: &'static str,
    room: usize,
    writer: &Arc<Writer>,
    metrics: &Metrics,
) -> (Outlet, Inlet) {
    let (sender, receiver) = channel(room);
    let label = DestinationLabel { destination };
    let ledger = Arc::new(Ledger {
        destination,
        numbers: AtomicU64::new(0),
        accepted: AtomicU64::new(0),
        delivered: metrics.delivered.get_or_create_owned(&label),
        dropped: metrics.dropped.get_or_create_owned(&label),
        loss: Mutex::default(),
    });
    let inlet = Inlet { receiver, writer: Arc::clone(writer), ledger: Arc::clone(&ledger) };
    (Outlet { sender, ledger }, inlet)
}

impl Outlet {
    /// Hands a line in; without room for it it is lost, and counted.
    pub(super) fn offer(&self, line: &Arc<Line>) {
        let numbered = Numbered { number: self.ledger.next_number(), line: Arc::clone(line) };
        match self.sender.try_send(numbered) {
            Ok(()) => self.ledger.accept(),
            Err(_) => self.ledger.lose(1, line.at),
        }
    }

    pub(super) fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }
}

impl Inlet {
    /// The next line; `None` at the end. What was lost is told of as soon as nothing waits any more.
    pub(super) async fn next(&mut self) -> Option<Numbered> {
        match self.try_next() {
            Err(TryRecvError::Empty) => self.receiver.recv().await,
            now => now.ok(),
        }
    }

    /// The same for a thread that may block.
    pub(super) fn wait_for_next(&mut self) -> Option<Numbered> {
        match self.try_next() {
            Err(TryRecvError::Empty) => self.receiver.blocking_recv(),
            now => now.ok(),
        }
    }

    /// The next line for a thread that may block, whatever was lost.
    pub(super) fn wait_for_line(&mut self) -> Option<Numbered> {
        self.receiver.blocking_recv()
    }

    /// The next line if there is one now.
    pub(super) fn try_next(&mut self) -> Result<Numbered, TryRecvError> {
        self.receiver.try_recv().or_else(|why| self.take_loss().ok_or(why))
    }

    pub(super) fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    fn take_loss(&self) -> Option<Numbered> {
        let Loss { count, start, end } = self.ledger.loss().take()?;
        let event = Event::EventsDropped { destination: self.ledger.destination };
        let line = self.writer.write(&Told { event, count, start, end, several_clients: false });
        self.ledger.accept();
        Some(Numbered { number: self.ledger.next_number(), line: Arc::new(line) })
    }
}

impl Ledger {
    pub(super) fn destination(&self) -> &'static str {
        self.destination
    }

    /// Counts what was taken off the way and could not be delivered.
    pub(super) fn fail(&self, count: u64, at: SystemTime) {
        self.accepted.fetch_sub(count, Ordering::Relaxed);
        self.lose(count, at);
    }

    /// Counts what was lost on the way.
    pub(super) fn lose(&self, count: u64, at: SystemTime) {
        self.dropped.inc_by(count);
        let mut loss = self.loss();
        let loss = loss.get_or_insert(Loss { count: 0, start: at, end: at });
        loss.count += count;
        loss.end = at;
    }

    /// Counts what never had a number.
    pub(super) fn lose_unnumbered(&self, count: u64, at: SystemTime) {
        self.numbers.fetch_add(count, Ordering::Relaxed);
        self.lose(count, at);
    }

    /// Counts what the destination has.
    pub(super) fn deliver(&self, count: u64) {
        self.delivered.inc_by(count);
    }

    #[cfg(test)]
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.get()
    }

    /// Events that still wait, on their way or not.
    pub(super) fn undelivered(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed).saturating_sub(self.delivered.get())
    }

    fn accept(&self) {
        self.accepted.fetch_add(1, Ordering::Relaxed);
    }

    fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn loss(&self) -> MutexGuard<'_, Option<Loss>> {
        self.loss.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dot_proxy_config::Labels;

    fn line(index: u64) -> Arc<Line> {
        let severity = super::super::ecs::Severity::Notice;
        Arc::new(Line { at: SystemTime::now(), action: "test", severity, json: index.to_string() })
    }

    #[test]
    fn what_finds_no_room_is_counted_and_told_of_once_when_there_is_room_again() {
        let writer = Arc::new(Writer::new("host", &Labels::default(), false));
        let (outlet, mut inlet) = way_to("syslog", 16, &writer, &Metrics::default());
        (0..20).for_each(|index| outlet.offer(&line(index)));
        assert_eq!(outlet.ledger.dropped.get(), 4);
        let taken: Vec<_> = std::iter::from_fn(|| inlet.try_next().ok()).collect();
        assert_eq!(taken.len(), 17);
        assert!(taken[..16].iter().enumerate().all(|(index, numbered)| numbered.line.json == index.to_string()));
        let last = &taken[16];
        assert_eq!((last.line.action, last.number), ("events-dropped", 21));
        assert!(
            last.line.json.contains("\"dot_proxy\":{\"count\":4,\"destination\":\"syslog\"}"),
            "{}",
            last.line.json
        );
        outlet.offer(&line(20));
        assert_eq!(inlet.try_next().map(|numbered| numbered.number), Ok(22));
        assert_eq!(inlet.try_next().err(), Some(TryRecvError::Empty));
        assert_eq!(outlet.ledger.undelivered(), 18);
        inlet.ledger.deliver(18);
        assert_eq!(outlet.ledger.undelivered(), 0);
    }
}
