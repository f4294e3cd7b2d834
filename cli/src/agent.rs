//! The client of a node's agent: its inspection service.

use std::{error::Error as _, time::Duration};

use causeway_maps::view::{EventFilter, ExplainView, Reading, Request};
use causeway_proto::v1::{
    CheckRequest, CheckResponse, ExplainRequest, MonitorRequest, MonitorResponse, NamesRequest, NamesResponse,
    ReadRequest, inspection_service_client::InspectionServiceClient,
};
use tonic::{
    Status, Streaming,
    transport::{Channel, Endpoint},
};

use crate::error::CliError;

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest wait for an answer, beside what was asked to take time.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// A node's agent. Connects when it is first used.
#[derive(Clone, Debug)]
pub struct Agent {
    node: String,
    target: String,
    client: InspectionServiceClient<Channel>,
}

impl Agent {
    /// The agent at `http://host:port` or `unix:///path`.
    pub fn at(node: &str, target: &str) -> Result<Self, CliError> {
        let endpoint = Endpoint::from_shared(target.to_owned()).map_err(|error| CliError::Agent {
            node: node.to_owned(),
            target: target.to_owned(),
            problem: error.to_string(),
        })?;
        let channel = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(5))
            .connect_lazy();
        Ok(Self {
            node: node.to_owned(),
            target: target.to_owned(),
            client: InspectionServiceClient::new(channel).max_decoding_message_size(usize::MAX),
        })
    }

    /// Reads maps or programs.
    pub async fn read(&self, request: &Request) -> Result<Reading, CliError> {
        let message = ReadRequest {
            request: serde_json::to_string(request).expect("requests are plain data"),
        };
        let within = CALL_TIMEOUT + request.sample.unwrap_or_default();
        let answer = self.answer(self.client.clone().read(call(message, within)).await)?;
        serde_json::from_slice(&answer.reading).map_err(|source| self.not_understood(source))
    }

    /// Tries a packet out.
    pub async fn explain(&self, request: ExplainRequest) -> Result<ExplainView, CliError> {
        let answer = self.answer(self.client.clone().explain(call(request, CALL_TIMEOUT)).await)?;
        serde_json::from_slice(&answer.explanation).map_err(|source| self.not_understood(source))
    }

    /// Compares the node with what the cluster wants.
    pub async fn check(&self) -> Result<CheckResponse, CliError> {
        self.answer(self.client.clone().check(call(CheckRequest {}, CALL_TIMEOUT)).await)
    }

    /// Names for addresses.
    pub async fn names(&self) -> Result<NamesResponse, CliError> {
        let request = call(NamesRequest {}, CONNECT_TIMEOUT);
        self.answer(self.client.clone().names(request).await)
    }

    /// Follows events.
    pub async fn monitor(&self, packets: bool, filter: &EventFilter) -> Result<Streaming<MonitorResponse>, CliError> {
        let request = MonitorRequest {
            packets,
            filter: serde_json::to_string(filter).expect("filters are plain data"),
        };
        self.answer(self.client.clone().monitor(request).await)
    }

    /// What a status in the middle of a stream means.
    pub fn failed(&self, status: &Status) -> CliError {
        let mut problem = status.message().to_owned();
        let mut source = status.source();
        let no_answer = source.is_some();
        while let Some(cause) = source {
            problem = cause.to_string();
            source = cause.source();
        }
        if no_answer {
            problem.push_str("; is it running?");
        }
        CliError::Agent {
            node: self.node.clone(),
            target: self.target.clone(),
            problem,
        }
    }

    fn answer<T>(&self, answer: Result<tonic::Response<T>, Status>) -> Result<T, CliError> {
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.failed(&status))
    }

    fn not_understood(&self, source: serde_json::Error) -> CliError {
        CliError::Answer {
            node: self.node.clone(),
            source,
        }
    }
}

fn call<T>(message: T, within: Duration) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(within);
    request
}
