//! The control interface `io.rosterd.Control`: what `rosterd` serves at its socket and `rosterctl` asks, as Varlink.
//!
//! The replies carry the records of [`roster::report`] as plain JSON objects, so that any Varlink client gets what
//! `rosterctl --json` prints. Touches the socket and nothing else; who may ask what is the daemon's affair.

mod client;
mod server;

pub use client::{Client, ClientError, Events};
pub use server::{Call, CallError, Connection, DESCRIPTION, Peer, SERVICE_DESCRIPTION};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Name of the interface.
pub const INTERFACE: &str = "io.rosterd.Control";

/// Where the daemon listens, unless told otherwise.
pub const SOCKET: &str = "/run/rosterd/control.sock";

/// Answer to `Status`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StatusReply {
    /// A [`roster::report::Status`].
    pub status: Value,
}

/// Answer to `Plan`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PlanReply {
    /// A [`roster::plan::Plan`].
    pub plan: Value,
}

/// Answer to `Access`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AccessReply {
    /// A [`roster::access::Access`].
    pub access: Value,
}

/// One answer of many to `Reconcile` and `Wait`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProgressReply {
    /// A [`roster::report::Progress`]; the last one is its `Ended`.
    pub progress: Value,
}

/// Answer to `History`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HistoryReply {
    /// Each a [`roster::report::RunSummary`], the newest first.
    pub runs: Vec<Value>,
}

/// Answer to `Show`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ShowReply {
    /// A [`roster::report::Run`].
    pub run: Value,
}

/// Answer to `Leaver`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LeaverReply {
    /// A [`roster::report::Leaver`].
    pub leaver: Value,
}

/// Why the daemon refuses.
#[derive(Debug, Clone, PartialEq, Eq, zlink::ReplyError)]
#[zlink(interface = "io.rosterd.Control")]
pub enum ControlError {
    /// The peer may not ask this.
    PermissionDenied {
        /// Who may.
        needs: String,
    },
    /// There is nothing to confirm.
    NothingHeld,
    /// What is held is not what was to be confirmed.
    HeldDiffers,
    /// No such run is in the ledger.
    NoSuchRun {
        /// What was asked for.
        id: String,
    },
    /// Neither the roster in force nor the ledger knows the person.
    NoSuchUser {
        /// What was asked for.
        user: String,
    },
    /// The roster on disk was not applied in time.
    TimedOut,
    /// The daemon is about to stop.
    Stopping,
    /// It could not be done.
    Failed {
        /// What went wrong, and what to do.
        what: String,
    },
}

impl ControlError {
    /// What an admin reads. The derived `Display` of a Varlink error only names the variant.
    pub fn text(&self) -> String {
        match self {
            ControlError::PermissionDenied { needs } => format!("you may not do this: it needs {needs}"),
            ControlError::NothingHeld => "nothing is held, so there is nothing to confirm".into(),
            ControlError::HeldDiffers => "what is held has changed meanwhile; look at it again".into(),
            ControlError::NoSuchRun { id } => format!("no run {id} is in the ledger"),
            ControlError::NoSuchUser { user } => format!("nobody named {user} is in the roster in force"),
            ControlError::TimedOut => "the roster on disk was not applied in time".into(),
            ControlError::Stopping => "rosterd is stopping".into(),
            ControlError::Failed { what } => what.clone(),
        }
    }
}
