//! Providers by name, and what is remembered of each: it has a tick, a record and troubles of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ledger::Degraded;
use crate::name::OsUser;
use crate::plan::{Notice, Subject};
use crate::report::RunSummary;

/// An outside system that holds people's identities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Provider {
    /// The cluster of `[kubernetes]`.
    Kubernetes,
    /// The server of `[vault]`.
    Vault,
}

impl Provider {
    /// Every provider.
    pub const ALL: [Provider; 2] = [Provider::Kubernetes, Provider::Vault];

    /// Its name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Provider::Kubernetes => "kubernetes",
            Provider::Vault => "vault",
        }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Provider {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Provider::ALL.into_iter().find(|provider| provider.as_str() == text);
        known.ok_or_else(|| format!("there is no provider `{text}`; there are `kubernetes` and `vault`"))
    }
}

/// What the ledger keeps of a provider.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderState {
    /// Subjects that are not there what they should be.
    pub degraded: BTreeMap<Subject, Degraded>,
    /// Notices that were told already, so that each is told once.
    pub told: BTreeSet<Notice>,
    /// Identifier of its newest run.
    pub last_run: Option<String>,
    /// People who left the roster and were seen to have nothing there any more.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub gone: BTreeSet<OsUser>,
}

/// How a provider is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderStatus {
    /// Whether a run is under way.
    pub running: bool,
    /// Its newest run.
    pub last_run: Option<RunSummary>,
    /// Subjects that are not there what they should be.
    pub degraded: BTreeMap<Subject, Degraded>,
    /// People who left the roster and were not seen to have lost what they had there.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub pending: BTreeSet<OsUser>,
}

/// Whether a token that is sent to the server at this address can be read on its way: without TLS, and to another machine.
pub fn is_in_the_clear(address: &str) -> bool {
    let address = address.to_ascii_lowercase();
    let Some(rest) = address.strip_prefix("http://") else { return false };
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let is = |name: &&str| {
        host.strip_prefix(*name)
            .is_some_and(|port| port.is_empty() || port.starts_with(':') && !port.contains('@'))
    };
    !["localhost", "127.0.0.1", "[::1]"].iter().any(is)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tls_and_this_machine_hide_a_token() {
        for address in
            ["https://a.example.org", "http://localhost:8200/x", "http://127.0.0.1", "HTTP://[::1]:80"]
        {
            assert!(!is_in_the_clear(address), "{address}");
        }
        for address in [
            "http://a.example.org",
            "HTTP://a",
            "http://localhost:x@evil",
            "http://localhost.evil",
            "http://127.0.0.1.evil/",
        ] {
            assert!(is_in_the_clear(address), "{address}");
        }
    }
}
