//! The crate on a machine in a folder, beside shadow's real tools, under strace, out of space.

mod accounts;
mod faults;
mod kill;
mod lint;
mod observe;
mod steps;
mod tree;
