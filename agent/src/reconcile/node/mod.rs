//! This node at the control plane: registration, status, heartbeats.
//!
//! [`facts`] finds out what the node is, [`desired`] says what its object should look like (pure), [`run`] keeps it so and
//! [`lease`] keeps telling that the agent lives.

pub mod desired;
pub mod facts;
pub mod lease;
pub mod run;
