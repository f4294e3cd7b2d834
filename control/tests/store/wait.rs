//! Waiting with a bound.

use std::{future::Future, time::Duration};

use causeway_control::store::{StoreError, WatchBatch, WatchStream};
use futures::StreamExt;

/// Far more than anything here takes on an idle machine.
pub const LIMIT: Duration = Duration::from_mins(1);

/// The result of a future that has to end.
pub async fn bounded<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future)
        .await
        .unwrap_or_else(|_| panic!("{what} took more than {LIMIT:?}"))
}

/// Asks again and again until the answer is yes.
pub async fn until<F: Future<Output = bool>>(what: &str, mut predicate: impl FnMut() -> F) {
    bounded(what, async {
        while !predicate().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

/// The next batch that has events.
pub async fn next_batch(watch: &mut WatchStream) -> Result<WatchBatch, StoreError> {
    bounded("a watch event", async {
        loop {
            match watch.next().await.expect("a watch ends with an error") {
                Ok(batch) if batch.events.is_empty() => {}
                other => return other,
            }
        }
    })
    .await
}
