//! The difference of two rosters, for people: what the journal tells when a roster is accepted.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::model::{CodeLayout, Person, Roster, Tier};
use crate::name::{OsUser, RepoName};

/// One difference. Its `Display` is one line that begins with the person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Whom it is about.
    pub user: OsUser,
    /// What is different.
    #[serde(flatten)]
    pub what: What,
}

/// What is different about a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub enum What {
    /// Was not in the roster.
    Joined {
        /// What the person may do.
        tier: Tier,
    },
    /// Is no longer in the roster.
    Left,
    /// May do more or less.
    TierChanged {
        /// Until now.
        from: Tier,
        /// From now on.
        to: Tier,
    },
    /// The clones are to lie otherwise.
    LayoutChanged {
        /// Until now.
        from: CodeLayout,
        /// From now on.
        to: CodeLayout,
    },
    /// Every service is to stop.
    Parked,
    /// The services are to run again.
    Unparked,
    /// Other repositories.
    ReposChanged {
        /// New ones.
        added: Vec<RepoName>,
        /// Those no longer listed; their clones stay.
        removed: Vec<RepoName>,
    },
    /// Another field.
    Changed {
        /// Its name.
        field: String,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.user)?;
        match &self.what {
            What::Joined { tier } => write!(f, "joined as {tier}"),
            What::Left => f.write_str("left"),
            What::TierChanged { from, to } => write!(f, "tier {from} → {to}"),
            What::LayoutChanged { from, to } => write!(f, "layout {} → {}", layout(*from), layout(*to)),
            What::Parked => f.write_str("parked"),
            What::Unparked => f.write_str("no longer parked"),
            What::ReposChanged { added, removed } => {
                f.write_str("repos")?;
                added.iter().try_for_each(|name| write!(f, " +{name}"))?;
                removed.iter().try_for_each(|name| write!(f, " -{name}"))
            }
            What::Changed { field } => write!(f, "{field} changed"),
        }
    }
}

/// A difference as fields of a record: what it is about, and what it was and is, as far as that is a word or a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// `joined`, `left`, or the field of the roster.
    pub about: String,
    /// Until now. Of a list, what is no longer in it.
    pub from: String,
    /// From now on. Of a list, what is new in it.
    pub to: String,
}

impl What {
    /// The difference as fields.
    pub fn told(&self) -> Told {
        let told = |about: &str, from: &str, to: &str| Told {
            about: about.into(),
            from: from.into(),
            to: to.into(),
        };
        let listed = |names: &[RepoName]| names.iter().map(RepoName::as_str).collect::<Vec<_>>().join(" ");
        match self {
            What::Joined { tier } => told("joined", "", tier.as_str()),
            What::Left => told("left", "", ""),
            What::TierChanged { from, to } => told("tier", from.as_str(), to.as_str()),
            What::LayoutChanged { from, to } => told("code_layout", layout(*from), layout(*to)),
            What::Parked => told("parked", "false", "true"),
            What::Unparked => told("parked", "true", "false"),
            What::ReposChanged { added, removed } => told("repos", &listed(removed), &listed(added)),
            What::Changed { field } => told(field, "", ""),
        }
    }
}

fn layout(layout: CodeLayout) -> &'static str {
    match layout {
        CodeLayout::Single => "single",
        CodeLayout::Workspace => "workspace",
    }
}

/// What is different in `after`, in the order of the names.
pub fn between(before: &Roster, after: &Roster) -> Vec<Change> {
    let everybody: BTreeSet<&OsUser> = before.users.keys().chain(after.users.keys()).collect();
    let mut changes = Vec::new();
    for user in everybody {
        let what = match (before.users.get(user), after.users.get(user)) {
            (Some(before), Some(after)) => of_person(before, after),
            (None, Some(person)) => vec![What::Joined { tier: person.tier }],
            (Some(_), None) => vec![What::Left],
            (None, None) => vec![],
        };
        changes.extend(what.into_iter().map(|what| Change { user: user.clone(), what }));
    }
    changes
}

fn of_person(before: &Person, after: &Person) -> Vec<What> {
    // Taken apart by name, so that a new field of a person cannot be forgotten here.
    let Person {
        authentik_user,
        k8s_user,
        email,
        tier,
        namespaces,
        code_layout,
        repos,
        domains,
        quota,
        parked,
        claude_auth,
        forgejo,
        shell,
        uid,
        groups,
        ssh_keys,
        limits,
        hosts,
    } = after;
    let mut changes = Vec::new();
    if before.tier != *tier {
        changes.push(What::TierChanged { from: before.tier, to: *tier });
    }
    if before.code_layout != *code_layout {
        changes.push(What::LayoutChanged { from: before.code_layout, to: *code_layout });
    }
    if before.parked != *parked {
        changes.push(if *parked { What::Parked } else { What::Unparked });
    }
    let missing_in = |names: &[RepoName], others: &[RepoName]| -> Vec<RepoName> {
        names.iter().filter(|name| !others.contains(name)).cloned().collect()
    };
    let (added, removed) = (missing_in(repos, &before.repos), missing_in(&before.repos, repos));
    if !added.is_empty() || !removed.is_empty() {
        changes.push(What::ReposChanged { added, removed });
    }
    let others = [
        ("authentik_user", before.authentik_user != *authentik_user),
        ("k8s_user", before.k8s_user != *k8s_user),
        ("email", before.email != *email),
        ("namespaces", before.namespaces != *namespaces),
        ("domains", before.domains != *domains),
        ("quota", before.quota != *quota),
        ("claude_auth", before.claude_auth != *claude_auth),
        ("forgejo", before.forgejo != *forgejo),
        ("shell", before.shell != *shell),
        ("uid", before.uid != *uid),
        ("groups", before.groups != *groups),
        ("ssh_keys", before.ssh_keys != *ssh_keys),
        ("limits", before.limits != *limits),
        ("hosts", before.hosts != *hosts),
    ];
    let differ = others.into_iter().filter(|(_, differs)| *differs);
    changes.extend(differ.map(|(field, _)| What::Changed { field: field.into() }));
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::Shell;
    use crate::sample::person;

    #[test]
    fn every_difference_is_one_line() {
        let before = ["alice", "bob", "carol", "dave"].map(|name| person(name, Tier::PowerUser));
        let before = Roster { users: before.into_iter().collect() };
        let mut after = before.clone();
        after.users.retain(|user, _| user.as_str() != "bob");
        after.users.extend([person("erin", Tier::NamespaceOwner)]);
        for (user, person) in &mut after.users {
            match user.as_str() {
                "alice" => person.tier = Tier::Admin,
                "carol" => {
                    person.code_layout = CodeLayout::Workspace;
                    person.repos = vec![RepoName::new("tripit").unwrap()];
                    person.parked = true;
                }
                "dave" => person.shell = Shell::new("/bin/zsh").ok(),
                _ => {}
            }
        }
        let lines = |changes: Vec<Change>| changes.iter().map(|c| format!("{c}\n")).collect::<String>();
        insta::assert_snapshot!(lines(between(&before, &after)), @"
        alice: tier power-user → admin
        bob: left
        carol: layout single → workspace
        carol: parked
        carol: repos +tripit
        dave: shell changed
        erin: joined as namespace-owner
        ");
        insta::assert_snapshot!(lines(between(&after, &before)), @"
        alice: tier admin → power-user
        bob: joined as power-user
        carol: layout workspace → single
        carol: no longer parked
        carol: repos -tripit
        dave: shell changed
        erin: left
        ");
        assert_eq!(between(&after, &after), []);
    }

    #[test]
    fn a_change_is_serialised_flat() {
        let mut after = Roster::default();
        after.users.extend([person("erin", Tier::Admin)]);
        let json = serde_json::to_string(&between(&Roster::default(), &after)).unwrap();
        assert_eq!(json, r#"[{"user":"erin","change":"joined","tier":"admin"}]"#);
        assert_eq!(serde_json::from_str::<Vec<Change>>(&json).unwrap(), between(&Roster::default(), &after));
    }
}
