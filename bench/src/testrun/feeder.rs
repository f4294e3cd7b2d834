//! Runs of a measured program behind the feeder.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    ptr::NonNull,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result, bail};

use super::{
    bpf::{self, Kind, Likeness},
    frame::FRAME_BYTES,
    program::{self, Instruction, NO_JUMP},
};
use crate::stats::median;

/// Parts of a run: few, because before and after each the kernel patches its own code for XDP and waits for all processors.
const PARTS: u32 = 4;

/// What a run came to.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Ran {
    /// Feeder and program together, for one packet.
    pub nanoseconds: f64,
    /// What the program answered to the last packet.
    pub returned: u32,
}

/// The feeder before one program. Each has its own, because a change of what is jumped to takes the kernel milliseconds.
#[derive(Debug)]
struct Way {
    feeder: OwnedFd,
    /// Goes with the feeder: an array of programs is emptied when nobody has it open any more.
    _jump: OwnedFd,
}

/// A program to measure, and frames for it.
#[derive(Debug)]
pub struct Feeder {
    kind: Kind,
    measured: Way,
    empty: Way,
    growing: Option<Way>,
    cursor: Mapping,
    frames: Mapping,
    most: usize,
}

impl Feeder {
    /// For a program that is loaded, by its id, with room for so many frames.
    pub fn new(kind: Kind, id: u32, most: usize) -> Result<Self> {
        let measured = bpf::program(id)?;
        let cursor = bpf::array(8, 1)?;
        let frames = bpf::array(FRAME_BYTES, most)?;
        let way = |likeness: Likeness, to: &OwnedFd| -> Result<Result<Way, io::Error>> {
            let jump = bpf::jump_table()?;
            let instructions = program::feeder(kind, &cursor, &frames, &jump);
            let feeder = bpf::load(kind, likeness, &instructions)?;
            Ok(bpf::set_jump(&jump, to).map(|()| Way { feeder, _jump: jump }))
        };
        let mut refused = io::Error::other("no way to try");
        for likeness in Likeness::of(kind).iter().copied() {
            let to_measured = match way(likeness, &measured)? {
                Ok(way) => way,
                Err(error) => {
                    refused = error;
                    continue;
                }
            };
            let to = |instructions: Vec<Instruction>| -> Result<Way> {
                let program = bpf::load(kind, likeness, &instructions)?;
                way(likeness, &program)?.context("the kernel refuses a jump to a program of ours")
            };
            return Ok(Self {
                kind,
                measured: to_measured,
                empty: to(program::nothing())?,
                growing: match kind {
                    Kind::Tc => None,
                    Kind::Xdp => Some(to(program::grow())?),
                },
                cursor: Mapping::new(&cursor, 8)?,
                frames: Mapping::new(&frames, FRAME_BYTES * most)?,
                most,
            });
        }
        Err(refused).context("the kernel lets no measuring program jump to the measured one")
    }

    /// The frames of the next runs, which come in turn, the first first.
    pub fn set_frames(&mut self, frames: &[[u8; FRAME_BYTES]]) -> Result<()> {
        if frames.is_empty() || frames.len() > self.most {
            bail!("{} frames where there is room for {}", frames.len(), self.most);
        }
        self.frames.write(frames.as_flattened());
        self.cursor.store(0, 0);
        self.cursor.store(4, frames.len() as u32);
        Ok(())
    }

    /// Begins with the first frame again.
    pub fn rewind(&mut self) {
        self.cursor.store(0, 0);
    }

    /// Nanoseconds of the feeder and an empty program for one packet. Frames do not move on.
    pub fn run_empty(&mut self, ifindex: u32, repeat: u32) -> Result<f64> {
        let next = self.cursor.load(0);
        let ran = self.run_with(&self.empty, ifindex, repeat)?;
        self.cursor.store(0, next);
        Ok(ran.nanoseconds)
    }

    /// As [`run_empty`](Self::run_empty), with a program that makes each packet longer, so that the feeder makes it shorter again;
    /// `None` where packets cannot grow.
    pub fn run_growing(&mut self, ifindex: u32, repeat: u32) -> Result<Option<f64>> {
        let Some(growing) = &self.growing else {
            return Ok(None);
        };
        let next = self.cursor.load(0);
        let ran = self.run_with(growing, ifindex, repeat)?;
        self.cursor.store(0, next);
        Ok(Some(ran.nanoseconds))
    }

    /// Nanoseconds of the measured program for packets that come one at a time: median, less that of the empty program.
    pub fn run_singly(&mut self, ifindex: u32, packets: u32) -> Result<f64> {
        let (mut empty, mut measured) = (Vec::new(), Vec::new());
        for _ in 0..packets {
            empty.push(self.run_empty(ifindex, 1)?);
            measured.push(self.run(ifindex, 1)?.nanoseconds);
        }
        let middle = |values: &[f64]| median(values).context("no runs");
        Ok(middle(&measured)? - middle(&empty)?)
    }

    /// Feeds the measured program with the next frames, as if they came in on an interface of this thread's network namespace.
    pub fn run(&mut self, ifindex: u32, repeat: u32) -> Result<Ran> {
        self.run_with(&self.measured, ifindex, repeat)
    }

    /// In parts, the quickest of which counts: what slows some of them down is not the program.
    fn run_with(&self, way: &Way, ifindex: u32, repeat: u32) -> Result<Ran> {
        let packet = [0; FRAME_BYTES];
        let (mut left, mut best) = (repeat, None);
        while left > 0 {
            let part = left.min(repeat.div_ceil(PARTS));
            left -= part;
            let ran = bpf::test_run(&way.feeder, self.kind, &packet, ifindex, part)
                .context("the kernel refused to run the measured program")?;
            if ran.returned == NO_JUMP {
                bail!("the measured program was not reached");
            }
            let ran = Ran {
                nanoseconds: f64::from(ran.nanoseconds),
                returned: ran.returned,
            };
            best = match best {
                Some(Ran { nanoseconds, .. }) if nanoseconds < ran.nanoseconds => Some(Ran { nanoseconds, ..ran }),
                _ => Some(ran),
            };
        }
        best.context("a run without packets")
    }
}

/// An array in memory.
#[derive(Debug)]
struct Mapping {
    memory: NonNull<u8>,
    length: usize,
}

impl Mapping {
    fn new(map: &OwnedFd, length: usize) -> Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping of a map's whole memory; nothing else is touched.
        let memory = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                protection,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                0,
            )
        };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error()).context("cannot map a BPF array");
        }
        let memory = NonNull::new(memory.cast()).context("a BPF array at address 0")?;
        Ok(Self { memory, length })
    }

    /// Writes from the beginning. No program runs meanwhile.
    fn write(&mut self, bytes: &[u8]) {
        let length = bytes.len().min(self.length);
        // SAFETY: the mapping is `length` bytes long at least and is written by nobody else.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.memory.as_ptr(), length) };
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        assert!(
            offset.is_multiple_of(4) && offset + 4 <= self.length,
            "inside the mapping"
        );
        // SAFETY: aligned (mappings begin at pages) and inside, as was just checked; it lives as long as `self`.
        unsafe { AtomicU32::from_ptr(self.memory.as_ptr().add(offset).cast()) }
    }

    fn load(&self, offset: usize) -> u32 {
        self.word(offset).load(Ordering::Relaxed)
    }

    fn store(&self, offset: usize, value: u32) {
        self.word(offset).store(value, Ordering::Relaxed);
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length, and used by nobody any more. Failure would only leak.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), self.length) };
    }
}

// SAFETY: the mapping belongs to this value alone, and any thread may use it.
unsafe impl Send for Mapping {}
