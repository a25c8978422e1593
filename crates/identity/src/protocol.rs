//! What daemon and worker say to each other: one JSON value a line, of bounded length at both ends.

use std::collections::BTreeSet;

use home::Landlock;
use jiff::Timestamp;
use roster::cluster::{Key, Kind, PlacedName, Reading};
use roster::lease::SeenLease;
use roster::plan::{ClusterAction, VaultAction};
use roster::vault::{LoginMethod, VaultLook, VaultObserved};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize, Serializer};
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// The longest line either end accepts: room for every grant of a few thousand people.
pub(crate) const MAX_LINE: usize = 32 << 20;

/// From the daemon.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// The first request, and only the first.
    Begin(Begin),
    /// Look at the objects that are ours by `instance`, and at these.
    Observe { instance: String, kinds: Vec<Kind>, wanted: BTreeSet<Key> },
    /// Read this Lease.
    Lease { place: PlacedName },
    /// Say that it is ours.
    TakeLease { place: PlacedName, before: Option<SeenLease>, holder: String, now: Timestamp },
    /// Look at this part of a Vault.
    Look(VaultLook),
    /// Do one step; several may be under way.
    Apply { id: usize, change: Change },
}

/// A step of one of the providers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Change {
    Cluster(ClusterAction),
    Vault(VaultAction),
}

/// From the worker.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// The worker is the system user.
    Ready { landlock: Landlock },
    /// It refuses to begin.
    Refused(Failure),
    /// What there is of a kind; one for each kind.
    Read { kind: Kind, reading: Reading },
    /// The Lease.
    Lease(Result<Option<SeenLease>, Failure>),
    /// Whether it is ours now.
    LeaseTaken(Result<bool, Failure>),
    /// What there is in a Vault.
    Looked(Box<Looked>),
    /// What became of a step.
    Applied { id: usize, failure: Option<Failure> },
}

/// Whom to become, within which limits, and what opens the provider.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Begin {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) memory_mib: u64,
    pub(crate) cpu_s: u64,
    pub(crate) parallel: usize,
    pub(crate) access: Access,
}

/// What opens a provider. How a server is reached and verified is always said by a kubeconfig: the client reads that.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Access {
    Kubernetes {
        #[serde(serialize_with = "expose", deserialize_with = "conceal")]
        kubeconfig: SecretString,
    },
    Vault {
        #[serde(serialize_with = "expose", deserialize_with = "conceal")]
        kubeconfig: SecretString,
        namespace: Option<String>,
        method: LoginMethod,
        mount: String,
        role: Option<String>,
        #[serde(serialize_with = "expose", deserialize_with = "conceal")]
        secret: SecretString,
    },
}

/// What there is in a Vault, and what is to be known about the way in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Looked {
    /// What there is.
    pub observed: VaultObserved,
    /// What an admin should know about the credential.
    pub notices: Vec<String>,
}

/// The one place where a secret leaves its type: into the pipe to the worker.
fn expose<S: Serializer>(secret: &SecretString, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(secret.expose_secret())
}

fn conceal<'de, D: serde::Deserializer<'de>>(from: D) -> Result<SecretString, D::Error> {
    String::deserialize(from).map(SecretString::from)
}

/// Why something was not done, for an admin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Why.
    pub why: String,
    /// What an admin can do.
    pub next: String,
}

impl Failure {
    pub(crate) fn new(why: impl Into<String>, next: impl Into<String>) -> Failure {
        Failure { why: why.into(), next: next.into() }
    }
}

/// Writes a message as a line.
pub(crate) async fn write_line(
    to: &mut (impl AsyncWrite + Unpin),
    message: &impl Serialize,
) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    to.write_all(&line).await?;
    to.flush().await
}
