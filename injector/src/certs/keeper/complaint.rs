//! What is wrong is said when it is new, and once a minute as long as it lasts.

use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

const REPEAT: Duration = Duration::from_secs(60);
/// More things are not wrong at once.
const MOST: usize = 16;

/// What was said lately.
#[derive(Debug, Default)]
pub(super) struct Complaint(Vec<(String, Instant)>);

impl Complaint {
    /// Logs a warning, unless the same was said a moment ago.
    pub(super) fn make(&mut self, words: String) {
        self.0.retain(|(_, when)| when.elapsed() < REPEAT);
        if self.0.len() < MOST && !self.0.iter().any(|(said, _)| *said == words) {
            warn!("{words}");
            self.0.push((words, Instant::now()));
        }
    }
}
