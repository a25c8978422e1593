//! Whether what is on disk is taken over. Pure: texts in, decision out (invariant 2: no roster, no change).

use jiff::Timestamp;
use roster::change::{self, Change};
use roster::config::Config;
use roster::guard::{self, Verdict};
use roster::hosts;
use roster::ledger::{Ledger, Waiting, WaitingCause};
use roster::model::Roster;
use roster::name::HostName;
use roster::parse;
use roster::provider::Provider;
use sha2::{Digest, Sha256};

use crate::providers::is_configured;
use crate::sources::{OnDisk, SourceError};

/// A roster and a config that belong together.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct InForce {
    /// This machine's part of the roster.
    pub(crate) roster: Roster,
    /// All of it: what people have in a cluster or a Vault is theirs on whatever machine they work.
    pub(crate) whole: Roster,
    pub(crate) config: Config,
}

impl InForce {
    pub(crate) fn new(whole: Roster, config: Config, host: Option<&HostName>) -> Self {
        let roster = host.map_or_else(|| whole.clone(), |host| hosts::part(&whole, host));
        InForce { roster, whole, config }
    }

    /// How many people the roster has on other machines only.
    pub(crate) fn elsewhere(&self) -> usize {
        self.whole.users.len() - self.roster.users.len()
    }

    /// Those who lose something here when they leave the roster.
    fn concerned(&self, config: &Config) -> &Roster {
        let everywhere = Provider::ALL.into_iter().any(|provider| is_configured(config, provider));
        if everywhere { &self.whole } else { &self.roster }
    }
}

/// What is done with the content on disk.
#[derive(Debug)]
pub(crate) enum Decision {
    /// It is what is in force already.
    Unchanged,
    /// There is no roster, and there never was one: nothing to do.
    NothingYet,
    /// It takes the place of what is in force.
    Accept { new: Box<InForce>, roster: String, config: String, host: HostName, changes: Vec<Change> },
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
    let config_bytes = config_bytes(ledger, disk);
    if ledger.applied.is_none() && matches!(disk.roster, Err(SourceError::Absent(_))) && config_bytes.is_ok()
    {
        return Decision::NothingYet;
    }
    let wait = |cause| Decision::Wait(waiting(ledger, disk, cause, now));
    let mut problems = Vec::new();
    let config = config_bytes
        .clone()
        .and_then(|bytes| parse::config(config_name, bytes).map_err(|diagnostics| diagnostics.render(false)));
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
    let host = match (&config.host, &disk.host) {
        (Some(host), _) | (None, Ok(host)) => host.clone(),
        (None, Err(error)) => return wait(WaitingCause::Invalid { diagnostics: error.clone() }),
    };
    let new = InForce::new(roster, config, Some(&host));
    let text = |bytes: &Result<Vec<u8>, SourceError>| {
        bytes.as_ref().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).unwrap_or_default()
    };
    let (roster_text, config_text) = (text(&disk.roster), text(&disk.config));
    if let Some(applied) = &ledger.applied
        && applied.roster == roster_text
        && applied.config == config_text
        && applied.host.as_ref() == Some(&host)
    {
        return Decision::Unchanged;
    }
    let nobody = Roster::default();
    let before = in_force.map_or(&nobody, |in_force| &in_force.roster);
    let whole_before = in_force.map_or(&nobody, |in_force| in_force.concerned(&new.config));
    let name_before = ledger.applied.as_ref().and_then(|applied| applied.host.as_ref());
    let renamed = name_before.filter(|before| **before != host).map(|before| (before, &host));
    let verdict = match guard::judge(before, &new.roster, &new.config.guard, renamed) {
        Verdict::Pass => guard::judge(whole_before, new.concerned(&new.config), &new.config.guard, None),
        held => held,
    };
    if let Verdict::Held { cuts, why } = verdict
        && !confirmed(ledger, disk)
    {
        return wait(WaitingCause::Held { cuts, why, confirmed: false });
    }
    let changes = change::between(before, &new.roster);
    Decision::Accept { new: Box::new(new), roster: roster_text, config: config_text, host, changes }
}

/// Without a file the defaults hold, as if it were empty; but one that has vanished is no decision for the defaults.
fn config_bytes<'a>(ledger: &Ledger, disk: &'a OnDisk) -> Result<&'a [u8], String> {
    match &disk.config {
        Ok(bytes) => Ok(bytes),
        Err(error @ SourceError::Absent(_))
            if ledger.applied.as_ref().is_some_and(|applied| !applied.config.trim().is_empty()) =>
        {
            Err(format!(
                "{error} any more, so the one that is in force stays; restore it, or make an empty one for the defaults"
            ))
        }
        Err(SourceError::Absent(_)) => Ok(&[]),
        Err(error) => Err(error.to_string()),
    }
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

/// A digest of both texts and the machine's name, or of why they cannot be read.
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
    match &disk.host {
        Ok(host) => digest.update(host.as_str()),
        Err(error) => digest.update(error),
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use roster::ledger::Applied;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn people(names: &[&str]) -> String {
        let mut text = String::from("users:\n");
        for name in names {
            text.push_str(&format!(
                "  {name}: {{authentik_user: {name}, k8s_user: {name}, tier: power-user}}\n"
            ));
        }
        text
    }

    fn disk(roster: &str) -> OnDisk {
        OnDisk {
            roster_path: "/etc/rosterd/roster.yaml".into(),
            roster: Ok(roster.into()),
            config: Ok(Vec::new()),
            host: Ok(host("devvm")),
        }
    }

    fn host(name: &str) -> HostName {
        HostName::new(name).unwrap()
    }

    /// A ledger in which `roster` is in force.
    fn applied(roster: &str) -> (Ledger, InForce) {
        let in_force = InForce::new(parse::roster("r", roster.as_bytes()).unwrap(), Config::default(), None);
        let applied =
            Applied { roster: roster.into(), config: String::new(), host: Some(host("devvm")), since: NOW };
        (Ledger { generation: 1, applied: Some(applied), ..Ledger::default() }, in_force)
    }

    fn decide_on(ledger: &Ledger, in_force: Option<&InForce>, disk: &OnDisk) -> Decision {
        decide(ledger, in_force, "config.toml", disk, NOW)
    }

    #[test]
    fn the_first_roster_is_accepted() {
        let decision = decide_on(&Ledger::default(), None, &disk(&people(&["ann", "bea"])));
        assert!(matches!(decision, Decision::Accept { changes, .. } if changes.len() == 2));
    }

    #[test]
    fn without_any_roster_there_is_nothing_to_do() {
        let mut disk = disk("");
        disk.roster = Err(SourceError::Absent("/etc/rosterd/roster.yaml".into()));
        assert!(matches!(decide_on(&Ledger::default(), None, &disk), Decision::NothingYet));
    }

    #[test]
    fn what_is_in_force_already_is_left_alone() {
        let text = people(&["ann"]);
        let (ledger, in_force) = applied(&text);
        assert!(matches!(decide_on(&ledger, Some(&in_force), &disk(&text)), Decision::Unchanged));
    }

    /// Invariant 2: unreadable, invalid, emptied and sharply shrunken rosters wait.
    #[test]
    fn a_bad_roster_waits_and_says_why() {
        let all = ["ann", "bea", "cid", "dan", "eve", "fay", "gus", "hal"];
        let (ledger, in_force) = applied(&people(&all));
        let mut gone = disk("");
        gone.roster = Err(SourceError::Absent("/etc/rosterd/roster.yaml".into()));
        for bad in [gone, disk("users: {ann: {teir: admin}}"), disk("users:\n\tann: {}"), disk("users: [")] {
            let Decision::Wait(waiting) = decide_on(&ledger, Some(&in_force), &bad) else {
                panic!("{bad:?} was taken over")
            };
            assert!(
                matches!(&waiting.cause, WaitingCause::Invalid { diagnostics } if !diagnostics.is_empty())
            );
        }
        for (shrunken, cuts) in [(disk("users:"), 8), (disk(&people(&all[..3])), 5), (disk(""), 8)] {
            let Decision::Wait(waiting) = decide_on(&ledger, Some(&in_force), &shrunken) else {
                panic!("not held")
            };
            assert!(matches!(&waiting.cause, WaitingCause::Held { cuts: held, .. } if held.len() == cuts));
        }
        assert!(matches!(
            decide_on(&ledger, Some(&in_force), &disk(&people(&all[..5]))),
            Decision::Accept { .. }
        ));
    }

    /// Invariant 2, for the configuration: one that is gone is not one that asks for the defaults.
    #[test]
    fn a_config_that_vanished_waits_and_says_so() {
        let text = people(&["ann"]);
        let (mut ledger, in_force) = applied(&text);
        let mut gone = disk(&text);
        gone.config = Err(SourceError::Absent("/etc/rosterd/config.toml".into()));
        assert!(matches!(decide_on(&ledger, Some(&in_force), &gone), Decision::Unchanged), "never was one");
        assert!(matches!(decide_on(&Ledger::default(), None, &gone), Decision::Accept { .. }));
        ledger.applied.as_mut().unwrap().config = "[guard]\nmax_cuts = 1\n".into();
        let Decision::Wait(waiting) = decide_on(&ledger, Some(&in_force), &gone) else {
            panic!("the defaults were taken over")
        };
        let WaitingCause::Invalid { diagnostics } = waiting.cause else { panic!("{:?}", waiting.cause) };
        assert_eq!(
            diagnostics,
            "there is no /etc/rosterd/config.toml any more, so the one that is in force stays; restore it, or make an empty one for the defaults"
        );
        let emptied = disk(&text);
        assert!(matches!(decide_on(&ledger, Some(&in_force), &emptied), Decision::Accept { .. }));
    }

    #[test]
    fn a_confirmation_counts_for_exactly_what_was_held() {
        let all = ["ann", "bea", "cid", "dan", "eve"];
        let (mut ledger, in_force) = applied(&people(&all));
        let held = disk(&people(&all[..1]));
        let Decision::Wait(mut waiting) = decide_on(&ledger, Some(&in_force), &held) else {
            panic!("not held")
        };
        if let WaitingCause::Held { confirmed, .. } = &mut waiting.cause {
            *confirmed = true;
        }
        ledger.waiting = Some(waiting);
        assert!(matches!(decide_on(&ledger, Some(&in_force), &held), Decision::Accept { .. }));
        let other = disk(&people(&all[1..2]));
        assert!(matches!(decide_on(&ledger, Some(&in_force), &other), Decision::Wait(_)));
    }

    #[test]
    fn the_same_content_waits_since_it_was_first_seen() {
        let (mut ledger, in_force) = applied(&people(&["ann"]));
        let bad = disk("users: [");
        let Decision::Wait(first) = decide_on(&ledger, Some(&in_force), &bad) else { panic!("taken over") };
        ledger.waiting = Some(first.clone());
        let later = Timestamp::from_second(1000).unwrap();
        let Decision::Wait(second) = decide(&ledger, Some(&in_force), "config.toml", &bad, later) else {
            panic!("taken over")
        };
        assert_eq!(first, second);
    }

    /// `ann` everywhere, `bea` on devvm, `cid` on another machine.
    const SPREAD: &str = "users:\n  \
        ann: {authentik_user: ann, k8s_user: ann, tier: power-user}\n  \
        bea: {authentik_user: bea, k8s_user: bea, tier: power-user, hosts: [devvm]}\n  \
        cid: {authentik_user: cid, k8s_user: cid, tier: power-user, hosts: [other]}\n";

    fn names(roster: &Roster) -> Vec<&str> {
        roster.users.keys().map(|user| user.as_str()).collect()
    }

    #[test]
    fn a_machine_takes_over_its_part_by_its_own_name_or_the_configured_one() {
        let mut disk = disk(SPREAD);
        let Decision::Accept { new, host: by, .. } = decide_on(&Ledger::default(), None, &disk) else {
            panic!("not accepted")
        };
        assert_eq!((names(&new.roster), by), (vec!["ann", "bea"], host("devvm")));
        disk.config = Ok(b"host = \"other.example.org\"".to_vec());
        disk.host = Err("none".into());
        let Decision::Accept { new, .. } = decide_on(&Ledger::default(), None, &disk) else {
            panic!("not accepted")
        };
        assert_eq!(names(&new.roster), ["ann", "cid"]);
    }

    #[test]
    fn whom_hosts_takes_off_this_machine_leaves_it_and_the_guard_counts_them_invariant_2() {
        let all = ["ann", "bea", "cid", "dan", "eve"];
        let (ledger, in_force) = applied(&people(&all));
        let away = |names: &[&str]| {
            names.iter().fold(people(&all), |text, name| {
                text.replace(&format!("k8s_user: {name},"), &format!("k8s_user: {name}, hosts: [other],"))
            })
        };
        let Decision::Accept { changes, .. } = decide_on(&ledger, Some(&in_force), &disk(&away(&["ann"])))
        else {
            panic!("not accepted")
        };
        assert_eq!(changes.iter().map(ToString::to_string).collect::<Vec<_>>(), ["ann: left"]);
        let decision = decide_on(&ledger, Some(&in_force), &disk(&away(&all[..4])));
        let Decision::Wait(Waiting { cause: WaitingCause::Held { cuts, .. }, .. }) = decision else {
            panic!("not held")
        };
        assert_eq!(cuts.len(), 4);
    }

    /// Whoever is elsewhere has nothing to lose here, unless the cluster's rights are given from here.
    #[test]
    fn the_guard_counts_everybody_where_a_provider_follows_the_roster_invariant_2() {
        let all = ["ann", "bea", "cid", "dan", "eve"];
        let elsewhere = people(&all).replace(", tier:", ", hosts: [other], tier:");
        let here = people(&["fay"]).split_once('\n').unwrap().1.to_owned();
        let (ledger, _) = applied(&format!("{elsewhere}{here}"));
        let whole = parse::roster("r", format!("{elsewhere}{here}").as_bytes()).unwrap();
        let in_force = InForce::new(whole, Config::default(), Some(&host("devvm")));
        assert_eq!(names(&in_force.roster), ["fay"]);
        let mut gone = disk(&people(&["fay"]));
        assert!(matches!(decide_on(&ledger, Some(&in_force), &gone), Decision::Accept { .. }));
        gone.config = Ok(b"[kubernetes]\nkubeconfig = \"/etc/rosterd/kubeconfig\"".to_vec());
        let Decision::Wait(waiting) = decide_on(&ledger, Some(&in_force), &gone) else { panic!("not held") };
        assert!(matches!(&waiting.cause, WaitingCause::Held { cuts, .. } if cuts.len() == 5), "{waiting:?}");
    }

    #[test]
    fn another_name_of_the_machine_cuts_nobody_unasked_and_no_name_changes_nothing_invariant_2() {
        let (ledger, mut in_force) = applied(SPREAD);
        in_force.roster = hosts::part(&in_force.roster, &host("devvm"));
        let mut disk = disk(SPREAD);
        assert!(matches!(decide_on(&ledger, Some(&in_force), &disk), Decision::Unchanged));
        disk.host = Ok(host("localhost"));
        let Decision::Wait(waiting) = decide_on(&ledger, Some(&in_force), &disk) else { panic!("cut") };
        assert!(matches!(&waiting.cause, WaitingCause::Held { cuts, .. } if cuts.len() == 1), "{waiting:?}");
        disk.host = Err("`(none)` is no name".into());
        let Decision::Wait(waiting) = decide_on(&ledger, Some(&in_force), &disk) else { panic!("cut") };
        assert!(matches!(&waiting.cause, WaitingCause::Invalid { .. }), "{waiting:?}");
    }

    /// A version that did not look at `hosts` had everybody in force; those who leave now are counted.
    #[test]
    fn a_ledger_from_before_hosts_is_judged_with_everybody_in_force_invariant_2() {
        let (mut ledger, in_force) = applied(SPREAD);
        ledger.applied.as_mut().unwrap().host = None;
        let Decision::Accept { new, changes, .. } = decide_on(&ledger, Some(&in_force), &disk(SPREAD)) else {
            panic!("not accepted")
        };
        assert_eq!(names(&new.roster), ["ann", "bea"]);
        assert_eq!(changes.iter().map(ToString::to_string).collect::<Vec<_>>(), ["cid: left"]);
    }
}
