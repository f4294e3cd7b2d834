//! The bridge between the ABI's types and aya.

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// What can be a key or a value of a map: bytes without padding or pointers, for which every bit pattern is valid.
pub trait Data: FromBytes + IntoBytes + Immutable + Copy + 'static {}

impl<T: FromBytes + IntoBytes + Immutable + Copy + 'static> Data for T {}

/// A map key or value as aya takes it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(transparent)]
pub struct Plain<T>(pub T);

// SAFETY: `aya::Pod` asks that a value may be read as bytes and made from any bytes. `Plain` is transparent, `IntoBytes`
// guarantees initialised bytes without padding, `FromBytes` that every bit pattern is valid, `Immutable` that there is no
// interior mutability behind a shared view.
unsafe impl<T: Data> aya::Pod for Plain<T> {}
