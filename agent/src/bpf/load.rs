//! Loading the BPF object: its maps, new or adopted, and its programs.

use std::{
    collections::HashMap,
    num::NonZero,
    panic::resume_unwind,
    path::Path,
    sync::{Mutex, PoisonError},
    thread,
};

use aya::{
    Ebpf, EbpfLoader,
    programs::{Program, ProgramError},
};
use causeway_maps::shape;

use super::{
    DatapathConfig, DatapathError,
    links::{CGROUP_PROGRAMS, FROM_HOST, FROM_POD, TUNNEL, UPLINK},
    xdp,
};

/// Loads the object: maps pinned by name (adopted where a pin is), programs into the kernel.
pub(super) fn load(config: &DatapathConfig, maps_dir: &Path, object: &[u8]) -> Result<Ebpf, DatapathError> {
    let mut loader = EbpfLoader::new();
    for shape in shape::ALL {
        loader.map_pin_path(shape.name, maps_dir.join(shape.name));
    }
    for (name, size) in config.sizes.by_name() {
        loader.map_max_entries(name, size);
    }
    let mut object = loader.load(object).map_err(DatapathError::Load)?;
    load_programs(&mut object, programs(config))?;
    Ok(object)
}

/// Names of the programs that are used, those that take longest to verify first.
fn programs(config: &DatapathConfig) -> impl Iterator<Item = &'static str> {
    let interfaces = [FROM_POD, FROM_HOST].into_iter().chain(UPLINK).chain(TUNNEL);
    let xdp = config.xdp.map(|_| xdp::NAME);
    let sockets = CGROUP_PROGRAMS.map(|(name, _)| name);
    xdp.into_iter()
        .chain(interfaces.map(|program| program.name))
        .chain(sockets)
}

/// Loads programs, as many at a time as there are processors: the kernel verifies each by itself, which is most of what an
/// agent's start takes.
fn load_programs(object: &mut Ebpf, names: impl Iterator<Item = &'static str>) -> Result<(), DatapathError> {
    let mut all: HashMap<_, _> = object.programs_mut().collect();
    let wanted = names.map(|name| {
        let program = all.remove(name).ok_or(DatapathError::NoProgram { name })?;
        Ok((name, program))
    });
    let wanted: Vec<_> = wanted.collect::<Result<_, DatapathError>>()?;
    let threads = thread::available_parallelism()
        .map_or(1, NonZero::get)
        .min(wanted.len());
    let queue = Mutex::new(wanted.into_iter());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        while let Some((name, program)) = next() {
            load_program(program).map_err(|source| DatapathError::Program { name, source })?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let own = work();
        let others = others
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)));
        // All of them are waited for, whichever failed.
        others.fold(own, Result::and)
    })
}

fn load_program(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        Program::Xdp(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}
