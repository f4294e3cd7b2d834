//! Sequences made up from a seed, run by the model and by the real programs.
//!
//! | file | does |
//! |---|---|
//! | `random`, `places`, `generate`, `dress` | make sequences up |
//! | `case`, `craft` | sequences as text; packets as bytes |
//! | `world` | the node they happen on |
//! | `kernel`, `table` | the programs and their maps |
//! | `wire` | the tunnel's headers |
//! | `run`, `change`, `compare` | both go through a sequence; where they differ |
//! | `shrink` | what is left of a sequence that matters |
//!
//! A sequence holds everything it needs: the same one gives the same result at any time, but for the choices that the programs
//! are free to make.

pub mod case;
mod change;
mod compare;
pub mod craft;
mod dress;
pub mod generate;
pub mod kernel;
mod places;
pub mod random;
pub mod run;
pub mod shrink;
mod table;
mod wire;
pub mod world;

pub use case::Case;
pub use generate::Generator;
pub use run::{Difference, Outcome, Runner};
