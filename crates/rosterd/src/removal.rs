//! What the ledger keeps of removals. `rosterctl offboard` and `restore-account` do the work, as root; here is only what
//! is remembered of it and told.

use jiff::Timestamp;
use roster::ledger::Removed;
use roster::name::OsUser;
use roster::report::{Leaver, Trigger};

use control::ControlError;

use crate::announce;
use crate::ask::{Ask, Whom};
use crate::daemon::Daemon;
use crate::journal;
use crate::providers;

/// What the ledger knows of somebody who is cut or removed.
pub(crate) fn leaver(daemon: &Daemon, user: &str) -> Result<Leaver, ControlError> {
    let user = known(daemon, user)?;
    let ledger = daemon.ledger();
    let removed = ledger.removed.get(&user);
    let Some(cut) = ledger.cut.get(&user).copied().or(removed.map(|removed| removed.cut)) else {
        return Err(failed(format!("{user} was never cut here")));
    };
    let identity = ledger.identities.get(&user).cloned();
    let rights = providers::rights_left(daemon, &user);
    Ok(Leaver { cut, archive: removed.map(|removed| removed.archive.clone()), identity, rights })
}

/// Account and home are gone. Ids and ports stay the person's.
pub(crate) fn removed(daemon: &Daemon, user: &str, archive: String) -> Result<(), ControlError> {
    let user = known(daemon, user)?;
    let ledger = daemon.ledger();
    if ledger.removed.get(&user).is_some_and(|removed| removed.archive == archive) {
        return Ok(());
    }
    let Some(cut) = ledger.cut.get(&user).copied() else {
        return Err(failed(format!("{user} is not cut")));
    };
    keep(daemon, |ledger| {
        ledger.cut.remove(&user);
        ledger
            .removed
            .insert(user.clone(), Removed { since: Timestamp::now(), cut, archive: archive.clone() });
    })?;
    journal::removed(ledger.generation, &user, &archive);
    announce::say(daemon, format!("{user} is removed; account and home are kept in {archive}"));
    daemon.ask(Ask::new(Trigger::Change, Whom::Everybody, None));
    Ok(())
}

/// Account and home are back as they were, and so is the cut.
pub(crate) fn restored(daemon: &Daemon, user: &str, archive: &str) -> Result<(), ControlError> {
    let user = known(daemon, user)?;
    let ledger = daemon.ledger();
    let Some(removed) = ledger.removed.get(&user).cloned() else { return Ok(()) };
    keep(daemon, |ledger| {
        ledger.removed.remove(&user);
        ledger.cut.insert(user.clone(), removed.cut);
    })?;
    journal::restored(ledger.generation, &user, archive);
    announce::say(daemon, format!("{user} is restored, and cut as before"));
    daemon.ask(Ask::new(Trigger::Change, Whom::Everybody, None));
    Ok(())
}

/// Nobody whom the roster in force has is removed or restored.
fn known(daemon: &Daemon, user: &str) -> Result<OsUser, ControlError> {
    let name = OsUser::new(user).map_err(|_| ControlError::NoSuchUser { user: user.into() })?;
    if daemon.in_force().is_some_and(|in_force| in_force.roster.users.contains_key(&name)) {
        return Err(failed(format!(
            "{name} is in the roster; `rosterctl user remove {name}` takes them out, and what a cut takes comes first"
        )));
    }
    Ok(name)
}

fn keep(daemon: &Daemon, change: impl FnOnce(&mut roster::ledger::Ledger)) -> Result<(), ControlError> {
    match daemon.change_ledger(change) {
        true => Ok(()),
        false => Err(failed("the ledger cannot be written; see the journal".into())),
    }
}

fn failed(what: String) -> ControlError {
    ControlError::Failed { what }
}
