//! What people run in pods, against pods and virtual addresses, on the same and on another node.

use std::{fs, net::SocketAddr, path::PathBuf, process::Command};

use causeway_agent::bpf::DesiredService;
use causeway_tests::netns::{Lab, Pod, Running, finish, tcp_service, udp_service, unique};

/// A client, and a server on the same and on another node.
struct World {
    lab: Lab,
    client: Pod,
    servers: [Pod; 2],
}

fn world() -> World {
    let mut lab = Lab::pair();
    let client = lab.nodes[0].add_pod(2);
    let servers = [lab.nodes[0].add_pod(3), lab.nodes[1].add_pod(3)];
    World { lab, client, servers }
}

/// Makes a service at an address, with a port of some pods behind it.
type MakeService = fn(SocketAddr, u16, &[&Pod]) -> DesiredService;

/// How a client gets at a server.
struct Way {
    what: String,
    to: SocketAddr,
    hooked: bool,
}

impl World {
    /// Gives each server a virtual address of its own, with the same port.
    fn serve(&self, port: u16, protocols: &[MakeService]) {
        let services: Vec<_> = self
            .servers
            .iter()
            .enumerate()
            .flat_map(|(number, pod)| {
                protocols
                    .iter()
                    .map(move |service| service(vip(number, port), port, &[pod]))
            })
            .collect();
        self.lab.serve(&services);
    }

    /// Straight, balanced at the socket, and packet by packet; to both servers.
    fn ways(&self, port: u16) -> Vec<Way> {
        let ways = self.servers.iter().zip(["the same node", "another node"]).enumerate();
        ways.flat_map(|(number, (pod, place))| {
            [
                ("a pod", pod.at(port), true),
                ("a VIP at the socket", vip(number, port), true),
                ("a VIP packet by packet", vip(number, port), false),
            ]
            .map(|(what, to, hooked)| Way {
                what: format!("{what} on {place}"),
                to,
                hooked,
            })
        })
        .collect()
    }

    fn command(&self, way: &Way, program: &str) -> Command {
        if way.hooked {
            self.client.command(program)
        } else {
            self.client.unhooked_command(program)
        }
    }
}

fn vip(server: usize, port: u16) -> SocketAddr {
    let last = u8::try_from(10 + server).expect("few servers");
    SocketAddr::from(([10, 96, 0, last], port))
}

/// A directory that goes with this value.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("causeway-tools-{}-{}", std::process::id(), unique()));
        fs::create_dir_all(&path).expect("a directory");
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn text(output: &[u8]) -> String {
    String::from_utf8_lossy(output).into_owned()
}

#[test]
fn ping() {
    let world = world();
    for pod in &world.servers {
        // Small ones, and ones that are divided.
        for size in ["56", "4000"] {
            let mut ping = world.client.command("busybox");
            ping.args(["ping", "-c", "3", "-W", "10", "-s", size, &pod.address.to_string()]);
            let said = text(&finish(ping));
            assert!(said.contains("3 packets received"), "{said}");
        }
    }
}

#[test]
fn tracepath_shows_every_node_and_what_fits() {
    let world = world();
    let mtu = world.client.net.mtu_bytes;
    let routers = [vec!["10.244.1.1"], vec!["10.244.1.1", "10.244.2.1"]];
    for (pod, routers) in world.servers.iter().zip(routers) {
        let mut tracepath = world.client.command("tracepath");
        tracepath.args(["-n", &pod.address.to_string()]);
        let said = text(&finish(tracepath));
        for (number, router) in routers.iter().enumerate() {
            let hop = |line: &str| line.trim_start().starts_with(&format!("{}:  {router} ", number + 1));
            assert!(said.lines().any(hop), "{router} is not hop {}:\n{said}", number + 1);
        }
        let reached = |line: &str| line.contains(&pod.address.to_string()) && line.ends_with("reached");
        assert!(said.lines().any(|line| reached(line.trim_end())), "{said}");
        let resume = format!("pmtu {mtu} hops {} back {}", routers.len() + 1, routers.len() + 1);
        assert!(said.contains(&resume), "no {resume}:\n{said}");
    }
}

#[test]
fn iperf3_streams_and_datagrams() {
    const PORT: u16 = 5201;
    let world = world();
    let _servers = world.servers.each_ref().map(|pod| {
        let mut server = pod.command("iperf3");
        server.args(["--server", "--port", &PORT.to_string()]);
        Running::start(server).listens(&pod.netns, PORT)
    });
    world.serve(PORT, &[tcp_service, udp_service]);
    for way in world.ways(PORT) {
        let run = |options: &[&str]| {
            let mut client = world.command(&way, "iperf3");
            client.args([
                "--client",
                &way.to.ip().to_string(),
                "--port",
                &PORT.to_string(),
                "--json",
            ]);
            client.args(options);
            let said: serde_json::Value = serde_json::from_slice(&finish(client)).expect("JSON");
            assert!(said["error"].is_null(), "{}: {said}", way.what);
            said["end"].clone()
        };
        let end = run(&["--bytes", "16M"]);
        // The sender ends when all is sent, not when all has arrived.
        let [sent, received] = ["sum_sent", "sum_received"].map(|sum| end[sum]["bytes"].as_u64().unwrap_or(0));
        assert!(
            sent >= 16 << 20 && received > 0,
            "{}: {sent} bytes of a stream sent, {received} received",
            way.what
        );
        // Datagrams that fill a packet, and ones that are divided.
        for length in ["1400", "5000"] {
            let end = run(&["--udp", "--length", length, "--bitrate", "10M", "--bytes", "500K"]);
            let (lost, sent) = (end["sum"]["lost_packets"].as_u64(), end["sum"]["packets"].as_u64());
            // On a busy machine some find the receiver's buffer full.
            assert!(
                lost.is_some_and(|lost| lost * 10 <= sent.unwrap_or(0)),
                "{}: {lost:?} of {sent:?} datagrams of {length} bytes lost",
                way.what
            );
        }
    }
}

#[test]
fn nginx_gives_every_byte() {
    const PORT: u16 = 8080;
    let world = world();
    let directory = Directory::new();
    let root = &directory.0;
    // Large enough for many segments of full size in flight, handed on with their checksums left to do.
    let page: Vec<u8> = (0..24_000_000_u32)
        .map(|number| (number.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    fs::write(root.join("page"), &page).expect("a page");
    let _servers = world.servers.each_ref().map(|pod| {
        let own = root.join(pod.address.to_string());
        fs::create_dir_all(&own).expect("a directory");
        let config = own.join("nginx.conf");
        let (root, own) = (root.display(), own.display());
        fs::write(
            &config,
            format!(
                "daemon off; user root; pid {own}/pid; error_log stderr crit; events {{}}\n\
                 http {{ access_log off; sendfile on; client_body_temp_path {own}; proxy_temp_path {own};\n\
                 fastcgi_temp_path {own}; uwsgi_temp_path {own}; scgi_temp_path {own};\n\
                 server {{ listen {PORT}; root {root}; }} }}\n"
            ),
        )
        .expect("a configuration");
        let mut server = pod.command("nginx");
        server.arg("-c").arg(&config).args(["-g", "master_process off;"]);
        Running::start(server).listens(&pod.netns, PORT)
    });
    world.serve(PORT, &[tcp_service]);
    for way in world.ways(PORT) {
        let mut client = world.command(&way, "busybox");
        client.args(["wget", "-q", "-O", "-", &format!("http://{}/page", way.to)]);
        let got = finish(client);
        assert_eq!(got.len(), page.len(), "{}", way.what);
        assert!(got == page, "{}: other bytes than were sent", way.what);
    }
}

#[test]
fn redis_keeps_what_it_is_told() {
    const PORT: u16 = 6379;
    let world = world();
    let directory = Directory::new();
    let _servers = world.servers.each_ref().map(|pod| {
        let mut server = pod.command("redis-server");
        server.args(["--port", &PORT.to_string(), "--save", "", "--appendonly", "no"]);
        server.args(["--protected-mode", "no", "--dir"]).arg(&directory.0);
        Running::start(server).listens(&pod.netns, PORT)
    });
    world.serve(PORT, &[tcp_service]);
    for (number, way) in world.ways(PORT).iter().enumerate() {
        let ask = |words: &[&str]| {
            let mut client = world.command(way, "redis-cli");
            client
                .args(["-h", &way.to.ip().to_string(), "-p", &PORT.to_string()])
                .args(words);
            text(&finish(client)).trim().to_owned()
        };
        let value = format!("value-{number}");
        assert_eq!(ask(&["set", "key", &value]), "OK", "{}", way.what);
        assert_eq!(ask(&["get", "key"]), value, "{}", way.what);
    }
}

#[test]
fn names_are_looked_up_by_udp() {
    const PORT: u16 = 53;
    let world = world();
    let _servers = world.servers.each_ref().map(|pod| {
        let mut server = pod.command("dnsmasq");
        server.args([
            "--keep-in-foreground",
            "--conf-file=/dev/null",
            "--pid-file=",
            "--user=root",
        ]);
        server.args(["--no-resolv", "--no-hosts", "--bind-interfaces"]);
        server.arg(format!("--listen-address={}", pod.address));
        server.arg(format!("--address=/who.test/{}", pod.address));
        Running::start(server).listens(&pod.netns, PORT)
    });
    world.serve(PORT, &[udp_service, tcp_service]);
    for (number, way) in world.ways(PORT).iter().enumerate() {
        let mut client = world.command(way, "busybox");
        client.args(["nslookup", "-type=a", "who.test", &way.to.ip().to_string()]);
        let said = text(&finish(client));
        let answer = world.servers[number / 3].address.to_string();
        assert!(
            said.lines()
                .any(|line| line.contains("Address") && line.ends_with(&answer)),
            "{}: {said}",
            way.what
        );
    }
}
