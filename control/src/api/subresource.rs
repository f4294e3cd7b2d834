//! Bind and scale: changes of one field with rules of their own.

use causeway_proto::{
    Kind, Resource,
    v1::{Condition, Object, Pod, Preconditions, ReplicationController},
};
use tonic_types::FieldViolation;

use super::{
    ApiError, Registry,
    write::{Decision, invalid, meta_of},
};

impl Registry {
    /// Assigns a pending pod to a node. An empty `uid` is not checked.
    pub async fn bind(&self, namespace: &str, pod: &str, uid: &str, node: &str) -> Result<Object, ApiError> {
        // A node that goes away after this is the node lifecycle's matter, as for any pod bound to it.
        self.present(Kind::Node, "", node).await?;
        let wanted = Preconditions {
            uid: uid.to_owned(),
            resource_version: String::new(),
        };
        self.mutate(Kind::Pod, namespace, pod, &wanted, false, |old| assign(old, node))
            .await
    }

    /// Sets the replica count; refused when `current` is given and differs.
    pub async fn scale(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        replicas: i32,
        current: Option<i32>,
    ) -> Result<Object, ApiError> {
        if kind != Kind::ReplicationController {
            return Err(ApiError::NoSubresource {
                kind,
                subresource: "scale",
            });
        }
        self.mutate(kind, namespace, name, &Preconditions::default(), false, |old| {
            resize(old, replicas, current)
        })
        .await
    }
}

fn assign(old: &Object, node: &str) -> Result<Decision, ApiError> {
    let refuse = |reason: String| ApiError::FailedPrecondition {
        kind: Kind::Pod,
        key: old.key(),
        reason,
    };
    let mut new = old.clone();
    let Some(pod) = Pod::from_object_mut(&mut new) else {
        return Ok(Decision::Keep);
    };
    if pod.meta().is_terminating() {
        return Err(refuse("pod is being deleted, cannot be assigned to a host".into()));
    }
    let spec = pod.spec.get_or_insert_default();
    if !spec.node_name.is_empty() {
        return Err(refuse(format!("pod is already assigned to node {:?}", spec.node_name)));
    }
    node.clone_into(&mut spec.node_name);
    let scheduled = Condition {
        r#type: "PodScheduled".into(),
        status: "True".into(),
        last_transition_time: Some(causeway_proto::time::now()),
        ..Default::default()
    };
    let conditions = &mut pod.status.get_or_insert_default().conditions;
    match conditions
        .iter_mut()
        .find(|condition| condition.r#type == scheduled.r#type)
    {
        Some(condition) => *condition = scheduled,
        None => conditions.push(scheduled),
    }
    Ok(Decision::put(new))
}

fn resize(old: &Object, replicas: i32, current: Option<i32>) -> Result<Decision, ApiError> {
    if replicas < 0 {
        let rule = format!("Invalid value: {replicas}: must be greater than or equal to 0");
        return Err(invalid(
            Kind::ReplicationController,
            old,
            vec![FieldViolation::new("spec.replicas", rule)],
        ));
    }
    let mut new = old.clone();
    let Some(controller) = ReplicationController::from_object_mut(&mut new) else {
        return Ok(Decision::Keep);
    };
    let spec = controller.spec.get_or_insert_default();
    let actual = spec.replicas.unwrap_or(1);
    if let Some(expected) = current.filter(|expected| *expected != actual) {
        let reason = format!("expected replicas to be {expected}, was {actual}");
        return Err(ApiError::FailedPrecondition {
            kind: Kind::ReplicationController,
            key: old.key(),
            reason,
        });
    }
    if actual == replicas {
        return Ok(Decision::Keep);
    }
    spec.replicas = Some(replicas);
    meta_of(&mut new).generation += 1;
    Ok(Decision::put(new))
}

#[cfg(test)]
mod tests {
    use causeway_proto::v1::PodSpec;

    use super::*;

    fn put(decision: Result<Decision, ApiError>) -> Object {
        match decision.unwrap() {
            Decision::Put(new) => *new,
            _ => panic!("nothing to store"),
        }
    }

    #[test]
    fn a_pod_is_assigned_once() {
        let pod = Pod {
            spec: Some(PodSpec::default()),
            ..Default::default()
        }
        .into_object();
        let bound = put(assign(&pod, "n1"));
        let inner = Pod::from_object_ref(&bound).unwrap();
        assert_eq!(inner.spec.as_ref().unwrap().node_name, "n1");
        assert_eq!(inner.status.as_ref().unwrap().conditions[0].r#type, "PodScheduled");
        let again = assign(&bound, "n2").err().unwrap().to_string();
        assert!(again.contains("already assigned to node \"n1\""), "{again}");
        let mut going = pod;
        meta_of(&mut going).deletion_timestamp = Some(prost_types::Timestamp::default());
        assert!(assign(&going, "n1").is_err());
    }

    #[test]
    fn scaling_counts_a_generation_and_checks_what_was() {
        let controller = ReplicationController::default().into_object();
        let scaled = put(resize(&controller, 3, Some(1)));
        assert_eq!(scaled.meta().unwrap().generation, 1);
        assert!(matches!(resize(&scaled, 3, None), Ok(Decision::Keep)));
        let error = resize(&scaled, 5, Some(2)).err().unwrap().to_string();
        assert!(error.contains("expected replicas to be 2, was 3"), "{error}");
        assert!(resize(&scaled, -1, None).is_err());
    }
}
