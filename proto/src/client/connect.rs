//! Where the control plane is, and the channel to it.

use std::{sync::Arc, time::Duration};

use thiserror::Error;
use tonic::transport::{Channel, Endpoint};

use crate::v1::{object_service_client::ObjectServiceClient, version_service_client::VersionServiceClient};

/// Longest wait for a TCP connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// An idle connection is tried this often, and given up when no answer comes in [`KEEPALIVE_TIMEOUT`]; so a watch does
/// not hang on a peer that vanished without a word.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// A target that cannot be one.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// Neither of the two known schemes.
    #[error("control plane address \"{0}\" must begin with http:// or unix:///")]
    Scheme(String),
    /// Not a URI.
    #[error("control plane address \"{target}\" is not a URI")]
    Uri {
        /// The address.
        target: String,
        /// What is wrong with it.
        source: tonic::transport::Error,
    },
}

/// A client of the control plane. Cheap to clone; clones share one connection.
#[derive(Clone, Debug)]
pub struct Client {
    target: Arc<str>,
    service: ObjectServiceClient<Channel>,
    version: VersionServiceClient<Channel>,
}

impl Client {
    /// A client of the control plane at `http://host:port` or `unix:///path`. Connects on first use and reconnects by
    /// itself. Needs a tokio runtime.
    pub fn connect(target: &str) -> Result<Self, ConnectError> {
        if !(target.starts_with("http://") || target.starts_with("unix:///")) {
            return Err(ConnectError::Scheme(target.to_owned()));
        }
        let endpoint = Endpoint::from_shared(target.to_owned())
            .map_err(|source| ConnectError::Uri {
                target: target.to_owned(),
                source,
            })?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        Ok(Self::over(endpoint.connect_lazy(), target))
    }

    /// A client over a channel made elsewhere; `target` names the other end in errors.
    pub fn over(channel: Channel, target: &str) -> Self {
        Self {
            target: target.into(),
            service: ObjectServiceClient::new(channel.clone()).max_decoding_message_size(usize::MAX),
            version: VersionServiceClient::new(channel),
        }
    }

    /// Where the control plane is.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The generated stub; a clone, because its methods take it mutably.
    pub(super) fn service(&self) -> ObjectServiceClient<Channel> {
        self.service.clone()
    }

    /// The same for the service that tells the version.
    pub(super) fn version_service(&self) -> VersionServiceClient<Channel> {
        self.version.clone()
    }
}
