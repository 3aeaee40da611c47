//! Defects: a panic in the work for one query loses that query alone, is counted and told, and never ends the process.
//!
//! What the work shares with other queries keeps itself sound: locks that take over from a panic, buffers that are cut to
//! what was finished. Catching costs nothing where nothing is thrown.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::pin::pin;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tracing::{debug, error};

use crate::events::{Event, Events};

/// While panics go on, the log tells of one in so long.
const LOG_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Counts panics, and tells of them.
#[derive(Debug, Clone, Default)]
pub struct Panics {
    counted: Counter,
    events: Events,
}

impl Panics {
    /// Counts from zero; events go there.
    pub fn telling(events: Events) -> Self {
        Self { events, ..Self::default() }
    }

    /// Makes the counter known to the registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("panics", "Queries lost to a defect of the proxy", self.counted.clone());
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.counted.get()
    }

    /// Takes note of one that was caught already.
    pub fn note(&self, place: &'static str) {
        self.counted.inc();
        self.events.emit(Event::QueryPanicked { place });
    }

    /// Does one piece of work; `None` where it panicked.
    pub fn contain<T>(&self, place: &'static str, work: impl FnOnce() -> T) -> Option<T> {
        let outcome = catch_unwind(AssertUnwindSafe(work)).ok();
        if outcome.is_none() {
            self.note(place);
        }
        outcome
    }

    /// Sees a task's work to its end; `None` where it panicked. It is put aside at once: a future that is passed on has its
    /// octets in each that passes it, and again where it is seen to.
    pub fn contain_task<T>(
        &self,
        place: &'static str,
        work: impl Future<Output = T>,
    ) -> impl Future<Output = Option<T>> {
        let work = Box::pin(work);
        async move {
            let outcome = caught(work).await;
            if outcome.is_none() {
                self.note(place);
            }
            outcome
        }
    }
}

/// Sees work to its end; `None` where it panicked, which has to be noted.
pub async fn caught<T>(work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context))) {
        Ok(polled) => polled.map(Some),
        Err(_) => std::task::Poll::Ready(None),
    })
    .await
}

/// Has panics written into the log: where, and at the level of debugging what is said, in which names may stand.
pub fn log_from_now_on() {
    let last = Mutex::new(None::<Instant>);
    std::panic::set_hook(Box::new(move |panic: &PanicHookInfo<'_>| {
        // Who panics while it logs does not wait here for itself.
        let Ok(mut last) = last.try_lock() else { return };
        let now = Instant::now();
        if last.is_some_and(|last| now < last + LOG_AGAIN_AFTER) {
            return;
        }
        *last = Some(now);
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        error!(%place, "a defect: the work for a query panicked; other queries go on. Please report it");
        debug!(said = panic.payload_as_str().unwrap_or_default(), "the panic");
    }));
}

/// In unit tests a query for `PLACE.panic.…` panics at that place, by the letter.
#[inline]
pub(crate) fn provoked(place: &str, question: crate::wire::request::Question<'_>) {
    #[cfg(test)]
    assert!(!question.name().to_string().starts_with(&format!("{place}.panic.")), "provoked");
    let _ = (place, question);
}

#[cfg(test)]
mod tests;
