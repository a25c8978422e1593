//! Whether what is on disk is taken over. Pure: texts in, decision out (invariant 2: no roster, no change).

use jiff::Timestamp;
use roster::change::{self, Change};
use roster::config::Config;
use roster::guard::{self, Verdict};
use roster::ledger::{Ledger, Waiting, WaitingCause};
use roster::model::Roster;
use roster::parse;
use sha2::{Digest, Sha256};

use crate::sources::{OnDisk, SourceError};

/// A roster and a config that belong together.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct InForce {
    pub(crate) roster: Roster,
    pub(crate) config: Config,
}

/// What is done with the content on disk.
#[derive(Debug)]
pub(crate) enum Decision {
    /// It is what is in force already.
    Unchanged,
    /// There is no roster, and there never was one: nothing to do.
    NothingYet,
    /// It takes the place of what is in force.
    Accept { new: Box<InForce>, roster: String, config: String, changes: Vec<Change> },
    /// What is in force stays.
    Wait(Waiting),
}

/// Looks at what is on disk in the light of what is in force.
pub(crate) fn decide(
    ledger: &Ledger,
    in_force: Option<&InForce>,
    config_name: &str,
    disk: &OnDisk,
    now: Timestamp,
) -> Decision {
    if ledger.applied.is_none() && matches!(disk.roster, Err(SourceError::Absent(_))) && disk.config.is_ok() {
        return Decision::NothingYet;
    }
    let wait = |cause| Decision::Wait(waiting(ledger, disk, cause, now));
    let mut problems = Vec::new();
    let config =
        disk.config.as_ref().map_err(ToString::to_string).and_then(|bytes| {
            parse::config(config_name, bytes).map_err(|diagnostics| diagnostics.render(false))
        });
    let roster_name = disk.roster_path.display().to_string();
    let roster = disk.roster.as_ref().map_err(ToString::to_string).and_then(|bytes| {
        parse::roster(&roster_name, bytes).map_err(|diagnostics| diagnostics.render(false))
    });
    let (config, roster) = match (config, roster) {
        (Ok(config), Ok(roster)) => (config, roster),
        (config, roster) => {
            problems.extend(config.err());
            problems.extend(roster.err());
            return wait(WaitingCause::Invalid { diagnostics: problems.join("\n") });
        }
    };
    let new = InForce { roster, config };
    let text = |bytes: &Result<Vec<u8>, SourceError>| {
        bytes.as_ref().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).unwrap_or_default()
    };
    let (roster_text, config_text) = (text(&disk.roster), text(&disk.config));
    if let Some(applied) = &ledger.applied
        && applied.roster == roster_text
        && applied.config == config_text
    {
        return Decision::Unchanged;
    }
    let nobody = Roster::default();
    let before = in_force.map_or(&nobody, |in_force| &in_force.roster);
    if let Verdict::Held { cuts } = guard::judge(before, &new.roster, &new.config.guard)
        && !confirmed(ledger, disk)
    {
        return wait(WaitingCause::Held { cuts, max_cuts: new.config.guard.max_cuts, confirmed: false });
    }
    let changes = change::between(before, &new.roster);
    Decision::Accept { new: Box::new(new), roster: roster_text, config: config_text, changes }
}

/// Whether an admin has confirmed exactly what is on disk.
fn confirmed(ledger: &Ledger, disk: &OnDisk) -> bool {
    ledger.waiting.as_ref().is_some_and(|waiting| {
        matches!(waiting.cause, WaitingCause::Held { confirmed: true, .. })
            && waiting.fingerprint == fingerprint(disk)
    })
}

/// The same content waits since it was first seen, however often it is looked at.
pub(crate) fn waiting(ledger: &Ledger, disk: &OnDisk, cause: WaitingCause, now: Timestamp) -> Waiting {
    let fingerprint = fingerprint(disk);
    let since = ledger
        .waiting
        .as_ref()
        .filter(|waiting| waiting.fingerprint == fingerprint)
        .map_or(now, |waiting| waiting.since);
    Waiting { since, cause, fingerprint }
}

/// A digest of both texts, or of why they cannot be read.
fn fingerprint(disk: &OnDisk) -> String {
    let mut digest = Sha256::new();
    for part in [&disk.roster, &disk.config] {
        match part {
            Ok(bytes) => {
                digest.update((bytes.len() as u64).to_le_bytes());
                digest.update(bytes);
            }
            Err(error) => digest.update(error.to_string()),
        }
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
