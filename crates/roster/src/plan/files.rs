//! The machine's generated files: the three maps, the managed settings, and the environment files of services.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{Action, Plan, Problem, Subject, WholeFile};
use crate::config::Config;
use crate::desired::Desired;
use crate::name::OsUser;
use crate::observed::{EnvFileState, FileState, HostObserved};

/// Programs of other users read the maps.
const PUBLIC: u32 = 0o644;
/// Environment files hold tokens.
const PRIVATE: u32 = 0o600;

/// Steps for the maps. They are written as the roster says, also with people whose account could not be made:
/// one person's trouble must not hold up everybody's map (invariant 4), and a consumer that is sent to an
/// account that does not exist fails closed.
pub(super) fn maps(plan: &mut Plan, desired: &Desired, config: &Config, observed: &HostObserved) {
    let maps = &config.maps;
    let files = [
        (&maps.ttyd_user_map, desired.ttyd_user_map.clone()),
        (&maps.ttyd_admins, desired.ttyd_admins.clone()),
        (&maps.dispatch, desired.dispatch_json()),
    ];
    for (path, content) in files {
        whole_file(plan, path, content, observed);
    }
}

/// The step for the managed settings. What is no JSON object is refused, and the old file stays.
pub(super) fn managed_settings(plan: &mut Plan, config: &Config, observed: &HostObserved) {
    let Some(source) = &config.claude.managed_settings_source else { return };
    let shown = source.display();
    let text = match &observed.managed_settings_source {
        Some(FileState::Present { content, .. }) => object(content),
        Some(FileState::Unreadable(why)) => Err(format!("it cannot be read: {why}")),
        Some(FileState::Absent) => Err("there is no such file".into()),
        None => Err("it was not looked at".into()),
    };
    match text {
        Ok(text) => whole_file(plan, &config.claude.managed_settings, text, observed),
        Err(why) => plan.problems.push(Problem {
            subject: Subject::Machine,
            what: format!("the managed settings {shown} are not installed"),
            why,
            next: format!(
                "correct {shown}; until then {} stays as it is",
                config.claude.managed_settings.display()
            ),
        }),
    }
}

fn object(content: &[u8]) -> Result<String, String> {
    serde_json::from_slice::<Map<String, Value>>(content)
        .map_err(|error| format!("it is no JSON object: {error}"))?;
    String::from_utf8(content.to_vec()).map_err(|_| "it is not UTF-8".into())
}

fn whole_file(plan: &mut Plan, path: &Path, content: String, observed: &HostObserved) {
    let reason = match observed.files.get(path) {
        Some(FileState::Absent) => "there is no such file".into(),
        Some(FileState::Present { content: found, .. }) if *found != content.as_bytes() => {
            "its content differs".into()
        }
        Some(FileState::Present { mode, .. }) if *mode != PUBLIC => format!("its mode is {mode:04o}"),
        Some(FileState::Present { .. }) => return,
        state @ (Some(FileState::Unreadable(_)) | None) => {
            let why = if let Some(FileState::Unreadable(why)) = state { why } else { "it was not looked at" };
            return plan.problems.push(unreadable(&Subject::Machine, path, why));
        }
    };
    let inverse =
        (observed.files.get(path) == Some(&FileState::Absent)).then(|| format!("rm {}", path.display()));
    let action = Action::WriteFile(WholeFile { path: path.into(), content, mode: PUBLIC });
    plan.step(&Subject::Machine, action, reason).inverse = inverse;
}

/// Steps for the ports in environment files. `accounts` has everybody whose account is as it should be or will
/// be made, with the step that makes it.
pub(super) fn env_files(
    plan: &mut Plan,
    desired: &Desired,
    config: &Config,
    observed: &HostObserved,
    accounts: &BTreeMap<&OsUser, Option<usize>>,
) {
    for (user, step) in accounts {
        // Two services may share a file.
        let mut files: BTreeMap<PathBuf, BTreeMap<String, String>> = BTreeMap::new();
        let tier = desired.accounts.get(*user).map(|account| account.tier);
        for service in &config.service {
            let Some(at) = service.port() else { continue };
            if !tier.is_some_and(|tier| service.tiers.contains(&tier)) {
                continue;
            }
            let keys = files.entry(at.env_file_of(user)).or_default();
            // Without a port: their file cannot be read, which is told below.
            if let Some(port) = desired.ports.get(&service.name).and_then(|ports| ports.get(*user)) {
                keys.insert(at.key.to_owned(), port.to_string());
            }
        }
        for (path, keys) in files {
            env_file(plan, user, path, keys, *step, observed);
        }
    }
}

fn env_file(
    plan: &mut Plan,
    user: &OsUser,
    path: PathBuf,
    mut keys: BTreeMap<String, String>,
    account: Option<usize>,
    observed: &HostObserved,
) {
    let subject = Subject::User(user.clone());
    let mut inverse = None;
    let reason = match observed.env_files.get(&path) {
        Some(EnvFileState::Absent) => {
            inverse = Some(format!("rm {}", path.display()));
            "there is no such file".into()
        }
        Some(EnvFileState::Present { ports, mode }) => {
            let is_wider = mode & !PRIVATE != 0;
            let all_set = keys.iter().all(|(key, value)| ports.get(key) == Some(value));
            if all_set && !is_wider {
                return;
            }
            if !all_set {
                keys.retain(|key, value| ports.get(key) != Some(value));
            }
            // What is found is not repeated: a line that is no port may be anything.
            match (all_set, is_wider) {
                (true, _) => format!("its mode is {mode:04o}, wider than {PRIVATE:04o}"),
                (false, true) => format!("the port differs, and its mode is {mode:04o}"),
                (false, false) => "the port differs or is not set".into(),
            }
        }
        Some(EnvFileState::Unreadable(why)) => return plan.problems.push(unreadable(&subject, &path, why)),
        None => return plan.problems.push(unreadable(&subject, &path, "it was not looked at")),
    };
    let step = plan.step(&subject, Action::SetEnvKeys { path, keys }, reason);
    step.inverse = inverse;
    step.needs.extend(account);
}

pub(super) fn unreadable(subject: &Subject, path: &Path, why: &str) -> Problem {
    Problem {
        subject: subject.clone(),
        what: format!("{} cannot be read", path.display()),
        why: why.into(),
        next: "it is left as it is; make it a readable regular file, or remove it".into(),
    }
}
