//! The programs of a node: where they are attached, how often they run and for how long.

use std::{collections::BTreeMap, fs, io, os::unix::fs::MetadataExt as _, path::Path, thread, time::Duration};

use aya::{
    programs::{ProgramInfo, loaded_programs},
    sys::{Stats, enable_stats},
};
use serde::{Deserialize, Serialize};

use crate::{
    MapsError, PinnedMaps,
    link::{AttachType, Link, Place},
    pins, shape,
};

/// A program that reads this node's maps.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProgramView {
    /// Its name, as far as the kernel keeps it (15 characters).
    pub name: String,
    /// The kernel's id of it.
    pub id: u32,
    /// Where it is attached, by links that are pinned.
    pub attached: Vec<AttachmentView>,
    /// How often it ran while statistics were on; absent when they never were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runs: Option<u64>,
    /// Mean time of a run in nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub average_ns: Option<u64>,
    /// Instructions the verifier walked through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified_instructions: Option<u32>,
    /// Bytes of machine code.
    pub jitted_bytes: u32,
    /// Memory it takes, in bytes.
    pub memory_bytes: u32,
}

/// A place where a program is attached.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttachmentView {
    /// "tcx-ingress", "connect4", …
    pub hook: String,
    /// Path of a cgroup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// Index of an interface in the node's network namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ifindex: Option<u32>,
}

impl AttachmentView {
    /// "tcx-ingress of interface 5".
    pub fn text(&self) -> String {
        match (&self.cgroup, self.ifindex) {
            (Some(cgroup), _) => format!("{} of {cgroup}", self.hook),
            (None, Some(0)) => format!("{} of an interface that is gone", self.hook),
            (None, Some(index)) => format!("{} of interface {index}", self.hook),
            (None, None) => self.hook.clone(),
        }
    }
}

/// The hook of programs that run before the kernel makes socket buffers.
const XDP: &str = "xdp";

/// What a place to attach to is called.
fn hook(attach_type: u32) -> String {
    let known = [
        (AttachType::Inet4Connect, "connect4"),
        (AttachType::Inet6Connect, "connect6"),
        (AttachType::Udp4Sendmsg, "sendmsg4"),
        (AttachType::Udp6Sendmsg, "sendmsg6"),
        (AttachType::Udp4Recvmsg, "recvmsg4"),
        (AttachType::Udp6Recvmsg, "recvmsg6"),
        (AttachType::Inet4Getpeername, "getpeername4"),
        (AttachType::Inet6Getpeername, "getpeername6"),
        (AttachType::InetSockRelease, "sock_release"),
        (AttachType::TcxIngress, "tcx-ingress"),
        (AttachType::TcxEgress, "tcx-egress"),
    ]
    .into_iter()
    .find(|(known, _)| *known as u32 == attach_type);
    known.map_or_else(|| format!("attach-type-{attach_type}"), |(_, name)| name.to_owned())
}

/// The programs, by name. With `sample`, the kernel's statistics are switched on for so long, and runs and times are those of
/// that while; without, they are what the kernel has counted whenever statistics were on.
pub fn programs(maps: &PinnedMaps, sample: Option<Duration>) -> Result<Vec<ProgramView>, MapsError> {
    let attached = attachments(&pins::links_dir(&maps.dir))?;
    let mut before = BTreeMap::new();
    if let Some(sample) = sample {
        let statistics = enable_stats(Stats::RunTime).map_err(|source| MapsError::Statistics {
            source: source.io_error,
        })?;
        before = of_node(maps)?
            .iter()
            .map(|info| (info.id(), (info.run_count(), info.run_time())))
            .collect();
        thread::sleep(sample);
        let views = views(maps, &attached, &before, true);
        drop(statistics);
        return views;
    }
    views(maps, &attached, &before, false)
}

type Runs = BTreeMap<u32, (u64, Duration)>;

fn views(
    maps: &PinnedMaps,
    attached: &BTreeMap<u32, Vec<AttachmentView>>,
    before: &Runs,
    sampled: bool,
) -> Result<Vec<ProgramView>, MapsError> {
    let view = |info: &ProgramInfo| {
        let (runs, time) = before.get(&info.id()).copied().unwrap_or_default();
        let runs = info.run_count().saturating_sub(runs);
        let time = info.run_time().saturating_sub(time);
        let mean = u64::try_from(time.as_nanos()).ok().and_then(|ns| ns.checked_div(runs));
        Ok(ProgramView {
            name: info.name_as_str().unwrap_or_default().to_owned(),
            id: info.id(),
            attached: attached.get(&info.id()).cloned().unwrap_or_default(),
            runs: (sampled || runs > 0).then_some(runs),
            average_ns: mean,
            verified_instructions: info.verified_instruction_count(),
            jitted_bytes: info.size_jitted(),
            memory_bytes: info.memory_locked().map_err(|source| MapsError::Programs {
                source: Box::new(source),
            })?,
        })
    };
    let mut views = of_node(maps)?.iter().map(view).collect::<Result<Vec<_>, _>>()?;
    views.sort_by(|a: &ProgramView, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
    Ok(views)
}

/// The loaded programs that use a map of this node. A program that ends meanwhile is left out.
pub(crate) fn of_node(maps: &PinnedMaps) -> Result<Vec<ProgramInfo>, MapsError> {
    let dir = pins::maps_dir(&maps.dir);
    let mut ids = Vec::new();
    for shape in shape::ALL {
        if let Some(data) = shape.open(&dir)? {
            let info = data.info().map_err(|source| MapsError::Read {
                map: shape.name,
                source,
            })?;
            ids.push(info.id());
        }
    }
    let mut found = Vec::new();
    for program in loaded_programs() {
        let Ok(program) = program else { continue };
        if let Ok(Some(used)) = program.map_ids()
            && used.iter().any(|id| ids.contains(id))
        {
            found.push(program);
        }
    }
    Ok(found)
}

/// Whether a program of this node sees what comes in by an interface before the kernel makes socket buffers of it.
pub(crate) fn has_xdp(maps: &PinnedMaps, ifindex: u32) -> Result<bool, MapsError> {
    let attached = attachments(&pins::links_dir(&maps.dir))?;
    Ok(attached
        .values()
        .flatten()
        .any(|attachment| attachment.hook == XDP && attachment.ifindex == Some(ifindex)))
}

/// The pinned links, by their programs' ids.
fn attachments(links_dir: &Path) -> Result<BTreeMap<u32, Vec<AttachmentView>>, MapsError> {
    let failed = |path: &Path, source| MapsError::Link {
        path: path.to_owned(),
        source,
    };
    let mut paths: Vec<_> = match fs::read_dir(links_dir) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(failed(links_dir, error)),
    };
    paths.sort();
    let mut cgroups = BTreeMap::new();
    let mut found = BTreeMap::<u32, Vec<AttachmentView>>::new();
    for path in paths {
        let link = match Link::open(&path).and_then(|link| link.info()) {
            Ok(link) => link,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(&path, error)),
        };
        let attachment = match link.place {
            Place::Cgroup(id, attach_type) => AttachmentView {
                hook: hook(attach_type),
                cgroup: Some(
                    cgroups
                        .entry(id)
                        .or_insert_with(|| cgroup_path(id).unwrap_or_else(|| format!("cgroup {id}")))
                        .clone(),
                ),
                ifindex: None,
            },
            Place::Tcx(ifindex, attach_type) => AttachmentView {
                hook: hook(attach_type),
                cgroup: None,
                ifindex: Some(ifindex),
            },
            Place::Xdp(ifindex) => AttachmentView {
                hook: XDP.to_owned(),
                cgroup: None,
                ifindex: Some(ifindex),
            },
            Place::Other => continue,
        };
        found.entry(link.program).or_default().push(attachment);
    }
    Ok(found)
}

/// Where a cgroup of that id is in the v2 tree, from its root on.
fn cgroup_path(id: u64) -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let roots = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (path, kind) = (words.next()?, words.next()?);
        (kind == "cgroup2").then_some(path)
    });
    roots
        .into_iter()
        .find_map(|root| find_cgroup(Path::new(root), id, root))
}

fn find_cgroup(dir: &Path, id: u64, root: &str) -> Option<String> {
    if fs::metadata(dir).ok()?.ino() == id {
        let path = dir.to_string_lossy();
        return Some(
            path.strip_prefix(root)
                .unwrap_or(&path)
                .trim_start_matches('/')
                .to_owned(),
        );
    }
    let entries = fs::read_dir(dir).ok()?;
    let directories = entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories
        .into_iter()
        .find_map(|entry| find_cgroup(&entry.path(), id, root))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_read_in_words() {
        let at = |ifindex, cgroup: Option<&str>| {
            let view = AttachmentView {
                hook: hook(46),
                cgroup: cgroup.map(Into::into),
                ifindex,
            };
            view.text()
        };
        assert_eq!(at(Some(5), None), "tcx-ingress of interface 5");
        assert_eq!(at(Some(0), None), "tcx-ingress of an interface that is gone");
        assert_eq!(
            at(None, Some("causeway/dev/node-1")),
            "tcx-ingress of causeway/dev/node-1"
        );
        assert_eq!(hook(99), "attach-type-99");
    }
}
