//! What the global options say.

use std::path::Path;

use causeway_proto::{Kind, client::Client};
use clap::Args;

use crate::error::CliError;

/// Where the development cluster's control plane listens.
const DEVELOPMENT_SOCKET: &str = "/run/causeway/dev/control.sock";
/// Where the control planes of this machine's clusters have their sockets.
const RUN_DIR: &str = "/run/causeway";
/// Where a control plane listens by default.
const DEFAULT_SERVER: &str = "http://127.0.0.1:6550";
/// Where objects live unless something else is said.
const DEFAULT_NAMESPACE: &str = "default";

/// Options of every command that talks to the control plane.
#[derive(Debug, Args)]
pub struct GlobalArgs {
    #[arg(
        help = "Address of the control plane: http://HOST:PORT or unix:///PATH",
        long_help = "Address of the control plane: http://HOST:PORT or unix:///PATH\n\nDefault: the development cluster's \
                     socket when it exists, else http://127.0.0.1:6550.",
        short,
        long,
        global = true,
        env = "CAUSEWAY_SERVER",
        value_name = "ADDRESS",
        hide_env_values = true
    )]
    server: Option<String>,

    /// Namespace to work in [default: default]
    #[arg(short, long, global = true)]
    namespace: Option<String>,
}

impl GlobalArgs {
    /// A client and a namespace. Connects when it is first used.
    pub fn context(&self) -> Result<Context, CliError> {
        self.context_of(None)
    }

    /// The same for a cluster of this machine, whose control plane may have a socket here.
    pub fn context_of(&self, cluster: Option<&str>) -> Result<Context, CliError> {
        let socket = cluster.map(|cluster| Path::new(RUN_DIR).join(cluster).join("control.sock"));
        let server = match &self.server {
            Some(server) => server.clone(),
            None if socket.as_ref().is_some_and(|socket| socket.exists()) => {
                format!("unix://{}", socket.unwrap_or_default().display())
            }
            None if Path::new(DEVELOPMENT_SOCKET).exists() => format!("unix://{DEVELOPMENT_SOCKET}"),
            None => DEFAULT_SERVER.to_owned(),
        };
        Ok(Context {
            client: Client::connect(&server)?,
            given_namespace: self.namespace.clone(),
        })
    }
}

impl GlobalArgs {
    /// The namespace.
    pub fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE)
    }
}

/// Whom to talk to, and about which namespace.
#[derive(Clone, Debug)]
pub struct Context {
    /// The control plane.
    pub client: Client,
    /// The namespace, when one was given.
    pub given_namespace: Option<String>,
}

impl Context {
    /// The namespace.
    pub fn namespace(&self) -> &str {
        self.given_namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE)
    }

    /// The namespace of an object of this kind: none for kinds of the cluster.
    pub fn namespace_of(&self, kind: Kind) -> &str {
        if kind.namespaced() { self.namespace() } else { "" }
    }
}
