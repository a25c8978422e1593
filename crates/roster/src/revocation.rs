//! Whether people who left have lost what they had at a provider. Known only from a look at it: until then it may be there,
//! however long ago they left (invariant 8). Pure; whoever asks has looked already.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::cluster::{ClusterObserved, Kind, Reading};
use crate::ledger::Ledger;
use crate::model::Roster;
use crate::name::OsUser;
use crate::plan::Subject;
use crate::provider::Provider;
use crate::report::{StepRecord, StepResult};
use crate::vault::{Mark, VaultObserved};

/// Who has a grant that says it is rosterd's in the cluster; nothing when not all of them could be seen.
pub fn holders_in_the_cluster(observed: &ClusterObserved, instance: &str) -> Option<BTreeSet<OsUser>> {
    let mut holders = BTreeSet::new();
    for kind in Kind::ALL.into_iter().filter(|kind| kind.is_grant()) {
        let Some(Reading::Seen(all)) = observed.kinds.get(&kind) else { return None };
        // A copy of one of ours gives its right too, and one that is emptied gives none.
        for seen in all.iter().filter(|seen| seen.is_marked(instance) && !seen.is_going()) {
            if let Subject::User(user) = seen.subject() {
                holders.insert(user);
            }
        }
    }
    Some(holders)
}

/// Who has a policy of rosterd's making in Vault. It goes after everything that names it, and without it that gives nothing.
pub fn holders_in_vault(observed: &VaultObserved, instance: &str) -> Option<BTreeSet<OsUser>> {
    let policies = observed.policies.as_ref().ok()?;
    let marks = policies.values().filter_map(|text| Mark::of(text));
    Some(marks.filter(|mark| mark.instance == instance).map(|mark| mark.user).collect())
}

/// Who of `left` has lost everything there, after a run that saw `holders` and did `steps`.
pub fn gone<'u>(
    left: impl Iterator<Item = &'u OsUser>,
    holders: &BTreeSet<OsUser>,
    steps: &[StepRecord],
) -> BTreeSet<OsUser> {
    let mut done: BTreeMap<&OsUser, bool> = BTreeMap::new();
    for record in steps {
        if let Subject::User(user) = &record.step.subject {
            *done.entry(user).or_insert(true) &= record.result == StepResult::Done;
        }
    }
    let is_gone = |user: &&OsUser| !holders.contains(*user) || done.get(*user) == Some(&true);
    left.filter(is_gone).cloned().collect()
}

/// Who left the roster and was not seen to have lost what they had there. Where a cut takes nothing, those are the ones whose
/// account was removed.
pub fn pending(ledger: &Ledger, whole: &Roster, provider: Provider, revoke_on_cut: bool) -> BTreeSet<OsUser> {
    let state = ledger.providers.get(&provider);
    let cut = ledger.cut.keys().filter(|_| revoke_on_cut);
    cut.chain(ledger.removed.keys())
        .filter(|user| !whole.users.contains_key(*user))
        .filter(|user| !state.is_some_and(|state| state.gone.contains(*user)))
        .cloned()
        .collect()
}

/// What somebody who left may still have at a provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Left {
    /// Nothing.
    Gone,
    /// What they had, until their account is removed: a cut takes nothing there.
    Kept,
    /// What they had, unless it is gone unseen.
    Pending {
        /// What stands against it; nothing when only the next run is waited for.
        why: Option<String>,
    },
}

/// What `user`, who left, may still have at a provider.
pub fn left(ledger: &Ledger, whole: &Roster, provider: Provider, revoke_on_cut: bool, user: &OsUser) -> Left {
    let state = ledger.providers.get(&provider);
    if !pending(ledger, whole, provider, revoke_on_cut).contains(user) {
        let is_kept = !revoke_on_cut && !ledger.removed.contains_key(user);
        return if is_kept { Left::Kept } else { Left::Gone };
    }
    let of = |subject: &Subject| {
        let degraded = state.and_then(|state| state.degraded.get(subject))?;
        degraded.problems.first().map(|problem| format!("{}: {}", problem.what, problem.why))
    };
    Left::Pending { why: of(&Subject::User(user.clone())).or_else(|| of(&Subject::Machine)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Degraded, Removed};
    use crate::plan::{Action, ClusterAction, Problem, Step};
    use crate::provider::ProviderState;

    fn user(name: &str) -> OsUser {
        OsUser::new(name).unwrap()
    }

    fn users<const N: usize>(names: [&str; N]) -> BTreeSet<OsUser> {
        names.map(user).into()
    }

    fn record(name: &str, result: StepResult) -> StepRecord {
        let key = crate::cluster::Key::wide(Kind::ClusterRoleBinding, name);
        let action = Action::Cluster(ClusterAction::Delete { key, uid: "1".into(), version: "1".into() });
        let subject = Subject::User(user(name));
        let step = Step { subject, action, reason: String::new(), inverse: None, needs: Vec::new() };
        StepRecord { step, result, took_ms: 0 }
    }

    #[test]
    fn gone_is_who_holds_nothing_or_has_lost_all_of_it() {
        let failed = || StepResult::Failed { why: "no".into(), next: "look".into() };
        let steps = [
            record("done", StepResult::Done),
            record("half", StepResult::Done),
            record("half", failed()),
            record("others", StepResult::Skipped { why: "another host does it".into() }),
        ];
        let left = users(["nothing", "done", "half", "others", "held"]);
        let holders = users(["done", "half", "others", "held", "alice"]);
        assert_eq!(gone(left.iter(), &holders, &steps), users(["nothing", "done"]));
    }

    #[test]
    fn who_left_is_pending_until_seen_to_be_gone_invariant_8() {
        let mut ledger = Ledger::default();
        let at = "2026-01-01T00:00:00Z".parse().unwrap();
        for name in ["carol", "dave", "elsewhere"] {
            ledger.cut.insert(user(name), at);
        }
        ledger.removed.insert(user("erin"), Removed { since: at, cut: at, archive: String::new() });
        let person = crate::sample::person("elsewhere", crate::model::Tier::Admin);
        let whole = Roster { users: [person].into_iter().collect() };
        let kubernetes = Provider::Kubernetes;
        assert_eq!(pending(&ledger, &whole, kubernetes, true), users(["carol", "dave", "erin"]));
        // Where a cut takes nothing, only a removal does.
        assert_eq!(pending(&ledger, &whole, kubernetes, false), users(["erin"]));
        let problem = Problem {
            subject: Subject::Machine,
            what: "the cluster cannot be read".into(),
            why: "nobody answers".into(),
            next: "look".into(),
        };
        let degraded = Degraded { since: at, failures: 1, next_try: at, problems: vec![problem] };
        let state = ProviderState {
            gone: users(["dave"]),
            degraded: [(Subject::Machine, degraded)].into(),
            ..ProviderState::default()
        };
        ledger.providers.insert(kubernetes, state);
        assert_eq!(pending(&ledger, &whole, kubernetes, true), users(["carol", "erin"]));
        let of = |name, revoke| left(&ledger, &whole, kubernetes, revoke, &user(name));
        assert_eq!(of("dave", true), Left::Gone);
        assert_eq!(of("carol", false), Left::Kept);
        let why = Some("the cluster cannot be read: nobody answers".to_owned());
        assert_eq!(of("carol", true), Left::Pending { why: why.clone() });
        assert_eq!(of("erin", false), Left::Pending { why });
        assert_eq!(left(&ledger, &whole, Provider::Vault, true, &user("dave")), Left::Pending { why: None });
    }
}
