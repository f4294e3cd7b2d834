//! Why no node fits, in kubectl's words.

use std::{collections::BTreeMap, fmt};

/// How many nodes have which reason against them. A node may have several.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unschedulable {
    nodes: usize,
    reasons: BTreeMap<String, usize>,
}

impl Unschedulable {
    /// Adds a node.
    pub(super) fn add(&mut self, reasons: Vec<String>) {
        self.nodes += 1;
        for reason in reasons {
            *self.reasons.entry(reason).or_default() += 1;
        }
    }

    /// Nodes by reason.
    pub fn reasons(&self) -> &BTreeMap<String, usize> {
        &self.reasons
    }
}

impl fmt::Display for Unschedulable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nodes == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        let mut reasons: Vec<_> = self
            .reasons
            .iter()
            .map(|(reason, count)| format!("{count} {reason}"))
            .collect();
        reasons.sort();
        write!(f, "0/{} nodes are available: {}", self.nodes, reasons.join(", "))
    }
}

impl std::error::Error for Unschedulable {}
