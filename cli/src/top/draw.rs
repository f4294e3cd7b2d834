//! How `top` looks.

use causeway_maps::view::ServiceBackendView;
use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Borders, Cell, Paragraph, Row, Table, TableState},
};

use super::model::{App, DropLine, NodeLine, ServiceLine};
use crate::bpf::rows::rate_text;

/// Below this width or height only the services are shown.
const WIDE_ENOUGH: u16 = 90;
const HIGH_ENOUGH: u16 = 16;

/// Draws everything.
pub fn draw(frame: &mut Frame<'_>, app: &mut App) {
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(1), Constraint::Fill(1), Constraint::Length(1)]).areas(frame.area());
    let nodes = app.nodes();
    frame.render_widget(headline(app, &nodes), head);
    frame.render_widget(keys(app), foot);
    let services = app.services();
    if body.height < HIGH_ENOUGH {
        draw_services(frame, body, app, &services);
        return;
    }
    let lower_height = (body.height / 2).clamp(8, 20);
    let [upper, lower] = Layout::vertical([Constraint::Fill(1), Constraint::Length(lower_height)]).areas(body);
    draw_services(frame, upper, app, &services);
    if body.width < WIDE_ENOUGH {
        draw_backends(frame, lower, app, &services);
        return;
    }
    let [left, right] = Layout::horizontal([Constraint::Fill(3), Constraint::Fill(2)])
        .spacing(2)
        .areas(lower);
    let [upper_right, lower_right] = Layout::vertical([Constraint::Fill(1), Constraint::Fill(1)]).areas(right);
    draw_backends(frame, left, app, &services);
    draw_drops(frame, upper_right, app, &app.drops());
    draw_nodes(frame, lower_right, app, &nodes);
}

fn headline(app: &App, nodes: &[NodeLine]) -> Line<'static> {
    let sum: f64 = nodes.iter().map(|node| node.rates.connections).sum();
    let shown = match &app.node {
        Some(name) => format!("node {name}"),
        None if nodes.len() == 1 => "1 node".to_owned(),
        None => format!("{} nodes", nodes.len()),
    };
    let mut text = format!(
        "causeway top  cluster {}  {shown}  {} connections/s",
        app.cluster,
        rate_text(sum)
    );
    if !app.has_read() {
        text.push_str("  reading...");
    }
    let mut spans = vec![Span::styled(text, Style::new().add_modifier(Modifier::BOLD))];
    if app.paused {
        spans.push(Span::styled("  PAUSED", coloured(app, Color::Yellow)));
    }
    Line::from(spans)
}

fn keys(app: &App) -> Line<'static> {
    let pause = if app.paused { "go on" } else { "pause" };
    let node = app.node.as_deref().unwrap_or("all");
    let key = |key: &'static str, what: String| {
        [
            Span::styled(key, Style::new().add_modifier(Modifier::REVERSED)),
            Span::raw(format!(" {what}  ")),
        ]
    };
    let keys = [
        key("q", "quit".to_owned()),
        key("↑↓", "select".to_owned()),
        key("s", format!("sort: {}", app.sort.label())),
        key("n", format!("node: {node}")),
        key("p", pause.to_owned()),
    ];
    Line::from(keys.into_iter().flatten().collect::<Vec<_>>())
}

fn coloured(app: &App, colour: Color) -> Style {
    if app.colours {
        Style::new().fg(colour)
    } else {
        Style::new()
    }
}

fn block(title: String) -> Block<'static> {
    Block::new().borders(Borders::TOP).title(title)
}

fn header(names: &[&'static str]) -> Row<'static> {
    Row::new(names.to_vec()).style(Style::new().add_modifier(Modifier::BOLD))
}

fn number(text: String) -> Cell<'static> {
    Cell::new(Line::from(text).right_aligned())
}

fn draw_services(frame: &mut Frame<'_>, area: Rect, app: &App, lines: &[ServiceLine]) {
    // What is seldom looked at gives way to names on narrow terminals.
    let is_wide = area.width >= WIDE_ENOUGH;
    let row = |line: &ServiceLine| {
        let (ready, all) = line.ready;
        let colour = match (ready, all) {
            (0, _) => Color::Red,
            (ready, all) if ready < all => Color::Yellow,
            _ => Color::Green,
        };
        let mut cells = vec![
            Cell::new(line.name.clone()),
            Cell::new(line.vip.clone()),
            Cell::new(format!("{ready}/{all}")).style(coloured(app, colour)),
            number(rate_text(line.rates.connections)),
            number(rate_text(line.rates.drops)),
        ];
        if is_wide {
            cells.push(number(rate_text(line.rates.packets)));
            cells.push(number(rate_text(line.rates.bytes)));
            cells.push(number(line.total.to_string()));
        }
        Row::new(cells)
    };
    let mut widths = vec![
        Constraint::Fill(1),
        Constraint::Length(23),
        Constraint::Length(7),
        Constraint::Length(9),
        Constraint::Length(9),
    ];
    let mut headers = vec!["SERVICE", "VIP", "READY", "   CONN/S", "  DROPS/S"];
    if is_wide {
        widths.extend([Constraint::Length(9), Constraint::Length(9), Constraint::Length(12)]);
        headers.extend(["PACKETS/S", "  BYTES/S", " CONNECTIONS"]);
    }
    let table = Table::new(lines.iter().map(row), widths)
        .header(header(&headers))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
        .block(block(format!(" Services ({}) ", lines.len())));
    let mut state = TableState::default().with_selected(app.selected_index(lines));
    frame.render_stateful_widget(table, area, &mut state);
}

fn draw_backends(frame: &mut Frame<'_>, area: Rect, app: &App, services: &[ServiceLine]) {
    let name = app
        .selected_index(services)
        .map_or_else(String::new, |at| format!(" of {}", services[at].name));
    let backends = app.backends();
    let all: u32 = backends.iter().map(|backend| backend.slots).sum();
    let row = |backend: &ServiceBackendView| {
        let colour = if backend.backend.takes_connections() {
            Color::Green
        } else {
            Color::Red
        };
        Row::new([
            Cell::new(backend.backend.address.clone()),
            Cell::new(app.names.pod(&backend.backend.address).to_owned()),
            Cell::new(backend.backend.state_text()).style(coloured(app, colour)),
            number(format!(
                "{:.1}%",
                f64::from(backend.slots) * 100.0 / f64::from(all.max(1))
            )),
        ])
    };
    let widths = [
        Constraint::Length(23),
        Constraint::Fill(1),
        Constraint::Length(17),
        Constraint::Length(7),
    ];
    let table = Table::new(backends.iter().map(row), widths)
        .header(header(&["ADDRESS", "POD", "STATE", "  SHARE"]))
        .block(block(format!(" Backends{name} ")));
    frame.render_widget(table, area);
}

fn draw_drops(frame: &mut Frame<'_>, area: Rect, app: &App, lines: &[DropLine]) {
    let happened: Vec<&DropLine> = lines.iter().filter(|line| line.total > 0).collect();
    if happened.is_empty() {
        let text = Paragraph::new("nothing was dropped").block(block(" Drops ".to_owned()));
        frame.render_widget(text, area);
        return;
    }
    let row = |line: &&DropLine| {
        let style = if line.rate > 0.0 {
            coloured(app, Color::Red)
        } else {
            Style::new()
        };
        Row::new([
            Cell::new(line.reason.clone()),
            number(rate_text(line.rate)),
            number(line.total.to_string()),
        ])
        .style(style)
    };
    let widths = [Constraint::Fill(1), Constraint::Length(7), Constraint::Length(9)];
    let table = Table::new(happened.iter().map(row), widths)
        .header(header(&["REASON", "     /S", "    TOTAL"]))
        .block(block(" Drops ".to_owned()));
    frame.render_widget(table, area);
}

fn draw_nodes(frame: &mut Frame<'_>, area: Rect, app: &App, lines: &[NodeLine]) {
    let row = |line: &NodeLine| {
        let chosen = app.node.as_ref() == Some(&line.name);
        let style = if chosen {
            Style::new().add_modifier(Modifier::BOLD)
        } else {
            Style::new()
        };
        match &line.problem {
            Some(problem) => Row::new([
                Cell::new(line.name.clone()),
                Cell::new(problem.clone()),
                Cell::default(),
                Cell::default(),
            ])
            .style(coloured(app, Color::Red)),
            None => Row::new([
                Cell::new(line.name.clone()),
                number(rate_text(line.rates.connections)),
                number(rate_text(line.rates.drops)),
                number(line.pods.to_string()),
            ])
            .style(style),
        }
    };
    let widths = [
        Constraint::Fill(1),
        Constraint::Length(9),
        Constraint::Length(9),
        Constraint::Length(6),
    ];
    let table = Table::new(lines.iter().map(row), widths)
        .header(header(&["NODE", "   CONN/S", "  DROPS/S", "  PODS"]))
        .block(block(" Nodes ".to_owned()));
    frame.render_widget(table, area);
}

#[cfg(test)]
#[path = "draw_tests.rs"]
mod tests;
