//! Events on standard output, one JSON object a line. Whoever reads it may stop reading, so a thread of its own waits there.

use std::io::{self, Write};
use std::thread;

use tokio::sync::oneshot;
use tracing::warn;

use super::outlet::Inlet;

/// Its stack, in octets; what is not touched takes no memory.
const STACK: usize = 256 << 10;

/// Starts the thread; the receiver completes when it has written the last line. Without the thread all events count as lost.
pub(super) fn start(inlet: Inlet) -> Option<oneshot::Receiver<()>> {
    let (ended, end) = oneshot::channel();
    let thread = thread::Builder::new().name("events-stdout".to_owned()).stack_size(STACK);
    let started = thread.spawn(move || {
        write_all(inlet, io::stdout);
        let _ = ended.send(()); // nobody may wait for it
    });
    match started {
        Ok(_) => Some(end),
        Err(error) => {
            warn!(%error, "no thread can write events to standard output: they are lost");
            None
        }
    }
}

fn write_all<W: Write>(mut inlet: Inlet, output: impl Fn() -> W) {
    let mut broken = false;
    // What was lost is told when something could be written again, not to who takes nothing.
    while let Some(numbered) = if broken { inlet.wait_for_line() } else { inlet.wait_for_next() } {
        let line = &numbered.line;
        let text = format!("{}\n", line.json);
        // A line is written at one go, so that it stays whole where several write.
        broken = output().write_all(text.as_bytes()).and_then(|()| output().flush()).is_err();
        if broken {
            inlet.ledger().fail(1, line.at);
        } else {
            inlet.ledger().deliver(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::ecs::Writer;
    use crate::events::outlet::{Metrics, way_to};
    use crate::events::{Event, sums::Told};
    use dot_proxy_config::Labels;
    use std::sync::{Arc, Mutex};
    use std::time::SystemTime;

    /// Takes so many lines and then no more.
    struct Taking(Arc<Mutex<Vec<Vec<u8>>>>, usize);

    impl Write for Taking {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            let mut taken = self.0.lock().unwrap();
            if taken.len() == self.1 {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            taken.push(octets.to_vec());
            Ok(octets.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_is_written_at_one_go_and_what_nobody_takes_is_counted() {
        let writer = Arc::new(Writer::new("host", &Labels::default(), false));
        let (outlet, inlet) = way_to("stdout", 16, &writer, &Metrics::default());
        let at = SystemTime::now();
        for _ in 0..5 {
            let event = Event::QueryPanicked { place: "lookup" };
            let told = Told { event, count: 1, start: at, end: at, several_clients: false };
            outlet.offer(&Arc::new(writer.write(&told)));
        }
        let ledger = Arc::clone(outlet.ledger());
        drop(outlet);
        let taken = Arc::default();
        write_all(inlet, || Taking(Arc::clone(&taken), 3));
        let taken = taken.lock().unwrap();
        assert_eq!(taken.len(), 3);
        assert!(
            taken
                .iter()
                .all(|line| line.ends_with(b"}\n") && line.iter().filter(|octet| **octet == b'\n').count() == 1)
        );
        assert_eq!((ledger.undelivered(), ledger.dropped()), (0, 2));
    }
}
