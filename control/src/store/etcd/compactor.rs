//! Compacts history by age. Every replica does: whoever is first, nothing younger than the retention is lost.

use std::{sync::Arc, time::Duration};

use super::Connection;

pub(super) async fn run(connection: Arc<Connection>, retention: Duration) {
    let mut old = None;
    let mut ticks = tokio::time::interval(retention);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Some(revision) = old.filter(|revision| *revision > 0)
            && let Err(error) = connection.compact(revision).await
        {
            tracing::warn!(%error, revision, "cannot compact the store");
        }
        old = connection.revision().await.ok();
    }
}
