//! The API's verbs over objects of any kind.

use std::{fmt, time::Duration};

use serde_json::Value;
use tonic::{Request, Status, Streaming};

use super::{Client, ClientError, DeleteOptions, ListOptions};
use crate::{
    kind::Kind,
    v1::{
        ApplyRequest, BindRequest, CreateRequest, DeleteRequest, GetRequest, GetVersionRequest, ListRequest, Object,
        ObjectList, PatchRequest, Preconditions, ScaleRequest, UpdateRequest, WatchEvent, WatchRequest,
        apply_response::Outcome, patch_request,
    },
};

/// Longest wait for an answer that is not a stream.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Items a page of a list.
const PAGE_ITEMS: i32 = 500;
/// How often a list is begun again because its revision was compacted between two pages.
const LIST_ATTEMPTS: usize = 3;

/// What `apply` did.
#[derive(Clone, PartialEq, Debug)]
pub struct Applied {
    /// The object as it is now.
    pub object: Object,
    /// Created, configured or unchanged.
    pub outcome: Outcome,
}

/// Events of a watch, until it breaks.
pub struct WatchStream {
    events: Streaming<WatchEvent>,
    target: String,
}

impl WatchStream {
    /// The next event; `None` when the control plane ended the watch. Cancel-safe.
    pub async fn next(&mut self) -> Result<Option<WatchEvent>, ClientError> {
        self.events
            .message()
            .await
            .map_err(|status| ClientError::from_status(&self.target, &status))
    }
}

impl fmt::Debug for WatchStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchStream")
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// Reads one object.
    pub async fn get_object(&self, kind: Kind, namespace: &str, name: &str) -> Result<Object, ClientError> {
        let request = GetRequest {
            kind: kind.name().into(),
            namespace: namespace.into(),
            name: name.into(),
        };
        self.answer(self.service().get(call(request)).await)
    }

    /// Reads all objects of a kind, page by page at one revision.
    pub async fn list_objects(&self, kind: Kind, options: &ListOptions) -> Result<ObjectList, ClientError> {
        let mut attempt = 1;
        loop {
            match self.list_pages(kind, options).await {
                Err(error) if error.is_expired() && attempt < LIST_ATTEMPTS => attempt += 1,
                answer => return answer,
            }
        }
    }

    async fn list_pages(&self, kind: Kind, options: &ListOptions) -> Result<ObjectList, ClientError> {
        let mut list = ObjectList::default();
        loop {
            let request = ListRequest {
                kind: kind.name().into(),
                namespace: options.namespace.clone(),
                label_selector: options.label_selector.clone(),
                field_selector: options.field_selector.clone(),
                limit: PAGE_ITEMS,
                r#continue: std::mem::take(&mut list.r#continue),
            };
            let page = self.answer(self.service().list(call(request)).await)?;
            list.items.extend(page.items);
            list.resource_version = page.resource_version;
            list.r#continue = page.r#continue;
            if list.r#continue.is_empty() {
                return Ok(list);
            }
        }
    }

    /// Starts a watch after `resource_version`; without one, the present objects come first.
    pub async fn watch_objects(
        &self,
        kind: Kind,
        options: &ListOptions,
        resource_version: &str,
    ) -> Result<WatchStream, ClientError> {
        let request = WatchRequest {
            kind: kind.name().into(),
            namespace: options.namespace.clone(),
            label_selector: options.label_selector.clone(),
            field_selector: options.field_selector.clone(),
            resource_version: resource_version.into(),
        };
        let events = self.answer(self.service().watch(request).await)?;
        Ok(WatchStream {
            events,
            target: self.target().to_owned(),
        })
    }

    /// Creates an object; answers it as stored.
    pub async fn create_object(&self, object: Object) -> Result<Object, ClientError> {
        let request = CreateRequest {
            object: Some(object),
            dry_run: false,
        };
        self.answer(self.service().create(call(request)).await)
    }

    /// Replaces all but the status. A resource version in the metadata makes it a compare-and-swap.
    pub async fn update_object(&self, object: Object) -> Result<Object, ClientError> {
        let request = UpdateRequest {
            object: Some(object),
            dry_run: false,
        };
        self.answer(self.service().update(call(request)).await)
    }

    /// Replaces the status alone.
    pub async fn update_object_status(&self, object: Object) -> Result<Object, ClientError> {
        let request = UpdateRequest {
            object: Some(object),
            dry_run: false,
        };
        self.answer(self.service().update_status(call(request)).await)
    }

    /// Merges JSON into an object (RFC 7386): `null` removes a field.
    pub async fn patch_merge_object(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        patch: &Value,
        preconditions: Option<Preconditions>,
    ) -> Result<Object, ClientError> {
        let request = PatchRequest {
            kind: kind.name().into(),
            namespace: namespace.into(),
            name: name.into(),
            r#type: patch_request::Type::Merge.into(),
            patch: patch.to_string(),
            preconditions,
            dry_run: false,
        };
        self.answer(self.service().patch(call(request)).await)
    }

    /// Creates an object, or merges it into the one that is there, as `kubectl apply` does. `manifest` is the object as
    /// the user wrote it, `apiVersion` and `kind` included.
    pub async fn apply(&self, manifest: &Value) -> Result<Applied, ClientError> {
        let request = ApplyRequest {
            manifest: manifest.to_string(),
            dry_run: false,
        };
        let answer = self.answer(self.service().apply(call(request)).await)?;
        let outcome = answer.outcome();
        Ok(Applied {
            object: answer.object.unwrap_or_default(),
            outcome,
        })
    }

    /// Deletes an object, or asks for its graceful end; answers it as it was last seen.
    pub async fn delete_object(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Object, ClientError> {
        let request = DeleteRequest {
            kind: kind.name().into(),
            namespace: namespace.into(),
            name: name.into(),
            preconditions: options.preconditions.clone(),
            grace_period_seconds: options.grace_period_seconds,
            propagation_policy: options.propagation.name().into(),
        };
        self.answer(self.service().delete(call(request)).await)
    }

    /// Sets the replica count of a scalable kind; refused when the present count differs from `current`.
    pub async fn scale_object(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        replicas: i32,
        current: Option<i32>,
    ) -> Result<Object, ClientError> {
        let request = ScaleRequest {
            kind: kind.name().into(),
            namespace: namespace.into(),
            name: name.into(),
            replicas,
            current_replicas: current,
        };
        self.answer(self.service().scale(call(request)).await)
    }

    /// Assigns a pending pod to a node. Refused when the pod of that name has another uid.
    pub async fn bind(&self, namespace: &str, pod: &str, uid: &str, node: &str) -> Result<Object, ClientError> {
        let request = BindRequest {
            namespace: namespace.into(),
            pod: pod.into(),
            uid: uid.into(),
            node: node.into(),
        };
        self.answer(self.service().bind(call(request)).await)
    }

    /// The control plane's version, as in "0.1.0".
    pub async fn server_version(&self) -> Result<String, ClientError> {
        let answer = self.version_service().get_version(call(GetVersionRequest {})).await;
        self.answer(answer).map(|answer| answer.version)
    }

    fn answer<T>(&self, answer: Result<tonic::Response<T>, Status>) -> Result<T, ClientError> {
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| ClientError::from_status(self.target(), &status))
    }
}

/// A request that must be answered in time.
fn call<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_TIMEOUT);
    request
}
