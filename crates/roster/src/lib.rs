//! The core of rosterd, without I/O: it knows no clock, no file, no process and no network.
//!
//! ```text
//! roster.yaml, config.toml ──parse──> Roster, Config ─┐
//! Ledger ─────────────────────────────────────────────┤ derive
//!                                                     v
//! HostObserved, HomeObserved ────────────────> plan ──> Plan
//! ```
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`name`] | validated names: what is in one of these types is safe in a file, a path or an argument |
//! | [`model`] | the roster: people and the policy of each |
//! | [`config`] | this host and this site |
//! | [`desired`] | what should be |
//! | [`observed`] | what is |
//! | [`plan`] | the steps between the two, as data |
//! | [`ledger`] | the only state rosterd keeps |
//! | [`report`] | what a run did, for people and programs |

pub mod config;
pub mod desired;
pub mod diagnostic;
pub mod ledger;
pub mod model;
pub mod name;
pub mod observed;
pub mod parse;
pub mod plan;
pub mod report;
pub mod schema;
