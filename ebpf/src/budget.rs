//! How many ICMP errors may be sent: a token bucket, kept as the one time at which it will be full (the generic cell rate algorithm,
//! ITU-T I.371).

use causeway_abi::icmp::{BURST, INTERVAL_NS};

/// Takes a token from a bucket that will be full at `full_ns`: when it will be full then, or `None` when it is empty.
#[inline(always)]
pub const fn spend(full_ns: u64, now_ns: u64) -> Option<u64> {
    let from = if full_ns > now_ns { full_ns } else { now_ns };
    let full_ns = from.saturating_add(INTERVAL_NS);
    if full_ns > now_ns.saturating_add(BURST * INTERVAL_NS) {
        None
    } else {
        Some(full_ns)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    /// How many of so many tries in a row succeed, each so much later than the one before.
    fn granted(full_ns: &mut u64, from_ns: u64, step_ns: u64, tries: u64) -> u64 {
        let spent = (0..tries).filter_map(|number| {
            *full_ns = spend(*full_ns, from_ns + number * step_ns)?;
            Some(())
        });
        spent.count() as u64
    }

    #[test]
    fn a_burst_then_a_thousand_a_second() {
        let (mut full_ns, now) = (0, 5 * SECOND);
        assert_eq!(granted(&mut full_ns, now, 0, 1_000), 50);
        // Ten thousand in the second that follows.
        assert_eq!(
            granted(&mut full_ns, now + SECOND / 10_000, SECOND / 10_000, 10_000),
            1_000
        );
        // A pause fills it again, and no more than that.
        assert_eq!(granted(&mut full_ns, now + 10 * SECOND, 0, 1_000), 50);
    }

    #[test]
    fn an_empty_bucket_stays_empty_whatever_the_clock_says() {
        assert_eq!(spend(u64::MAX, 0), None);
        assert_eq!(spend(u64::MAX, SECOND), None);
        assert!(spend(0, u64::MAX).is_some());
    }

    proptest! {
        #[test]
        fn no_stretch_of_time_sees_more_than_a_burst_and_its_share(steps in prop::collection::vec(0..3 * INTERVAL_NS, 1..500)) {
            let (mut full_ns, mut now, mut sent) = (0, SECOND, std::vec::Vec::new());
            for step in steps {
                now += step;
                if let Some(next) = spend(full_ns, now) {
                    full_ns = next;
                    sent.push(now);
                }
            }
            for (first, begin) in sent.iter().enumerate() {
                let last = sent.len() - 1;
                let between = (sent[last] - begin) / INTERVAL_NS;
                prop_assert!((last - first) as u64 <= BURST + between);
            }
        }
    }
}
