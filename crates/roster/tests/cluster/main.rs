//! The cluster's side of the core: what should be there, the plan, and what holds for every roster and every cluster.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

mod access;
mod cases;
mod map;
mod pretend;
mod properties;
