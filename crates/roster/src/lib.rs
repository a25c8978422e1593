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
//! | [`parse`], [`diagnostic`], [`schema`] | the two files: read with places, every mistake at once; the JSON Schemas |
//! | [`name`] | validated names: what is in one of these types is safe in a file, a path or an argument |
//! | [`model`] | the roster: people and the policy of each |
//! | [`config`] | this host and this site |
//! | [`desired`] | what should be |
//! | [`mod@derive`] | from roster, config and ports to what should be |
//! | [`observed`] | what is |
//! | [`moves`], [`wiring`] | clones that have to move, and what git is told in a home: wanted, seen and done |
//! | [`plan`] | the steps between the two, as data |
//! | [`cluster`], [`k8s_users`] | the people as objects of a Kubernetes cluster; the cluster's own list of them |
//! | [`vault`] | the people in a Vault |
//! | [`guard`], [`tier_check`] | what holds a roster back |
//! | [`access`] | what one person can reach, and why |
//! | [`change`] | the difference of two rosters, for people |
//! | [`envfile`] | environment files as text |
//! | [`lease`] | which of several hosts changes what they share |
//! | [`ledger`] | the only state rosterd keeps |
//! | [`provider`] | the outside systems by name |
//! | [`remote`] | what git remotes show, and what clones know of them |
//! | [`report`] | what a run did, for people and programs |

pub mod access;
pub mod change;
pub mod cluster;
pub mod config;
pub mod derive;
pub mod desired;
pub mod diagnostic;
pub mod envfile;
pub mod guard;
pub mod k8s_users;
pub mod lease;
pub mod ledger;
pub mod model;
pub mod moves;
pub mod name;
pub mod observed;
pub mod parse;
pub mod plan;
pub mod provider;
pub mod remote;
pub mod report;
#[cfg(test)]
mod sample;
pub mod schema;
pub mod tier_check;
pub mod vault;
pub mod wiring;
