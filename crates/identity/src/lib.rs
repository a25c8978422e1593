//! The providers: outside systems that hold people's identities. Kubernetes is the first.
//!
//! Root never speaks to a network (invariant 3). Work with a provider is done by a process of its own, the *worker*: it
//! is started as root with an empty environment, reads its credential from a pipe, becomes the system user `rosterd` for
//! good, confines itself to the network, and only then connects. The daemon's end of it is [`Worker`].
//!
//! ```text
//! daemon (root)                                     worker (rosterd, in Landlock, rlimits, no new privileges)
//! Credential::kubeconfig    read anew for each run
//! Worker::start ── Begin, with the credential ────> become, connect
//! Worker::observe ── Observe(which objects) ──────> kubernetes: one list per kind
//! plan::cluster(desired, observed)                  (in the core)
//! Worker::apply ── Apply(step), several at a time ─> kubernetes: server-side apply, delete, replace; retry
//! Worker::finish ── end of input ─────────────────> exits
//! ```
//!
//! The two speak JSON lines of bounded length; what the worker says is untrusted, because a hostile server may have
//! taken it over. Each provider has a worker of its own with a deadline and a memory limit, so that the failure of one
//! is that one's.

mod credential;
mod kubernetes;
mod protocol;
mod retry;
mod supervisor;
mod worker;

pub use credential::{Credential, CredentialError};
pub use supervisor::{Limits, Worker, WorkerError};
pub use worker::worker;
