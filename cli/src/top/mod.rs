//! `causeway top`: services, backends, drops and nodes as they are now, on the whole terminal.

mod draw;
mod model;

use std::{
    io::{self, IsTerminal as _},
    thread,
    time::{Duration, Instant},
};

use causeway_maps::view::{self, Filter, Reading, Request, What};
use clap::Args;
use ratatui::crossterm::event::{self, Event, KeyEvent, KeyEventKind};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use self::model::{App, Next, NodeSample};
use crate::{
    bpf::{self, duration},
    context::GlobalArgs,
    error::CliError,
    names::Names,
    nodes::{self, Node, NodeArgs, Place},
};

/// Options of `causeway top`.
#[derive(Debug, Args)]
#[command(
    after_help = "Keys: q quit, up/down select a service, s sort, n node, p pause.\n\nExamples:\n  \
    causeway top\n  \
    causeway top --node node-2 --interval 500ms"
)]
pub struct TopArgs {
    /// Time between two readings
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    interval: Duration,

    #[command(flatten)]
    nodes: NodeArgs,
}

/// Shows them until somebody quits.
pub async fn run(global: &GlobalArgs, args: &TopArgs) -> Result<(), CliError> {
    if !(io::stdout().is_terminal() && io::stdin().is_terminal()) {
        return Err(CliError::Usage(
            "top needs a terminal; elsewhere use causeway bpf counters --watch".to_owned(),
        ));
    }
    let found = nodes::find(global, &args.nodes).await?;
    let names = bpf::names(global, &found).await?;
    let mut app = App::new(
        found.first().map(|node| node.cluster.clone()).unwrap_or_default(),
        std::env::var_os("NO_COLOR").is_none(),
    );
    app.names = names;
    let (sampler, mut readings) = mpsc::channel(1);
    tokio::spawn(sample(found.clone(), args.interval, sampler));
    let (keys, mut pressed) = mpsc::channel(16);
    let mut ends = Signals::new().map_err(CliError::Terminal)?;
    // Also sets a panic hook that gives the terminal back before the panic is told.
    let mut terminal = ratatui::try_init().map_err(CliError::Terminal)?;
    let _restore = Restore;
    thread::spawn(move || read_keys(&keys));
    let mut refresh = tokio::time::interval(Duration::from_secs(5));
    refresh.reset();
    loop {
        terminal
            .draw(|frame| draw::draw(frame, &mut app))
            .map_err(CliError::Terminal)?;
        tokio::select! {
            key = pressed.recv() => match key {
                Some(Some(key)) => if app.press(key) == Next::Quit { return Ok(()) },
                // The terminal has another size.
                Some(None) => {}
                None => return Ok(()),
            },
            nodes = readings.recv() => match nodes {
                Some(nodes) => app.take(nodes, Instant::now()),
                None => return Ok(()),
            },
            _ = refresh.tick() => if let Ok(names) = fresh_names(global, &found).await {
                app.names = names;
            },
            () = ends.any() => return Ok(()),
        }
    }
}

async fn fresh_names(global: &GlobalArgs, nodes: &[Node]) -> Result<Names, CliError> {
    bpf::names(global, nodes).await
}

/// Gives the terminal back, however the command ends.
struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Signals that ask to end.
struct Signals([tokio::signal::unix::Signal; 3]);

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self([
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
            signal(SignalKind::hangup())?,
        ]))
    }

    async fn any(&mut self) {
        let [terminate, interrupt, hangup] = &mut self.0;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// Keys, and `None` when the terminal has another size; ends when nobody listens or the terminal is gone.
fn read_keys(keys: &mpsc::Sender<Option<KeyEvent>>) {
    while let Ok(event) = event::read() {
        let message = match event {
            Event::Key(key) if key.kind != KeyEventKind::Release => Some(key),
            Event::Resize(..) => None,
            _ => continue,
        };
        if keys.blocking_send(message).is_err() {
            return;
        }
    }
}

/// Reads all nodes again and again.
async fn sample(nodes: Vec<Node>, interval: Duration, samples: mpsc::Sender<Vec<NodeSample>>) {
    let mut due = tokio::time::interval(interval);
    due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        let mut read = Vec::new();
        for node in &nodes {
            read.push(one(node).await);
        }
        if samples.send(read).await.is_err() {
            return;
        }
    }
}

async fn one(node: &Node) -> NodeSample {
    let mut sample = NodeSample::new(&node.name);
    for what in [What::Services, What::Drops, What::Pods] {
        match read(node, what).await {
            Ok(Reading::Services(services)) => sample.services = services,
            Ok(Reading::Drops(drops)) => sample.drops = drops,
            Ok(Reading::Pods(pods)) => sample.pods = pods.len(),
            Ok(_) => {}
            Err(error) => {
                sample.problem = Some(error.to_string());
                break;
            }
        }
    }
    sample.at = Instant::now();
    sample
}

async fn read(node: &Node, what: What) -> Result<Reading, CliError> {
    let request = Request {
        what,
        filter: Filter::default(),
        sample: None,
    };
    let Place::Pins(dir) = &node.place else {
        return node.read(&request).await;
    };
    // Many services take a while; keys must not wait for them.
    let (dir, title) = (dir.clone(), node.title());
    let read = tokio::task::spawn_blocking(move || view::read(&dir, &request)).await;
    match read {
        Ok(read) => read.map_err(|error| CliError::NodeMaps {
            node: title,
            source: Box::new(error),
        }),
        Err(error) => Err(CliError::Usage(format!("reading failed: {error}"))),
    }
}
