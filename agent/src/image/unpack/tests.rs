//! Layers as tools write them, and as attackers would.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

use tar::{Builder, Header};

use super::*;

/// Builds an archive of raw entries: the tar crate's own checks on names would keep attacks out.
#[derive(Default)]
struct Archive(Vec<(EntryType, &'static str, &'static str, u32)>);

impl Archive {
    fn add(mut self, kind: EntryType, path: &'static str, content: &'static str) -> Self {
        self.0.push((kind, path, content, 0o644));
        self
    }

    fn mode(mut self, mode: u32) -> Self {
        self.0.last_mut().unwrap().3 = mode;
        self
    }

    fn bytes(&self) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for (kind, path, content, mode) in &self.0 {
            let mut header = Header::new_ustar();
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_entry_type(*kind);
            header.set_mode(*mode);
            header.set_uid(7);
            header.set_gid(8);
            header.set_mtime(1_000_000);
            let is_link = matches!(kind, EntryType::Symlink | EntryType::Link);
            if is_link {
                header.as_old_mut().linkname[..content.len()].copy_from_slice(content.as_bytes());
            }
            let data = if is_link { "" } else { content };
            header.set_size(data.len() as u64);
            if *kind == EntryType::Char {
                header.set_device_major(0).unwrap();
                header.set_device_minor(0).unwrap();
            }
            header.set_cksum();
            builder.append(&header, data.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn unpack(&self) -> (tempfile::TempDir, Result<(), UnpackError>) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("layer")).unwrap();
        fs::write(dir.path().join("outside"), "untouched").unwrap();
        let result = unpack(&self.bytes()[..], &dir.path().join("layer"));
        assert_eq!(fs::read_to_string(dir.path().join("outside")).unwrap(), "untouched");
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            2,
            "something was made outside the layer"
        );
        (dir, result)
    }

    fn unpacked(&self) -> tempfile::TempDir {
        let (dir, result) = self.unpack();
        result.unwrap();
        dir
    }
}

use EntryType::{Directory, Fifo, Link, Regular, Symlink};

fn opaque(path: &Path) -> bool {
    let path = CString::new(path.as_os_str().as_bytes()).unwrap();
    let mut value = [0_u8; 4];
    // SAFETY: path and name are NUL-terminated, `value` has the length told.
    let length = unsafe {
        let name = c"trusted.overlay.opaque";
        libc::lgetxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len())
    };
    length == 1 && value[0] == b'y'
}

#[test]
fn files_come_out_with_owner_mode_and_time() {
    let dir = Archive::default()
        .add(Directory, "./", "")
        .mode(0o755)
        .add(Regular, "./bin/tool", "#!")
        .mode(0o4755)
        .add(Symlink, "sh", "bin/tool")
        .add(Link, "copy", "bin/tool")
        .add(Fifo, "pipe", "")
        .unpacked();
    let layer = dir.path().join("layer");
    let tool = fs::metadata(layer.join("bin/tool")).unwrap();
    assert_eq!(
        (tool.uid(), tool.gid(), tool.mode() & 0o7777, tool.mtime()),
        (7, 8, 0o4755, 1_000_000)
    );
    assert_eq!(fs::metadata(layer.join("copy")).unwrap().ino(), tool.ino());
    let link = fs::symlink_metadata(layer.join("sh")).unwrap();
    assert_eq!((link.is_symlink(), link.uid()), (true, 7));
    assert!(fs::metadata(layer.join("pipe")).unwrap().file_type().is_fifo());
    assert_eq!(fs::metadata(&layer).unwrap().mtime(), 1_000_000);
    assert_eq!(
        fs::metadata(layer.join("bin")).unwrap().permissions().mode() & 0o7777,
        0o755
    );
}

#[test]
fn whiteouts_become_overlayfs_ones() {
    let dir = Archive::default()
        .add(Directory, "etc", "")
        .mode(0o755)
        .add(Regular, "etc/.wh..wh..opq", "")
        .add(Regular, "lib/.wh.gone", "")
        .add(Regular, ".wh..wh.plnk", "")
        .unpacked();
    let layer = dir.path().join("layer");
    assert!(opaque(&layer.join("etc")) && !opaque(&layer.join("lib")));
    let gone = fs::symlink_metadata(layer.join("lib/gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    assert_eq!(fs::read_dir(&layer).unwrap().count(), 2);
}

#[test]
fn a_name_both_hidden_and_made_is_made_and_hides() {
    let before = Archive::default()
        .add(Regular, ".wh.d", "")
        .add(Directory, "d", "")
        .mode(0o755);
    let after = Archive::default()
        .add(Directory, "d", "")
        .mode(0o755)
        .add(Regular, ".wh.d", "");
    for archive in [before, after] {
        let dir = archive.unpacked();
        assert!(opaque(&dir.path().join("layer/d")));
    }
    let file = Archive::default()
        .add(Regular, ".wh.f", "")
        .add(Regular, "f", "new")
        .unpacked();
    assert_eq!(fs::read_to_string(file.path().join("layer/f")).unwrap(), "new");
}

#[test]
fn later_entries_replace_earlier_ones() {
    let dir = Archive::default()
        .add(Regular, "a", "1")
        .add(Regular, "a", "2")
        .add(Regular, "d/x", "")
        .add(Regular, "d", "now a file")
        .add(Link, "a", "a")
        .unpacked();
    let layer = dir.path().join("layer");
    assert_eq!(fs::read_to_string(layer.join("a")).unwrap(), "2");
    assert_eq!(fs::read_to_string(layer.join("d")).unwrap(), "now a file");
}

#[test]
fn no_name_leads_out() {
    for path in ["../outside", "a/../../outside", "..", "a/b/../../../outside"] {
        let (_dir, result) = Archive::default().add(Regular, path, "evil").unpack();
        assert!(matches!(result, Err(UnpackError::Escape(_))), "{path}");
    }
    // An absolute name is taken from the layer's top.
    let dir = Archive::default().add(Regular, "/outside", "inside").unpacked();
    assert_eq!(fs::read_to_string(dir.path().join("layer/outside")).unwrap(), "inside");
}

#[test]
fn no_link_leads_out() {
    for target in ["..", "../..", "/", "/../.."] {
        // To write through a link: lands inside the layer, where the link leads when the layer is `/`.
        let (dir, result) = Archive::default()
            .add(Symlink, "l", target)
            .add(Regular, "l/outside", "evil")
            .unpack();
        result.unwrap();
        assert_eq!(
            fs::read_to_string(dir.path().join("layer/outside")).unwrap(),
            "evil",
            "{target}"
        );
    }
    // To replace the target of a link: replaces the link.
    let dir = Archive::default()
        .add(Symlink, "l", "../outside")
        .add(Regular, "l", "evil")
        .unpacked();
    assert!(fs::symlink_metadata(dir.path().join("layer/l")).unwrap().is_file());
    // To get hold of a file outside with a hard link.
    for target in ["../outside", "l/outside"] {
        let (_dir, result) = Archive::default()
            .add(Symlink, "l", "..")
            .add(Link, "stolen", target)
            .unpack();
        assert!(result.is_err(), "{target}");
    }
    // A directory made through a link.
    let (_dir, result) = Archive::default()
        .add(Symlink, "l", "../new")
        .add(Directory, "l/d", "")
        .unpack();
    assert!(result.is_err() || !Path::new("new").exists());
}

#[test]
fn a_device_that_is_a_whiteout_in_disguise_is_refused() {
    let (_dir, result) = Archive::default().add(EntryType::Char, "etc", "").unpack();
    let error = result.unwrap_err();
    let source = std::error::Error::source(&error).unwrap();
    assert_eq!(source.to_string(), "a device that overlayfs would take for a whiteout");
}

#[test]
fn a_broken_archive_is_an_error() {
    let bytes = Archive::default().add(Regular, "a", "some content").bytes();
    let dir = tempfile::tempdir().unwrap();
    assert!(unpack(&bytes[..515], dir.path()).is_err());
}
