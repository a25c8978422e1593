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
//! | [`hosts`] | the part of a roster that one machine applies |
//! | [`desired`] | what should be |
//! | [`mod@derive`] | from roster, config and ports to what should be |
//! | [`observed`] | what is |
//! | [`moves`], [`wiring`] | clones that have to move, and what git is told in a home: wanted, seen and done |
//! | [`plan`] | the steps between the two, as data |
//! | [`edit`] | changes of the roster's text that leave every other line as it is |
//! | [`guard`], [`tier_check`] | what holds a roster back |
//! | [`membership`] | the group of the identity provider against the roster |
//! | [`cluster`], [`k8s_users`] | the people as objects of a Kubernetes cluster; the cluster's own list of them |
//! | [`vault`] | the people in a Vault |
//! | [`access`] | what one person can reach, and why |
//! | [`change`] | the difference of two rosters, for people |
//! | [`files`] | files of the homes and of the machine: their kinds, what should be, what is seen, what is done |
//! | [`envfile`] | environment files as text |
//! | [`lease`] | which of several hosts changes what they share |
//! | [`ledger`] | the only state rosterd keeps |
//! | [`provider`] | the outside systems by name |
//! | [`remote`] | what git remotes show, and what clones know of them |
//! | [`report`] | what a run did, for people and programs |

pub mod access;
pub mod announce;
pub mod change;
pub mod cluster;
pub mod config;
pub mod derive;
pub mod desired;
pub mod diagnostic;
pub mod edit;
pub mod envfile;
pub mod files;
pub mod guard;
pub mod hosts;
pub mod k8s_users;
pub mod lease;
pub mod ledger;
pub mod membership;
pub mod model;
pub mod moves;
pub mod name;
pub mod observed;
pub mod parse;
pub mod plan;
pub mod provider;
pub mod remote;
pub mod report;
pub mod revocation;
#[cfg(test)]
mod sample;
pub mod schema;
pub mod source;
pub mod tier_check;
pub mod vault;
pub mod wiring;
