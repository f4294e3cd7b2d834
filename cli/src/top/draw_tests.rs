use std::time::{Duration, Instant};

use causeway_maps::view::{
    BackendState::{self, Local, Ready},
    BackendView, DropView, ServiceView,
};
use ratatui::{
    Terminal,
    backend::TestBackend,
    crossterm::event::{KeyCode, KeyEvent},
};

use super::*;
use crate::top::model::{Next, NodeSample, Sort};

fn service(name: &str, last: u8, connections: u64, states: &[&[BackendState]]) -> ServiceView {
    let backend = |(number, state): (u32, &&[BackendState])| ServiceBackendView {
        backend: BackendView {
            index: number,
            address: format!("10.244.1.{}:8080/TCP", number + 2),
            state: state.to_vec(),
            generation: 1,
        },
        slots: 100,
    };
    ServiceView {
        name: name.into(),
        vip: format!("10.96.0.{last}:80/TCP"),
        scope: "Cluster".into(),
        id: last.into(),
        affinity_seconds: 0,
        slots: 200,
        backends: (0..).zip(states).map(backend).collect(),
        connections,
        packets: connections * 10,
        bytes: connections * 1_000,
        drops: 0,
    }
}

fn sample(name: &str, at: Instant, web: u64, dropped: u64) -> NodeSample {
    NodeSample {
        services: vec![
            service("default/api:http", 20, 5, &[&[]]),
            service("default/web:http", 10, web, &[&[Ready, Local], &[]]),
        ],
        drops: vec![DropView {
            reason: "NO_READY_BACKEND".into(),
            packets: dropped,
            bytes: 0,
        }],
        pods: 3,
        at,
        ..NodeSample::new(name)
    }
}

/// Two nodes, two seconds between two readings.
fn app() -> App {
    let mut app = App::new("dev".into(), false);
    app.names.pods.insert("10.244.1.2".into(), "default/web-1".into());
    let before = Instant::now();
    let now = before + Duration::from_secs(2);
    app.take(
        vec![sample("node-1", before, 100, 0), sample("node-2", before, 0, 0)],
        before,
    );
    let mut away = sample("node-2", now, 40, 0);
    app.take(vec![sample("node-1", now, 300, 6), away.clone()], now);
    away.problem = Some("its agent is away".into());
    app
}

fn screen(app: &mut App, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, app)).unwrap();
    let buffer = terminal.backend().buffer();
    let line = |y| {
        let cells = (0..width).map(|x| buffer[(x, y)].symbol());
        cells.collect::<String>().trim_end().to_owned()
    };
    (0..height).map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_terminal_shows_services_backends_drops_and_nodes() {
    insta::assert_snapshot!(screen(&mut app(), 120, 22), @r"
    causeway top  cluster dev  2 nodes  120 connections/s
     Services (2) ──────────────────────────────────────────────────────────────────────────────────────────────────────────
    SERVICE                             VIP                     READY      CONN/S   DROPS/S PACKETS/S   BYTES/S  CONNECTIONS
    default/web:http                    10.96.0.10:80/TCP       1/2           120         0      1200    120000          340
    default/api:http                    10.96.0.20:80/TCP       0/1             0         0         0         0           10






     Backends of default/web:http ─────────────────────────────────────────   Drops ────────────────────────────────────────
    ADDRESS                 POD                   STATE               SHARE  REASON                             /S     TOTAL
    10.244.1.2:8080/TCP     default/web-1         READY|LOCAL         50.0%  NO_READY_BACKEND                    3         6
    10.244.1.3:8080/TCP                           NOT_READY           50.0%

                                                                              Nodes ────────────────────────────────────────
                                                                             NODE                    CONN/S   DROPS/S   PODS
                                                                             node-1                     100         0      3
                                                                             node-2                      20         0      3

    q quit  ↑↓ select  s sort: connections  n node: all  p pause
    ");
}

#[test]
fn a_small_terminal_shows_what_fits() {
    insta::assert_snapshot!(screen(&mut app(), 80, 8), @r"
    causeway top  cluster dev  2 nodes  120 connections/s
     Services (2) ──────────────────────────────────────────────────────────────────
    SERVICE                      VIP                     READY      CONN/S   DROPS/S
    default/web:http             10.96.0.10:80/TCP       1/2           120         0
    default/api:http             10.96.0.20:80/TCP       0/1             0         0


    q quit  ↑↓ select  s sort: connections  n node: all  p pause
    ");
    // Nothing is too small to draw.
    for (width, height) in [(1, 1), (5, 2), (20, 3), (89, 40), (300, 80)] {
        screen(&mut app(), width, height);
    }
}

#[test]
fn keys_change_what_is_shown() {
    let mut app = app();
    let press = |app: &mut App, code| app.press(KeyEvent::from(code));
    assert_eq!(app.services()[0].name, "default/web:http", "the busiest first");
    assert_eq!(app.backends().len(), 2);
    press(&mut app, KeyCode::Down);
    assert_eq!(app.backends().len(), 1, "the backends follow the selection");
    press(&mut app, KeyCode::End);
    press(&mut app, KeyCode::Down);
    assert_eq!(app.selected_index(&app.services()), Some(1), "there is an end");
    for _ in 0..3 {
        press(&mut app, KeyCode::Char('s'));
    }
    assert_eq!((app.sort, &*app.services()[0].name), (Sort::Name, "default/api:http"));
    assert_eq!(
        app.selected_index(&app.services()),
        Some(0),
        "the selection stays with its service"
    );
    press(&mut app, KeyCode::Char('n'));
    assert_eq!(app.node.as_deref(), Some("node-1"));
    assert!((app.services()[1].rates.connections - 100.0).abs() < 0.01);
    press(&mut app, KeyCode::Char('n'));
    press(&mut app, KeyCode::Char('n'));
    assert_eq!(app.node, None);
    press(&mut app, KeyCode::Char('p'));
    app.take(Vec::new(), Instant::now());
    assert!(app.has_read(), "a pause keeps what is shown");
    assert_eq!(press(&mut app, KeyCode::Char('x')), Next::Stay);
    assert_eq!(press(&mut app, KeyCode::Char('q')), Next::Quit);
}
