//! Whom the kernel kills first when the node runs out of memory.

/// Quality-of-service class of a pod.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Qos {
    /// Every container's limits equal its requests.
    Guaranteed,
    /// Something is requested or limited.
    Burstable,
    /// Nothing is.
    BestEffort,
}

/// The `oom_score_adj` of a container: the less of its request it can exceed, the later it is killed (the kubelet's rule,
/// pkg/kubelet/qos/policy.go).
pub fn oom_score_adj(qos: Qos, memory_request_bytes: u64, node_memory_bytes: u64) -> i32 {
    match qos {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let thousandths = u128::from(memory_request_bytes) * 1000 / u128::from(node_memory_bytes.max(1));
            1000 - i32::try_from(thousandths).unwrap_or(1000).clamp(1, 997)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burstable_lies_between_the_others() {
        for (request, want) in [(0, 999), (1, 999), (500, 500), (1000, 3), (u64::MAX, 3)] {
            assert_eq!(oom_score_adj(Qos::Burstable, request, 1000), want, "{request}");
        }
        assert_eq!(oom_score_adj(Qos::Burstable, 1, 0), 3);
        assert_eq!(
            (
                oom_score_adj(Qos::Guaranteed, 1, 1),
                oom_score_adj(Qos::BestEffort, 1, 1)
            ),
            (-997, 1000)
        );
    }
}
