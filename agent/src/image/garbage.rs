//! Removing what no image and no container uses.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    config::Rootfs,
    error::{ImageError, at},
    store::{ImageStore, layer_name},
};

impl ImageStore {
    /// Removes every blob and layer that no image and no container of this node uses. With the store's lock held.
    pub(super) fn collect_garbage(&self) -> Result<(), ImageError> {
        let mut blobs = BTreeSet::new();
        let mut layers = self.layers_in_use();
        layers.insert("empty".to_owned());
        for (_, digest) in self.refs()? {
            let manifest = self.manifest(&digest)?;
            let parts = manifest
                .layers()
                .iter()
                .chain([manifest.config()])
                .map(|part| part.digest().to_string());
            blobs.extend(parts.map(|digest| self.blob(&digest)));
            blobs.insert(self.blob(&digest));
            layers.extend(
                self.configuration(&manifest)?
                    .rootfs()
                    .diff_ids()
                    .iter()
                    .map(|id| layer_name(id)),
            );
        }
        for path in entries(&self.root.join("blobs/sha256"))?
            .into_iter()
            .filter(|path| !blobs.contains(path))
        {
            fs::remove_file(&path).map_err(at("remove", &path))?;
        }
        for path in entries(&self.root.join("layers"))? {
            if path
                .file_name()
                .is_some_and(|name| !layers.contains(name.to_string_lossy().as_ref()))
            {
                // Moved first: no part of a layer may be taken for the whole.
                let grave = self.temporary("garbage");
                fs::rename(&path, &grave)
                    .and_then(|()| fs::remove_dir_all(&grave))
                    .map_err(at("remove", &path))?;
            }
        }
        Ok(())
    }

    /// Names of the layers that containers of this node were started from.
    fn layers_in_use(&self) -> BTreeSet<String> {
        let children = |dirs: Vec<PathBuf>| {
            dirs.iter()
                .flat_map(|dir| entries(dir).unwrap_or_default())
                .collect::<Vec<_>>()
        };
        let pods = children(vec![self.state_dir.join("pods")]);
        let attempts = children(children(pods.iter().map(|pod| pod.join("containers")).collect()));
        let specs = attempts
            .iter()
            .filter_map(|attempt| fs::read(attempt.join("spec.json")).ok());
        let specs = specs.filter_map(|text| serde_json::from_slice::<StartedFrom>(&text).ok());
        let layers = specs.flat_map(|spec| spec.rootfs.layers);
        layers
            .filter_map(|layer| layer.strip_suffix("/fs").map(str::to_owned))
            .collect()
    }
}

/// The part of a container's record that matters to images.
#[derive(serde::Deserialize)]
struct StartedFrom {
    rootfs: Rootfs,
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, ImageError> {
    let read = fs::read_dir(dir).map_err(at("read", dir))?;
    read.map(|entry| entry.map(|entry| entry.path()))
        .collect::<io::Result<_>>()
        .map_err(at("read", dir))
}
