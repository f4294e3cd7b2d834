//! From a layer's archive to an overlayfs lower directory.
//!
//! Archives are not trusted, and this runs as root: every path is opened with `openat2(RESOLVE_IN_ROOT)`, to which the layer's
//! directory is the whole world, so that neither `..` nor a link, present or made on the way, leads out of it.

mod decompress;

use std::{
    collections::BTreeMap,
    ffi::{CString, OsStr, OsString},
    fs::{self, File},
    io::{self, Read},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Component, Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2},
    sys::{
        stat::{FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmodat, futimens, mkdirat, mknodat, utimensat},
        time::TimeSpec,
    },
    unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat},
};
use tar::{Entry, EntryType};

pub(super) use self::decompress::decompress;

/// Prefix of whiteouts (OCI image-spec, layer.md): the rest of the name is deleted from the layers below.
const WHITEOUT: &[u8] = b".wh.";
/// Whiteout that hides everything the layers below have in its directory.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Other names with this prefix are other tools' own.
const RESERVED: &[u8] = b".wh..wh.";

/// A layer could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The archive is broken.
    #[error("cannot read the archive")]
    Read(#[source] io::Error),
    /// An entry could not be made.
    #[error("cannot make \"{path}\"", path = path.display())]
    Make {
        /// Its path in the archive.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// An entry is named so that it would lie outside the layer.
    #[error("\"{path}\" leads out of the layer", path = .0.display())]
    Escape(PathBuf),
}

/// Unpacks the (uncompressed) archive into the empty directory `target`, with whiteouts as overlayfs has them.
pub(super) fn unpack(archive: impl Read, target: &Path) -> Result<(), UnpackError> {
    let root = File::open(target).map_err(|source| UnpackError::Make {
        path: PathBuf::from("/"),
        source,
    })?;
    let mut layer = Layer {
        root: root.into(),
        times: BTreeMap::new(),
    };
    let mut archive = tar::Archive::new(archive);
    for entry in archive.entries().map_err(UnpackError::Read)? {
        layer.add(entry.map_err(UnpackError::Read)?)?;
    }
    layer.set_times()
}

struct Layer {
    root: OwnedFd,
    /// Directories' times are set last: making their entries changes them.
    times: BTreeMap<PathBuf, TimeSpec>,
}

/// Where an entry goes.
struct Place {
    parent: OwnedFd,
    name: OsString,
}

impl Layer {
    fn add(&mut self, mut entry: Entry<'_, impl Read>) -> Result<(), UnpackError> {
        let path = PathBuf::from(OsString::from_vec(entry.path_bytes().into_owned()));
        let components = normal(&path).ok_or_else(|| UnpackError::Escape(path.clone()))?;
        self.make(&mut entry, &components)
            .map_err(|source| UnpackError::Make { path, source })
    }

    fn make(&mut self, entry: &mut Entry<'_, impl Read>, components: &Path) -> io::Result<()> {
        let kind = entry.header().entry_type();
        let Some(name) = components.file_name() else {
            // The layer's own directory.
            if kind == EntryType::Directory {
                set_attributes(entry, &self.root)?;
                self.times.insert(PathBuf::new(), time(entry)?);
            }
            return Ok(());
        };
        let parent = self.directory(components.parent().unwrap_or(Path::new("")))?;
        if name.as_bytes().starts_with(WHITEOUT) {
            return whiteout(&parent, name.as_bytes());
        }
        let place = Place {
            parent,
            name: name.to_owned(),
        };
        match kind {
            EntryType::Directory => {
                let directory = place.make_directory()?;
                set_attributes(entry, &directory)?;
                self.times.insert(components.to_owned(), time(entry)?);
                Ok(())
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                place.clear()?;
                let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
                let mut file = File::from(open_in(&place.parent, place.name.as_ref(), flags)?);
                io::copy(entry, &mut file)?;
                set_attributes(entry, &file)?;
                let time = time(entry)?;
                Ok(futimens(&file, &time, &time)?)
            }
            EntryType::Symlink => {
                place.clear()?;
                let target = entry.link_name_bytes().ok_or_else(|| invalid("a link to nothing"))?;
                symlinkat(OsStr::from_bytes(&target), &place.parent, place.name.as_os_str())?;
                place.set_owner_and_time(entry)
            }
            EntryType::Link => self.make_link(entry, &place),
            EntryType::Char | EntryType::Block | EntryType::Fifo => place.make_node(entry, kind),
            EntryType::XGlobalHeader => Ok(()),
            other => Err(invalid(format!("an entry of unknown kind {other:?}"))),
        }
    }

    fn make_link(&self, entry: &Entry<'_, impl Read>, place: &Place) -> io::Result<()> {
        let target = entry.link_name_bytes().ok_or_else(|| invalid("a link to nothing"))?;
        let target = normal(Path::new(OsStr::from_bytes(&target))).ok_or_else(|| invalid("a link out of the layer"))?;
        let name = target
            .file_name()
            .ok_or_else(|| invalid("a link to the layer's directory"))?;
        let from = open_in(
            &self.root,
            target.parent().unwrap_or(Path::new("")),
            OFlag::O_PATH | OFlag::O_DIRECTORY,
        )?;
        let same = place.name == name && same_file(&from, &place.parent)?;
        if same {
            return Ok(());
        }
        place.clear()?;
        Ok(linkat(
            &from,
            name,
            &place.parent,
            place.name.as_os_str(),
            AtFlags::empty(),
        )?)
    }

    /// Opens a directory of the layer, made if need be.
    fn directory(&self, path: &Path) -> io::Result<OwnedFd> {
        match open_in(&self.root, path, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
            Err(Errno::ENOENT) => {}
            result => return Ok(result?),
        }
        let parent = self.directory(path.parent().unwrap_or(Path::new("")))?;
        let name = path.file_name().ok_or_else(|| invalid("a path without a name"))?;
        Ok(Place {
            parent,
            name: name.to_owned(),
        }
        .make_directory()?)
    }

    fn set_times(&self) -> Result<(), UnpackError> {
        for (path, time) in &self.times {
            let set = || -> io::Result<()> {
                // Something else may have taken the directory's place since.
                match open_in(
                    &self.root,
                    path,
                    OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW,
                ) {
                    Ok(directory) => Ok(futimens(&directory, time, time)?),
                    Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(()),
                    Err(error) => Err(error.into()),
                }
            };
            set().map_err(|source| UnpackError::Make {
                path: path.clone(),
                source,
            })?;
        }
        Ok(())
    }
}

impl Place {
    /// Makes the directory, or takes the one that is there. Replacing a whiteout, it hides what is below.
    fn make_directory(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
        match open_in(&self.parent, self.name.as_ref(), flags) {
            Ok(directory) => return Ok(directory),
            Err(Errno::ENOENT) => mkdirat(&self.parent, self.name.as_os_str(), Mode::from_bits_truncate(0o755))?,
            Err(_) => {
                let hides = self.is_whiteout();
                unlinkat(&self.parent, self.name.as_os_str(), UnlinkatFlags::NoRemoveDir)?;
                mkdirat(&self.parent, self.name.as_os_str(), Mode::from_bits_truncate(0o755))?;
                if hides {
                    make_opaque(&open_in(&self.parent, self.name.as_ref(), flags)?)?;
                }
            }
        }
        open_in(&self.parent, self.name.as_ref(), flags)
    }

    fn is_whiteout(&self) -> bool {
        nix::sys::stat::fstatat(&self.parent, self.name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW)
            .is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFCHR && stat.st_rdev == 0)
    }

    /// Removes whatever is there: a later entry of an archive replaces an earlier one.
    fn clear(&self) -> io::Result<()> {
        match unlinkat(&self.parent, self.name.as_os_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            // Follows no links.
            Err(Errno::EISDIR) => fs::remove_dir_all(through(&self.parent).join(&self.name)),
            Err(error) => Err(error.into()),
        }
    }

    fn make_node(&self, entry: &Entry<'_, impl Read>, kind: EntryType) -> io::Result<()> {
        self.clear()?;
        let header = entry.header();
        let kind = match kind {
            EntryType::Char => SFlag::S_IFCHR,
            EntryType::Block => SFlag::S_IFBLK,
            _ => SFlag::S_IFIFO,
        };
        let (major, minor) = if kind == SFlag::S_IFIFO {
            (0, 0)
        } else {
            (header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0))
        };
        if kind == SFlag::S_IFCHR && (major, minor) == (0, 0) {
            return Err(invalid("a device that overlayfs would take for a whiteout"));
        }
        let device = nix::sys::stat::makedev(u64::from(major), u64::from(minor));
        mknodat(&self.parent, self.name.as_os_str(), kind, Mode::empty(), device)?;
        self.set_owner_and_time(entry)?;
        let mode = Mode::from_bits_truncate(header.mode()? & 0o7777);
        Ok(fchmodat(
            &self.parent,
            self.name.as_os_str(),
            mode,
            FchmodatFlags::FollowSymlink,
        )?)
    }

    fn set_owner_and_time(&self, entry: &Entry<'_, impl Read>) -> io::Result<()> {
        let (uid, gid) = owner(entry)?;
        fchownat(
            &self.parent,
            self.name.as_os_str(),
            Some(uid),
            Some(gid),
            AtFlags::AT_SYMLINK_NOFOLLOW,
        )?;
        let time = time(entry)?;
        Ok(utimensat(
            &self.parent,
            self.name.as_os_str(),
            &time,
            &time,
            UtimensatFlags::NoFollowSymlink,
        )?)
    }
}

/// The path's components without `.` and leading `/`; `None` when it holds `..`.
fn normal(path: &Path) -> Option<PathBuf> {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => normal.push(part),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(normal)
}

/// Opens `path` as if `root` were `/`.
fn open_in(root: &OwnedFd, path: &Path, flags: OFlag) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    let mode = if flags.contains(OFlag::O_CREAT) {
        Mode::from_bits_truncate(0o600)
    } else {
        Mode::empty()
    };
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .mode(mode)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(root, path, how)
}

fn through(fd: &impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}

fn same_file(a: &OwnedFd, b: &OwnedFd) -> io::Result<bool> {
    let (a, b) = (nix::sys::stat::fstat(a)?, nix::sys::stat::fstat(b)?);
    Ok((a.st_dev, a.st_ino) == (b.st_dev, b.st_ino))
}

/// What a whiteout entry means to overlayfs: a character device 0:0 in place of the name, or an opaque directory.
fn whiteout(parent: &OwnedFd, name: &[u8]) -> io::Result<()> {
    if name == OPAQUE {
        return Ok(make_opaque(parent)?);
    }
    let hidden = OsStr::from_bytes(&name[WHITEOUT.len()..]);
    if name.starts_with(RESERVED) || hidden.is_empty() {
        return Ok(());
    }
    if hidden == "." || hidden == ".." {
        return Err(invalid("a whiteout of a directory in itself"));
    }
    match mknodat(parent, hidden, SFlag::S_IFCHR, Mode::empty(), 0) {
        // The layer itself has the name; of the layers below, only a directory's contents could show through.
        Err(Errno::EEXIST) => {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
            match open_in(parent, Path::new(hidden), flags) {
                Ok(directory) => Ok(make_opaque(&directory)?),
                Err(_) => Ok(()),
            }
        }
        result => Ok(result?),
    }
}

fn make_opaque(directory: &OwnedFd) -> Result<(), Errno> {
    set_xattr(directory, c"trusted.overlay.opaque", b"y")
}

fn set_xattr(file: &impl AsFd, name: &std::ffi::CStr, value: &[u8]) -> Result<(), Errno> {
    // SAFETY: `name` is NUL-terminated, `value` has the length told; both live through the call, which only reads them.
    let result = unsafe {
        libc::fsetxattr(
            file.as_fd().as_raw_fd(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    };
    Errno::result(result).map(drop)
}

/// Owner, mode and extended attributes. In this order: changing the owner clears set-uid bits and capabilities.
fn set_attributes(entry: &mut Entry<'_, impl Read>, file: &impl AsFd) -> io::Result<()> {
    let (uid, gid) = owner(entry)?;
    nix::unistd::fchown(file.as_fd(), Some(uid), Some(gid))?;
    nix::sys::stat::fchmod(file.as_fd(), Mode::from_bits_truncate(entry.header().mode()? & 0o7777))?;
    let Some(extensions) = entry.pax_extensions()? else {
        return Ok(());
    };
    for extension in extensions {
        let extension = extension?;
        let name = extension.key().ok().and_then(|key| key.strip_prefix("SCHILY.xattr."));
        // Never overlayfs' own ("trusted."), with which a layer could point into other directories of the node.
        let Some(name) = name.filter(|name| *name == "security.capability" || name.starts_with("user.")) else {
            continue;
        };
        let name = CString::new(name).map_err(|_| invalid("an attribute's name with a NUL byte"))?;
        match set_xattr(file, &name, extension.value_bytes()) {
            Err(Errno::EOPNOTSUPP) if name.as_bytes().starts_with(b"user.") => {}
            result => result?,
        }
    }
    Ok(())
}

fn owner(entry: &Entry<'_, impl Read>) -> io::Result<(Uid, Gid)> {
    let id = |id: u64| u32::try_from(id).map_err(|_| invalid("an owner beyond 32 bits"));
    Ok((
        Uid::from_raw(id(entry.header().uid()?)?),
        Gid::from_raw(id(entry.header().gid()?)?),
    ))
}

fn time(entry: &Entry<'_, impl Read>) -> io::Result<TimeSpec> {
    Ok(TimeSpec::new(i64::try_from(entry.header().mtime()?).unwrap_or(0), 0))
}

fn invalid(problem: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem.into())
}

#[cfg(test)]
mod tests;
