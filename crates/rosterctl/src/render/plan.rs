//! `rosterctl plan`.

use std::collections::BTreeSet;

use jiff::Timestamp;
use roster::plan::{Action, Plan, Subject};
use roster::report::WaitingStatus;

use super::status::{files, waiting_roster};
use super::{action, problem};
use crate::page::{Look, Page, Style, count};

/// What a reconcile would do, by subject, with a closing line; before it, why the roster on disk waits.
///
/// `in_force` says whether there is a roster to plan for.
pub(crate) fn plan(
    plan: &Plan,
    waiting: Option<&WaitingStatus>,
    in_force: bool,
    now: Timestamp,
    look: Look,
) -> String {
    let mut page = Page::new(look);
    if let Some(waiting) = waiting {
        waiting_roster(&mut page, waiting, now);
    }
    let subjects: BTreeSet<&Subject> = plan
        .steps
        .iter()
        .map(|step| &step.subject)
        .chain(plan.problems.iter().map(|problem| &problem.subject))
        .chain(plan.notices.iter().map(|notice| &notice.subject))
        .collect();
    for subject in &subjects {
        page.gap();
        page.para(Style::Strong, &subject.to_string());
        for step in plan.steps.iter().filter(|step| step.subject == **subject) {
            let (lead, style) = match step.action {
                Action::Cut
                | Action::LockLogin { .. }
                | Action::RemoveFromGroup { .. }
                | Action::EndSessions { .. }
                | Action::StopUnit { .. }
                | Action::RemoveFile { .. } => ("  - ", Style::Warn),
                Action::Cluster(ref change) if change.is_removal() => ("  - ", Style::Warn),
                Action::Vault(ref change) if change.is_removal() => ("  - ", Style::Warn),
                _ => ("  + ", Style::Good),
            };
            page.hang(lead, style, &format!("{} ({})", action(step), step.reason), Style::Plain);
        }
        for found in plan.problems.iter().filter(|problem| problem.subject == **subject) {
            problem(&mut page, "  ! ", found);
        }
        for notice in plan.notices.iter().filter(|notice| notice.subject == **subject) {
            page.hang("  note: ", Style::Faint, &notice.text, Style::Plain);
        }
    }
    // Of everybody they would be too many to read.
    let mut with_files = plan.seen.values().filter(|seen| !seen.files.is_empty());
    if let (Some(seen), None) = (with_files.next(), with_files.next()) {
        page.gap();
        files(&mut page, &seen.files);
    }
    page.gap();
    page.para(Style::Strong, &closing(plan, waiting.is_some(), in_force));
    page.finish()
}

fn closing(plan: &Plan, waits: bool, in_force: bool) -> String {
    let problems = match plan.problems.len() {
        0 => String::new(),
        number => format!(
            " {} in the way.",
            if number == 1 { "1 problem is".into() } else { format!("{number} problems are") }
        ),
    };
    if plan.steps.is_empty() {
        let all = match (problems.is_empty(), waits) {
            (true, _) if !in_force => {
                "No change: no roster is in force, so there is nothing to compare with."
            }
            (true, false) => "No change: all is as the roster says.",
            (true, true) => "No change: all is as the roster in force says.",
            (false, _) => "No step is planned:",
        };
        return format!("{all}{problems}");
    }
    let subjects: BTreeSet<&Subject> = plan.steps.iter().map(|step| &step.subject).collect();
    let people = subjects.iter().filter(|subject| matches!(subject, Subject::User(_))).count();
    let whom = match (people, subjects.contains(&Subject::Machine)) {
        (0, _) => "the machine".into(),
        (people, false) => count(people, "person", "people"),
        (people, true) => format!("{} and the machine", count(people, "person", "people")),
    };
    format!("{} for {whom}.{problems} Nothing was changed.", count(plan.steps.len(), "step", "steps"))
}

#[cfg(test)]
mod tests {
    use roster::plan::Notice;

    use super::super::samples::{LOOK, clone, create, now, step, subject, unreachable, write};
    use super::*;

    #[test]
    fn a_plan_is_grouped_by_subject_and_says_why() {
        let text = plan(
            &Plan {
                steps: vec![
                    step(subject("dave"), "left the roster", Action::Cut),
                    create("alice"),
                    write(),
                    clone("alice"),
                ],
                problems: vec![unreachable("bob")],
                notices: vec![Notice {
                    subject: Subject::Machine,
                    text: "group code-shared does not exist and is skipped; create it with `groupadd code-shared`".into(),
                }],
                ..Plan::default()
            },
            None,
            true,
            now(),
            LOOK,
        );
        insta::assert_snapshot!(text, @"
        machine
          + write /etc/ttyd-user-map, 2 lines (the content differs)
          note: group code-shared does not exist and is skipped; create it with
                `groupadd code-shared`

        alice
          + create account with uid 1005, shell /bin/zsh, home /home/alice, groups
            docker, sudo (in the roster, no such account)
          + clone https://git.example.org/infra.git into ~/code/infra, locked (no such
            clone)

        bob
          ! cannot clone https://git.example.org/tripit.git into ~/code/tripit: failed
            to connect to git.example.org: connection refused
            next: see whether the remote answers; it is tried again by itself

        dave
          - no longer sent sessions; account and files stay (left the roster)

        4 steps for 2 people and the machine. 1 problem is in the way. Nothing was
        changed.
        ");
    }

    #[test]
    fn an_empty_plan_is_one_line() {
        insta::assert_snapshot!(plan(&Plan::default(), None, true, now(), LOOK), @"No change: all is as the roster says.");
        insta::assert_snapshot!(plan(&Plan::default(), None, false, now(), LOOK), @"No change: no roster is in force, so there is nothing to compare with.");
        let stuck = Plan { problems: vec![unreachable("bob")], ..Plan::default() };
        insta::assert_snapshot!(plan(&stuck, None, true, now(), LOOK), @r"
        bob
          ! cannot clone https://git.example.org/tripit.git into ~/code/tripit: failed
            to connect to git.example.org: connection refused
            next: see whether the remote answers; it is tried again by itself

        No step is planned: 1 problem is in the way.
        ");
    }
}
