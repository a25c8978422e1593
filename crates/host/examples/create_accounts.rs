//! Creates accounts with homes in the machine at a root folder, as a run of the daemon does, and tells how long
//! each part took: the other side of a loop of `useradd` in the benchmark, and what the tests kill half-way.
//!
//! ```text
//! create_accounts ROOT COUNT [GROUP...]
//! ```

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use host::Host;
use roster::config::Config;
use roster::model::Roster;
use roster::name::{GroupName, OsUser, Shell};
use roster::observed::{HomeFolder, HostObserved};
use roster::plan::{Action, NewAccount, NewHome, Plan, Step, Subject};
use roster::report::StepResult;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(root), Some(count)) = (arguments.next(), arguments.next()) else {
        return Err("usage: create_accounts ROOT COUNT [GROUP...]".into());
    };
    let groups = arguments.map(GroupName::new).collect::<Result<Vec<_>, _>>()?;
    let (roster, config) = (roster_of(count.parse()?)?, Config::default());
    let host = Host::at(root);
    let mut out = std::io::stdout();
    let mut failed = 0;

    let began = Instant::now();
    for cleared in host.clear_leftovers(&config) {
        writeln!(out, "cleared {cleared}")?;
    }
    let observed = host.observe(&roster, &config)?;
    let observing = began.elapsed();
    let plan = plan(&roster, &config, &observed, &groups)?;
    let began = Instant::now();
    host.apply(&plan, &AtomicBool::new(false), &mut |index, result, _| {
        if result != StepResult::Done {
            failed += 1;
            let _ = writeln!(out, "{:?}: {result:?}", plan.steps.get(index).map(|step| &step.subject));
        }
    });
    let applying = began.elapsed();
    let steps = plan.steps.len();
    writeln!(out, "observed in {observing:.1?}; applied {steps} steps in {applying:.1?}; {failed} failed")?;
    if failed > 0 { Err(format!("{failed} steps failed").into()) } else { Ok(()) }
}

fn roster_of(count: u32) -> Result<Roster, Box<dyn Error>> {
    let users: BTreeMap<String, serde_json::Value> = (0..count)
        .map(|number| {
            let name = format!("dev{number:04}");
            let person =
                serde_json::json!({ "authentik_user": name, "k8s_user": name, "tier": "power-user" });
            (name, person)
        })
        .collect();
    Ok(serde_json::from_value(serde_json::json!({ "users": users }))?)
}

/// As `roster::plan::host` would, for fixed ids: what is missing is created, and a home that an earlier run
/// placed for the reserved uid is used.
fn plan(
    roster: &Roster,
    config: &Config,
    observed: &HostObserved,
    groups: &[GroupName],
) -> Result<Plan, Box<dyn Error>> {
    let shell = Shell::new("/bin/zsh")?;
    let mut plan = Plan::default();
    for (user, id) in roster.users.keys().zip(observed.limits.uid_min..) {
        let action = if observed.accounts.contains_key(user.as_str()) {
            let is_member = |group: &&GroupName| {
                observed.groups.get(group.as_str()).is_some_and(|found| found.members.contains(user.as_str()))
            };
            for group in groups.iter().filter(|group| !is_member(group)) {
                plan.steps.push(step(user, Action::AddToGroup { user: user.clone(), group: group.clone() }));
            }
            continue;
        } else {
            let range = |min: u32, count: u32| (count > 0).then(|| (min + (id - 1000) * count, count));
            let limits = &observed.limits;
            let exists =
                matches!(observed.homes.get(user), Some(HomeFolder::Folder { uid, .. }) if *uid == id);
            Action::CreateAccount(NewAccount {
                user: user.clone(),
                uid: id,
                gid: id,
                gecos: String::new(),
                shell: shell.clone(),
                subuid: range(limits.sub_uid_min, limits.sub_uid_count),
                subgid: range(limits.sub_gid_min, limits.sub_gid_count),
                groups: groups.to_vec(),
                home: NewHome {
                    path: config.accounts.home_base.join(user.as_str()),
                    uid: id,
                    gid: id,
                    skel: config.accounts.skel.clone(),
                    exists,
                },
            })
        };
        plan.steps.push(step(user, action));
    }
    Ok(plan)
}

fn step(user: &OsUser, action: Action) -> Step {
    Step {
        subject: Subject::User(user.clone()),
        action,
        reason: String::new(),
        inverse: None,
        needs: Vec::new(),
    }
}
