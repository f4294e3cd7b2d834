//! The columns of each kind, as kubectl's. Pure: objects in, cells out. One file per kind with `NARROW`, `WIDE` and
//! `row`.

mod endpoints;
mod event;
mod lease;
mod namespace;
pub mod node;
pub mod pod;
mod replication_controller;
pub mod service;
#[cfg(test)]
mod tests;

use causeway_proto::{
    Kind,
    v1::{Object, object},
};
use prost_types::Timestamp;

use crate::table::{Table, pairs};

/// What to show of each object.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each switches a column of its own")]
pub struct View {
    /// The columns of `-o wide` too.
    pub wide: bool,
    /// The namespace.
    pub namespace: bool,
    /// All labels.
    pub labels: bool,
    /// "pod/web" instead of "web".
    pub kind_prefix: bool,
    /// A first column that says what happened to it, in watches.
    pub event: bool,
    /// The present.
    pub now: Timestamp,
}

/// An empty table with the columns of a kind.
pub fn table(kind: Kind, view: &View) -> Table {
    let (narrow, wide) = headers(kind);
    let mut columns: Vec<&str> = Vec::new();
    columns.extend(view.event.then_some("EVENT"));
    columns.extend((view.namespace && kind.namespaced()).then_some("NAMESPACE"));
    columns.extend(narrow);
    if view.wide {
        columns.extend(wide);
    }
    columns.extend(view.labels.then_some("LABELS"));
    Table::new(columns)
}

/// The cells of an object below the columns of its kind; `None` for an object without a kind.
pub fn row(object: &Object, event: &str, view: &View) -> Option<Vec<String>> {
    let kind = object.kind()?;
    let meta = object.meta().cloned().unwrap_or_default();
    let mut cells: Vec<String> = Vec::new();
    cells.extend(view.event.then(|| event.to_owned()));
    cells.extend((view.namespace && kind.namespaced()).then(|| meta.namespace.clone()));
    let mut own = own_cells(object, view)?;
    // The first own column is the name; but events have there when they were last seen.
    if view.kind_prefix
        && kind != Kind::Event
        && let Some(name) = own.first_mut()
    {
        *name = format!("{}/{name}", kind.singular());
    }
    cells.append(&mut own);
    cells.extend(view.labels.then(|| pairs(&meta.labels)));
    Some(cells)
}

/// The table of objects of one kind.
pub fn render<'a>(kind: Kind, objects: impl IntoIterator<Item = &'a Object>, view: &View) -> Table {
    let mut table = table(kind, view);
    for row in objects.into_iter().filter_map(|object| row(object, "", view)) {
        table.push(row);
    }
    table
}

fn headers(kind: Kind) -> (&'static [&'static str], &'static [&'static str]) {
    match kind {
        Kind::Namespace => (namespace::NARROW, namespace::WIDE),
        Kind::Node => (node::NARROW, node::WIDE),
        Kind::Lease => (lease::NARROW, lease::WIDE),
        Kind::Pod => (pod::NARROW, pod::WIDE),
        Kind::ReplicationController => (replication_controller::NARROW, replication_controller::WIDE),
        Kind::Service => (service::NARROW, service::WIDE),
        Kind::Endpoints => (endpoints::NARROW, endpoints::WIDE),
        Kind::Event => (event::NARROW, event::WIDE),
    }
}

fn own_cells(object: &Object, view: &View) -> Option<Vec<String>> {
    Some(match object.kind.as_ref()? {
        object::Kind::Namespace(namespace) => namespace::row(namespace, view),
        object::Kind::Node(node) => node::row(node, view),
        object::Kind::Lease(lease) => lease::row(lease, view),
        object::Kind::Pod(pod) => pod::row(pod, view),
        object::Kind::ReplicationController(controller) => replication_controller::row(controller, view),
        object::Kind::Service(service) => service::row(service, view),
        object::Kind::Endpoints(endpoints) => endpoints::row(endpoints, view),
        object::Kind::Event(event) => event::row(event, view),
    })
}
