//! Columns of replication controllers.

use causeway_proto::{Resource as _, time::age_at, v1::ReplicationController};

use super::View;
use crate::table::{or_none, pairs};

pub const NARROW: &[&str] = &["NAME", "DESIRED", "CURRENT", "READY", "AGE"];
pub const WIDE: &[&str] = &["CONTAINERS", "IMAGES", "SELECTOR"];

pub fn row(controller: &ReplicationController, view: &View) -> Vec<String> {
    let meta = controller.meta();
    let spec = controller.spec.as_ref();
    let status = controller.status.as_ref();
    let mut cells = vec![
        meta.name.clone(),
        spec.and_then(|spec| spec.replicas).unwrap_or(1).to_string(),
        status.map_or(0, |status| status.replicas).to_string(),
        status.map_or(0, |status| status.ready_replicas).to_string(),
        age_at(meta.creation_timestamp.as_ref(), &view.now),
    ];
    if view.wide {
        let pod = spec.and_then(|spec| spec.template.as_ref()?.spec.as_ref());
        let containers = pod.map_or(&[][..], |pod| &pod.containers);
        let join = |names: Vec<&str>| or_none(&names.join(","));
        cells.push(join(containers.iter().map(|container| &*container.name).collect()));
        cells.push(join(containers.iter().map(|container| &*container.image).collect()));
        cells.push(spec.map_or_else(|| or_none(""), |spec| pairs(&spec.selector)));
    }
    cells
}
