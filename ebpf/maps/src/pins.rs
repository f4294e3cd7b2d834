//! Where the pins of a node lie in bpffs: `<bpffs>/causeway/<cluster>/<node>/{maps,links}`.

use std::{
    io,
    path::{Path, PathBuf},
};

/// Where bpffs is mounted on an ordinary machine.
pub const BPFFS: &str = "/sys/fs/bpf";

/// First directory below bpffs.
pub const ROOT: &str = "causeway";

/// A node whose pins were found.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PinnedNode {
    /// Name of the cluster.
    pub cluster: String,
    /// Name of the node.
    pub node: String,
    /// The directory that holds `maps` and `links`.
    pub dir: PathBuf,
}

/// Directory of a node's pins.
pub fn node_dir(bpffs: &Path, cluster: &str, node: &str) -> PathBuf {
    bpffs.join(ROOT).join(file_name(cluster)).join(file_name(node))
}

/// Directory of its map pins.
pub fn maps_dir(node_dir: &Path) -> PathBuf {
    node_dir.join("maps")
}

/// Directory of its link pins.
pub fn links_dir(node_dir: &Path) -> PathBuf {
    node_dir.join("links")
}

/// The nodes with pins on this machine, sorted.
pub fn discover(bpffs: &Path) -> io::Result<Vec<PinnedNode>> {
    let mut nodes = Vec::new();
    for (cluster, cluster_dir) in directories(&bpffs.join(ROOT))? {
        for (node, dir) in directories(&cluster_dir)? {
            if maps_dir(&dir).is_dir() {
                nodes.push(PinnedNode {
                    cluster: cluster.clone(),
                    node,
                    dir,
                });
            }
        }
    }
    nodes.sort();
    Ok(nodes)
}

/// bpffs refuses names with a dot (`kernel/bpf/inode.c`), host names have them.
fn file_name(name: &str) -> String {
    name.replace('%', "%25").replace('.', "%2e")
}

fn original_name(file_name: &str) -> String {
    file_name.replace("%2e", ".").replace("%25", "%")
}

fn directories(dir: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push((original_name(&entry.file_name().to_string_lossy()), entry.path()));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_dots_survive() {
        let dir = node_dir(Path::new("/b"), "prod", "node1.example.org");
        assert_eq!(dir, Path::new("/b/causeway/prod/node1%2eexample%2eorg"));
        assert_eq!(original_name("node1%2eexample%2eorg"), "node1.example.org");
        assert_eq!(original_name(&file_name("50%2e.x")), "50%2e.x");
    }

    #[test]
    fn nodes_are_found_where_they_are_pinned() {
        let root = std::env::temp_dir().join(format!("cwt-pins-{}", std::process::id()));
        for (cluster, node) in [("b", "n1"), ("a", "n2.x"), ("a", "n1")] {
            std::fs::create_dir_all(maps_dir(&node_dir(&root, cluster, node))).unwrap();
        }
        std::fs::create_dir_all(node_dir(&root, "a", "no-maps")).unwrap();
        let found: Vec<_> = discover(&root)
            .unwrap()
            .into_iter()
            .map(|n| (n.cluster, n.node))
            .collect();
        std::fs::remove_dir_all(&root).unwrap();
        let expected = [("a", "n1"), ("a", "n2.x"), ("b", "n1")].map(|(c, n)| (c.to_owned(), n.to_owned()));
        assert_eq!(found, expected);
    }

    #[test]
    fn nothing_pinned_is_no_error() {
        assert_eq!(discover(Path::new("/nonexistent")).unwrap(), []);
    }
}
