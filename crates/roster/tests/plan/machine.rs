//! A machine as plain data: it can be observed, and plans can be applied to it, whole or up to a kill.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use roster::config::Config;
use roster::derive::{adopt_ports, derive};
use roster::desired::Desired;
use roster::ledger::Ledger;
use roster::model::{Person, Roster};
use roster::name::{OsUser, Shell};
use roster::observed::{
    EnvFileState, FileState, GroupEntry, HomeFolder, HostObserved, LoginState, PasswdEntry, SubordinateRange,
};
use roster::plan::{self, Action, NewAccount, Plan, Subject};

pub(crate) fn user(name: &str) -> OsUser {
    OsUser::new(name).unwrap()
}

/// People as the roster's JSON has them; login and cluster name are that of the account.
pub(crate) fn roster(people: serde_json::Value) -> Roster {
    let mut users = BTreeMap::new();
    for (name, fields) in people.as_object().unwrap() {
        let mut person = serde_json::json!({"authentik_user": name, "k8s_user": name, "tier": "power-user"});
        person.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let person: Person = serde_json::from_value(person).unwrap();
        users.insert(user(name), person);
    }
    Roster { users }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Machine {
    pub(crate) config: Config,
    pub(crate) ledger: Ledger,
    pub(crate) host: HostObserved,
    pub(crate) homes: BTreeMap<PathBuf, HomeFolder>,
    /// Cuts and returns in the order in which they were told.
    pub(crate) edges: Vec<(OsUser, &'static str)>,
}

/// One change of the machine, after which a kill may come.
type Write = Box<dyn FnOnce(&mut Machine)>;

/// One run: what was derived and what was planned.
pub(crate) struct Run {
    pub(crate) desired: Desired,
    pub(crate) plan: Plan,
}

impl Machine {
    /// A fresh Debian with its usual groups and shells.
    pub(crate) fn fresh() -> Machine {
        let mut host = HostObserved::default();
        for (name, gid) in [("root", 0), ("sudo", 27), ("users", 100), ("docker", 998)] {
            host.groups.insert(name.into(), GroupEntry { gid, members: BTreeSet::new() });
        }
        let root = PasswdEntry { uid: 0, gid: 0, home: "/root".into(), shell: "/bin/bash".into() };
        host.accounts.insert("root".into(), root);
        host.shells = ["/bin/bash", "/bin/zsh"].into_iter().map(|path| Shell::new(path).unwrap()).collect();
        let (config, ledger) = (Config::default(), Ledger::default());
        Machine { config, ledger, host, homes: BTreeMap::new(), edges: Vec::new() }
    }

    pub(crate) fn add_account(&mut self, name: &str, uid: u32) {
        let home = PathBuf::from(format!("/home/{name}"));
        self.homes.insert(home.clone(), HomeFolder::Folder { uid, mode: 0o755 });
        let entry = PasswdEntry { uid, gid: uid, home, shell: "/bin/bash".into() };
        self.host.accounts.insert(name.into(), entry);
        self.host.logins.insert(name.into(), LoginState { locked: false, expires: None });
        self.add_group(name, uid);
    }

    pub(crate) fn add_group(&mut self, name: &str, gid: u32) {
        self.host.groups.insert(name.into(), GroupEntry { gid, members: BTreeSet::new() });
    }

    pub(crate) fn observe(&self, roster: &Roster) -> HostObserved {
        let mut host = self.host.clone();
        let foreign =
            |name: &OsUser| roster.users.contains_key(name) && !host.accounts.contains_key(name.as_str());
        let foreign: BTreeMap<_, _> = host
            .foreign_accounts
            .iter()
            .filter(|(name, _)| foreign(name))
            .map(|(n, u)| (n.clone(), *u))
            .collect();
        host.foreign_accounts = foreign;
        for name in roster.users.keys() {
            let of_passwd = host.accounts.get(name.as_str()).map(|entry| entry.home.clone());
            let path = of_passwd.unwrap_or_else(|| self.config.accounts.home_base.join(name.as_str()));
            let there = self.homes.get(&path).cloned().unwrap_or(HomeFolder::Absent);
            host.homes.insert(name.clone(), there);
            for service in &self.config.service {
                if let Some(port) = service.port() {
                    host.env_files.entry(port.env_file_of(name)).or_insert(EnvFileState::Absent);
                }
            }
        }
        let maps = &self.config.maps;
        for path in
            [&maps.ttyd_user_map, &maps.ttyd_admins, &maps.dispatch, &self.config.claude.managed_settings]
        {
            host.files.entry(path.clone()).or_insert(FileState::Absent);
        }
        host
    }

    pub(crate) fn plan(&self, roster: &Roster) -> (Desired, plan::HostPlan, Vec<plan::Notice>) {
        let observed = self.observe(roster);
        let mut ports = self.ledger.ports.clone();
        let (unknown, told) = adopt_ports(&mut ports, roster, &self.config, &observed);
        let desired = derive(roster, &self.config, &ports, &unknown, &observed.shells).unwrap();
        let planned = plan::host(&desired, &self.config, &self.ledger, &observed);
        (desired, planned, told)
    }

    /// A whole run, as the daemon does it.
    pub(crate) fn run(&mut self, roster: &Roster) -> Run {
        self.run_until_killed(roster, usize::MAX)
    }

    /// A run that is killed after so many writes. The ledger is written first, the files of the user database
    /// one after the other and `passwd` last, homes before them.
    pub(crate) fn run_until_killed(&mut self, roster: &Roster, writes: usize) -> Run {
        let (desired, planned, told) = self.plan(roster);
        self.ledger.ports = desired.ports.clone();
        self.ledger.identities.extend(planned.identities);
        self.ledger.withheld = planned.withheld;
        let mut plan = planned.plan;
        let applied = plan.clone();
        plan.notices.extend(told);
        for write in self.writes(&applied).into_iter().take(writes) {
            write(self);
        }
        Run { desired, plan }
    }

    fn writes(&self, plan: &Plan) -> Vec<Write> {
        let mut writes: Vec<Write> = Vec::new();
        let accounts: Vec<NewAccount> = plan
            .steps
            .iter()
            .filter_map(|step| match &step.action {
                Action::CreateAccount(account) => Some(account.clone()),
                _ => None,
            })
            .collect();
        for step in plan.steps.clone() {
            assert!(step.needs.iter().all(|need| *need < plan.steps.len()));
            let Subject::User(user) = step.subject else { continue };
            match step.action {
                Action::Cut => writes.push(Box::new(|machine| {
                    machine.ledger.cut.insert(user.clone(), "2026-01-01T00:00:00Z".parse().unwrap());
                    machine.edges.push((user, "cut"));
                })),
                Action::Return => writes.push(Box::new(|machine| {
                    machine.ledger.cut.remove(&user);
                    machine.edges.push((user, "return"));
                })),
                _ => {}
            }
        }
        for account in accounts.clone() {
            writes.push(Box::new(move |machine| {
                let folder = HomeFolder::Folder { uid: account.home.uid, mode: 0o700 };
                let before = machine.homes.insert(account.home.path.clone(), folder.clone());
                assert_eq!(before.is_some(), account.home.exists, "{account:?}");
                if let Some(HomeFolder::Folder { uid, .. }) = before {
                    assert_eq!(uid, account.uid, "{account:?}");
                }
            }));
        }
        let of_group = accounts.clone();
        let joins: Vec<_> = plan
            .steps
            .iter()
            .filter_map(|step| match &step.action {
                Action::AddToGroup { user, group } => Some((user.clone(), group.clone())),
                _ => None,
            })
            .collect();
        let leaves: Vec<_> = plan
            .steps
            .iter()
            .filter_map(|step| match &step.action {
                Action::RemoveFromGroup { user, group } => Some((user.clone(), group.clone())),
                _ => None,
            })
            .collect();
        writes.push(Box::new(move |machine| {
            for account in of_group {
                let name = account.user.to_string();
                let group = machine
                    .host
                    .groups
                    .entry(name.clone())
                    .or_insert(GroupEntry { gid: account.gid, members: BTreeSet::new() });
                assert_eq!(group.gid, account.gid);
                for group in account.groups {
                    machine.host.groups.get_mut(group.as_str()).unwrap().members.insert(name.clone());
                }
            }
            for (user, group) in joins {
                let added =
                    machine.host.groups.get_mut(group.as_str()).unwrap().members.insert(user.to_string());
                assert!(added, "{user} was in {group} before");
            }
            for (user, group) in leaves {
                let members = &mut machine.host.groups.get_mut(group.as_str()).unwrap().members;
                assert!(members.remove(user.as_str()), "{user} was not in {group}");
            }
        }));
        let logins = plan.clone();
        writes.push(Box::new(move |machine| {
            for step in logins.steps {
                let (user, now, may_be_so) = match step.action {
                    // A killed run may have left the line.
                    Action::CreateAccount(new) => {
                        (new.user, LoginState { locked: true, expires: None }, true)
                    }
                    Action::LockLogin { user, .. } => (user, LoginState::CUT, false),
                    Action::RestoreLogin { user, before } => (user, before, false),
                    _ => continue,
                };
                let was = machine.host.logins.insert(user.to_string(), now);
                assert!(may_be_so || was != Some(now), "{user}");
            }
        }));
        for is_uid in [true, false] {
            let accounts = accounts.clone();
            writes.push(Box::new(move |machine| {
                let lines = if is_uid { &mut machine.host.subuids } else { &mut machine.host.subgids };
                for account in accounts {
                    let Some((start, count)) = (if is_uid { account.subuid } else { account.subgid }) else {
                        continue;
                    };
                    let line = SubordinateRange { owner: account.user.to_string(), start, count };
                    if !lines.contains(&line) {
                        lines.push(line);
                    }
                }
            }));
        }
        writes.push(Box::new(move |machine| {
            for account in accounts {
                let NewAccount { user, uid, gid, shell, home, .. } = account;
                let entry = PasswdEntry { uid, gid, home: home.path, shell: shell.to_string() };
                let before = machine.host.accounts.insert(user.to_string(), entry);
                assert_eq!(before, None);
            }
        }));
        for step in plan.steps.clone() {
            match step.action {
                Action::CreateHome(home) => writes.push(Box::new(move |machine| {
                    let folder = HomeFolder::Folder { uid: home.uid, mode: 0o700 };
                    assert_eq!(machine.homes.insert(home.path, folder), None);
                })),
                Action::WriteFile(file) => writes.push(Box::new(move |machine| {
                    let state = FileState::Present { content: file.content.into(), mode: file.mode };
                    let is_drop_in = file.path.starts_with("/etc/systemd");
                    let host = &mut machine.host;
                    if is_drop_in { &mut host.drop_ins } else { &mut host.files }.insert(file.path, state);
                })),
                Action::RemoveFile { path } => writes.push(Box::new(move |machine| {
                    assert!(machine.host.drop_ins.remove(&path).is_some(), "{}", path.display());
                })),
                Action::SetEnvKeys { path, keys } => writes.push(Box::new(move |machine| {
                    let mut ports = match machine.host.env_files.remove(&path) {
                        Some(EnvFileState::Present { ports, .. }) => ports,
                        _ => BTreeMap::new(),
                    };
                    ports.extend(keys);
                    machine.host.env_files.insert(path, EnvFileState::Present { ports, mode: 0o600 });
                })),
                Action::CreateAccount(_)
                | Action::AddToGroup { .. }
                | Action::RemoveFromGroup { .. }
                | Action::LockLogin { .. }
                | Action::RestoreLogin { .. }
                | Action::EndSessions { .. }
                | Action::Cut
                | Action::Return => {}
                other => panic!("no step of the machine's plan: {other}"),
            }
        }
        let applied: Vec<Action> = plan.steps.iter().map(|step| step.action.clone()).collect();
        writes.push(Box::new(move |machine| {
            applied.iter().for_each(|action| machine.ledger.applied(action));
        }));
        writes
    }
}

/// A plan as a person reads it.
pub(crate) fn shown(plan: &Plan) -> String {
    let mut text = String::new();
    for step in &plan.steps {
        text += &format!("{step}\n");
    }
    for problem in &plan.problems {
        text += &format!("! {}: {}: {}; {}\n", problem.subject, problem.what, problem.why, problem.next);
    }
    for notice in &plan.notices {
        text += &format!("- {}: {}\n", notice.subject, notice.text);
    }
    text
}
