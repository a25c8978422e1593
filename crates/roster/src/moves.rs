//! Clones that have to move within a home, with all that is in them: the infra clone from `~/code` to
//! `~/code/infra` when its person's layout becomes a workspace, and a clone that was made inside it to its place
//! beside it.
//!
//! A move goes by way of a hidden name. Whatever bears that name is on its way, whenever the run ended, and the next
//! one brings it on.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::desired::HomeDesired;
use crate::observed::Place;

/// The mark of something that is being moved. Nothing that bears it is ever removed.
const MOVING: &str = ".rosterd-moving";

/// A move of one clone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "move", rename_all = "kebab-case")]
pub enum Move {
    /// Brings the clone at `from` by way of `through` to `to`. When it is at `through` already, the rest of that.
    Clone {
        /// Where it was, below the home.
        from: String,
        /// The hidden name that it has meanwhile.
        through: String,
        /// Where it shall be. When that is below `from`, a new folder takes its place there.
        to: String,
    },
    /// Removes an empty folder that was to take a clone's place.
    CleanUp {
        /// The folder.
        path: String,
    },
}

impl Move {
    /// The infra clone, when a workspace takes its place.
    pub fn infra() -> Move {
        Move::Clone { from: "code".into(), through: hidden("code"), to: "code/infra".into() }
    }

    /// A clone within the infra clone at `code/infra` to its place at `to`, such as `code/tripit`.
    pub fn hoist(to: &str) -> Move {
        Move::Clone { from: within("code/infra", to), through: hidden(to), to: to.into() }
    }

    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Move::Clone { .. } => "move-clone",
            Move::CleanUp { .. } => "clean-up-move",
        }
    }
}

impl fmt::Display for Move {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Move::Clone { from, to, .. } => write!(f, "move the clone ~/{from} to ~/{to}"),
            Move::CleanUp { path } => write!(f, "remove the empty folder ~/{path}"),
        }
    }
}

/// The name that what is moved to or from `path` has meanwhile.
fn hidden(path: &str) -> String {
    match path.rsplit_once('/') {
        Some((folder, name)) => format!("{folder}/.{name}{MOVING}"),
        None => format!(".{path}{MOVING}"),
    }
}

/// Where a home has to be looked at for moves.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lookout {
    /// Hidden names of moves, that of the infra clone first.
    pub hidden: Vec<String>,
    /// For each clone besides infra, where it is if somebody made it within the infra clone.
    pub nested: Vec<String>,
}

impl Lookout {
    /// For `desired`, with the infra clone at `infra` now.
    pub fn of(desired: &HomeDesired, infra: &str) -> Lookout {
        let mut lookout = Lookout { hidden: vec![hidden("code")], nested: Vec::new() };
        if desired.workspace {
            for clone in desired.clones.iter().filter(|clone| desired.infra() != Some(clone)) {
                lookout.hidden.push(hidden(&clone.path));
                lookout.nested.push(within(infra, &clone.path));
            }
        }
        lookout
    }

    /// Where the infra clone of a workspace can be: before, during and after its move.
    pub fn infra() -> [String; 3] {
        ["code".into(), hidden("code"), "code/infra".into()]
    }
}

/// Where a clone that belongs to `path`, such as `code/tripit`, is within the infra clone at `infra`.
pub(crate) fn within(infra: &str, path: &str) -> String {
    format!("{infra}/{}", path.rsplit('/').next().unwrap_or(path))
}

/// What a home shows of clones that may have to move.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovesObserved {
    /// What bears the hidden name of a move, by path below the home.
    pub on_the_way: BTreeMap<String, Place>,
    /// Clones where they may have to go away, by path below the home: `code` itself, and those within it.
    pub candidates: BTreeMap<String, Candidate>,
    /// What is at `~/code/infra`, where the roster says `single`.
    pub infra: Place,
}

/// A clone that may have to move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    /// Whether the infra clone's own history holds this path.
    pub tracked: Tracked,
    /// What would not survive the move.
    pub obstacles: Vec<String>,
    /// What its person must see to after the move.
    pub remarks: Vec<String>,
}

/// Whether git keeps a path in the repository around it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tracked {
    /// It does not.
    No,
    /// It does: it is a part of that repository.
    Yes,
    /// That cannot be told: why.
    Unknown(String),
}
