//! The node's inspection service (`causeway.v1.InspectionService`): what its maps hold, what happens to packets, and whether
//! both are as the cluster wants them.
//!
//! Nothing here changes what happens to a packet.

mod check;
mod hub;
mod names;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    pin::Pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

use causeway_maps::{
    PinnedMaps, Protocol,
    dry_run::{self, Probe},
    view::{self, EventFilter},
};
use causeway_proto::v1::{
    CheckRequest, CheckResponse, ExplainRequest, ExplainResponse, MonitorRequest, MonitorResponse, NamesRequest,
    NamesResponse, ReadRequest, ReadResponse, inspection_service_server::InspectionService,
};
use futures::Stream;
use tonic::{Request, Response, Status};

use self::hub::Hub;
use crate::reconcile::{datapath::Driver, pods::chain};

/// Programs are sampled no longer than this for one request.
const LONGEST_SAMPLE: Duration = Duration::from_mins(1);

/// What the service works with, once the data path is open.
#[derive(Clone)]
pub struct Inspector {
    /// The node's pins.
    pub pin_dir: PathBuf,
    /// Knows what the maps should hold.
    pub driver: Driver,
}

/// The service. Answers UNAVAILABLE until it is given an [`Inspector`].
#[derive(Clone, Default)]
pub struct Inspection {
    inner: Arc<OnceLock<(Inspector, Hub)>>,
}

impl std::fmt::Debug for Inspection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inspection")
            .field("open", &self.inner.get().is_some())
            .finish()
    }
}

impl Inspection {
    /// Begins to answer.
    pub fn open(&self, inspector: Inspector) {
        let hub = Hub::new(inspector.pin_dir.clone());
        // Opened once, by the agent's start.
        let _ = self.inner.set((inspector, hub));
    }

    fn get(&self) -> Result<&(Inspector, Hub), Status> {
        self.inner
            .get()
            .ok_or_else(|| Status::unavailable("the node's data path is not open yet"))
    }
}

#[tonic::async_trait]
impl InspectionService for Inspection {
    type MonitorStream = Pin<Box<dyn Stream<Item = Result<MonitorResponse, Status>> + Send>>;

    async fn read(&self, request: Request<ReadRequest>) -> Result<Response<ReadResponse>, Status> {
        let (inspector, _) = self.get()?;
        let request: view::Request = parse(&request.get_ref().request)?;
        if request.sample.is_some_and(|sample| sample > LONGEST_SAMPLE) {
            return Err(Status::invalid_argument(format!(
                "statistics are sampled for {}s at most",
                LONGEST_SAMPLE.as_secs()
            )));
        }
        let dir = inspector.pin_dir.clone();
        let reading = blocking(move || view::read(&dir, &request)).await?;
        Ok(Response::new(ReadResponse {
            reading: json(&reading)?,
        }))
    }

    async fn monitor(&self, request: Request<MonitorRequest>) -> Result<Response<Self::MonitorStream>, Status> {
        let (_, hub) = self.get()?;
        let request = request.into_inner();
        let filter: EventFilter = if request.filter.is_empty() {
            EventFilter::default()
        } else {
            parse(&request.filter)?
        };
        let subscription = hub
            .subscribe(request.packets)
            .map_err(|error| Status::failed_precondition(chain(&error)))?;
        Ok(Response::new(Box::pin(subscription.into_stream(filter))))
    }

    async fn explain(&self, request: Request<ExplainRequest>) -> Result<Response<ExplainResponse>, Status> {
        let (inspector, _) = self.get()?;
        let probe = probe(request.get_ref())?;
        let dir = inspector.pin_dir.clone();
        let explanation = blocking(move || {
            let mut maps = PinnedMaps::open(&dir)?;
            dry_run::explain(&mut maps, &probe)
        })
        .await?;
        Ok(Response::new(ExplainResponse {
            explanation: json(&explanation)?,
        }))
    }

    async fn check(&self, _: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let (inspector, _) = self.get()?;
        check::check(inspector).await.map(Response::new)
    }

    async fn names(&self, _: Request<NamesRequest>) -> Result<Response<NamesResponse>, Status> {
        let (inspector, _) = self.get()?;
        Ok(Response::new(names::names(&inspector.driver.watches)))
    }
}

fn probe(request: &ExplainRequest) -> Result<Probe, Status> {
    let address = |text: &str, port: u32| -> Result<SocketAddr, Status> {
        let ip: IpAddr = text
            .parse()
            .map_err(|_| Status::invalid_argument(format!("\"{text}\" is no IP address")))?;
        let port = u16::try_from(port).map_err(|_| Status::invalid_argument(format!("{port} is no port")))?;
        Ok(SocketAddr::new(ip, port))
    };
    Ok(Probe {
        source: address(&request.source, request.source_port)?,
        destination: address(&request.destination, request.destination_port)?,
        protocol: Protocol::from_name(&request.protocol)
            .ok_or_else(|| Status::invalid_argument(format!("\"{}\" is neither TCP nor UDP", request.protocol)))?,
    })
}

fn parse<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, Status> {
    serde_json::from_str(text).map_err(|error| Status::invalid_argument(format!("request not understood: {error}")))
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>, Status> {
    serde_json::to_vec(value).map_err(|error| Status::internal(format!("answer not written: {error}")))
}

/// Does what makes system calls without holding up others.
async fn blocking<T: Send + 'static, E: std::error::Error + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, Status> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Status::internal(error.to_string()))?
        .map_err(|error| Status::internal(chain(&error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_that_make_no_sense_are_refused_by_name() {
        let request = ExplainRequest {
            source: "10.0.0.1".into(),
            source_port: 40_000,
            destination: "web".into(),
            destination_port: 80,
            protocol: "TCP".into(),
        };
        let message = |request: &ExplainRequest| probe(request).unwrap_err().message().to_owned();
        assert_eq!(message(&request), "\"web\" is no IP address");
        let mut other = request.clone();
        other.destination = "10.0.0.2".into();
        assert!(probe(&other).is_ok());
        other.destination_port = 70_000;
        assert_eq!(message(&other), "70000 is no port");
        other.destination_port = 80;
        other.protocol = "SCTP".into();
        assert_eq!(message(&other), "\"SCTP\" is neither TCP nor UDP");
    }

    #[tokio::test]
    async fn before_the_data_path_is_open_the_answer_is_unavailable() {
        let answer = Inspection::default().names(Request::new(NamesRequest {})).await;
        assert_eq!(answer.unwrap_err().code(), tonic::Code::Unavailable);
    }
}
