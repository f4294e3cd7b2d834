//! Both stores under one suite, and what is special to each.

mod crash;
mod embedded;
mod etcd;
mod etcd_server;
mod model;
mod suite;
mod wait;

/// Runs every test of the suite on every store.
macro_rules! conformance {
    ($($test:ident),* $(,)?) => {
        mod conformance {
            mod embedded {
                $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    let fixture = crate::embedded::Fixture::new();
                    crate::suite::$test(fixture.store()).await;
                })*
            }
            mod etcd {
                $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    let fixture = crate::etcd::Fixture::new().await;
                    crate::suite::$test(fixture.store()).await;
                })*
            }
        }
    };
}

conformance! {
    a_key_has_its_versions,
    prefixes_do_not_run_into_each_other,
    transactions_are_all_or_nothing,
    a_conflict_names_the_key_and_its_revision,
    a_transaction_without_effect_takes_no_revision,
    a_key_may_change_once_per_transaction,
    concurrent_writers_get_distinct_ordered_revisions,
    compare_and_swap_loses_no_increment,
    pages_show_one_revision,
    lists_look_back,
    a_watch_sees_one_batch_per_revision,
    a_watch_shows_what_was_before,
    a_resumed_watch_has_neither_gap_nor_repeat,
    compaction_forgets_what_was_replaced,
    an_expired_lease_takes_its_keys_at_one_revision,
    a_lease_lives_while_it_is_kept_alive,
    a_revoked_lease_spares_keys_that_left_it,
    one_candidate_leads_and_the_next_takes_over,
}
