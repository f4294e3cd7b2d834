//! Changing objects by JSON: patches, and apply's three-way merge.

use std::str::FromStr;

use causeway_proto::{
    Kind,
    manifest::{self, ManifestError, ManifestErrors},
    v1::{Object, Preconditions, apply_response::Outcome, patch_request},
};
use json_patch::PatchErrorKind;
use serde_json::Value;
use tonic_types::FieldViolation;

use super::{
    ApiError, Registry,
    merge::three_way,
    registry::namespace_of,
    stored,
    write::{Decision, kind_of, meta_of, replace},
};
use crate::admission::Settings;

/// Holds the manifest that was applied last, as JSON.
pub const LAST_APPLIED: &str = "causeway.dev/last-applied-configuration";

impl Registry {
    /// Changes an object by a JSON patch (RFC 6902) or merge patch (RFC 7386).
    #[expect(clippy::too_many_arguments, reason = "the fields of PatchRequest")]
    pub async fn patch(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        patch_type: patch_request::Type,
        patch: &str,
        preconditions: &Preconditions,
        dry_run: bool,
    ) -> Result<Object, ApiError> {
        let patch = Patch::parse(patch_type, patch)?;
        self.mutate(kind, namespace, name, preconditions, dry_run, |old| {
            let mut document = manifest::to_json(old);
            patch.apply(kind, old, &mut document)?;
            let new = from_json(kind, document)?;
            refuse_other_version(kind, &new, old)?;
            replace(kind, new, old, self.settings())
        })
        .await
    }

    /// Creates, or three-way merges; `manifest` is one object as JSON text.
    pub async fn apply(&self, manifest: &str, dry_run: bool) -> Result<(Object, Outcome), ApiError> {
        let given = Given::parse(manifest)?;
        loop {
            match Box::pin(self.merge_into_present(&given, dry_run)).await {
                Err(error) if error.is_not_found() => {}
                done => return done,
            }
            match Box::pin(self.create(given.object.clone(), dry_run)).await {
                // Someone else was faster: it is merged after all.
                Err(error) if error.is_already_exists() => {}
                created => return created.map(|object| (object, Outcome::Created)),
            }
        }
    }

    async fn merge_into_present(&self, given: &Given, dry_run: bool) -> Result<(Object, Outcome), ApiError> {
        let mut outcome = Outcome::Unchanged;
        let (kind, name) = (given.kind, &given.name);
        let object = self
            .mutate(kind, &given.namespace, name, &given.preconditions, dry_run, |old| {
                let decision = given.merge_into(old, self.settings())?;
                let changes = match &decision {
                    Decision::Put(new) => stored::encode(new) != stored::encode(old),
                    Decision::Remove => true,
                    Decision::Keep => false,
                };
                outcome = if changes {
                    Outcome::Configured
                } else {
                    Outcome::Unchanged
                };
                Ok(decision)
            })
            .await?;
        Ok((object, outcome))
    }
}

/// A patch, read.
enum Patch {
    Merge(Value),
    Json(json_patch::Patch),
}

impl Patch {
    fn parse(patch_type: patch_request::Type, text: &str) -> Result<Self, ApiError> {
        let bad = |error: serde_json::Error| ApiError::BadRequest {
            field: "patch",
            reason: error.to_string(),
        };
        match patch_type {
            patch_request::Type::Merge => match serde_json::from_str(text).map_err(bad)? {
                Value::Object(object) => Ok(Self::Merge(Value::Object(object))),
                _ => Err(ApiError::BadRequest {
                    field: "patch",
                    reason: "a merge patch must be a JSON object".into(),
                }),
            },
            patch_request::Type::Json => serde_json::from_str(text).map(Self::Json).map_err(bad),
            patch_request::Type::Unspecified => Err(ApiError::BadRequest {
                field: "type",
                reason: "must be MERGE or JSON".into(),
            }),
        }
    }

    fn apply(&self, kind: Kind, old: &Object, document: &mut Value) -> Result<(), ApiError> {
        match self {
            Self::Merge(patch) => json_patch::merge(document, patch),
            Self::Json(patch) => json_patch::patch(document, patch).map_err(|error| match error.kind {
                PatchErrorKind::TestFailed => ApiError::FailedPrecondition {
                    kind,
                    key: old.key(),
                    reason: format!("the patch's {error}"),
                },
                _ => ApiError::BadRequest {
                    field: "patch",
                    reason: error.to_string(),
                },
            })?,
        }
        Ok(())
    }
}

/// A manifest to be applied.
struct Given {
    /// As the user wrote it, without status.
    json: Value,
    /// Read strictly, with the annotation that keeps `json`.
    object: Object,
    kind: Kind,
    namespace: String,
    name: String,
    preconditions: Preconditions,
}

impl Given {
    fn parse(text: &str) -> Result<Self, ApiError> {
        let mut json: Value = serde_json::from_str(text).map_err(|error| ApiError::BadRequest {
            field: "manifest",
            reason: error.to_string(),
        })?;
        let mut object = manifest::from_json(json.clone()).map_err(malformed)?;
        let kind = kind_of(&object)?;
        object.clear_status();
        let meta = meta_of(&mut object);
        if meta.name.is_empty() {
            let violation = FieldViolation::new(
                "metadata.name",
                "Required value: apply needs a name; generateName is for create",
            );
            return Err(ApiError::Invalid {
                kind,
                key: String::new(),
                violations: vec![violation],
            });
        }
        let namespace = namespace_of(kind, &meta.namespace).to_owned();
        let preconditions = Preconditions {
            uid: std::mem::take(&mut meta.uid),
            resource_version: std::mem::take(&mut meta.resource_version),
        };
        forget_server_fields(&mut json);
        meta.annotations.insert(LAST_APPLIED.to_owned(), json.to_string());
        let name = meta.name.clone();
        Ok(Self {
            json,
            object,
            kind,
            namespace,
            name,
            preconditions,
        })
    }

    fn merge_into(&self, old: &Object, settings: &Settings) -> Result<Decision, ApiError> {
        let current = manifest::to_json(old);
        let last = old.meta().and_then(|meta| meta.annotations.get(LAST_APPLIED));
        // An annotation that someone has broken counts as none.
        let original = last
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or(Value::Null);
        let merged = three_way(&original, &self.json, &current);
        let mut new = from_json(self.kind, merged)?;
        let annotation = self.json.to_string();
        meta_of(&mut new)
            .annotations
            .insert(LAST_APPLIED.to_owned(), annotation);
        replace(self.kind, new, old, settings)
    }
}

/// Takes out what is not the user's to say, so that a manifest that was read from the API can be applied.
fn forget_server_fields(json: &mut Value) {
    let Value::Object(fields) = json else { return };
    fields.remove("status");
    let Some(Value::Object(meta)) = fields.get_mut("metadata") else {
        return;
    };
    for field in [
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        meta.remove(field);
    }
    if let Some(Value::Object(annotations)) = meta.get_mut("annotations") {
        annotations.remove(LAST_APPLIED);
    }
}

/// The kind that a manifest names, for counting.
pub(super) fn kind_of_manifest(text: &str) -> Option<Kind> {
    #[derive(serde::Deserialize)]
    struct Head {
        kind: String,
    }
    let head: Head = serde_json::from_str(text).ok()?;
    Kind::from_str(&head.kind).ok()
}

fn from_json(kind: Kind, document: Value) -> Result<Object, ApiError> {
    let new = manifest::from_json(document).map_err(malformed)?;
    if new.kind() != Some(kind) {
        return Err(ApiError::BadRequest {
            field: "patch",
            reason: "kind and apiVersion cannot be changed".into(),
        });
    }
    Ok(new)
}

/// A patch may name the version that it is meant for.
fn refuse_other_version(kind: Kind, new: &Object, old: &Object) -> Result<(), ApiError> {
    let version = |object: &Object| {
        object
            .meta()
            .map(|meta| meta.resource_version.clone())
            .unwrap_or_default()
    };
    let (wanted, actual) = (version(new), version(old));
    if wanted.is_empty() || wanted == actual {
        return Ok(());
    }
    Err(ApiError::Conflict {
        kind,
        key: old.key(),
        expected: wanted,
        actual,
    })
}

/// Every unknown field and every value of a wrong type.
fn malformed(errors: ManifestErrors) -> ApiError {
    let what = errors
        .errors()
        .iter()
        .find_map(|error| error.object.clone())
        .unwrap_or_else(|| "the manifest".to_owned());
    let violation = |error: ManifestError| FieldViolation::new(error.path.to_string(), error.problem);
    ApiError::Malformed {
        what,
        violations: errors.into_iter().map(violation).collect(),
    }
}
