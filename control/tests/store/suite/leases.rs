//! Leases, and the elections that rest on them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use causeway_control::store::{
    StoreError, Transaction,
    election::{self, Candidacy},
};

use super::{Shared, all, commit, keys, pairs, put};
use crate::wait::{bounded, next_batch, until};

pub async fn an_expired_lease_takes_its_keys_at_one_revision(store: Shared) {
    let lease = store.grant(Duration::from_secs(1)).await.expect("grant");
    assert!(lease.ttl >= Duration::from_secs(1));
    put(&*store, "/stays", "v").await;
    let granted = Instant::now();
    let revision = commit(
        &*store,
        Transaction::new()
            .put_leased("/l/a", "1", lease.id)
            .put_leased("/l/b", "1", lease.id),
    )
    .await;
    let mut watch = store.watch("/", revision).await.expect("watch");
    let batch = next_batch(&mut watch).await.expect("batch");
    assert!(
        granted.elapsed() + Duration::from_millis(100) >= lease.ttl,
        "not before its time"
    );
    assert_eq!(keys(&batch), "-/l/a -/l/b");
    assert_eq!(pairs(&all(&*store, "/", None).await), [("/stays", "v")]);
    let error = store.keep_alive(lease.id).await.expect_err("it has ended");
    assert!(
        matches!(error, StoreError::LeaseNotFound { id } if id == lease.id),
        "{error}"
    );
    let error = store
        .transact(Transaction::new().put_leased("/l/c", "1", lease.id))
        .await
        .expect_err("it has ended");
    assert!(
        matches!(error, StoreError::LeaseNotFound { id } if id == lease.id),
        "{error}"
    );
}

pub async fn a_lease_lives_while_it_is_kept_alive(store: Shared) {
    let lease = store.grant(Duration::from_secs(2)).await.expect("grant");
    commit(&*store, Transaction::new().put_leased("/l", "1", lease.id)).await;
    let end = Instant::now() + lease.ttl * 2;
    while Instant::now() < end {
        store.keep_alive(lease.id).await.expect("keep alive");
        assert!(store.get("/l").await.expect("get").is_some());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    until("the end of the lease", async || {
        store.get("/l").await.expect("get").is_none()
    })
    .await;
}

pub async fn a_revoked_lease_spares_keys_that_left_it(store: Shared) {
    let lease = store.grant(Duration::from_secs(100)).await.expect("grant");
    commit(
        &*store,
        Transaction::new()
            .put_leased("/a", "1", lease.id)
            .put_leased("/b", "1", lease.id),
    )
    .await;
    put(&*store, "/a", "without lease").await;
    store.revoke(lease.id).await.expect("revoke");
    assert_eq!(pairs(&all(&*store, "/", None).await), [("/a", "without lease")]);
    let error = store.revoke(lease.id).await.expect_err("it has ended");
    assert!(
        matches!(error, StoreError::LeaseNotFound { id } if id == lease.id),
        "{error}"
    );
}

pub async fn one_candidate_leads_and_the_next_takes_over(store: Shared) {
    let ttl = Duration::from_secs(5);
    let one = Candidacy::start(Arc::clone(&store), "one".into(), ttl);
    bounded("first leadership", one.leadership().acquired()).await;
    let two = Candidacy::start(Arc::clone(&store), "two".into(), ttl);
    let mut second = two.leadership();
    // Longer than the lease: the first one keeps it.
    let end = Instant::now() + ttl + Duration::from_secs(1);
    while Instant::now() < end {
        assert!(one.leadership().is_leader() && !second.is_leader());
        assert_eq!(election::leader(&*store).await.expect("leader").as_deref(), Some("one"));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let mut first = one.leadership();
    let resigned = Instant::now();
    one.resign().await;
    bounded("the first one's loss", first.lost()).await;
    bounded("second leadership", second.acquired()).await;
    assert!(resigned.elapsed() < ttl, "a resignation needs no expiry");
    assert_eq!(election::leader(&*store).await.expect("leader").as_deref(), Some("two"));
    two.resign().await;
}
