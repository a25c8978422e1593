//! What the facts mean, in the order in which one would ask. Pure.

use std::collections::BTreeMap;
use std::path::Path;

use host::Failure;
use jiff::{SignedDuration, Timestamp};
use roster::ledger::WaitingCause;
use roster::plan::Subject;
use roster::provider::{Provider, ProviderStatus};
use roster::report::{RemoteAnswer, Status, SubjectStatus};

use super::facts::{Disk, Facts, LedgerFact, STATE, SourceFact};
use super::{Check, Light};
use crate::page::count;
use crate::when::ago;

/// Somebody who looks at all facts.
pub(super) fn judge(facts: &Facts, now: Timestamp) -> Vec<Check> {
    let mut checks = Vec::new();
    match &facts.units {
        Ok(units) => judge_units(&mut checks, units),
        Err(why) => checks.push(red(
            "service",
            format!("systemd cannot be asked: {why}"),
            "is this machine booted with systemd?",
        )),
    }
    judge_daemon(&mut checks, facts, now);
    checks.push(match (facts.clock, last_run(facts).is_some_and(|last| last > now + SignedDuration::from_mins(1))) {
        (_, true) => red("clock", "the newest run is in the future: the clock has jumped back", "set the clock (`timedatectl`)"),
        (Some(true), _) => green("clock", "it is kept in step"),
        (Some(false), _) => yellow(
            "clock",
            "nobody keeps it in step",
            "install a time service, such as systemd-timesyncd or chrony; certificates fail when it is far off",
        ),
        (None, _) => yellow("clock", "it is not known whether it is kept in step", "`timedatectl` says more"),
    });
    checks.extend(facts.disks.iter().map(judge_disk));
    checks.push(judge_config(facts));
    checks.push(judge_roster(facts));
    checks.push(judge_ledger(&facts.ledger));
    judge_files(&mut checks, facts);
    if let Ok(Some(status)) = &facts.daemon {
        judge_access(&mut checks, status);
        judge_remotes(&mut checks, status, now);
    }
    for (tool, found) in &facts.tools {
        checks.push(match found {
            Some(path) => green(tool, path.display().to_string()),
            None if *tool == "claude" => yellow(
                tool,
                "not where everybody finds it",
                "install it for everybody, or see that each person has it (`sudo -iu NAME which claude`)",
            ),
            None => yellow(tool, "not installed", format!("apt-get install {tool}")),
        });
    }
    checks
}

fn check(name: &'static str, light: Light, found: impl Into<String>, next: Option<String>) -> Check {
    Check { check: name, light, found: found.into(), next }
}

fn green(name: &'static str, found: impl Into<String>) -> Check {
    check(name, Light::Green, found, None)
}

fn yellow(name: &'static str, found: impl Into<String>, next: impl Into<String>) -> Check {
    check(name, Light::Yellow, found, Some(next.into()))
}

fn red(name: &'static str, found: impl Into<String>, next: impl Into<String>) -> Check {
    check(name, Light::Red, found, Some(next.into()))
}

fn judge_units(checks: &mut Vec<Check>, units: &BTreeMap<String, BTreeMap<String, String>>) {
    for (name, unit) in
        [("service", "rosterd.service"), ("socket", "rosterd.socket"), ("timer", "rosterd-reconcile.timer")]
    {
        let get = |key: &str| units.get(unit).and_then(|all| all.get(key)).map_or("", String::as_str);
        checks.push(match (get("LoadState"), get("ActiveState"), get("UnitFileState")) {
            ("loaded", "active", "enabled") => green(name, format!("{unit} runs")),
            ("loaded", "active", _) => yellow(
                name,
                format!("{unit} runs, and will not after a reboot"),
                format!("systemctl enable {unit}"),
            ),
            ("loaded", state, _) => red(
                name,
                format!("{unit} is {state} ({})", get("Result")),
                format!("systemctl enable --now {unit}; journalctl -u {unit} -n 50"),
            ),
            ("masked", ..) => red(name, format!("{unit} is masked"), format!("systemctl unmask {unit}")),
            _ => red(
                name,
                format!("there is no {unit}"),
                "install the package again: apt-get install --reinstall rosterd",
            ),
        });
    }
    let hourly = units.get("rosterd-reconcile.service");
    let get = |key: &str| hourly.and_then(|all| all.get(key)).map_or("", String::as_str);
    checks.push(match (get("ActiveState"), get("ExecMainStatus")) {
        ("failed", "3" | "4") => {
            yellow("hourly", "the last hourly run left something to do", "rosterctl status")
        }
        ("failed", status) => red(
            "hourly",
            format!("the last hourly run ended with status {status}"),
            "journalctl -u rosterd-reconcile -n 50",
        ),
        _ => green("hourly", "the last hourly run ended well, or none was due yet"),
    });
}

fn judge_daemon(checks: &mut Vec<Check>, facts: &Facts, now: Timestamp) {
    let status = match &facts.daemon {
        Ok(Some(status)) => status,
        Ok(None) => return,
        Err(why) if !facts.is_root && why.to_lowercase().contains("permission denied") => {
            return checks.push(yellow(
                "daemon",
                "you may not ask it",
                "run it as root, or be in the group rosterd",
            ));
        }
        Err(why) => {
            return checks.push(red(
                "daemon",
                format!("it does not answer: {why}"),
                "systemctl restart rosterd; journalctl -u rosterd -n 50. Nothing of anybody is lost meanwhile",
            ));
        }
    };
    checks.push(green("daemon", format!("it answers, generation {} is in force", status.generation)));
    if let Some(waiting) = &status.waiting {
        checks.push(yellow(
            "in force",
            format!(
                "what is on disk is not, since {}: {}",
                waiting.since.strftime("%F %TZ"),
                in_words(&waiting.cause)
            ),
            "`rosterctl status` says why, `rosterctl confirm` lets a held one proceed",
        ));
    }
    match last_run(facts) {
        Some(last) if now.duration_since(last) > SignedDuration::from_hours(3) => checks.push(yellow(
            "last run",
            format!("it began {} hours ago", now.duration_since(last).as_hours()),
            "systemctl list-timers rosterd-reconcile.timer; rosterctl reconcile",
        )),
        Some(_) | None => {}
    }
    checks.push(judge_people(status));
    checks.extend(status.providers.iter().map(|(provider, is)| judge_provider(*provider, is)));
}

/// Why what is on disk is not in force, in a line.
fn in_words(cause: &WaitingCause) -> String {
    match cause {
        WaitingCause::Invalid { diagnostics } => {
            diagnostics.lines().take(2).map(str::trim).collect::<Vec<_>>().join(" ")
        }
        WaitingCause::Held { cuts, .. } => {
            format!("{} would lose access", count(cuts.len(), "person", "people"))
        }
        WaitingCause::TierMismatch { .. } => "tiers differ from the cluster's map".into(),
    }
}

fn judge_people(status: &Status) -> Check {
    let degraded: Vec<&Subject> = status
        .subjects
        .iter()
        .filter(|(_, is)| matches!(is, SubjectStatus::Degraded(_)))
        .map(|(subject, _)| subject)
        .collect();
    let names: Vec<String> = degraded.iter().take(5).map(ToString::to_string).collect();
    let more = if degraded.len() > 5 { ", …" } else { "" };
    match degraded.is_empty() {
        true => green("people", "nobody is degraded"),
        false => yellow(
            "people",
            format!("{} degraded: {}{more}", degraded.len(), names.join(", ")),
            "`rosterctl status` says why and when it is tried again",
        ),
    }
}

fn judge_provider(provider: Provider, status: &ProviderStatus) -> Check {
    let (name, ask) = (provider.as_str(), format!("`rosterctl status --provider {provider}` says why"));
    match (&status.last_run, status.degraded.len()) {
        (None, 0) => yellow(name, "no run yet", "`rosterctl reconcile --provider` asks for one"),
        (Some(_), 0) => green(name, "everybody has there what the roster says"),
        _ if status.degraded.contains_key(&Subject::Machine) => yellow(name, "degraded as a whole", ask),
        (_, people) => yellow(name, format!("{} degraded", count(people, "person is", "people are")), ask),
    }
}

/// Who can read what, as the last run saw it: root does not look below a home.
fn judge_access(checks: &mut Vec<Check>, status: &Status) {
    let found = status
        .seen
        .iter()
        .flat_map(|(subject, seen)| seen.access.iter().map(move |access| (subject, access)));
    let before = checks.len();
    checks.extend(found.map(|(subject, access)| {
        yellow("access", format!("{subject}: {}", access.what), access.fix.clone())
    }));
    if checks.len() == before {
        checks.push(green(
            "access",
            "no kept file, unlocked clone or shared base is open or closed to the wrong people",
        ));
    }
}

/// Root does not speak to a network, so this is what the daemon's workers heard.
fn judge_remotes(checks: &mut Vec<Check>, status: &Status, now: Timestamp) {
    for (url, remote) in &status.remotes {
        let when = ago(remote.asked, now);
        checks.push(match &remote.answer {
            RemoteAnswer::Answers => green("remote", format!("{url} answered {when}")),
            RemoteAnswer::WantsLogin => {
                green("remote", format!("{url} asked for a login {when}; each person asks with theirs"))
            }
            RemoteAnswer::Fails { why, next } => {
                red("remote", format!("{url} did not answer {when}: {why}"), next.clone())
            }
        });
    }
}

fn last_run(facts: &Facts) -> Option<Timestamp> {
    let Ok(Some(status)) = &facts.daemon else { return None };
    Some(status.last_run.as_ref()?.started)
}

fn judge_disk(disk: &Disk) -> Check {
    const MIB: u64 = 1 << 20;
    let percent = |free: u64, total: u64| free.saturating_mul(100).checked_div(total).unwrap_or(100);
    let (space, files) = (percent(disk.free, disk.total), percent(disk.free_files, disk.total_files));
    let path = disk.path.display();
    let found = format!("{path}: {} MiB ({space} %) and {files} % of the inodes are free", disk.free / MIB);
    let next = format!("free some space: `du -xh --max-depth=2 {path} | sort -h | tail`");
    if disk.free < 64 * MIB || files == 0 {
        red("disk", found, next)
    } else if disk.free < 1024 * MIB || space < 5 || files < 5 {
        yellow("disk", found, next)
    } else {
        green("disk", found)
    }
}

/// What is in force by the ledger, or by what the daemon says to somebody who may not read that.
fn is_in_force(facts: &Facts) -> bool {
    facts.applied.is_some() || matches!(&facts.daemon, Ok(Some(status)) if status.generation > 0)
}

/// How a text that is in force comes out of the ledger.
fn from_ledger(what: &str, path: &Path) -> String {
    let ledger = Path::new(STATE).join("ledger.json");
    let (ledger, path) = (ledger.display(), path.display());
    format!("`jq -r .ledger.applied.{what} {ledger} >{path}` writes what is in force")
}

fn judge_config(facts: &Facts) -> Check {
    let had_one = facts.applied.as_ref().is_some_and(|applied| !applied.config.trim().is_empty());
    match &facts.config {
        SourceFact::Valid(()) => green("config", "valid"),
        SourceFact::Absent(path) if had_one => red(
            "config",
            format!("{} is gone, so the one that is in force stays", path.display()),
            format!("restore it, or make an empty one for the defaults; {}", from_ledger("config", path)),
        ),
        SourceFact::Absent(path) => {
            green("config", format!("there is no {}, so the defaults hold", path.display()))
        }
        SourceFact::Refused(why) => refused("config", why, facts),
        SourceFact::Invalid(why) => invalid("config", why, facts),
    }
}

fn judge_roster(facts: &Facts) -> Check {
    match &facts.roster {
        SourceFact::Valid(people) => {
            green("roster", format!("valid, {} in it", count(*people, "person", "people")))
        }
        SourceFact::Absent(path) if is_in_force(facts) => {
            let shown = path.display();
            let kept = facts.kept.as_ref().map(|kept| {
                format!(
                    "`cp {} {shown}` brings what it was before the last change by rosterctl, ",
                    kept.display()
                )
            });
            red(
                "roster",
                format!("{shown} is gone; the one that is in force stays, and nobody loses anything"),
                format!("put it back: {}{}", kept.unwrap_or_default(), from_ledger("roster", path)),
            )
        }
        SourceFact::Absent(_) => yellow(
            "roster",
            "there is none yet, so there is nothing to do",
            "write one: /usr/share/doc/rosterd/roster.example.yaml shows how",
        ),
        SourceFact::Refused(why) => refused("roster", why, facts),
        SourceFact::Invalid(why) => invalid("roster", why, facts),
    }
}

fn refused(name: &'static str, failure: &Failure, facts: &Facts) -> Check {
    let stays = if is_in_force(facts) { "; the last good one stays in force" } else { "" };
    red(name, failure.why.clone(), format!("{}{stays}", failure.next))
}

fn invalid(name: &'static str, why: &str, facts: &Facts) -> Check {
    let stays = if is_in_force(facts) { "; the last good one stays in force" } else { "" };
    red(name, why, format!("`rosterctl validate` shows each mistake{stays}"))
}

fn judge_ledger(ledger: &LedgerFact) -> Check {
    match ledger {
        LedgerFact::NoneYet => green("ledger", "none yet: there was no run"),
        LedgerFact::Forbidden => yellow("ledger", "only root may read it", "run it as root"),
        LedgerFact::Whole { people } => {
            green("ledger", format!("whole, knows {}", count(*people, "person", "people")))
        }
        LedgerFact::Damaged { why, before: true } => yellow(
            "ledger",
            format!("the newest is damaged ({why}), the copy before is whole and will be used"),
            "look at the disk; the next run writes a new one",
        ),
        LedgerFact::Damaged { why, before: false } => red(
            "ledger",
            format!("it is damaged ({why}), and so is the copy before"),
            "restore /var/lib/rosterd/ledger.json from a backup; until then nothing is changed, so that no id is given twice",
        ),
    }
}

fn judge_files(checks: &mut Vec<Check>, facts: &Facts) {
    let refused = facts.sources.iter().filter_map(|source| source.as_ref().err());
    let mut found: Vec<Check> =
        refused.map(|failure| red("modes", failure.why.clone(), failure.next.clone())).collect();
    for file in &facts.files {
        let path = file.path.display();
        if file.uid != 0 {
            let what = format!("{path} belongs to uid {}, not to root", file.uid);
            found.push(red("modes", what, format!("chown root:root {path}")));
        } else if file.mode & !file.widest & 0o077 != 0 {
            let what = format!("{path} has mode {:04o}: others may read it", file.mode);
            found.push(red("modes", what, format!("chmod {:04o} {path}", file.mode & file.widest)));
        }
    }
    // What is wrong with these two is told as what it is: no roster, or no configuration.
    let is_refused =
        matches!(facts.config, SourceFact::Refused(_)) || matches!(facts.roster, SourceFact::Refused(_));
    if found.is_empty() && !is_refused {
        let both = usize::from(!matches!(facts.config, SourceFact::Absent(_)))
            + usize::from(!matches!(facts.roster, SourceFact::Absent(_)));
        let all =
            count(both + facts.sources.len() + facts.files.len(), "file or folder", "files and folders");
        found.push(green("modes", format!("{all}, none open to others")));
    }
    checks.extend(found);
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
