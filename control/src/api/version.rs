//! Tells which control plane this is.

use causeway_proto::v1::{GetVersionRequest, GetVersionResponse, version_service_server::VersionService};
use tonic::{Request, Response, Status};

/// The version this was built as.
#[derive(Clone, Copy, Debug)]
pub struct VersionApi;

#[tonic::async_trait]
impl VersionService for VersionApi {
    async fn get_version(&self, _: Request<GetVersionRequest>) -> Result<Response<GetVersionResponse>, Status> {
        Ok(Response::new(GetVersionResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }))
    }
}
