//! What is planned, seen from outside: cases by name, and properties over random rosters and machines.

// clippy.toml allows these in tests, but takes a helper of tests for production code.
#![allow(clippy::unwrap_used, clippy::panic)]

mod cases;
mod derived;
mod home_files;
mod homes;
mod limits;
mod machine;
mod moves;
mod properties;
mod refresh;
mod sequences;
mod units;
mod wiring;
