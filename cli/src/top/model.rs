//! What `top` shows, and what keys do to it. Pure.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use causeway_maps::view::{DropView, ServiceBackendView, ServiceView};
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use crate::{bpf::rows::per_second, names::Names};

/// What was read of one node.
#[derive(Clone, Debug)]
pub struct NodeSample {
    /// Its name.
    pub name: String,
    /// Its services.
    pub services: Vec<ServiceView>,
    /// Its drops.
    pub drops: Vec<DropView>,
    /// Its pods.
    pub pods: usize,
    /// Why it could not be read.
    pub problem: Option<String>,
    /// When.
    pub at: Instant,
}

impl NodeSample {
    /// Nothing read yet.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            services: Vec::new(),
            drops: Vec::new(),
            pods: 0,
            problem: None,
            at: Instant::now(),
        }
    }
}

/// Per second.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Rates {
    /// Connections given a backend.
    pub connections: f64,
    /// Packets translated.
    pub packets: f64,
    /// Their bytes.
    pub bytes: f64,
    /// Refused or dropped.
    pub drops: f64,
}

impl Rates {
    fn add(&mut self, other: Self) {
        self.connections += other.connections;
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.drops += other.drops;
    }
}

/// A line of the services.
#[derive(Clone, PartialEq, Debug)]
pub struct ServiceLine {
    /// "namespace/name:port".
    pub name: String,
    /// "address:port/PROTOCOL".
    pub vip: String,
    /// Backends that take connections, of all.
    pub ready: (usize, usize),
    /// Sum over the nodes.
    pub rates: Rates,
    /// Connections since the maps were made, over the nodes.
    pub total: u64,
}

/// A line of the drops.
#[derive(Clone, PartialEq, Debug)]
pub struct DropLine {
    /// Name of the reason.
    pub reason: String,
    /// Per second.
    pub rate: f64,
    /// Since the maps were made.
    pub total: u64,
}

/// A line of the nodes.
#[derive(Clone, PartialEq, Debug)]
pub struct NodeLine {
    /// Its name.
    pub name: String,
    /// Sum over its services.
    pub rates: Rates,
    /// Its pods.
    pub pods: usize,
    /// Why it cannot be read.
    pub problem: Option<String>,
}

/// Order of the services.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sort {
    /// Connections a second, the most first.
    Connections,
    /// Packets a second.
    Packets,
    /// Drops a second.
    Drops,
    /// Names.
    Name,
}

impl Sort {
    /// For the line of keys.
    pub fn label(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Packets => "packets",
            Self::Drops => "drops",
            Self::Name => "name",
        }
    }

    fn next(self) -> Self {
        match self {
            Self::Connections => Self::Packets,
            Self::Packets => Self::Drops,
            Self::Drops => Self::Name,
            Self::Name => Self::Connections,
        }
    }
}

/// What to do after a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Go on.
    Stay,
    /// End.
    Quit,
}

/// All that is shown.
#[derive(Clone, Debug)]
pub struct App {
    /// Name of the cluster.
    pub cluster: String,
    /// Whether colours are wanted.
    pub colours: bool,
    /// Names for addresses.
    pub names: Names,
    /// Order of the services.
    pub sort: Sort,
    /// Only this node; all when absent.
    pub node: Option<String>,
    /// New readings are not shown.
    pub paused: bool,
    /// Vip of the selected service.
    selected: Option<String>,
    before: Vec<NodeSample>,
    now: Vec<NodeSample>,
}

impl App {
    /// Nothing read yet.
    pub fn new(cluster: String, colours: bool) -> Self {
        Self {
            cluster,
            colours,
            names: Names::default(),
            sort: Sort::Connections,
            node: None,
            paused: false,
            selected: None,
            before: Vec::new(),
            now: Vec::new(),
        }
    }

    /// Takes what was read of all nodes.
    pub fn take(&mut self, nodes: Vec<NodeSample>, _at: Instant) {
        if !self.paused {
            self.before = std::mem::replace(&mut self.now, nodes);
        }
    }

    /// What a key does.
    pub fn press(&mut self, key: KeyEvent) -> Next {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c' | 'd') if control => return Next::Quit,
            KeyCode::Char('q') | KeyCode::Esc => return Next::Quit,
            KeyCode::Up | KeyCode::Char('k') => self.select(-1),
            KeyCode::Down | KeyCode::Char('j') => self.select(1),
            KeyCode::PageUp => self.select(-10),
            KeyCode::PageDown => self.select(10),
            KeyCode::Home => self.select(isize::MIN),
            KeyCode::End => self.select(isize::MAX),
            KeyCode::Char('s') => self.sort = self.sort.next(),
            KeyCode::Char('n') => self.next_node(),
            KeyCode::Char('p' | ' ') => self.paused = !self.paused,
            _ => {}
        }
        Next::Stay
    }

    fn select(&mut self, by: isize) {
        let lines = self.services();
        if lines.is_empty() {
            return;
        }
        let at = self.selected_index(&lines).unwrap_or(0);
        let to = at.saturating_add_signed(by).min(lines.len() - 1);
        self.selected = Some(lines[to].vip.clone());
    }

    fn next_node(&mut self) {
        let names: Vec<&String> = self.now.iter().map(|node| &node.name).collect();
        let after = match &self.node {
            None => 0,
            Some(name) => names
                .iter()
                .position(|other| *other == name)
                .map_or(names.len(), |at| at + 1),
        };
        self.node = names.get(after).map(|name| (*name).clone());
    }

    /// Which of the lines is selected; the first one until somebody chooses.
    pub fn selected_index(&self, lines: &[ServiceLine]) -> Option<usize> {
        let found = self
            .selected
            .as_ref()
            .and_then(|vip| lines.iter().position(|line| line.vip == *vip));
        found.or_else(|| (!lines.is_empty()).then_some(0))
    }

    /// Whether there is something to show.
    pub fn has_read(&self) -> bool {
        !self.now.is_empty()
    }

    fn shown(&self) -> impl Iterator<Item = (&NodeSample, Option<&NodeSample>)> {
        let wanted = |node: &&NodeSample| self.node.as_ref().is_none_or(|name| node.name == *name);
        self.now
            .iter()
            .filter(wanted)
            .map(|node| (node, self.before.iter().find(|before| before.name == node.name)))
    }

    /// The services, in order.
    pub fn services(&self) -> Vec<ServiceLine> {
        let mut lines = BTreeMap::<&str, ServiceLine>::new();
        for (node, before) in self.shown() {
            for service in node.services.iter().filter(|service| service.scope == "Cluster") {
                let line = lines.entry(&service.vip).or_insert_with(|| ServiceLine {
                    name: service.name.clone(),
                    vip: service.vip.clone(),
                    ready: (service.ready(), service.backends.len()),
                    rates: Rates::default(),
                    total: 0,
                });
                line.rates.add(rates(service, node, before));
                line.total += service.connections;
            }
        }
        let mut lines: Vec<_> = lines.into_values().collect();
        let key = |line: &ServiceLine| match self.sort {
            Sort::Connections => line.rates.connections,
            Sort::Packets => line.rates.packets,
            Sort::Drops => line.rates.drops,
            Sort::Name => 0.0,
        };
        lines.sort_by(|a, b| {
            let by_rate = key(b).total_cmp(&key(a));
            by_rate.then_with(|| (&a.name, &a.vip).cmp(&(&b.name, &b.vip)))
        });
        lines
    }

    /// The backends of the selected service, as the first node that knows it has them.
    pub fn backends(&self) -> Vec<ServiceBackendView> {
        let lines = self.services();
        let Some(line) = self.selected_index(&lines).map(|at| &lines[at]) else {
            return Vec::new();
        };
        let of_node = |(node, _): (&NodeSample, _)| {
            let found = node.services.iter().find(|service| service.vip == line.vip)?;
            Some(found.backends.clone())
        };
        self.shown().find_map(of_node).unwrap_or_default()
    }

    /// The drops, the most frequent first.
    pub fn drops(&self) -> Vec<DropLine> {
        let mut lines = BTreeMap::<&str, DropLine>::new();
        for (node, before) in self.shown() {
            for drop in &node.drops {
                let then = before.and_then(|before| before.drops.iter().find(|other| other.reason == drop.reason));
                let line = lines.entry(&drop.reason).or_insert_with(|| DropLine {
                    reason: drop.reason.clone(),
                    rate: 0.0,
                    total: 0,
                });
                line.total += drop.packets;
                let since = then.map_or(0, |then| drop.packets.saturating_sub(then.packets));
                line.rate += per_second(since, time(node, before));
            }
        }
        let mut lines: Vec<_> = lines.into_values().collect();
        lines.sort_by(|a, b| b.rate.total_cmp(&a.rate).then(b.total.cmp(&a.total)));
        lines
    }

    /// The nodes, by name.
    pub fn nodes(&self) -> Vec<NodeLine> {
        let line = |node: &NodeSample| {
            let before = self.before.iter().find(|before| before.name == node.name);
            let mut sum = Rates::default();
            // The two sides of a service share their counters.
            for service in node.services.iter().filter(|service| service.scope == "Cluster") {
                sum.add(rates(service, node, before));
            }
            NodeLine {
                name: node.name.clone(),
                rates: sum,
                pods: node.pods,
                problem: node.problem.clone(),
            }
        };
        self.now.iter().map(line).collect()
    }
}

fn time(node: &NodeSample, before: Option<&NodeSample>) -> Duration {
    before.map_or(Duration::from_secs(1), |before| {
        node.at.saturating_duration_since(before.at)
    })
}

fn rates(service: &ServiceView, node: &NodeSample, before: Option<&NodeSample>) -> Rates {
    let Some(then) = before.and_then(|before| {
        let same = |other: &&ServiceView| other.vip == service.vip && other.scope == service.scope;
        before.services.iter().find(same)
    }) else {
        return Rates::default();
    };
    let time = time(node, before);
    let rate = |count: fn(&ServiceView) -> u64| per_second(count(service).saturating_sub(count(then)), time);
    Rates {
        connections: rate(|service| service.connections),
        packets: rate(|service| service.packets),
        bytes: rate(|service| service.bytes),
        drops: rate(|service| service.drops),
    }
}
