//! The policies: written when what they allow or whom they name differs, removed when nobody has them any more.

use super::{VaultAction, Work};
use crate::plan::Problem;
use crate::vault::{Mark, Rules, allows, policy_text};

impl Work<'_> {
    /// After everybody has lost what they should not have.
    pub(super) fn write_policies(&mut self) {
        let desired = self.desired;
        for (name, (mark, rules)) in &desired.policies {
            let mark = self.mark(name, mark);
            let (reason, is_moved) = match (self.policies.get(name), self.marks.get(name.as_str())) {
                (None, _) => ("it is not there", true),
                (Some(found), None) if allows(found, rules) => match Mark::of(found) {
                    // Unmarked, no tier change and no cut would take it from anybody.
                    None if !self.unknown_holders => ("it is there already, and becomes ours", true),
                    _ => continue,
                },
                (Some(_), None) => {
                    self.refused.insert(name.clone());
                    self.plan.problems.push(Problem {
                        subject: mark.subject(),
                        what: format!("policy {name} is not as the roster says"),
                        why: "it is there already, allows something else, and is not marked as rosterd's"
                            .into(),
                        next: "delete it, and rosterd makes its own; or let it allow the same".into(),
                    });
                    continue;
                }
                (Some(found), Some(was)) => {
                    let is_same = allows(found, rules);
                    if is_same && *was == mark {
                        continue;
                    }
                    // Whoever has it for somebody else, or by another name, would have what is written now, and be found no
                    // more.
                    let is_moved = was.user != mark.user || was.alias.is_some() && was.alias != mark.alias;
                    if is_moved && (self.unknown_holders || self.unknown.contains(&mark.user)) {
                        self.refused.insert(name.clone());
                        continue;
                    }
                    let reason = if is_same {
                        "its first line is not as it should be"
                    } else {
                        "it allows something else"
                    };
                    (reason, is_moved)
                }
            };
            let action = VaultAction::WritePolicy { name: name.clone(), text: policy_text(&mark, rules) };
            let step = self.add(&mark.subject(), action, reason);
            // What its own person may no longer do waits for nobody.
            if is_moved {
                self.need(step, self.freed.get(name).cloned().unwrap_or_default());
            }
            self.written.insert(name.clone(), step);
        }
    }

    /// The first line that a policy is to have. While it is not known by what its person logs in, it keeps what is known.
    fn mark(&self, name: &str, wanted: &Mark) -> Mark {
        let found = self.marks.get(name).filter(|found| found.user == wanted.user);
        let last = || found.and_then(|found| found.alias.as_deref()).or(self.last_alias(&wanted.user));
        Mark { alias: wanted.alias.clone().or_else(|| last().map(str::to_owned)), ..wanted.clone() }
    }

    pub(super) fn delete_policies(&mut self) {
        // Deleted now, it would be found on whoever has it when somebody else's gets the same name.
        if self.unknown_holders {
            return;
        }
        let is_unwanted =
            |name: &str, mark: &Mark| !self.desired.policies.contains_key(name) && !self.stays(&mark.user);
        let unwanted: Vec<(String, Mark)> = self
            .marks
            .iter()
            .filter(|(name, mark)| is_unwanted(name, mark))
            .map(|(name, mark)| ((*name).to_owned(), mark.clone()))
            .collect();
        for (name, mark) in unwanted {
            let action = if self.held.contains(&name) {
                let nothing = Rules::new();
                self.plan.problems.push(Problem {
                    subject: mark.subject(),
                    what: format!("policy {name} stays, and allows nothing"),
                    why: "the roster asks for it no longer, and a role that is not rosterd's gives it".into(),
                    next: "delete that role, or let it give something else".into(),
                });
                if self.policies.get(&name).is_some_and(|found| allows(found, &nothing)) {
                    continue;
                }
                VaultAction::WritePolicy { name: name.clone(), text: policy_text(&mark, &nothing) }
            } else {
                VaultAction::DeletePolicy { name: name.clone() }
            };
            let step = self.add(&mark.subject(), action, "the roster asks for it no longer");
            self.need(step, self.freed.get(&name).cloned().unwrap_or_default());
        }
    }
}
