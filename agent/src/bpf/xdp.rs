//! XDP on the uplink.

use std::{fs, io, os::fd::AsFd as _, path::Path};

use aya::programs::Xdp;
use causeway_maps::link::{AttachType, Link, Target};

use super::{config::XdpAttachment, error::DatapathError, links};

/// The program's name in the object.
pub(super) const NAME: &str = "cw_xdp";

/// `XDP_FLAGS_SKB_MODE` (`include/uapi/linux/if_link.h`).
const GENERIC: u32 = 1 << 1;
/// `XDP_FLAGS_DRV_MODE`.
const NATIVE: u32 = 1 << 2;

impl XdpAttachment {
    const ALL: [Self; 2] = [Self::Native, Self::Generic];

    fn flags(self) -> u32 {
        match self {
            Self::Native => NATIVE,
            Self::Generic => GENERIC,
        }
    }

    /// What its pin's name begins with: a link does not tell its mode.
    fn pin_prefix(self) -> &'static str {
        match self {
            Self::Native => "cw_xdp_native",
            Self::Generic => "cw_xdp_generic",
        }
    }
}

/// Attaches the program to an interface, or replaces it there; without `how`, and where it runs otherwise, it is detached.
pub(super) fn attach(
    program: Option<&Xdp>,
    ifindex: u32,
    how: Option<XdpAttachment>,
    links_dir: &Path,
) -> Result<(), DatapathError> {
    let failed = |source| DatapathError::AttachInterface {
        name: NAME,
        ifindex,
        source,
    };
    for other in XdpAttachment::ALL.into_iter().filter(|other| Some(*other) != how) {
        detach(&links_dir.join(format!("{}-{ifindex}", other.pin_prefix()))).map_err(failed)?;
    }
    let (Some(how), Some(program)) = (how, program) else {
        return Ok(());
    };
    let fd = program
        .fd()
        .map_err(|source| DatapathError::Program { name: NAME, source })?;
    links::attach(
        fd.as_fd(),
        AttachType::Xdp,
        Target::Xdp(ifindex, how.flags()),
        &links_dir.join(format!("{}-{ifindex}", how.pin_prefix())),
    )
    .map_err(failed)
}

/// Detaches what is pinned there, if anything is.
fn detach(pin: &Path) -> io::Result<()> {
    let link = match Link::open(pin) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        link => link?,
    };
    link.detach()?;
    fs::remove_file(pin)
}
