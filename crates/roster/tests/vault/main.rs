//! Vault's side of the core: what holds for every roster and every Vault. Single cases, with what a person reads, are tested
//! with a worker, in the crate `identity`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

mod access;
mod pretend;
mod properties;
