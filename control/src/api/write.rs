//! Creating and changing objects.

use causeway_proto::{
    Kind, Resource,
    v1::{self, Object, ObjectMeta, Preconditions},
};
use rand::RngExt;
use tonic_types::FieldViolation;

use super::{
    ApiError, Registry,
    allocation::Allocation,
    options::check_preconditions,
    registry::{Present, key_of, namespace_of},
    stored,
};
use crate::{
    admission::{self, Settings},
    store::{Revision, TransactOutcome, Transaction},
};

/// How often a write that names no version is tried again when others write the same object.
const ATTEMPTS: usize = 16;
/// Letters of generated names: no vowels, so no words.
const NAME_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const NAME_SUFFIX_LEN: usize = 5;
const GENERATED_NAME_MAX: usize = 63;

/// What a change makes of an object.
pub(super) enum Decision {
    /// Store this instead.
    Put(Box<Object>),
    /// Remove it.
    Remove,
    /// Leave it.
    Keep,
}

impl Decision {
    pub(super) fn put(object: Object) -> Self {
        Self::Put(Box::new(object))
    }
}

impl Registry {
    /// Defaults, validates and stores a new object; answers it as stored.
    pub async fn create(&self, mut object: Object, dry_run: bool) -> Result<Object, ApiError> {
        let kind = kind_of(&object)?;
        let generated = prepare_new(kind, &mut object)?;
        for _ in 0..ATTEMPTS {
            if let Some(prefix) = &generated {
                meta_of(&mut object).name = generate_name(prefix);
            }
            let mut candidate = object.clone();
            admission::create(&mut candidate, self.settings())
                .map_err(|violations| invalid(kind, &candidate, violations))?;
            match self.insert(kind, candidate, dry_run).await {
                Err(ApiError::AlreadyExists { .. }) if generated.is_some() => {}
                done => return done,
            }
        }
        Err(ApiError::AlreadyExists {
            kind,
            key: object.key(),
        })
    }

    /// Stores a checked object: with its addresses and ports if it is a service, in a namespace that takes new objects.
    async fn insert(&self, kind: Kind, object: Object, dry_run: bool) -> Result<Object, ApiError> {
        let key = object_key(kind, &object);
        loop {
            let mut object = object.clone();
            let claims = self.claims(&mut object, None).await?;
            let mut transaction = Transaction::new().when(&key, 0).put(&key, stored::encode(&object));
            if let Some(namespace) = self.namespace_for(kind, &object).await? {
                transaction = transaction.when(namespace.key, namespace.revision);
            }
            if dry_run {
                return self.dry_run_insert(kind, &key, object).await;
            }
            match self.store().transact(claims.add_to(transaction)).await {
                Ok(TransactOutcome::Committed(revision)) => {
                    set_version(&mut object, revision);
                    claims.committed();
                    self.wait_written(kind, revision).await;
                    return Ok(object);
                }
                Ok(TransactOutcome::Conflict { key: taken, .. }) if taken == key => {
                    return Err(ApiError::AlreadyExists {
                        kind,
                        key: object.key(),
                    });
                }
                Ok(TransactOutcome::Conflict { key: taken, .. }) => {
                    // Otherwise the namespace has changed: it is looked at again.
                    if let Some(taken) = Allocation::from_key(&taken) {
                        self.after_conflict(claims, taken, &object).await?;
                    }
                }
                Err(error) => {
                    claims.in_doubt();
                    return Err(error.into());
                }
            }
        }
    }

    async fn dry_run_insert(&self, kind: Kind, key: &str, object: Object) -> Result<Object, ApiError> {
        match self.store().get(key).await? {
            Some(_) => Err(ApiError::AlreadyExists {
                kind,
                key: object.key(),
            }),
            None => Ok(object),
        }
    }

    /// The namespace of a new object, which must exist and stay; `None` for cluster-scoped kinds.
    async fn namespace_for(&self, kind: Kind, object: &Object) -> Result<Option<Present>, ApiError> {
        if !kind.namespaced() {
            return Ok(None);
        }
        let name = object.meta().map_or("", |meta| &meta.namespace);
        let present = self.present(Kind::Namespace, "", name).await?;
        if present.object.meta().is_some_and(ObjectMeta::is_terminating) {
            return Err(ApiError::FailedPrecondition {
                kind,
                key: object.key(),
                reason: format!("unable to create new content in namespace {name} because it is being terminated"),
            });
        }
        Ok(Some(present))
    }

    /// Replaces all but status. Compare-and-swap if `metadata.resourceVersion` is set, else the last writer wins.
    /// Removing the last finalizer of an object that is being deleted removes it.
    pub async fn update(&self, object: Object, dry_run: bool) -> Result<Object, ApiError> {
        let (kind, name, wanted) = address_of(&object)?;
        self.mutate(kind, &name.0, &name.1, &wanted, dry_run, |old| {
            replace(kind, object.clone(), old, self.settings())
        })
        .await
    }

    /// Replaces only status; metadata but name, namespace, uid and resourceVersion are ignored.
    pub async fn update_status(&self, object: Object, dry_run: bool) -> Result<Object, ApiError> {
        let (kind, name, wanted) = address_of(&object)?;
        if !kind.has_status() {
            return Err(ApiError::NoSubresource {
                kind,
                subresource: "status",
            });
        }
        self.mutate(kind, &name.0, &name.1, &wanted, dry_run, |old| {
            let mut new = old.clone();
            new.copy_status(&object);
            Ok(Decision::put(new))
        })
        .await
    }

    /// Changes a present object by compare-and-swap. `change` is called again when someone else was faster, unless the
    /// preconditions then fail.
    pub(super) async fn mutate(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        wanted: &Preconditions,
        dry_run: bool,
        mut change: impl FnMut(&Object) -> Result<Decision, ApiError>,
    ) -> Result<Object, ApiError> {
        let mut attempt = 0;
        loop {
            let present = self.present(kind, namespace, name).await?;
            let meta = present.object.meta().cloned().unwrap_or_default();
            check_preconditions(wanted, kind, &meta)?;
            let (transaction, mut answer, claims) = match change(&present.object)? {
                Decision::Keep => return Ok(present.object),
                Decision::Put(mut new) => {
                    let claims = self.claims(&mut new, Some(&present.object)).await?;
                    let (old_value, value) = (stored::encode(&present.object), stored::encode(&new));
                    // A write that changes nothing would wake everyone for nothing.
                    if value == old_value {
                        return Ok(present.object);
                    }
                    (Transaction::new().put(&present.key, value), *new, claims)
                }
                Decision::Remove => {
                    let claims = self.release_all(&present.object);
                    (Transaction::new().delete(&present.key), present.object.clone(), claims)
                }
            };
            if dry_run {
                set_version(&mut answer, present.revision);
                return Ok(answer);
            }
            let removed = matches!(
                transaction.operations.as_slice(),
                [crate::store::Operation::Delete { .. }]
            );
            let transaction = claims.add_to(transaction.when(&present.key, present.revision));
            match self.store().transact(transaction).await {
                Ok(TransactOutcome::Committed(revision)) => {
                    claims.committed();
                    if !removed {
                        set_version(&mut answer, revision);
                    }
                    self.wait_written(kind, revision).await;
                    return Ok(answer);
                }
                Ok(TransactOutcome::Conflict { key, actual }) => {
                    if let Some(taken) = Allocation::from_key(&key) {
                        self.after_conflict(claims, taken, &answer).await?;
                        continue;
                    }
                    attempt += 1;
                    if attempt == ATTEMPTS {
                        return Err(ApiError::Conflict {
                            kind,
                            key: meta.key(),
                            expected: meta.resource_version,
                            actual: actual.to_string(),
                        });
                    }
                }
                Err(error) => {
                    claims.in_doubt();
                    return Err(error.into());
                }
            }
        }
    }
}

/// The stored object as an update makes it: the server's part of metadata and the status stay.
pub(super) fn replace(kind: Kind, mut new: Object, old: &Object, settings: &Settings) -> Result<Decision, ApiError> {
    let Some(before) = old.meta() else {
        return Ok(Decision::Keep);
    };
    let meta = meta_of(&mut new);
    if meta.uid.is_empty() {
        meta.uid.clone_from(&before.uid);
    }
    namespace_of(kind, &before.namespace).clone_into(&mut meta.namespace);
    meta.resource_version.clear();
    meta.generate_name.clone_from(&before.generate_name);
    meta.creation_timestamp = before.creation_timestamp;
    meta.deletion_timestamp = before.deletion_timestamp;
    meta.deletion_grace_period_seconds = before.deletion_grace_period_seconds;
    meta.generation = before.generation;
    new.copy_status(old);
    admission::update(&mut new, old, settings).map_err(|violations| invalid(kind, &new, violations))?;
    if spec_differs(&new, old) && before.generation > 0 {
        meta_of(&mut new).generation += 1;
    }
    if is_finished(&new) {
        Ok(Decision::Remove)
    } else {
        Ok(Decision::put(new))
    }
}

/// True when an object that is being deleted has nothing left to wait for.
pub(super) fn is_finished(object: &Object) -> bool {
    let Some(meta) = object.meta().filter(|meta| meta.is_terminating()) else {
        return false;
    };
    meta.finalizers.is_empty()
        && meta.deletion_grace_period_seconds.unwrap_or(0) == 0
        && namespace_finalizers(object).is_empty()
}

/// What holds a namespace beside its metadata's finalizers.
pub(super) fn namespace_finalizers(object: &Object) -> &[String] {
    v1::Namespace::from_object_ref(object)
        .and_then(|ns| ns.spec.as_ref())
        .map_or(&[], |spec| &spec.finalizers)
}

fn spec_differs(a: &Object, b: &Object) -> bool {
    let bare = |object: &Object| {
        let mut object = object.clone();
        object.clear_status();
        *meta_of(&mut object) = ObjectMeta::default();
        object
    };
    bare(a) != bare(b)
}

/// Resets what the creator may not say; answers the prefix if the name is to be generated.
fn prepare_new(kind: Kind, object: &mut Object) -> Result<Option<String>, ApiError> {
    let given = object.key();
    let meta = meta_of(object);
    if !meta.resource_version.is_empty() {
        let rule = "resourceVersion should not be set on objects to be created";
        let violation = FieldViolation::new("metadata.resourceVersion", format!("Forbidden: {rule}"));
        return Err(ApiError::Invalid {
            kind,
            key: given,
            violations: vec![violation],
        });
    }
    if kind.namespaced() && meta.namespace.is_empty() {
        namespace_of(kind, "").clone_into(&mut meta.namespace);
    }
    meta.uid = uuid::Uuid::new_v4().to_string();
    meta.creation_timestamp = Some(causeway_proto::time::now());
    meta.deletion_timestamp = None;
    meta.deletion_grace_period_seconds = None;
    let has_spec = !matches!(kind, Kind::Endpoints | Kind::Event | Kind::Lease);
    meta.generation = i64::from(has_spec);
    let generate = meta.name.is_empty() && !meta.generate_name.is_empty();
    Ok(generate.then(|| meta.generate_name.clone()))
}

/// A name with a random end, short enough for a label.
fn generate_name(prefix: &str) -> String {
    let mut end = (GENERATED_NAME_MAX - NAME_SUFFIX_LEN).min(prefix.len());
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    let mut rng = rand::rng();
    let letter = |_| char::from(NAME_ALPHABET[rng.random_range(0..NAME_ALPHABET.len())]);
    prefix[..end].chars().chain((0..NAME_SUFFIX_LEN).map(letter)).collect()
}

pub(super) fn kind_of(object: &Object) -> Result<Kind, ApiError> {
    object.kind().ok_or_else(|| ApiError::BadRequest {
        field: "object",
        reason: "no kind is set".into(),
    })
}

/// Kind, name and preconditions of a request to change an object.
fn address_of(object: &Object) -> Result<(Kind, (String, String), Preconditions), ApiError> {
    let kind = kind_of(object)?;
    let meta = object.meta().cloned().unwrap_or_default();
    if meta.name.is_empty() {
        let violation = FieldViolation::new("metadata.name", "Required value: name is required");
        return Err(ApiError::Invalid {
            kind,
            key: String::new(),
            violations: vec![violation],
        });
    }
    let wanted = Preconditions {
        uid: meta.uid,
        resource_version: meta.resource_version,
    };
    Ok((kind, (meta.namespace, meta.name), wanted))
}

/// The metadata of an object whose kind is known to be set.
pub(super) fn meta_of(object: &mut Object) -> &mut ObjectMeta {
    object.meta_mut().expect("kind_of was asked before")
}

fn object_key(kind: Kind, object: &Object) -> String {
    let (namespace, name) = object.meta().map_or(("", ""), |meta| (&meta.namespace, &meta.name));
    stored::key(kind, namespace, name)
}

fn set_version(object: &mut Object, revision: Revision) {
    meta_of(object).resource_version = revision.to_string();
}

pub(super) fn invalid(kind: Kind, object: &Object, violations: Vec<FieldViolation>) -> ApiError {
    let (namespace, name) = object.meta().map_or(("", ""), |meta| (&meta.namespace, &meta.name));
    ApiError::Invalid {
        kind,
        key: key_of(namespace, name),
        violations,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_fit_a_label() {
        let name = generate_name("web-");
        assert!(name.starts_with("web-") && name.len() == 9, "{name}");
        assert_eq!(generate_name(&"a".repeat(100)).len(), 63);
        assert_ne!(generate_name("web-"), generate_name("web-"));
    }
}
