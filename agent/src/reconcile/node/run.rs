//! Keeps this node's object as it should be, through restarts of the control plane and conflicts.

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime},
};

use causeway_proto::{
    client::{Backoff, Client, ClientError, Store},
    v1::Node,
};
use tokio::sync::watch;

use super::{
    desired::{self, Health},
    facts::Facts,
};
use crate::net::Ranges;

/// Even an unchanged status is written this often.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);

/// Runs for ever. A node that has a pod range already keeps it when it has to be registered anew.
pub async fn run(
    client: Client,
    nodes: Store<Node>,
    facts: Facts,
    ranges: Arc<OnceLock<Ranges>>,
    mut health: watch::Receiver<Health>,
) {
    let mut changes = nodes.changes();
    let mut backoff = Backoff::default();
    let mut reported = false;
    nodes.synced().await;
    loop {
        let wanted = health.borrow_and_update().clone();
        let wait = match reconcile(&client, &nodes, &facts, ranges.get(), &wanted).await {
            Ok(()) => {
                backoff.reset();
                reported = false;
                STATUS_INTERVAL
            }
            Err(error) => {
                if !std::mem::replace(&mut reported, true) {
                    tracing::warn!(node = facts.name, %error, "node object not up to date");
                }
                backoff.next_delay()
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = changes.changed(), if !reported => {}
            Ok(()) = health.changed() => {}
        }
    }
}

async fn reconcile(
    client: &Client,
    nodes: &Store<Node>,
    facts: &Facts,
    ranges: Option<&Ranges>,
    health: &Health,
) -> Result<(), ClientError> {
    let Some(present) = nodes.get("", &facts.name) else {
        return match client
            .create(desired::node(facts, ranges, health, SystemTime::now()))
            .await
        {
            Ok(_) => {
                tracing::info!(node = facts.name, "node registered");
                Ok(())
            }
            Err(error) if error.is_already_exists() => Ok(()),
            Err(error) => Err(error),
        };
    };
    let mut present = Node::clone(&present);
    if let Some(patch) = desired::label_patch(facts, &present) {
        present = client.patch_merge("", &facts.name, &patch).await?;
    }
    match write_status(client, present, facts, health).await {
        // The copy was behind: once more from what is there now.
        Err(error) if error.is_conflict() => {
            let present = client.get("", &facts.name).await?;
            write_status(client, present, facts, health).await
        }
        answer => answer,
    }
}

async fn write_status(client: &Client, mut node: Node, facts: &Facts, health: &Health) -> Result<(), ClientError> {
    let before = node.status.take().unwrap_or_default();
    let wanted = desired::status(facts, &before, health, SystemTime::now());
    if desired::must_write(&before, &wanted, STATUS_INTERVAL) {
        node.status = Some(wanted);
        client.update_status(node).await?;
    }
    Ok(())
}
