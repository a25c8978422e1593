//! Who is in the group of the identity provider, and who is in the roster: the group says *who*, the roster *what*.
//!
//! What follows from a difference is proposed here. A member without a row gets one at the floor tier; the row of
//! somebody who left becomes a comment. An admin is never taken out by a difference, and whatever could be read in two
//! ways is for a person to decide. An answer that failed, that is not whole or that is empty says nothing (invariant 8).

pub mod authentik;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use crate::edit::{Assignment, Edit, Operation};
use crate::model::{Person, Roster, Tier};
use crate::name::{Email, KubeUser, Login, Namespace, OsUser};

/// Somebody in the group, as the provider says it. Nothing of it is trusted yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The login.
    pub login: String,
    /// The e-mail address; empty when there is none.
    pub email: String,
    /// The name that people read.
    pub name: String,
    /// Whether they may sign in at all.
    pub active: bool,
}

/// What is proposed, or left to a person. Its `Display` is one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "proposal", rename_all = "kebab-case")]
pub enum Proposal {
    /// A member without a row gets one.
    Join {
        /// The new account.
        user: OsUser,
        /// The login.
        login: Login,
        /// The address, when it is one.
        email: Option<Email>,
        /// The name that people read.
        name: String,
        /// A namespace of their own name.
        namespace: Namespace,
    },
    /// A row whose person is not in the group becomes a comment.
    Leave {
        /// The account.
        user: OsUser,
        /// The login that is not in the group.
        login: Login,
    },
    /// An admin who is not in the group stays.
    AdminLeft {
        /// The account.
        user: OsUser,
        /// The login that is not in the group.
        login: Login,
    },
    /// A person must decide.
    Conflict {
        /// The login in the group.
        login: String,
        /// What is against a row.
        why: String,
    },
}

impl Proposal {
    /// Whether the roster changes by it.
    pub fn is_change(&self) -> bool {
        matches!(self, Proposal::Join { .. } | Proposal::Leave { .. })
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Proposal::Join { user, login, namespace, .. } => {
                write!(
                    f,
                    "{user}: joins as {} with the namespace {namespace} ({login} is in the group)",
                    Tier::NamespaceOwner
                )
            }
            Proposal::Leave { user, login } => {
                write!(f, "{user}: leaves, the lines become comments ({login} is not in the group)")
            }
            Proposal::AdminLeft { user, login } => {
                write!(
                    f,
                    "{user}: is an admin and stays, though {login} is not in the group; `rosterctl user remove {user}` takes them out"
                )
            }
            Proposal::Conflict { login, why } => write!(f, "{}: {why}; for a person to decide", shown(login)),
        }
    }
}

/// Why nothing is concluded from an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Inconclusive {
    /// A group without members looks like one that could not be read.
    #[error("the group is empty, and nothing is concluded from that")]
    Empty,
    /// Another group than the one that was meant looks like this.
    #[error(
        "not one of the {members} members is in the roster, and {leave} people would leave it: is it the right group?"
    )]
    Strangers {
        /// How many are in the group.
        members: usize,
        /// How many would leave.
        leave: usize,
    },
}

/// What follows from the members of the group. `exists` says of a name whether it is an account on this machine:
/// it may be that of somebody who left, whose files a newcomer of the same name must not get.
pub fn compare(
    members: &[Member],
    roster: &Roster,
    exists: impl Fn(&OsUser) -> bool,
) -> Result<Vec<Proposal>, Inconclusive> {
    if members.is_empty() {
        return Err(Inconclusive::Empty);
    }
    let rows: BTreeMap<String, &OsUser> =
        roster.users.iter().map(|(user, person)| (key(person.authentik_user.as_str()), user)).collect();
    let mut by_login: BTreeMap<String, Vec<&Member>> = BTreeMap::new();
    for member in members {
        by_login.entry(key(&member.login)).or_default().push(member);
    }
    let mut proposals = Vec::new();
    // Rows that are not taken out, whatever the group says, until a person has decided.
    let mut undecided = BTreeSet::new();
    let (mut known, mut joins) = (0, Vec::new());
    for (login, same) in &by_login {
        let row = rows.get(login);
        known += usize::from(row.is_some());
        let conflict = |why: String| Proposal::Conflict {
            login: same.first().map_or_else(String::new, |member| member.login.clone()),
            why,
        };
        match (same.as_slice(), row) {
            ([member], Some(user)) if !member.active => {
                proposals.push(conflict(format!(
                    "is in the group and in the roster as {user}, but may not sign in"
                )));
            }
            // One row for several logins that are the same to it says nothing about which of them is meant.
            (_, Some(_)) => {}
            ([member], None) if member.active => match newcomer(member, roster, &exists) {
                Ok(join) => joins.push((join, member.login.clone())),
                Err((why, row)) => {
                    undecided.extend(row);
                    proposals.push(conflict(why));
                }
            },
            ([_], None) => {}
            _ => proposals.push(conflict(format!(
                "{} logins in the group are the same without their domain",
                same.len()
            ))),
        }
    }
    let mut names: BTreeMap<&OsUser, usize> = BTreeMap::new();
    let mut spaces: BTreeMap<&Namespace, usize> = BTreeMap::new();
    let mut addresses: BTreeMap<String, usize> = BTreeMap::new();
    for (join, _) in &joins {
        *names.entry(&join.user).or_default() += 1;
        *spaces.entry(&join.namespace).or_default() += 1;
        if let Some(email) = &join.email {
            *addresses.entry(key_of_email(email)).or_default() += 1;
        }
    }
    let shared = |join: &Newcomer| {
        let address = join.email.as_ref().and_then(|email| addresses.get(&key_of_email(email)));
        [names.get(&join.user), spaces.get(&join.namespace), address]
            .into_iter()
            .flatten()
            .any(|number| *number > 1)
    };
    for (join, login) in &joins {
        proposals.push(if shared(join) {
            let why = format!("another newcomer would be `{}` too, or has the same address", join.user);
            Proposal::Conflict { login: login.clone(), why }
        } else {
            let Newcomer { user, login, email, name, namespace } = join.clone();
            Proposal::Join { user, login, email, name, namespace }
        });
    }
    let mut leave = 0;
    for (user, Person { authentik_user: login, tier, .. }) in &roster.users {
        if by_login.contains_key(&key(login.as_str())) || undecided.contains(user) {
            continue;
        }
        let (user, login) = (user.clone(), login.clone());
        leave += usize::from(*tier != Tier::Admin);
        proposals.push(match tier {
            Tier::Admin => Proposal::AdminLeft { user, login },
            _ => Proposal::Leave { user, login },
        });
    }
    if known == 0 && leave > 0 {
        return Err(Inconclusive::Strangers { members: members.len(), leave });
    }
    Ok(proposals)
}

#[derive(Debug, Clone)]
struct Newcomer {
    user: OsUser,
    login: Login,
    email: Option<Email>,
    name: String,
    namespace: Namespace,
}

/// What a member without a row would be. Otherwise why not, and the row that may be theirs already.
fn newcomer(
    member: &Member,
    roster: &Roster,
    exists: impl Fn(&OsUser) -> bool,
) -> Result<Newcomer, (String, Option<OsUser>)> {
    let none = |why: String| (why, None);
    let login = Login::new(member.login.as_str()).map_err(|error| none(format!("the login {error}")))?;
    let name = name_of(login.local_part());
    let user =
        OsUser::new(name.as_str()).map_err(|error| none(format!("would be `{name}`, which {error}")))?;
    // An address that is none is left out: the row is good without it.
    let email = Email::new(member.email.as_str()).ok();
    let same_email = |person: &Person| match (&person.email, &email) {
        (Some(theirs), Some(email)) => key_of_email(theirs) == key_of_email(email),
        _ => false,
    };
    if let Some((row, _)) = roster.users.iter().find(|(_, person)| same_email(person)) {
        return Err((
            format!("has the e-mail address of `{row}`, who has another login: was it renamed?"),
            Some(row.clone()),
        ));
    }
    if let Some(row) = roster.users.get(&user) {
        return Err((
            format!("would be `{user}`, which is the account of {}", row.authentik_user),
            Some(user),
        ));
    }
    if exists(&user) {
        return Err(none(format!(
            "would be `{user}`, an account that is on this machine already; if it is theirs, add them with `rosterctl user add`"
        )));
    }
    let taken = |other: &KubeUser| other.as_str().eq_ignore_ascii_case(user.as_str());
    if let Some((row, _)) = roster.users.iter().find(|(_, person)| taken(&person.k8s_user)) {
        return Err(none(format!("would be `{user}` in the cluster, which is the `k8s_user` of {row}")));
    }
    let label = label_of(&user);
    let namespace = Namespace::new(label.as_str())
        .map_err(|error| none(format!("would have the namespace `{label}`, which {error}")))?;
    // Also one that is only called as somebody's account is: it may be theirs in the cluster.
    let theirs =
        |(row, person): &(&OsUser, &Person)| person.namespaces.contains(&namespace) || label_of(row) == label;
    if let Some((row, _)) = roster.users.iter().find(theirs) {
        return Err(none(format!("would have the namespace `{namespace}`, which is {row}'s")));
    }
    Ok(Newcomer { user, login, email, name: shown(&member.name), namespace })
}

/// The account's name that follows from a login: lower case, whatever is no letter or digit as `_`, a letter first, 32 at most.
pub fn name_of(local_part: &str) -> String {
    let mut name: String = local_part
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' })
        .collect();
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        name.insert(0, 'u');
    }
    name.truncate(32);
    name
}

/// The changes of the roster's text. `today` and `group` are for the notes.
pub fn edits(proposals: &[Proposal], group: &str, today: Date) -> Vec<Edit> {
    let group = shown(group);
    let edit = |proposal: &Proposal| match proposal {
        Proposal::Join { user, login, email, name, namespace } => {
            let mut fields = vec![("authentik_user", login.to_string()), ("k8s_user", user.to_string())];
            fields.extend(email.as_ref().map(|email| ("email", email.to_string())));
            fields.extend([
                ("tier", Tier::NamespaceOwner.to_string()),
                ("namespaces", namespace.to_string()),
                ("code_layout", "workspace".to_owned()),
            ]);
            let fields =
                fields.iter().filter_map(|(field, value)| Assignment::new(field, Operation::Set, value).ok());
            let who = if name.is_empty() { String::new() } else { format!(" {name},") };
            let note = Some(format!("{today}:{who} joined the group {group}; added by rosterctl membership"));
            Some(Edit::Add { user: user.clone(), fields: fields.collect(), note })
        }
        Proposal::Leave { user, login } => {
            let note =
                format!("{today}: {login} left the group {group}; commented out by rosterctl membership");
            Some(Edit::CommentOut { user: user.clone(), note })
        }
        Proposal::AdminLeft { .. } | Proposal::Conflict { .. } => None,
    };
    proposals.iter().filter_map(edit).collect()
}

/// The namespace of an account's own name.
fn label_of(user: &OsUser) -> String {
    user.as_str().replace('_', "-").trim_matches('-').to_owned()
}

/// As the roster compares logins.
fn key(login: &str) -> String {
    login.split('@').next().unwrap_or_default().to_ascii_lowercase()
}

fn key_of_email(email: &Email) -> String {
    email.as_str().to_ascii_lowercase()
}

/// A text of the provider on one line, harmless in a comment and on a terminal.
fn shown(text: &str) -> String {
    let odd = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    let text: String = text.chars().filter(|c| !odd(*c)).take(80).collect();
    text.trim().to_owned()
}
