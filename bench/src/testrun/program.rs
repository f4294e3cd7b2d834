//! The feeder's instructions, written out: there are about forty, and a compiler for BPF is a lot to ask for them.

use std::os::fd::{AsRawFd as _, OwnedFd};

use super::{bpf::Kind, frame::FRAME_BYTES};

/// What the feeder answers when it could not jump; no measured program answers this.
pub(super) const NO_JUMP: u32 = 99;

/// `struct bpf_insn`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub(super) struct Instruction {
    code: u8,
    /// Destination in the lower half, source in the upper.
    registers: u8,
    offset: i16,
    immediate: i32,
}
const _: () = assert!(size_of::<Instruction>() == 8);

/// A register of the machine: `r0` the result, `r1` to `r5` arguments, `r6` to `r9` kept over calls, `r10` the frame.
type Register = u8;

// Codes of include/uapi/linux/bpf_common.h and bpf.h, put together.
const MOVE: u8 = 0xb7;
const MOVE_REGISTER: u8 = 0xbf;
const ADD: u8 = 0x07;
const SUBTRACT_REGISTER: u8 = 0x1f;
const LOAD_WORD: u8 = 0x61;
const LOAD_DOUBLE: u8 = 0x79;
const STORE_WORD: u8 = 0x63;
const STORE_DOUBLE: u8 = 0x7b;
const STORE_WORD_IMMEDIATE: u8 = 0x62;
const LOAD_MAP: u8 = 0x18;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const JUMP_IF_EQUAL: u8 = 0x15;
const JUMP_IF_LESS_REGISTER: u8 = 0xad;
const JUMP_IF_GREATER_REGISTER: u8 = 0x2d;
/// In the source register of [`LOAD_MAP`]: the immediate is a map's descriptor.
const PSEUDO_MAP_FD: u8 = 1;

const FRAME: i32 = 64;
const _: () = assert!(FRAME.unsigned_abs() as usize == FRAME_BYTES && FRAME_BYTES.is_multiple_of(8));

// enum bpf_func_id.
const MAP_LOOKUP_ELEM: i32 = 1;
const TAIL_CALL: i32 = 12;
const XDP_ADJUST_HEAD: i32 = 44;

fn instruction(code: u8, destination: Register, source: Register, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: source << 4 | destination,
        offset,
        immediate,
    }
}

/// Instructions under construction. Jumps to the end are filled in when it is known.
#[derive(Default)]
struct Text {
    instructions: Vec<Instruction>,
    to_end: Vec<usize>,
}

impl Text {
    fn put(&mut self, code: u8, destination: Register, source: Register, offset: i16, immediate: i32) {
        self.instructions
            .push(instruction(code, destination, source, offset, immediate));
    }

    /// `destination = map`, two instructions long.
    fn load_map(&mut self, destination: Register, map: &OwnedFd) {
        self.put(LOAD_MAP, destination, PSEUDO_MAP_FD, 0, map.as_raw_fd());
        self.put(0, 0, 0, 0, 0);
    }

    /// Jumps to the end if the comparison holds.
    fn end_if(&mut self, code: u8, destination: Register, source: Register, immediate: i32) {
        self.to_end.push(self.instructions.len());
        self.put(code, destination, source, 0, immediate);
    }

    /// `r0 = &map[the word at r10 - 4]`.
    fn look_up(&mut self, map: &OwnedFd) {
        self.put(MOVE_REGISTER, 2, 10, 0, 0);
        self.put(ADD, 2, 0, 0, -4);
        self.load_map(1, map);
        self.put(CALL, 0, 0, 0, MAP_LOOKUP_ELEM);
        self.end_if(JUMP_IF_EQUAL, 0, 0, 0);
    }

    fn finish(mut self) -> Vec<Instruction> {
        let end = self.instructions.len();
        for place in self.to_end {
            // The program is far shorter than a jump can be; were it not, the verifier would refuse it.
            self.instructions[place].offset = i16::try_from(end - place - 1).unwrap_or(i16::MAX);
        }
        self.instructions
            .push(instruction(MOVE, 0, 0, 0, NO_JUMP.cast_signed()));
        self.instructions.push(instruction(EXIT, 0, 0, 0, 0));
        self.instructions
    }
}

/// Does nothing.
pub(super) fn nothing() -> Vec<Instruction> {
    vec![instruction(MOVE, 0, 0, 0, 0), instruction(EXIT, 0, 0, 0, 0)]
}

/// XDP: makes the packet longer at its head, as by the headers of a tunnel.
pub(super) fn grow() -> Vec<Instruction> {
    const TUNNEL_BYTES: i32 = 50;
    let mut text = Text::default();
    text.put(MOVE, 2, 0, 0, -TUNNEL_BYTES);
    text.put(CALL, 0, 0, 0, XDP_ADJUST_HEAD);
    text.put(MOVE, 0, 0, 0, 0);
    text.put(EXIT, 0, 0, 0, 0);
    text.instructions
}

/// XDP: lets everything pass.
pub(super) fn pass() -> Vec<Instruction> {
    const XDP_PASS: i32 = 2;
    vec![instruction(MOVE, 0, 0, 0, XDP_PASS), instruction(EXIT, 0, 0, 0, 0)]
}

/// Puts the next frame into the packet, and jumps. `cursor` holds the number of the next frame and how many there are.
pub(super) fn feeder(kind: Kind, cursor: &OwnedFd, frames: &OwnedFd, jump: &OwnedFd) -> Vec<Instruction> {
    /// Places of `data`, `data_end` and `mark` in the context.
    const SKB: (i16, i16, i16) = (76, 80, 8);
    const XDP: (i16, i16) = (0, 4);
    let (data, data_end) = match kind {
        Kind::Tc => (SKB.0, SKB.1),
        Kind::Xdp => XDP,
    };
    let mut text = Text::default();
    text.put(MOVE_REGISTER, 6, 1, 0, 0);

    // r7 = cursor.next; cursor.next = r7 + 1 < cursor.count ? r7 + 1 : 0
    text.put(STORE_WORD_IMMEDIATE, 10, 0, -4, 0);
    text.look_up(cursor);
    text.put(LOAD_WORD, 7, 0, 0, 0);
    text.put(LOAD_WORD, 8, 0, 4, 0);
    text.put(MOVE_REGISTER, 1, 7, 0, 0);
    text.put(ADD, 1, 0, 0, 1);
    text.put(JUMP_IF_LESS_REGISTER, 1, 8, 1, 0);
    text.put(MOVE, 1, 0, 0, 0);
    text.put(STORE_WORD, 0, 1, 0, 0);

    // r8 = &frames[r7]
    text.put(STORE_WORD, 10, 7, -4, 0);
    text.look_up(frames);
    text.put(MOVE_REGISTER, 8, 0, 0, 0);

    match kind {
        // What the program before has marked is marked no more.
        Kind::Tc => text.put(STORE_WORD_IMMEDIATE, 6, 0, SKB.2, 0),
        // The program before may have made the packet longer, at its head.
        Kind::Xdp => {
            text.put(LOAD_WORD, 1, 6, data, 0);
            text.put(LOAD_WORD, 2, 6, data_end, 0);
            text.put(SUBTRACT_REGISTER, 2, 1, 0, 0);
            text.put(ADD, 2, 0, 0, -FRAME);
            text.put(JUMP_IF_EQUAL, 2, 0, 2, 0);
            text.put(MOVE_REGISTER, 1, 6, 0, 0);
            text.put(CALL, 0, 0, 0, XDP_ADJUST_HEAD);
        }
    }

    text.put(LOAD_WORD, 2, 6, data, 0);
    text.put(LOAD_WORD, 3, 6, data_end, 0);
    text.put(MOVE_REGISTER, 1, 2, 0, 0);
    text.put(ADD, 1, 0, 0, FRAME);
    text.end_if(JUMP_IF_GREATER_REGISTER, 1, 3, 0);
    for offset in (0_i16..).step_by(8).take(FRAME_BYTES / 8) {
        text.put(LOAD_DOUBLE, 4, 8, offset, 0);
        text.put(STORE_DOUBLE, 2, 4, offset, 0);
    }

    text.put(MOVE_REGISTER, 1, 6, 0, 0);
    text.load_map(2, jump);
    text.put(MOVE, 3, 0, 0, 0);
    text.put(CALL, 0, 0, 0, TAIL_CALL);
    text.finish()
}
