//! The crate on a machine in a folder, beside shadow's real tools, under strace, out of space.

// clippy knows tests by `#[test]`, not their helpers.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod accounts;
mod faults;
mod kill;
mod lint;
mod observe;
mod steps;
mod tree;
