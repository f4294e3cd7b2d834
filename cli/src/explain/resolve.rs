//! From names to addresses, ports and nodes.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use causeway_maps::{
    Protocol,
    view::{Filter, Reading, Request, What, address_of},
};
use causeway_proto::v1::Service;

use crate::{
    bpf::{pod_address, qualified},
    context::{Context, GlobalArgs},
    error::CliError,
    names::Names,
    nodes::{self, Node, NodeArgs},
};

/// Stands for anybody outside: addresses for documentation (RFC 5737; RFC 3849).
const WORLD_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));
const WORLD_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

/// Who sends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum From {
    /// Somebody outside the cluster.
    World,
    /// This address.
    Address(IpAddr),
    /// This pod.
    Pod(String),
}

impl From {
    /// Reads FROM.
    pub fn parse(text: &str) -> Self {
        match text.parse() {
            Ok(address) => Self::Address(address),
            Err(_) if text == "world" => Self::World,
            Err(_) => {
                let name = ["pod/", "pods/", "po/"].iter().find_map(|kind| text.strip_prefix(kind));
                Self::Pod(name.unwrap_or(text).to_owned())
            }
        }
    }
}

/// What TO names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A service, or a pod where no service has the name.
    Any,
    /// A service.
    Service,
    /// A pod.
    Pod,
}

/// Whereto.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// An address, or a kind and a name.
    pub whom: Result<IpAddr, (Kind, String)>,
    /// Number or name.
    pub port: Option<String>,
    /// When it was said.
    pub protocol: Option<Protocol>,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (rest, protocol) = match text.rsplit_once('/') {
            Some((rest, end)) if end.eq_ignore_ascii_case("udp") => (rest, Some(Protocol::UDP)),
            Some((rest, end)) if end.eq_ignore_ascii_case("tcp") => (rest, Some(Protocol::TCP)),
            _ => (text, None),
        };
        if let Ok(address) = rest.parse::<IpAddr>() {
            return Ok(Self {
                whom: Ok(address),
                port: None,
                protocol,
            });
        }
        if let Ok(socket) = rest.parse::<SocketAddr>() {
            return Ok(Self {
                whom: Ok(socket.ip()),
                port: Some(socket.port().to_string()),
                protocol,
            });
        }
        let prefixes = [
            ("svc/", Kind::Service),
            ("service/", Kind::Service),
            ("services/", Kind::Service),
            ("pod/", Kind::Pod),
            ("pods/", Kind::Pod),
            ("po/", Kind::Pod),
        ];
        let (kind, name) = prefixes
            .iter()
            .find_map(|(prefix, kind)| Some((*kind, rest.strip_prefix(prefix)?)))
            .unwrap_or((Kind::Any, rest));
        let (name, port) = match name.split_once(':') {
            Some((name, port)) => (name, Some(port.to_owned())),
            None => (name, None),
        };
        let is_name =
            |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.');
        if !name.split('/').all(is_name) || name.split('/').count() > 2 {
            return Err(format!(
                "\"{text}\" is no destination: give [svc/|pod/][NAMESPACE/]NAME or an address, then [:PORT][/udp]"
            ));
        }
        Ok(Self {
            whom: Err((kind, name.to_owned())),
            port,
            protocol,
        })
    }
}

/// Where a packet is to go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Goal {
    /// Address and port.
    pub address: SocketAddr,
    /// TCP or UDP.
    pub protocol: Protocol,
}

/// Knows names.
pub struct Resolver<'a> {
    /// The control plane.
    pub context: &'a Context,
    /// Where names without a namespace are.
    pub namespace: &'a str,
    /// Of pods and nodes.
    pub names: &'a Names,
    /// Whose maps may be asked when the control plane is away.
    pub nodes: &'a [Node],
}

impl Resolver<'_> {
    /// The sender's address.
    pub fn source(&self, from: &From) -> Result<IpAddr, CliError> {
        match from {
            From::World => Ok(From::world(true)),
            From::Address(address) => Ok(*address),
            From::Pod(name) => {
                let address = pod_address(name, self.namespace, self.names)?;
                address
                    .parse()
                    .map_err(|_| CliError::Usage(format!("pod {name} has the address \"{address}\"")))
            }
        }
    }

    /// The destination.
    pub async fn target(&self, target: &Target, ipv4: bool) -> Result<Goal, CliError> {
        let protocol = target.protocol.unwrap_or(Protocol::TCP);
        match &target.whom {
            Ok(address) => {
                let text = target.port.as_deref().unwrap_or("80");
                Ok(Goal {
                    address: SocketAddr::new(*address, number(text)?),
                    protocol,
                })
            }
            Err((kind, name)) => {
                let name = qualified(name, self.namespace);
                if *kind != Kind::Pod
                    && let Some(goal) = self.service(&name, target, ipv4).await?
                {
                    return Ok(goal);
                }
                if *kind == Kind::Service {
                    return Err(CliError::Usage(format!("there is no service {name}")));
                }
                let address = self.names.address_of_pod(&name);
                let address = address.and_then(|address| address.parse().ok()).ok_or_else(|| {
                    let what = if *kind == Kind::Pod {
                        "running pod"
                    } else {
                        "service or running pod"
                    };
                    CliError::Usage(format!("there is no {what} {name}"))
                })?;
                Ok(Goal {
                    address: SocketAddr::new(address, number(target.port.as_deref().unwrap_or("80"))?),
                    protocol,
                })
            }
        }
    }

    /// A service from the API; or, when that is away, from the maps.
    async fn service(&self, name: &str, target: &Target, ipv4: bool) -> Result<Option<Goal>, CliError> {
        let (namespace, short) = name.split_once('/').unwrap_or(("", name));
        match self.context.client.get::<Service>(namespace, short).await {
            Ok(service) => of_service(name, &service, target, ipv4).map(Some),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => match self.in_maps(name, target).await {
                Some(goal) => Ok(Some(goal)),
                None => Err(error.into()),
            },
        }
    }

    async fn in_maps(&self, name: &str, target: &Target) -> Option<Goal> {
        let wanted = match &target.port {
            Some(port) if port.parse::<u16>().is_err() => format!("{name}:{port}"),
            _ => name.to_owned(),
        };
        let request = Request {
            what: What::Services,
            filter: Filter {
                service: Some(wanted),
                ..Filter::default()
            },
            sample: None,
        };
        let Ok(Reading::Services(services)) = self.nodes.first()?.read(&request).await else {
            return None;
        };
        services
            .iter()
            .filter(|service| service.scope == "Cluster")
            .find_map(|service| {
                let (socket, protocol) = service.vip.split_once('/')?;
                let goal = Goal {
                    address: socket.parse().ok()?,
                    protocol: Protocol::from_name(protocol)?,
                };
                let by_number = target.port.as_ref().and_then(|port| port.parse::<u16>().ok());
                let fits = by_number.is_none_or(|port| port == goal.address.port())
                    && target.protocol.is_none_or(|protocol| protocol == goal.protocol);
                fits.then_some(goal)
            })
    }

    /// The node where the sender is, or the one asked for.
    pub async fn node_of(&self, source: &IpAddr, global: &GlobalArgs, args: &NodeArgs) -> Result<Node, CliError> {
        let address = source.to_string();
        if args.node.is_none()
            && let Some(name) = self
                .names
                .node_of
                .get(&address)
                .or_else(|| self.names.nodes.get(&address))
        {
            if let Some(node) = self.nodes.iter().find(|node| node.name == *name) {
                return Ok(node.clone());
            }
            let agent = nodes::remote_agent(&global.context()?, name).await?;
            return Ok(Node {
                cluster: String::new(),
                name: name.clone(),
                place: nodes::Place::Agent(agent),
            });
        }
        for node in self.nodes {
            let request = Request {
                what: What::Pods,
                filter: Filter::default(),
                sample: None,
            };
            if let Ok(Reading::Pods(pods)) = node.read(&request).await
                && pods.iter().any(|pod| address_of(&pod.address) == address)
            {
                return Ok(node.clone());
            }
        }
        match self.nodes {
            [node] => Ok(node.clone()),
            [] => Err(CliError::Usage("there is no node to ask".to_owned())),
            several => {
                let names: Vec<&str> = several.iter().map(|node| node.name.as_str()).collect();
                Err(CliError::Usage(format!(
                    "{source} is an address of no pod here: say with --node at which node the packet comes in ({})",
                    names.join(", ")
                )))
            }
        }
    }
}

fn of_service(name: &str, service: &Service, target: &Target, ipv4: bool) -> Result<Goal, CliError> {
    let usage = |text: String| Err(CliError::Usage(text));
    let Some(spec) = &service.spec else {
        return usage(format!("service {name} has no spec"));
    };
    let all = spec.cluster_ips.iter().chain([&spec.cluster_ip]);
    let mut addresses = all.filter_map(|address| address.parse::<IpAddr>().ok());
    let Some(address) = addresses.find(|address| address.is_ipv4() == ipv4) else {
        return usage(format!(
            "service {name} has no virtual IP of that family (headless?): name one of its pods"
        ));
    };
    let fits = |port: &&causeway_proto::v1::ServicePort| {
        let by_port = target
            .port
            .as_ref()
            .is_none_or(|wanted| *wanted == port.name || wanted.parse::<i32>().is_ok_and(|number| number == port.port));
        by_port
            && target
                .protocol
                .is_none_or(|wanted| Protocol::from_name(&port.protocol) == Some(wanted))
    };
    let mut candidates: Vec<_> = spec.ports.iter().filter(fits).collect();
    // Without a word on the protocol TCP is meant, as in addresses, where both fit.
    if candidates.len() > 1 && target.protocol.is_none() && target.port.is_some() {
        candidates.retain(|port| Protocol::from_name(&port.protocol) == Some(Protocol::TCP));
    }
    if let [port] = candidates[..] {
        let protocol = Protocol::from_name(&port.protocol).unwrap_or(Protocol::TCP);
        return Ok(Goal {
            address: SocketAddr::new(address, u16::try_from(port.port).unwrap_or(0)),
            protocol,
        });
    }
    let ports = spec.ports.iter().map(|port| {
        let protocol = Protocol::from_name(&port.protocol).unwrap_or(Protocol::TCP);
        let label = if port.name.is_empty() {
            String::new()
        } else {
            format!(" ({})", port.name)
        };
        format!("{}/{protocol}{label}", port.port)
    });
    usage(format!(
        "say which port of service {name}: it has {}",
        ports.collect::<Vec<_>>().join(", ")
    ))
}

fn number(text: &str) -> Result<u16, CliError> {
    text.parse().map_err(|_| {
        CliError::Usage(format!(
            "\"{text}\" is no port number (only services have ports with names)"
        ))
    })
}

impl From {
    /// The same outside address in the family of a destination.
    pub fn world(ipv4: bool) -> IpAddr {
        if ipv4 { WORLD_V4 } else { WORLD_V6 }
    }
}

#[cfg(test)]
mod tests {
    use causeway_proto::v1::{ServicePort, ServiceSpec};

    use super::*;

    #[test]
    fn destinations_are_read_in_each_form() {
        let parse = |text: &str| text.parse::<Target>().unwrap();
        let name = |kind, name: &str| Err((kind, name.to_owned()));
        assert_eq!(parse("web").whom, name(Kind::Any, "web"));
        let target = parse("svc/default/dns:53/udp");
        assert_eq!(target.whom, name(Kind::Service, "default/dns"));
        assert_eq!(
            (target.port.as_deref(), target.protocol),
            (Some("53"), Some(Protocol::UDP))
        );
        assert_eq!(parse("shop/web:http").whom, name(Kind::Any, "shop/web"));
        assert_eq!(parse("pod/web-1:8080").whom, name(Kind::Pod, "web-1"));
        assert_eq!(parse("10.96.0.10:80").whom, Ok("10.96.0.10".parse().unwrap()));
        assert_eq!(parse("[fd00::1]:80/tcp").port.as_deref(), Some("80"));
        assert_eq!(parse("fd00::1").whom, Ok("fd00::1".parse().unwrap()));
        for bad in ["", "a/b/c", "we b", "svc/"] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
    }

    #[test]
    fn senders_are_read_in_each_form() {
        assert_eq!(From::parse("world"), From::World);
        assert_eq!(From::parse("10.0.0.1"), From::Address("10.0.0.1".parse().unwrap()));
        assert_eq!(From::parse("pod/web"), From::Pod("web".into()));
        assert_eq!(From::parse("shop/web"), From::Pod("shop/web".into()));
    }

    #[test]
    fn a_services_port_is_found_or_asked_for() {
        let port = |name: &str, port, protocol: &str| ServicePort {
            name: name.into(),
            port,
            protocol: protocol.into(),
            ..ServicePort::default()
        };
        let service = Service {
            spec: Some(ServiceSpec {
                cluster_ip: "10.96.0.10".into(),
                ports: vec![
                    port("http", 80, "TCP"),
                    port("dns", 53, "UDP"),
                    port("dns-tcp", 53, "TCP"),
                ],
                ..ServiceSpec::default()
            }),
            ..Service::default()
        };
        let goal = |text: &str| {
            let target = text.parse().unwrap();
            of_service("default/web", &service, &target, true)
                .map(|goal| format!("{}/{}", goal.address, goal.protocol))
                .map_err(|error| error.to_string())
        };
        assert_eq!(goal("web:http").unwrap(), "10.96.0.10:80/TCP");
        assert_eq!(goal("web:80").unwrap(), "10.96.0.10:80/TCP");
        assert_eq!(goal("web:53/udp").unwrap(), "10.96.0.10:53/UDP");
        assert_eq!(goal("web:53").unwrap(), "10.96.0.10:53/TCP");
        assert_eq!(goal("web/udp").unwrap(), "10.96.0.10:53/UDP");
        assert_eq!(
            goal("web").unwrap_err(),
            "say which port of service default/web: it has 80/TCP (http), 53/UDP (dns), 53/TCP (dns-tcp)"
        );
    }
}
