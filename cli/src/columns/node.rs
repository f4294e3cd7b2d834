//! Columns of nodes.

use causeway_proto::{Resource as _, time::age_at, v1::Node};

use super::View;
use crate::table::or_none;

pub const NARROW: &[&str] = &["NAME", "STATUS", "AGE", "VERSION"];
pub const WIDE: &[&str] = &["INTERNAL-IP", "POD-CIDR", "KERNEL"];

pub fn row(node: &Node, view: &View) -> Vec<String> {
    let meta = node.meta();
    let info = node.status.as_ref().and_then(|status| status.node_info.as_ref());
    let mut cells = vec![
        meta.name.clone(),
        status(node),
        age_at(meta.creation_timestamp.as_ref(), &view.now),
        or_none(info.map_or("", |info| &info.kubelet_version)),
    ];
    if view.wide {
        cells.push(or_none(address(node, "InternalIP")));
        cells.push(or_none(node.spec.as_ref().map_or("", |spec| &spec.pod_cidr)));
        cells.push(or_none(info.map_or("", |info| &info.kernel_version)));
    }
    cells
}

/// "Ready", `NotReady` or "Unknown", with `,SchedulingDisabled` when it is cordoned.
pub fn status(node: &Node) -> String {
    let conditions = node.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let ready = conditions
        .iter()
        .find(|condition| condition.r#type == "Ready")
        .map(|condition| &*condition.status);
    let word = match ready {
        Some("True") => "Ready",
        // False, or Unknown because its agent is silent: kubectl calls both so.
        Some(_) => "NotReady",
        None => "Unknown",
    };
    let cordoned = node.spec.as_ref().is_some_and(|spec| spec.unschedulable);
    format!("{word}{}", if cordoned { ",SchedulingDisabled" } else { "" })
}

/// The node's address of a type; empty without one.
pub fn address<'a>(node: &'a Node, kind: &str) -> &'a str {
    let addresses = node.status.as_ref().map_or(&[][..], |status| &status.addresses);
    addresses
        .iter()
        .find(|address| address.r#type == kind)
        .map_or("", |address| &address.address)
}
