//! What people read, made from what the daemon answers. Pure functions, with `now` as an argument.

mod access;
mod desired;
mod doctor;
mod left;
mod plan;
mod provider;
mod run;
mod status;
pub(crate) mod tmux;

pub(crate) use access::{access, is_as_wanted};
pub(crate) use desired::desired;
pub(crate) use doctor::doctor;
pub(crate) use left::{left_after, left_before};
pub(crate) use plan::plan;
pub(crate) use provider::provider;
pub(crate) use run::{closing, history, run, step};
pub(crate) use status::{held, status};

use roster::model::Tier;
use roster::plan::{Action, HomeAction, Problem, Step};
use roster::report::{Outcome, Trigger};

use crate::page::{Page, Style, count};

/// What a step does, in words.
fn action(step: &Step) -> String {
    match &step.action {
        Action::CreateAccount(account) => {
            let groups = match account.groups.as_slice() {
                [] => String::new(),
                groups => format!(", groups {}", list(groups)),
            };
            format!(
                "create account with uid {}, shell {}, home {}{groups}",
                account.uid,
                account.shell,
                account.home.path.display()
            )
        }
        Action::CreateHome(home) => format!("create home {}", home.path.display()),
        Action::AddToGroup { group, .. } => format!("add to group {group}"),
        Action::WriteFile(file) => {
            format!("write {}, {}", file.path.display(), count(file.content.lines().count(), "line", "lines"))
        }
        Action::SetEnvKeys { path, keys } => {
            let keys = keys.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>();
            format!("set {} in {}", keys.join(" "), path.display())
        }
        Action::RemoveFile { .. }
        | Action::LockLogin { .. }
        | Action::RestoreLogin { .. }
        | Action::RemoveFromGroup { .. }
        | Action::EndSessions { .. }
        | Action::StopUnit { .. }
        | Action::EnableUnit { .. }
        | Action::StartUnit { .. }
        | Action::Reload { .. } => step.action.to_string(),
        Action::Cut => "no longer sent sessions; account and files stay".into(),
        Action::Return => "give access back".into(),
        Action::Home(HomeAction::RemoveUnfinished { path }) => {
            format!("remove the unfinished clone ~/{path}")
        }
        Action::Home(HomeAction::MakeFolder { path }) => format!("make the folder ~/{path}"),
        Action::Home(HomeAction::Clone(clone)) => {
            let locked = if clone.locked { ", locked" } else { "" };
            format!("clone {} into ~/{}{locked}", clone.url, clone.path)
        }
        Action::Home(HomeAction::Move(_) | HomeAction::Wire(_) | HomeAction::File(_)) => {
            step.action.to_string()
        }
        // These say it for people as well.
        action @ (Action::Home(
            HomeAction::Fetch(_) | HomeAction::FastForward(_) | HomeAction::FinishRefresh { .. },
        )
        | Action::Mirror(_)) => action.to_string(),
        Action::Cluster(change) => change.to_string(),
        Action::Vault(change) => change.to_string(),
    }
}

/// A problem with its next step, behind `lead`.
fn problem(page: &mut Page, lead: &str, problem: &Problem) {
    page.hang(lead, Style::Bad, &format!("{}: {}", problem.what, problem.why), Style::Plain);
    next(page, lead.chars().count(), &problem.next);
}

fn next(page: &mut Page, indent: usize, text: &str) {
    if !text.is_empty() {
        page.hang(&format!("{}next: ", " ".repeat(indent)), Style::Faint, text, Style::Plain);
    }
}

fn outcome(outcome: Outcome) -> (Style, &'static str) {
    match outcome {
        Outcome::Converged => (Style::Good, "converged"),
        Outcome::Degraded => (Style::Bad, "degraded"),
        Outcome::Held => (Style::Warn, "held"),
        Outcome::Failed => (Style::Bad, "failed"),
    }
}

fn trigger(trigger: Trigger) -> &'static str {
    match trigger {
        Trigger::Start => "start",
        Trigger::Change => "change",
        Trigger::Request => "request",
        Trigger::Retry => "retry",
    }
}

fn tier(tier: Tier) -> (Style, &'static str) {
    (if tier == Tier::Admin { Style::Warn } else { Style::Plain }, tier.as_str())
}

fn list<T: ToString>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod samples {
    //! Records that the tests of this folder render.

    use jiff::Timestamp;
    use roster::desired::CloneDesired;
    use roster::name::OsUser;
    use roster::plan::{Action, HomeAction, NewAccount, NewHome, Problem, Step, Subject, WholeFile};

    use crate::page::Look;

    pub(super) const LOOK: Look = Look { colour: false, marks: false, width: 80 };

    pub(super) fn now() -> Timestamp {
        at("2026-03-01T12:00:00Z")
    }

    pub(super) fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    pub(super) fn user(name: &str) -> OsUser {
        OsUser::new(name).unwrap()
    }

    pub(super) fn subject(name: &str) -> Subject {
        Subject::User(user(name))
    }

    pub(super) fn create(name: &str) -> Step {
        let home = NewHome {
            path: format!("/home/{name}").into(),
            uid: 1005,
            gid: 1005,
            skel: "/etc/skel".into(),
            exists: false,
        };
        step(
            subject(name),
            "in the roster, no such account",
            Action::CreateAccount(NewAccount {
                user: user(name),
                uid: 1005,
                gid: 1005,
                gecos: String::new(),
                shell: roster::name::Shell::new("/bin/zsh").unwrap(),
                subuid: None,
                subgid: None,
                groups: vec!["docker".parse().unwrap(), "sudo".parse().unwrap()],
                home,
            }),
        )
    }

    pub(super) fn clone(name: &str) -> Step {
        step(
            subject(name),
            "no such clone",
            Action::Home(HomeAction::Clone(CloneDesired {
                path: "code/infra".into(),
                url: "https://git.example.org/infra.git".into(),
                locked: true,
            })),
        )
    }

    pub(super) fn write() -> Step {
        step(
            Subject::Machine,
            "the content differs",
            Action::WriteFile(WholeFile {
                path: "/etc/ttyd-user-map".into(),
                content: "a=b\nc=d\n".into(),
                mode: 0o644,
            }),
        )
    }

    pub(super) fn step(subject: Subject, reason: &str, action: Action) -> Step {
        Step { subject, action, reason: reason.into(), inverse: None, needs: vec![] }
    }

    pub(super) fn unreachable(name: &str) -> Problem {
        Problem {
            subject: subject(name),
            what: "cannot clone https://git.example.org/tripit.git into ~/code/tripit".into(),
            why: "failed to connect to git.example.org: connection refused".into(),
            next: "see whether the remote answers; it is tried again by itself".into(),
        }
    }
}
