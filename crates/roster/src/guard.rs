//! What holds a run back until an admin confirms it: a roster that would take access from too many at once
//! (invariant 2). An empty file, a lost page or a bad merge looks like everybody leaving.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::Guard;
use crate::model::{Roster, Tier};
use crate::name::{HostName, OsUser};

/// Whether a roster may take the place of the one in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It may.
    Pass,
    /// Not until an admin confirms it.
    Held {
        /// Who would be cut.
        cuts: Vec<OsUser>,
        /// What is against it.
        why: Objection,
    },
}

/// What is against a roster. Its `Display` is a sentence without its full stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "objection", rename_all = "kebab-case")]
pub enum Objection {
    /// Nobody is left in it.
    Emptied,
    /// The last admin would be cut.
    NoAdminLeft,
    /// An admin would be cut: never unasked.
    AdminCut {
        /// Which.
        admins: Vec<OsUser>,
    },
    /// More people would be cut than `[guard] max_cuts`.
    TooManyCuts {
        /// How many.
        cuts: usize,
        /// How many may.
        max_cuts: usize,
    },
    /// The machine goes by another name, and `hosts` of the roster gives people to the one and not to the other. A
    /// name that a boot or a DHCP server set wrongly looks like this.
    HostRenamed {
        /// Its name until now.
        from: HostName,
        /// Its name now.
        to: HostName,
    },
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Objection::Emptied => f.write_str("the roster is empty, everybody would be cut"),
            Objection::NoAdminLeft => f.write_str("the last admin would be cut"),
            Objection::AdminCut { admins } => {
                let names: Vec<_> = admins.iter().map(OsUser::as_str).collect();
                let (who, is) = if names.len() == 1 { ("admin", "is") } else { ("admins", "are") };
                write!(f, "the {who} {} would be cut, which {is} never done unasked", names.join(", "))
            }
            Objection::TooManyCuts { cuts, max_cuts } => {
                write!(f, "{cuts} people would be cut at once, [guard] max_cuts allows {max_cuts}")
            }
            Objection::HostRenamed { from, to } => {
                write!(
                    f,
                    "this machine was called {from} and is called {to} now, and `hosts` would cut people"
                )
            }
        }
    }
}

/// Those who are in `before` and no longer in `after`.
pub fn cuts(before: &Roster, after: &Roster) -> Vec<OsUser> {
    before.users.keys().filter(|user| !after.users.contains_key(*user)).cloned().collect()
}

/// Whether `after` may take the place of `before`; both are this machine's part of a roster. `renamed` is its name
/// until now and its name now, when the two differ.
pub fn judge(
    before: &Roster,
    after: &Roster,
    guard: &Guard,
    renamed: Option<(&HostName, &HostName)>,
) -> Verdict {
    let is_admin = |roster: &Roster, user: &OsUser| {
        roster.users.get(user).is_some_and(|person| person.tier == Tier::Admin)
    };
    let cuts = cuts(before, after);
    let admins: Vec<OsUser> = cuts.iter().filter(|user| is_admin(before, user)).cloned().collect();
    let why = if !before.users.is_empty() && after.users.is_empty() {
        Objection::Emptied
    } else if cuts.len() > guard.max_cuts {
        Objection::TooManyCuts { cuts: cuts.len(), max_cuts: guard.max_cuts }
    } else if !admins.is_empty() && !after.users.keys().any(|user| is_admin(after, user)) {
        Objection::NoAdminLeft
    } else if !admins.is_empty() {
        Objection::AdminCut { admins }
    } else if let Some((from, to)) = renamed.filter(|_| !cuts.is_empty()) {
        Objection::HostRenamed { from: from.clone(), to: to.clone() }
    } else {
        return Verdict::Pass;
    };
    Verdict::Held { cuts, why }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{person, roster};

    fn held(verdict: Verdict) -> String {
        match verdict {
            Verdict::Pass => "pass".into(),
            Verdict::Held { cuts, why } => format!("{why}: {cuts:?}"),
        }
    }

    const GUARD: Guard = Guard { max_cuts: 3 };

    #[test]
    fn as_many_cuts_as_the_guard_allows_pass_and_one_more_is_held_invariant_2() {
        let before = roster(&["a", "b", "c", "d", "e", "f", "g", "h"]);
        assert_eq!(judge(&before, &roster(&["d", "e", "f", "g", "h"]), &GUARD, None), Verdict::Pass);
        let verdict = judge(&before, &roster(&["e", "f", "g", "h"]), &GUARD, None);
        assert_eq!(
            held(verdict),
            r#"4 people would be cut at once, [guard] max_cuts allows 3: ["a", "b", "c", "d"]"#
        );
    }

    #[test]
    fn an_emptied_roster_is_held_however_few_it_cuts_invariant_2() {
        let verdict = judge(&roster(&["a"]), &Roster::default(), &Guard { max_cuts: usize::MAX }, None);
        assert_eq!(held(verdict), r#"the roster is empty, everybody would be cut: ["a"]"#);
        assert_eq!(judge(&Roster::default(), &Roster::default(), &GUARD, None), Verdict::Pass);
    }

    #[test]
    fn cutting_an_admin_is_held_and_the_last_one_is_said_to_be_invariant_2() {
        let mut before = roster(&["a", "b", "c"]);
        before.users.extend([person("root1", Tier::Admin), person("root2", Tier::Admin)]);
        let mut one_left = before.clone();
        one_left.users.pop_last();
        assert_eq!(
            held(judge(&before, &one_left, &GUARD, None)),
            r#"the admin root2 would be cut, which is never done unasked: ["root2"]"#
        );
        let mut none_left = one_left.clone();
        none_left.users.pop_last();
        assert_eq!(
            held(judge(&one_left, &none_left, &GUARD, None)),
            r#"the last admin would be cut: ["root1"]"#
        );
    }

    #[test]
    fn a_rename_counts_as_a_cut_and_newcomers_do_not_make_up_for_cuts_invariant_2() {
        let before = roster(&["a", "b", "c", "d"]);
        let after = roster(&["w", "x", "y", "z"]);
        assert_eq!(cuts(&before, &after).len(), 4);
        assert!(matches!(judge(&before, &after, &GUARD, None), Verdict::Held { .. }));
    }

    #[test]
    fn a_cut_by_another_name_of_the_machine_is_held_however_few_it_cuts_invariant_2() {
        let [old, new] = ["devvm", "localhost"].map(|name| HostName::new(name).unwrap());
        let (before, after) = (roster(&["a", "b"]), roster(&["b"]));
        let generous = Guard { max_cuts: usize::MAX };
        assert_eq!(
            held(judge(&before, &after, &generous, Some((&old, &new)))),
            r#"this machine was called devvm and is called localhost now, and `hosts` would cut people: ["a"]"#
        );
        assert_eq!(judge(&after, &before, &generous, Some((&old, &new))), Verdict::Pass);
        assert_eq!(judge(&before, &after, &generous, None), Verdict::Pass);
    }
}
