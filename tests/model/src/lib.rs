//! A second opinion on the data path.
//!
//! [`model`] says what should become of a packet, written from the documents, Kubernetes' promises and the RFCs, with plain
//! collections and no thought of the kernel. [`fuzz`] makes up sequences of packets, changes and passing time, lets the
//! model and the real programs go through them side by side, and reduces what they disagree on to a case worth reading.
//!
//! Nothing here is shared with the programs but the layout of the maps, so that a mistake is not made twice.

pub mod fuzz;
pub mod model;
