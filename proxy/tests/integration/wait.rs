//! Waiting for what will be so, and not a fixed time.

use std::time::Duration;

/// What is not so by then never will be.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until something is so.
pub async fn until(what: &str, holds: impl AsyncFnMut() -> bool) {
    until_within(PATIENCE, what, holds).await;
}

/// The same for what may take longer than other things do.
pub async fn until_within(patience: Duration, what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(tokio::time::timeout(patience, waiting).await.is_ok(), "it never came about that {what}");
}
