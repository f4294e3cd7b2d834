//! The heartbeat: a lease renewed every interval. The control plane takes a node for dead when it is not.

use std::time::Duration;

use causeway_proto::{
    client::{Client, ClientError},
    time::now_micro,
    v1::{Lease, LeaseSpec, Namespace, ObjectMeta},
};

/// Where node leases live.
pub const NAMESPACE: &str = "causeway-node-lease";

/// A lease is said to hold for this many intervals.
const INTERVALS: u32 = 5;

/// Renews the lease of `node` every `interval`, for ever.
pub async fn run(client: Client, node: String, interval: Duration) {
    let mut tick = tokio::time::interval(interval);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut held: Option<Lease> = None;
    let mut reachable = true;
    loop {
        tick.tick().await;
        // A call that hangs must not hold up the next heartbeat for long.
        let bound = interval.max(Duration::from_secs(1)) * 2;
        let renewed = tokio::time::timeout(bound, renew(&client, &node, interval, held.take())).await;
        match renewed {
            Ok(Ok(lease)) => {
                if !reachable {
                    tracing::info!(node, "heartbeat resumed");
                }
                (held, reachable) = (Some(lease), true);
            }
            Ok(Err(error)) => report(&mut reachable, &node, &error.to_string()),
            Err(_) => report(&mut reachable, &node, "no answer in time"),
        }
    }
}

fn report(reachable: &mut bool, node: &str, problem: &str) {
    if std::mem::replace(reachable, false) {
        tracing::warn!(node, problem, "heartbeat failed; pods and data path go on");
    }
}

async fn renew(client: &Client, node: &str, interval: Duration, held: Option<Lease>) -> Result<Lease, ClientError> {
    let present = match held {
        Some(lease) => lease,
        None => match client.get::<Lease>(NAMESPACE, node).await {
            Ok(lease) => lease,
            Err(error) if error.is_not_found() => {
                return create(client, renewed(Lease::default(), node, interval)).await;
            }
            Err(error) => return Err(error),
        },
    };
    client.update(renewed(present, node, interval)).await
}

async fn create(client: &Client, lease: Lease) -> Result<Lease, ClientError> {
    match client.create(lease.clone()).await {
        // A store from before this namespace was made with the others.
        Err(error) if error.is_not_found() => {
            let metadata = Some(ObjectMeta {
                name: NAMESPACE.to_owned(),
                ..ObjectMeta::default()
            });
            match client
                .create(Namespace {
                    metadata,
                    ..Namespace::default()
                })
                .await
            {
                Err(error) if !error.is_already_exists() => Err(error),
                _ => client.create(lease).await,
            }
        }
        answer => answer,
    }
}

/// The lease as it should be written now. Pure but for the clock.
fn renewed(mut lease: Lease, node: &str, interval: Duration) -> Lease {
    let now = now_micro();
    let meta = lease.metadata.get_or_insert_default();
    node.clone_into(&mut meta.name);
    NAMESPACE.clone_into(&mut meta.namespace);
    let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
    if spec.holder_identity != node {
        node.clone_into(&mut spec.holder_identity);
        spec.acquire_time = Some(now);
        spec.lease_transitions = Some(spec.lease_transitions.map_or(0, |count| count + 1));
    }
    let seconds = (interval * INTERVALS).as_secs().max(1);
    spec.lease_duration_seconds = Some(i32::try_from(seconds).unwrap_or(i32::MAX));
    spec.renew_time = Some(now);
    lease
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewing_keeps_holder_and_version_and_moves_the_time() {
        let mut lease = renewed(Lease::default(), "node-1", Duration::from_secs(2));
        let meta = lease.metadata.as_mut().unwrap();
        assert_eq!((meta.name.as_str(), meta.namespace.as_str()), ("node-1", NAMESPACE));
        meta.resource_version = "9".into();
        let spec = lease.spec.clone().unwrap();
        assert_eq!(
            (spec.holder_identity.as_str(), spec.lease_duration_seconds),
            ("node-1", Some(10))
        );
        let again = renewed(lease, "node-1", Duration::from_secs(2));
        assert_eq!(again.metadata.unwrap().resource_version, "9");
        let second = again.spec.unwrap();
        assert_eq!(
            (second.acquire_time, second.lease_transitions),
            (spec.acquire_time, Some(0))
        );
    }
}
