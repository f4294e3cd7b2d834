//! Which nodes have maps on this machine.

use std::path::{Path, PathBuf};

use causeway_maps::pins;

use crate::error::CliError;

/// A node with pinned maps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    /// Its cluster.
    pub cluster: String,
    /// Its name.
    pub node: String,
    /// The directory of its pins.
    pub dir: PathBuf,
}

impl Source {
    /// Name in errors.
    pub fn title(&self) -> String {
        format!("{} of cluster {}", self.node, self.cluster)
    }
}

/// The nodes that the options leave, at least one.
pub fn find(bpffs: &Path, cluster: Option<&str>, node: Option<&str>) -> Result<Vec<Source>, CliError> {
    let found = pins::discover(bpffs).map_err(|source| CliError::Pins {
        path: bpffs.to_owned(),
        source,
    })?;
    let all: Vec<Source> = found
        .into_iter()
        .map(|one| Source {
            cluster: one.cluster,
            node: one.node,
            dir: one.dir,
        })
        .collect();
    choose(all, cluster, node)
        .map_err(|problem| CliError::Usage(format!("{problem} below {}", bpffs.join(pins::ROOT).display())))
}

fn choose(all: Vec<Source>, cluster: Option<&str>, node: Option<&str>) -> Result<Vec<Source>, String> {
    if all.is_empty() {
        return Err("no node has pinned maps".to_owned());
    }
    let there: Vec<String> = all
        .iter()
        .map(|source| format!("{}/{}", source.cluster, source.node))
        .collect();
    let wanted = |source: &Source| {
        cluster.is_none_or(|cluster| source.cluster == cluster) && node.is_none_or(|node| source.node == node)
    };
    let chosen: Vec<Source> = all.into_iter().filter(wanted).collect();
    if chosen.is_empty() {
        let asked = format!("{}/{}", cluster.unwrap_or("*"), node.unwrap_or("*"));
        return Err(format!(
            "no node {asked} (cluster/node; there are {})",
            there.join(", ")
        ));
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Source> {
        [("dev", "node-1"), ("dev", "node-2"), ("other", "node-1")]
            .map(|(cluster, node)| Source {
                cluster: cluster.into(),
                node: node.into(),
                dir: PathBuf::new(),
            })
            .into()
    }

    #[test]
    fn options_choose_among_the_nodes() {
        let chosen = |cluster, node| choose(all(), cluster, node).map(|chosen| chosen.len());
        assert_eq!(chosen(None, None), Ok(3));
        assert_eq!(chosen(None, Some("node-1")), Ok(2));
        assert_eq!(chosen(Some("dev"), Some("node-1")), Ok(1));
    }

    #[test]
    fn a_node_that_is_not_there_is_answered_with_those_that_are() {
        let error = choose(all(), None, Some("node-9")).unwrap_err();
        assert_eq!(
            error,
            "no node */node-9 (cluster/node; there are dev/node-1, dev/node-2, other/node-1)"
        );
        assert_eq!(choose(Vec::new(), None, None).unwrap_err(), "no node has pinned maps");
    }
}
