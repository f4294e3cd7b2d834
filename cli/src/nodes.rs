//! Which nodes a command looks into, and how each is reached: by the pins on this machine, or through its agent.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use causeway_maps::{
    pins,
    view::{Reading, Request},
};
use causeway_proto::{
    client::ListOptions,
    v1::{self, Node as NodeObject},
};
use clap::Args;

use crate::{
    agent::Agent,
    context::{Context, GlobalArgs},
    error::CliError,
};

/// Where agents keep their state unless told otherwise, with the socket they are asked by.
const STATE_DIR: &str = "/var/lib/causeway";
/// Name of that socket.
const AGENT_SOCKET: &str = "agent.sock";

/// Options that choose nodes.
#[derive(Clone, Debug, Args)]
pub struct NodeArgs {
    /// Only this node, here or elsewhere [default: every node of this machine]
    #[arg(long)]
    pub node: Option<String>,

    /// Only this cluster [default: every cluster on this machine]
    #[arg(long)]
    pub cluster: Option<String>,

    /// Ask the nodes' agents, also where the maps are on this machine
    #[arg(long)]
    pub remote: bool,

    /// Where bpffs is mounted
    #[arg(long, value_name = "DIR", default_value = pins::BPFFS)]
    pub pins: PathBuf,
}

/// A node to look into.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its cluster; empty when only the control plane knows it.
    pub cluster: String,
    /// Its name.
    pub name: String,
    /// How it is reached.
    pub place: Place,
}

/// How a node is reached.
#[derive(Clone, Debug)]
pub enum Place {
    /// Its pins are in this directory.
    Pins(PathBuf),
    /// Its agent answers.
    Agent(Agent),
}

impl Node {
    /// Name in errors.
    pub fn title(&self) -> String {
        if self.cluster.is_empty() {
            self.name.clone()
        } else {
            format!("{} of cluster {}", self.name, self.cluster)
        }
    }

    /// Reads its maps or programs.
    pub async fn read(&self, request: &Request) -> Result<Reading, CliError> {
        match &self.place {
            Place::Pins(dir) => causeway_maps::view::read(dir, request).map_err(|error| CliError::NodeMaps {
                node: self.title(),
                source: Box::new(error),
            }),
            Place::Agent(agent) => agent.read(request).await,
        }
    }

    /// Its agent, by its socket on this machine or by its address in the API. It may turn out not to run.
    pub async fn agent(&self, context: &Context) -> Result<Agent, CliError> {
        match &self.place {
            Place::Agent(agent) => Ok(agent.clone()),
            Place::Pins(_) => match local_agent(&self.cluster, &self.name)? {
                Some(agent) => Ok(agent),
                None => remote_agent(context, &self.name).await,
            },
        }
    }
}

/// The nodes that the options leave, at least one.
pub async fn find(global: &GlobalArgs, args: &NodeArgs) -> Result<Vec<Node>, CliError> {
    let local = local(&args.pins)?;
    let chosen = choose(&local, args.cluster.as_deref(), args.node.as_deref());
    if !chosen.is_empty() {
        return if args.remote {
            through_agents(global, chosen).await
        } else {
            Ok(chosen)
        };
    }
    let context = global.context_of(args.cluster.as_deref())?;
    if let Some(name) = &args.node {
        return match remote_agent(&context, name).await {
            Ok(agent) => Ok(vec![elsewhere(args, name, agent)]),
            Err(error) => Err(not_here(&local, args, Some(&error))),
        };
    }
    if args.remote {
        let objects = context.client.list::<NodeObject>(&ListOptions::default()).await?;
        let names = objects
            .items
            .iter()
            .filter_map(|node| Some(&node.metadata.as_ref()?.name));
        let mut nodes = Vec::new();
        for name in names {
            nodes.push(elsewhere(args, name, remote_agent(&context, name).await?));
        }
        if !nodes.is_empty() {
            return Ok(nodes);
        }
    }
    Err(not_here(&local, args, None))
}

fn elsewhere(args: &NodeArgs, name: &str, agent: Agent) -> Node {
    Node {
        cluster: args.cluster.clone().unwrap_or_default(),
        name: name.to_owned(),
        place: Place::Agent(agent),
    }
}

/// The nodes with pins on this machine.
fn local(bpffs: &Path) -> Result<Vec<Node>, CliError> {
    let found = pins::discover(bpffs).map_err(|source| CliError::Pins {
        path: bpffs.to_owned(),
        source,
    })?;
    let node = |one: pins::PinnedNode| Node {
        cluster: one.cluster,
        name: one.node,
        place: Place::Pins(one.dir),
    };
    Ok(found.into_iter().map(node).collect())
}

async fn through_agents(global: &GlobalArgs, nodes: Vec<Node>) -> Result<Vec<Node>, CliError> {
    let mut asked = Vec::new();
    for node in nodes {
        let agent = node.agent(&global.context_of(Some(&node.cluster))?).await?;
        asked.push(Node {
            place: Place::Agent(agent),
            ..node
        });
    }
    Ok(asked)
}

fn choose(all: &[Node], cluster: Option<&str>, node: Option<&str>) -> Vec<Node> {
    let wanted =
        |one: &&Node| cluster.is_none_or(|cluster| one.cluster == cluster) && node.is_none_or(|node| one.name == node);
    all.iter().filter(wanted).cloned().collect()
}

fn not_here(local: &[Node], args: &NodeArgs, elsewhere: Option<&CliError>) -> CliError {
    let root = args.pins.join(pins::ROOT);
    let mut text = if local.is_empty() {
        format!("no node has pinned maps below {}", root.display())
    } else {
        let there: Vec<String> = local
            .iter()
            .map(|node| format!("{}/{}", node.cluster, node.name))
            .collect();
        let (cluster, node) = (
            args.cluster.as_deref().unwrap_or("*"),
            args.node.as_deref().unwrap_or("*"),
        );
        format!(
            "no node {cluster}/{node} below {} (cluster/node; there are {})",
            root.display(),
            there.join(", ")
        )
    };
    match elsewhere {
        Some(error) => {
            let _ = write!(text, ", nor through its agent: {error}");
        }
        None => text.push_str("; name a node of the cluster with --node, or ask all agents with --remote"),
    }
    CliError::Usage(text)
}

/// The agent of a node of this machine, if it has its socket where agents have it.
fn local_agent(cluster: &str, node: &str) -> Result<Option<Agent>, CliError> {
    let socket = Path::new(STATE_DIR).join(cluster).join(node).join(AGENT_SOCKET);
    if !socket.exists() {
        return Ok(None);
    }
    Agent::at(node, &format!("unix://{}", socket.display())).map(Some)
}

/// The agent of a node, by the address that the node has in the API.
pub async fn remote_agent(context: &Context, name: &str) -> Result<Agent, CliError> {
    let node: NodeObject = context.client.get("", name).await?;
    let target = agent_address(&node)
        .ok_or_else(|| CliError::Usage(format!("node {name} has not told yet where its agent listens")))?;
    Agent::at(name, &target)
}

fn agent_address(node: &v1::Node) -> Option<String> {
    let status = node.status.as_ref()?;
    let address = status
        .addresses
        .iter()
        .find(|address| address.r#type == "InternalIP")?
        .address
        .parse()
        .ok()?;
    let port = status.daemon_endpoints.as_ref()?.kubelet_endpoint.as_ref()?.port;
    let port = u16::try_from(port).ok().filter(|port| *port != 0)?;
    Some(format!("http://{}", std::net::SocketAddr::new(address, port)))
}

#[cfg(test)]
mod tests {
    use causeway_proto::v1::{DaemonEndpoint, DaemonEndpoints, NodeAddress, NodeStatus};

    use super::*;

    fn all() -> Vec<Node> {
        [("dev", "node-1"), ("dev", "node-2"), ("other", "node-1")]
            .map(|(cluster, name)| Node {
                cluster: cluster.into(),
                name: name.into(),
                place: Place::Pins(PathBuf::new()),
            })
            .into()
    }

    fn args(cluster: Option<&str>, node: Option<&str>) -> NodeArgs {
        NodeArgs {
            node: node.map(Into::into),
            cluster: cluster.map(Into::into),
            remote: false,
            pins: "/b".into(),
        }
    }

    #[test]
    fn options_choose_among_the_nodes() {
        let chosen = |cluster, node| choose(&all(), cluster, node).len();
        assert_eq!(chosen(None, None), 3);
        assert_eq!(chosen(None, Some("node-1")), 2);
        assert_eq!(chosen(Some("dev"), Some("node-1")), 1);
        assert_eq!(chosen(Some("dev"), Some("node-9")), 0);
    }

    #[test]
    fn a_node_that_is_not_there_is_answered_with_those_that_are() {
        let away = CliError::Usage("nobody there".into());
        assert_eq!(
            not_here(&all(), &args(None, Some("node-9")), Some(&away)).to_string(),
            "no node */node-9 below /b/causeway (cluster/node; there are dev/node-1, dev/node-2, other/node-1), nor through \
             its agent: nobody there"
        );
        assert_eq!(
            not_here(&[], &args(None, None), None).to_string(),
            "no node has pinned maps below /b/causeway; name a node of the cluster with --node, or ask all agents with \
             --remote"
        );
    }

    #[test]
    fn agents_are_where_their_nodes_say() {
        let node = |address: &str, port| v1::Node {
            status: Some(NodeStatus {
                addresses: vec![NodeAddress {
                    r#type: "InternalIP".into(),
                    address: address.into(),
                }],
                daemon_endpoints: Some(DaemonEndpoints {
                    kubelet_endpoint: Some(DaemonEndpoint { port }),
                }),
                ..NodeStatus::default()
            }),
            ..v1::Node::default()
        };
        assert_eq!(
            agent_address(&node("172.30.0.11", 6560)).as_deref(),
            Some("http://172.30.0.11:6560")
        );
        assert_eq!(
            agent_address(&node("fd00::1", 6560)).as_deref(),
            Some("http://[fd00::1]:6560")
        );
        assert_eq!(agent_address(&node("172.30.0.11", 0)), None);
    }
}
