//! One home, as its user.
//!
//! Root never opens a path under a home and never speaks to a network (invariant 3). Work in a home is done by a
//! process of its own, the *worker*: it is started as root with an empty environment, reads who to become, becomes
//! that user for good, confines itself to the home, and only then looks at the first path. The daemon's end of it
//! is [`Worker`].
//!
//! ```text
//! daemon (root)                                   worker (the user, in Landlock, rlimits, no new privileges)
//! Worker::start ── Become ───────────────────────> identity, confine
//! Worker::observe ── Observe(HomeDesired) ───────> place: what stands in each place, below the home's descriptor
//! Worker::look ── Look(clones) ──────────────────> refs: what each clone knows of its remotes
//! Worker::apply ── Apply(HomeAction) ────────────> clone, moves, wiring, fetch, fast_forward: one step
//!             ── File(FileAction) ───────────────> files: one file that the configuration names
//! Worker::finish ── end of input ────────────────> exits
//! ```
//!
//! Most homes are only looked at, so that is done by a small program that starts fast, [`look()`]: it has neither
//! libgit2 nor TLS in it, may write nothing and connect to nobody. When there is more to do, [`worker()`] takes its place.
//!
//! A public remote is asked, and its mirror kept, by a worker that becomes the system user of the mirrors and is
//! confined to that one mirror: [`RemoteWorker`], `mirror`. [`freshen()`] does a refresh without a daemon.
//!
//! The two speak JSON lines of bounded length over stdin and stdout; what the worker says is untrusted.
//!
//! A clone is made by libgit2 in this process: no git, no ssh, no hook, no filter and no credential helper is ever
//! started, and the kernel would refuse it (Landlock grants no execution, `RLIMIT_NPROC` is 0). `~/.gitconfig` is
//! not in force: what it says counts whenever the person runs git in the finished clone, and a proxy in it cannot
//! hold up the machine's housekeeping. It is read as text, to leave alone what the person has set.

mod change;
mod checked;
mod clone;
mod confine;
mod credentials;
mod edit;
#[cfg(test)]
mod escape;
mod fast_forward;
mod fetch;
mod files;
mod freshen;
mod gitconfig;
mod identity;
mod links;
mod locked;
mod mirror;
mod moves;
mod objects;
mod panics;
mod place;
mod protocol;
mod ref_files;
mod refs;
mod remote_worker;
mod supervisor;
mod sys;
mod system;
mod transfer;
mod tree;
mod wiring;
mod worker;

pub use confine::{Here, StayError, stay_here};
pub use freshen::freshen;
pub use protocol::Landlock;
pub use remote_worker::RemoteWorker;
pub use supervisor::{Limits, Person, Programs, Worker};
pub use system::{SystemUser, become_system_user};
pub use worker::{look, worker};
pub use worker_process::WorkerError;
