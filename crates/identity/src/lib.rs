//! The providers: outside systems that hold people's identities. Kubernetes and Vault.
//!
//! Root never speaks to a network (invariant 3). Work with a provider is done by a process of its own, the *worker*: it
//! is started as root with an empty environment, reads its credential from a pipe, becomes the system user `rosterd` for
//! good, confines itself to the network, and only then connects. The daemon's end of it is [`Worker`].
//!
//! ```text
//! daemon (root)                                     worker (rosterd, in Landlock, rlimits, no new privileges)
//! Credential                read anew for each run
//! Worker::start ── Begin, with the credential ────> become, connect
//! Worker::observe ── Observe(which objects) ──────> kubernetes: one list per kind
//!     or Worker::look ── Look(where) ─────────────> vault: one list per kind, and each of ours
//! plan::cluster or plan::vault                      (in the core)
//! Worker::apply ── Apply(step), several at a time ─> one request a step; retry
//! Worker::finish ── end of input ─────────────────> exits
//! ```
//!
//! The two speak JSON lines of bounded length; what the worker says is untrusted, because a hostile server may have
//! taken it over. Each provider has a worker of its own with a deadline and a memory limit, so that the failure of one
//! is that one's.

mod credential;
mod http;
mod kubernetes;
mod protocol;
mod retry;
mod supervisor;
mod tls;
mod vault;
mod worker;

pub use credential::{Credential, CredentialError};
pub use protocol::{Failure, Looked};
pub use supervisor::{Limits, Worker};
pub use worker::worker;
pub use worker_process::WorkerError;
