//! Root's end of a worker: a process that does what root must not, such as work in a home or speak to a network or a server.
//!
//! It is started with an empty environment, asked and heard in JSON lines over its stdin and stdout, and killed at its
//! deadline. Nothing that it says is trusted: a line is bounded, and texts are cleaned before anyone reads them. What the
//! lines mean is for the crates whose worker it is.

mod once;
mod process;
mod text;

pub use once::{Answer, ask_once};
pub use process::{Advice, Process, WorkerError};
pub use text::{clean, read_line};
