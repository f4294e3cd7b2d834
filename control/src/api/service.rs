//! The gRPC service: requests in, answers out, both counted.

use std::{str::FromStr, sync::Arc, time::Instant};

use causeway_proto::{
    Kind,
    v1::{
        ApplyRequest, ApplyResponse, BindRequest, CreateRequest, DeleteRequest, GetRequest, ListRequest, Object,
        ObjectList as ObjectListMessage, PatchRequest, ScaleRequest, UpdateRequest, WatchEvent, WatchRequest,
        object_service_server::ObjectService, patch_request,
    },
};
use futures::{Stream, StreamExt, stream, stream::BoxStream};
use tonic::{Code, Request, Response, Status};

use super::{ApiError, DeleteOptions, ListOptions, Propagation, Registry, WatchOptions, options::parse_revision};
use crate::metrics::Metrics;

/// Serves objects of a registry.
#[derive(Clone)]
pub struct ObjectApi {
    registry: Registry,
    metrics: Arc<Metrics>,
}

impl ObjectApi {
    /// Serves `registry` and counts in `metrics`.
    pub fn new(registry: Registry, metrics: Arc<Metrics>) -> Self {
        Self { registry, metrics }
    }

    /// Counts a request and translates its error.
    async fn answer<T>(
        &self,
        verb: &'static str,
        kind: Option<Kind>,
        work: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<Response<T>, Status> {
        let start = Instant::now();
        let result = work.await;
        let code = result.as_ref().map_or_else(ApiError::code, |_| Code::Ok);
        self.metrics.request(verb, kind, code, start.elapsed());
        match result {
            Ok(answer) => Ok(Response::new(answer)),
            Err(error) => {
                if matches!(code, Code::Unavailable | Code::DataLoss) {
                    tracing::warn!(verb, ?kind, error = &error as &dyn std::error::Error, "request failed");
                } else {
                    tracing::debug!(verb, ?kind, %error, "request refused");
                }
                Err(error.into())
            }
        }
    }
}

fn parse_kind(text: &str) -> Result<Kind, ApiError> {
    Kind::from_str(text).map_err(|error| ApiError::BadRequest {
        field: "kind",
        reason: error.to_string(),
    })
}

fn require_name(field: &'static str, name: &str) -> Result<(), ApiError> {
    if name.is_empty() {
        return Err(ApiError::BadRequest {
            field,
            reason: "must not be empty".into(),
        });
    }
    Ok(())
}

/// The kind of an object in a request, for counting.
fn kind_of(object: Option<&Object>) -> Option<Kind> {
    object.and_then(Object::kind)
}

fn require_object(object: Option<Object>) -> Result<Object, ApiError> {
    object.ok_or_else(|| ApiError::BadRequest {
        field: "object",
        reason: "must not be empty".into(),
    })
}

#[tonic::async_trait]
impl ObjectService for ObjectApi {
    async fn get(&self, request: Request<GetRequest>) -> Result<Response<Object>, Status> {
        let request = request.into_inner();
        let kind = parse_kind(&request.kind);
        self.answer("get", kind.as_ref().ok().copied(), async {
            require_name("name", &request.name)?;
            let object = self.registry.get(kind?, &request.namespace, &request.name).await?;
            Ok(Object::clone(&object))
        })
        .await
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ObjectListMessage>, Status> {
        let request = request.into_inner();
        let kind = parse_kind(&request.kind);
        self.answer("list", kind.as_ref().ok().copied(), async {
            let limit = usize::try_from(request.limit).map_err(|_| ApiError::BadRequest {
                field: "limit",
                reason: format!("{} is negative", request.limit),
            })?;
            let options = ListOptions {
                namespace: request.namespace,
                label_selector: request.label_selector,
                field_selector: request.field_selector,
                limit,
                continue_token: request.r#continue,
            };
            let list = self.registry.list(kind?, &options).await?;
            Ok(ObjectListMessage {
                resource_version: list.revision.to_string(),
                r#continue: list.continue_token,
                items: list.items.iter().map(|object| Object::clone(object)).collect(),
            })
        })
        .await
    }

    type WatchStream = BoxStream<'static, Result<WatchEvent, Status>>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let request = request.into_inner();
        let kind = parse_kind(&request.kind);
        self.answer("watch", kind.as_ref().ok().copied(), async {
            let options = WatchOptions {
                namespace: request.namespace,
                label_selector: request.label_selector,
                field_selector: request.field_selector,
                revision: parse_revision(&request.resource_version)?,
            };
            let watch = self.registry.watch(kind?, &options).await?;
            Ok(events(watch).boxed())
        })
        .await
    }

    async fn create(&self, request: Request<CreateRequest>) -> Result<Response<Object>, Status> {
        let CreateRequest { object, dry_run } = request.into_inner();
        self.answer("create", kind_of(object.as_ref()), async {
            Box::pin(self.registry.create(require_object(object)?, dry_run)).await
        })
        .await
    }

    async fn update(&self, request: Request<UpdateRequest>) -> Result<Response<Object>, Status> {
        let UpdateRequest { object, dry_run } = request.into_inner();
        self.answer("update", kind_of(object.as_ref()), async {
            self.registry.update(require_object(object)?, dry_run).await
        })
        .await
    }

    async fn update_status(&self, request: Request<UpdateRequest>) -> Result<Response<Object>, Status> {
        let UpdateRequest { object, dry_run } = request.into_inner();
        self.answer("update_status", kind_of(object.as_ref()), async {
            self.registry.update_status(require_object(object)?, dry_run).await
        })
        .await
    }

    async fn patch(&self, request: Request<PatchRequest>) -> Result<Response<Object>, Status> {
        let request = request.into_inner();
        let kind = parse_kind(&request.kind);
        self.answer("patch", kind.as_ref().ok().copied(), async {
            require_name("name", &request.name)?;
            let patch_type = patch_request::Type::try_from(request.r#type).unwrap_or_default();
            let preconditions = request.preconditions.unwrap_or_default();
            let (namespace, name) = (&request.namespace, &request.name);
            self.registry
                .patch(
                    kind?,
                    namespace,
                    name,
                    patch_type,
                    &request.patch,
                    &preconditions,
                    request.dry_run,
                )
                .await
        })
        .await
    }

    async fn apply(&self, request: Request<ApplyRequest>) -> Result<Response<ApplyResponse>, Status> {
        let request = request.into_inner();
        let kind = super::patch::kind_of_manifest(&request.manifest);
        self.answer("apply", kind, async {
            let (object, outcome) = self.registry.apply(&request.manifest, request.dry_run).await?;
            Ok(ApplyResponse {
                object: Some(object),
                outcome: outcome.into(),
            })
        })
        .await
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<Object>, Status> {
        let request = request.into_inner();
        let kind = parse_kind(&request.kind);
        self.answer("delete", kind.as_ref().ok().copied(), async {
            require_name("name", &request.name)?;
            let options = DeleteOptions {
                preconditions: request.preconditions.unwrap_or_default(),
                grace_period_seconds: request.grace_period_seconds,
                propagation: Propagation::parse(&request.propagation_policy)?,
            };
            self.registry
                .delete(kind?, &request.namespace, &request.name, &options)
                .await
        })
        .await
    }

    async fn bind(&self, request: Request<BindRequest>) -> Result<Response<Object>, Status> {
        let request = request.into_inner();
        self.answer("bind", Some(Kind::Pod), async {
            require_name("pod", &request.pod)?;
            require_name("node", &request.node)?;
            self.registry
                .bind(&request.namespace, &request.pod, &request.uid, &request.node)
                .await
        })
        .await
    }

    async fn scale(&self, request: Request<ScaleRequest>) -> Result<Response<Object>, Status> {
        let request = request.into_inner();
        let kind = parse_kind(&request.kind);
        self.answer("scale", kind.as_ref().ok().copied(), async {
            require_name("name", &request.name)?;
            let (replicas, current) = (request.replicas, request.current_replicas);
            self.registry
                .scale(kind?, &request.namespace, &request.name, replicas, current)
                .await
        })
        .await
    }
}

/// A watch as a stream: it is read only as fast as the client takes it.
fn events(watch: crate::cache::Watch) -> impl Stream<Item = Result<WatchEvent, Status>> {
    stream::unfold(watch, async |mut watch| {
        let event = watch.next().await?;
        Some((event.map_err(Status::from), watch))
    })
}
