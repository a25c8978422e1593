//! The cluster's list of people, `k8s_users`, as it was read last. Vault's lane keeps it in a file beside the ledger, so
//! that neither the machine nor the cluster waits for Vault; or somebody else does, where `[tier_check]` says.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use roster::config::Config;
use roster::k8s_users::MapState;
use roster::plan::{Notice, Problem, Subject};
use roster::report::Trigger;
use roster::tier_check;
use tokio::time::Instant;

use super::kubernetes::{read as read_file, stopped};
use super::problem;
use crate::accept::InForce;
use crate::ask::{Ask, Whom};
use crate::daemon::Daemon;
use crate::run::chain;

/// Where the list is; nowhere when the site has none.
fn place(daemon: &Daemon, config: &Config) -> Option<PathBuf> {
    let kept = config.vault.address.as_ref().zip(config.vault.k8s_users.as_ref());
    config.tier_check.k8s_users.clone().or_else(|| kept.map(|_| daemon.store.map_path()))
}

/// The list that tiers are compared with. Where the roster is what is published, there is nothing to compare.
pub(crate) fn to_compare(daemon: &Daemon, config: &Config) -> Option<PathBuf> {
    if config.vault.publish { config.tier_check.k8s_users.clone() } else { place(daemon, config) }
}

/// The list, and what an admin should know about it.
pub(super) async fn read(daemon: &Daemon, config: &Config) -> Result<(MapState, Vec<Notice>), Problem> {
    let Some(path) = place(daemon, config) else { return Ok((MapState::None, Vec::new())) };
    let map = tokio::task::spawn_blocking(move || match read_file(&path) {
        Ok(text) => match roster::parse::k8s_users(&path.display().to_string(), &text) {
            Ok(map) => MapState::Known(map),
            Err(_) => MapState::Unreadable,
        },
        Err(_) => MapState::Unreadable,
    });
    let map = map.await.map_err(stopped)?;
    let told = match &map {
        MapState::Unreadable => Some(
            "the cluster's map cannot be read, so whatever it would say of people is left as it is".into(),
        ),
        MapState::Known(map) => map
            .diagnostics
            .as_ref()
            .map(|wrong| format!("entries of the cluster's map are left out: {wrong}")),
        MapState::None => None,
    };
    let notices = told.map(|text| Notice { subject: Subject::Machine, text });
    Ok((map, notices.into_iter().collect()))
}

/// Why nothing may be changed by a list that was just read: the machine's next run sees it too, but that is later.
pub(super) fn differs(in_force: &InForce, list: &str) -> Option<Problem> {
    if in_force.config.vault.publish {
        return None;
    }
    let check = tier_check::compare(&in_force.whole, list.as_bytes()).ok()?;
    let differences: Vec<String> = check.differences.iter().map(ToString::to_string).collect();
    (!differences.is_empty()).then(|| {
        problem(
            "nothing is changed in Vault",
            differences.join("; "),
            "let roster and list say the same tier",
        )
    })
}

/// Keeps the list as Vault has it. Whoever goes by it looks again when it has changed.
pub(super) fn keep(daemon: &Rc<Daemon>, list: Option<&str>) -> Result<(), Problem> {
    let kept = daemon.store.keep_map(list.unwrap_or("{}"));
    let is_new =
        kept.map_err(|error| problem("the cluster's map cannot be kept", chain(&error), "make room there"))?;
    if is_new {
        ask_machine(daemon);
    }
    Ok(())
}

/// A run of the machine asks the providers too, and so a server that says something else each time could keep everything
/// running: of its news there are no more than five runs in five minutes.
const NEWS: usize = 5;
const NEWS_WITHIN: Duration = Duration::from_secs(300);

fn ask_machine(daemon: &Rc<Daemon>) {
    let now = Instant::now();
    let mut news = daemon.providers.news.borrow_mut();
    while news.front().is_some_and(|at| *at + NEWS_WITHIN <= now) {
        news.pop_front();
    }
    let at = match news.front() {
        // The one that is waited for will see this, too.
        _ if news.back().is_some_and(|at| *at > now) => return,
        Some(first) if news.len() >= NEWS => *first + NEWS_WITHIN,
        _ => now,
    };
    news.push_back(at);
    let daemon = Rc::clone(daemon);
    tokio::task::spawn_local(async move {
        tokio::time::sleep_until(at).await;
        daemon.ask(Ask::new(Trigger::Change, Whom::Everybody, None));
    });
}
