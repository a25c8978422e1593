//! What a git remote shows, and what a clone knows of it: plain data, of which the plan decides who fetches what.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::name::{ObjectId, RefName};

/// Branches or tags with what they point to.
pub type Refs = BTreeMap<RefName, ObjectId>;

/// The ref list of a remote.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteRefs {
    /// `refs/heads/`.
    pub branches: Refs,
    /// `refs/tags/`; an annotated tag is the tag object itself.
    pub tags: Refs,
    /// The default branch: where `HEAD` points.
    pub head: Option<RefName>,
}

/// What came of asking a remote for its ref list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// The ref list.
    Refs(RemoteRefs),
    /// It shows itself only to those who have a login, or not at all.
    WantsLogin {
        /// What it said.
        why: String,
        /// What an admin can do.
        next: String,
    },
    /// It could not be asked. That is not an empty answer (invariant 8).
    Failed {
        /// Why.
        why: String,
        /// What an admin can do.
        next: String,
    },
}

/// A remote as the worker saw it that asks for everybody.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Its answer.
    pub answer: Answer,
    /// How many of the objects that its refs point to are not in the local mirror.
    pub not_mirrored: usize,
}

/// What is known of a remote when a home is planned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// Its answer, to everybody or to this person.
    pub answer: Answer,
    /// Whether the mirror has all that the answer names.
    pub mirrored: bool,
}

/// The remotes by URL.
pub type Remotes = BTreeMap<String, Remote>;

/// A clone to look at, and as far as it matters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LookAt {
    /// Its place below the home.
    pub path: String,
    /// The remotes to look for, by the name that they have in the clone.
    pub remotes: Vec<String>,
    /// The local branch to look for besides the one that is checked out.
    pub branch: Option<RefName>,
}

/// What a clone knows of its remotes, and what it is busy with. Read without touching an object or the index.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloneState {
    /// Why it is not refreshed at all, when it is not: "a shallow clone".
    pub unfit: Option<String>,
    /// Whether a fetch or fast-forward of an earlier run was interrupted.
    pub unfinished: bool,
    /// What somebody is in the middle of: "a rebase".
    pub busy: Option<String>,
    /// The branch that is checked out; nothing when the head is detached.
    pub head: Option<RefName>,
    /// The remote and the branch of it that the checked out branch follows.
    pub upstream: Option<(String, RefName)>,
    /// The local branches that were asked for, as far as they exist.
    pub branches: Refs,
    /// The tags it has.
    pub tags: BTreeSet<RefName>,
    /// The remotes that were asked for, as far as they exist.
    pub remotes: BTreeMap<String, Side>,
}

/// A remote as a clone has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Side {
    /// Its URL without user information.
    pub url: String,
    /// Whether it is fetched as git sets it up: all branches, to `refs/remotes/<name>/`.
    pub whole: bool,
    /// The default branch as it was when the clone was made.
    pub head: Option<RefName>,
    /// What was fetched from it last.
    pub branches: Refs,
}

/// Objects and refs to bring into a clone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetch {
    /// The clone's place below the home.
    pub path: String,
    /// The name of the remote in the clone.
    pub remote: String,
    /// Its URL.
    pub url: String,
    /// Whether the objects come from the mirror.
    pub mirrored: bool,
    /// Branches that are new or have moved.
    pub moved: Refs,
    /// Branches that are gone.
    pub gone: Vec<RefName>,
    /// Tags that the clone does not have.
    pub tags: Refs,
}

/// A branch that is behind, to be looked at closer or to be moved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FastForward {
    /// The clone's place below the home.
    pub path: String,
    /// The local branch, which is checked out.
    pub branch: RefName,
    /// Its commit.
    pub from: ObjectId,
    /// The commit that it should be at.
    pub to: ObjectId,
}

/// How a branch stands to where it should go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Relation {
    /// A true fast-forward.
    Behind,
    /// It has all of the other and more.
    Ahead,
    /// Each has commits that the other has not.
    Diverged,
}

/// What a closer look at a branch that may be behind found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// How it stands to the commit it should be at.
    pub relation: Relation,
    /// Whether files are changed that are not committed.
    pub dirty: bool,
    /// What else is in the way, in words.
    pub obstacle: Option<String>,
    /// Files that it brings to a locked clone in plain text, though git-crypt should have encrypted them.
    #[serde(default)]
    pub plain: Vec<String>,
}

/// A clone to be made from the mirror: what it would have got from the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MirrorClone {
    /// The clone.
    #[serde(flatten)]
    pub wanted: crate::desired::CloneDesired,
    /// The remote's refs.
    pub refs: RemoteRefs,
}
