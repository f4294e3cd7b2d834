//! Leases: node heartbeats.

use causeway_proto::v1::Lease;

use super::field::{Path, Violations};

/// Checks a new or changed lease.
pub fn validate(lease: &Lease, v: &mut Violations) {
    let path = Path::new("spec");
    let Some(spec) = &lease.spec else { return };
    v.at_least(
        &path.child("leaseDurationSeconds"),
        spec.lease_duration_seconds.map(Into::into),
        1,
    );
    v.at_least(
        &path.child("leaseTransitions"),
        spec.lease_transitions.map(Into::into),
        0,
    );
}

#[cfg(test)]
mod tests {
    use causeway_proto::v1::LeaseSpec;

    use super::{super::field::texts, *};

    #[test]
    fn durations_are_positive() {
        let spec = LeaseSpec {
            lease_duration_seconds: Some(0),
            lease_transitions: Some(-1),
            ..Default::default()
        };
        let mut v = Violations::default();
        validate(
            &Lease {
                spec: Some(spec),
                ..Default::default()
            },
            &mut v,
        );
        assert_eq!(
            texts(v),
            [
                "spec.leaseDurationSeconds: Invalid value: 0: must be greater than or equal to 1",
                "spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0",
            ]
        );
    }
}
