//! What the facts mean, in the order in which one would ask. Pure.

use std::collections::BTreeMap;
use std::path::Path;

use host::Failure;
use jiff::{SignedDuration, Timestamp};
use roster::ledger::WaitingCause;
use roster::plan::Subject;
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
mod tests {
    use std::path::PathBuf;

    use roster::ledger::Applied;
    use roster::plan::{Access, Seen};
    use roster::report::{Outcome, RemoteStatus, WaitingStatus};

    use super::super::facts::FileFact;
    use super::*;
    use crate::page::Look;
    use crate::render;

    const LOOK: Look = Look { colour: false, marks: false, width: 100 };

    fn now() -> Timestamp {
        "2026-11-25T12:00:00Z".parse().unwrap()
    }

    fn unit(load: &str, active: &str, file: &str, status: &str) -> BTreeMap<String, String> {
        [
            ("LoadState", load),
            ("ActiveState", active),
            ("UnitFileState", file),
            ("Result", if active == "failed" { "exit-code" } else { "success" }),
            ("ExecMainStatus", status),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
    }

    fn well() -> Facts {
        let units = [
            ("rosterd.service", unit("loaded", "active", "enabled", "0")),
            ("rosterd.socket", unit("loaded", "active", "enabled", "0")),
            ("rosterd-reconcile.timer", unit("loaded", "active", "enabled", "0")),
            ("rosterd-reconcile.service", unit("loaded", "inactive", "static", "0")),
        ];
        let status = Status {
            commit: None,
            source: None,
            notices: Vec::new(),
            seen: BTreeMap::new(),
            remotes: BTreeMap::new(),
            generation: 7,
            since: None,
            activity: None,
            waiting: None,
            last_run: None,
            outcome: Outcome::Converged,
            subjects: BTreeMap::from([("alice".to_owned().try_into().unwrap(), SubjectStatus::Converged)]),
            providers: BTreeMap::new(),
        };
        let gib = 1 << 30;
        Facts {
            is_root: true,
            units: Ok(units.map(|(name, unit)| (name.to_owned(), unit)).into()),
            daemon: Ok(Some(status)),
            clock: Some(true),
            disks: vec![Disk {
                path: "/".into(),
                free: 40 * gib,
                total: 100 * gib,
                free_files: 900,
                total_files: 1000,
            }],
            config: SourceFact::Valid(()),
            roster: SourceFact::Valid(3),
            ledger: LedgerFact::Whole { people: 4 },
            kept: None,
            applied: Some(Applied {
                roster: "users:".into(),
                config: "[guard]".into(),
                host: None,
                since: now(),
            }),
            files: vec![FileFact { path: STATE.into(), uid: 0, mode: 0o700, widest: 0o700 }],
            sources: vec![Ok("/etc/rosterd/settings.json".into())],
            tools: vec![("tmux", Some(PathBuf::from("/usr/bin/tmux")))],
        }
    }

    fn shown(facts: &Facts) -> String {
        render::doctor(&judge(facts, now()), LOOK)
    }

    #[test]
    fn a_machine_that_is_well_is_green() {
        insta::assert_snapshot!(shown(&well()), @"
        green  service  rosterd.service runs
        green  socket   rosterd.socket runs
        green  timer    rosterd-reconcile.timer runs
        green  hourly   the last hourly run ended well, or none was due yet
        green  daemon   it answers, generation 7 is in force
        green  people   nobody is degraded
        green  clock    it is kept in step
        green  disk     /: 40960 MiB (40 %) and 90 % of the inodes are free
        green  config   valid
        green  roster   valid, 3 people in it
        green  ledger   whole, knows 4 people
        green  modes    4 files and folders, none open to others
        green  access   no kept file, unlocked clone or shared base is open or closed to the wrong people
        green  tmux     /usr/bin/tmux

        14 green, 0 yellow, 0 red.
        ");
    }

    #[test]
    fn a_dead_daemon_is_red_and_the_rest_is_still_looked_at() {
        let mut facts = well();
        let units = facts.units.as_mut().unwrap();
        units.insert("rosterd.service".into(), unit("loaded", "failed", "enabled", "1"));
        units.insert("rosterd.socket".into(), unit("masked", "inactive", "masked", "0"));
        units.insert("rosterd-reconcile.timer".into(), unit("not-found", "inactive", "", "0"));
        units.insert("rosterd-reconcile.service".into(), unit("loaded", "failed", "static", "1"));
        facts.daemon = Err("cannot connect to /run/rosterd/control.sock: No such file or directory".into());
        facts.clock = Some(false);
        facts.config = SourceFact::Invalid("error: unknown field `paralell` --> config.toml:2:1".into());
        facts.roster = SourceFact::Invalid("error: unknown field `teir` --> roster.yaml:3:5".into());
        facts.ledger = LedgerFact::Damaged { why: "its checksum does not fit".into(), before: false };
        facts.disks[0].free = 10 << 20;
        facts.files = vec![
            FileFact { path: "/etc/t3-serve/bob.env".into(), uid: 1001, mode: 0o600, widest: 0o600 },
            FileFact { path: "/etc/t3-serve/alice.env".into(), uid: 0, mode: 0o644, widest: 0o600 },
        ];
        facts.tools = vec![("tmux", None), ("claude", None)];
        insta::assert_snapshot!(shown(&facts), @"
        red    service  rosterd.service is failed (exit-code)
                        next: systemctl enable --now rosterd.service; journalctl -u rosterd.service -n 50
        red    socket   rosterd.socket is masked
                        next: systemctl unmask rosterd.socket
        red    timer    there is no rosterd-reconcile.timer
                        next: install the package again: apt-get install --reinstall rosterd
        red    hourly   the last hourly run ended with status 1
                        next: journalctl -u rosterd-reconcile -n 50
        red    daemon   it does not answer: cannot connect to /run/rosterd/control.sock: No such file or
                        directory
                        next: systemctl restart rosterd; journalctl -u rosterd -n 50. Nothing of anybody is
                              lost meanwhile
        yellow clock    nobody keeps it in step
                        next: install a time service, such as systemd-timesyncd or chrony; certificates fail
                              when it is far off
        red    disk     /: 10 MiB (0 %) and 90 % of the inodes are free
                        next: free some space: `du -xh --max-depth=2 / | sort -h | tail`
        red    config   error: unknown field `paralell` --> config.toml:2:1
                        next: `rosterctl validate` shows each mistake; the last good one stays in force
        red    roster   error: unknown field `teir` --> roster.yaml:3:5
                        next: `rosterctl validate` shows each mistake; the last good one stays in force
        red    ledger   it is damaged (its checksum does not fit), and so is the copy before
                        next: restore /var/lib/rosterd/ledger.json from a backup; until then nothing is
                              changed, so that no id is given twice
        red    modes    /etc/t3-serve/bob.env belongs to uid 1001, not to root
                        next: chown root:root /etc/t3-serve/bob.env
        red    modes    /etc/t3-serve/alice.env has mode 0644: others may read it
                        next: chmod 0600 /etc/t3-serve/alice.env
        yellow tmux     not installed
                        next: apt-get install tmux
        yellow claude   not where everybody finds it
                        next: install it for everybody, or see that each person has it (`sudo -iu NAME which
                              claude`)

        0 green, 3 yellow, 11 red.
        ");
    }

    /// The daemon keeps what is in force, and the doctor says so: nobody is told to write a first roster over it.
    #[test]
    fn what_has_vanished_is_no_first_start_and_what_others_may_write_is_named() {
        let lines = |facts: &Facts| {
            let text = shown(facts);
            let about = ["config ", "roster ", "modes ", "in force "];
            let mut shows = false;
            let lines = text.lines().filter(|line| {
                if !line.starts_with(' ') {
                    shows = line.get(7..).is_some_and(|line| about.iter().any(|word| line.starts_with(word)));
                }
                shows
            });
            lines.collect::<Vec<_>>().join("\n")
        };
        let mut facts = well();
        let Ok(Some(status)) = &mut facts.daemon else { unreachable!() };
        let gone = "there is no /etc/rosterd/roster.yaml".into();
        status.waiting =
            Some(WaitingStatus { since: now(), cause: WaitingCause::Invalid { diagnostics: gone } });
        facts.config = SourceFact::Absent("/etc/rosterd/config.toml".into());
        facts.roster = SourceFact::Absent("/etc/rosterd/roster.yaml".into());
        facts.kept = Some("/etc/rosterd/roster.yaml~".into());
        insta::assert_snapshot!(lines(&facts), @"
        yellow in force what is on disk is not, since 2026-11-25 12:00:00Z: there is no
                        /etc/rosterd/roster.yaml
                        next: `rosterctl status` says why, `rosterctl confirm` lets a held one proceed
        red    config   /etc/rosterd/config.toml is gone, so the one that is in force stays
                        next: restore it, or make an empty one for the defaults; `jq -r
                              .ledger.applied.config /var/lib/rosterd/ledger.json >/etc/rosterd/config.toml`
                              writes what is in force
        red    roster   /etc/rosterd/roster.yaml is gone; the one that is in force stays, and nobody loses
                        anything
                        next: put it back: `cp /etc/rosterd/roster.yaml~ /etc/rosterd/roster.yaml` brings
                              what it was before the last change by rosterctl, `jq -r .ledger.applied.roster
                              /var/lib/rosterd/ledger.json >/etc/rosterd/roster.yaml` writes what is in
                              force
        green  modes    2 files and folders, none open to others
        ");
        // Without root the ledger is closed, and the daemon says that something is in force.
        facts.applied = None;
        facts.kept = None;
        insta::assert_snapshot!(lines(&facts), @"
        yellow in force what is on disk is not, since 2026-11-25 12:00:00Z: there is no
                        /etc/rosterd/roster.yaml
                        next: `rosterctl status` says why, `rosterctl confirm` lets a held one proceed
        green  config   there is no /etc/rosterd/config.toml, so the defaults hold
        red    roster   /etc/rosterd/roster.yaml is gone; the one that is in force stays, and nobody loses
                        anything
                        next: put it back: `jq -r .ledger.applied.roster /var/lib/rosterd/ledger.json
                              >/etc/rosterd/roster.yaml` writes what is in force
        green  modes    2 files and folders, none open to others
        ");
        let failure = |why: &str, next: &str| Failure { why: why.into(), next: next.into() };
        facts.config = SourceFact::Valid(());
        facts.roster = SourceFact::Refused(failure(
            "/etc/rosterd may be written by others (mode 0777)",
            "close it (`chmod go-w /etc/rosterd`)",
        ));
        insta::assert_snapshot!(lines(&facts), @"
        yellow in force what is on disk is not, since 2026-11-25 12:00:00Z: there is no
                        /etc/rosterd/roster.yaml
                        next: `rosterctl status` says why, `rosterctl confirm` lets a held one proceed
        green  config   valid
        red    roster   /etc/rosterd may be written by others (mode 0777)
                        next: close it (`chmod go-w /etc/rosterd`); the last good one stays in force
        ");
        facts.roster = SourceFact::Valid(3);
        facts.sources =
            vec![Err(failure("/srv/settings.json may be written by the group 1000", "chmod g-w it"))];
        insta::assert_snapshot!(lines(&facts), @"
        yellow in force what is on disk is not, since 2026-11-25 12:00:00Z: there is no
                        /etc/rosterd/roster.yaml
                        next: `rosterctl status` says why, `rosterctl confirm` lets a held one proceed
        green  config   valid
        green  roster   valid, 3 people in it
        red    modes    /srv/settings.json may be written by the group 1000
                        next: chmod g-w it
        ");
    }

    #[test]
    fn who_can_read_what_and_which_remote_answers_is_as_the_daemon_saw_it() {
        let mut facts = well();
        let Ok(Some(status)) = &mut facts.daemon else { unreachable!() };
        let access = |what: &str, fix: &str| Access { what: what.into(), fix: fix.into() };
        let seen = |access| Seen { files: vec![], access: vec![access] };
        status.seen = [
            (
                "(machine)",
                access(
                    "others cannot reach /srv/base, which homes link to: /srv has mode 0700",
                    "chmod o+rx /srv",
                ),
            ),
            (
                "alice",
                access("others may read ~/code, which git-crypt has unlocked", "chmod o-rwx ~alice/code"),
            ),
        ]
        .map(|(name, access)| (name.to_owned().try_into().unwrap(), seen(access)))
        .into();
        let asked = "2026-11-25T11:58:00Z".parse().unwrap();
        let fails =
            RemoteAnswer::Fails { why: "connection refused".into(), next: "look at the server".into() };
        status.remotes = [("a", RemoteAnswer::Answers), ("b", RemoteAnswer::WantsLogin), ("c", fails)]
            .map(|(name, answer)| {
                (format!("https://git.example.org/{name}.git"), RemoteStatus { asked, answer })
            })
            .into();
        let text = shown(&facts);
        let lines = text.lines().skip_while(|line| !line.contains("modes")).skip(1);
        insta::assert_snapshot!(lines.collect::<Vec<_>>().join("\n"), @"
        yellow access   machine: others cannot reach /srv/base, which homes link to: /srv has mode 0700
                        next: chmod o+rx /srv
        yellow access   alice: others may read ~/code, which git-crypt has unlocked
                        next: chmod o-rwx ~alice/code
        green  remote   https://git.example.org/a.git answered 2 min ago
        green  remote   https://git.example.org/b.git asked for a login 2 min ago; each person asks with
                        theirs
        red    remote   https://git.example.org/c.git did not answer 2 min ago: connection refused
                        next: look at the server
        green  tmux     /usr/bin/tmux

        15 green, 2 yellow, 1 red.
        ");
    }

    #[test]
    fn what_works_and_wants_a_look_is_yellow() {
        let mut facts = well();
        let units = facts.units.as_mut().unwrap();
        units.insert("rosterd.service".into(), unit("loaded", "active", "disabled", "0"));
        units.insert("rosterd-reconcile.service".into(), unit("loaded", "failed", "static", "3"));
        let Ok(Some(status)) = &mut facts.daemon else { unreachable!() };
        let degraded =
            roster::ledger::Degraded { since: now(), failures: 1, next_try: now(), problems: vec![] };
        status.subjects.insert("bob".to_owned().try_into().unwrap(), SubjectStatus::Degraded(degraded));
        facts.clock = None;
        facts.roster = SourceFact::Absent("/etc/rosterd/roster.yaml".into());
        facts.applied = None;
        status.generation = 0;
        facts.ledger = LedgerFact::Damaged { why: "it is gone".into(), before: true };
        facts.disks[0].free_files = 30;
        insta::assert_snapshot!(shown(&facts), @"
        yellow service  rosterd.service runs, and will not after a reboot
                        next: systemctl enable rosterd.service
        green  socket   rosterd.socket runs
        green  timer    rosterd-reconcile.timer runs
        yellow hourly   the last hourly run left something to do
                        next: rosterctl status
        green  daemon   it answers, generation 0 is in force
        yellow people   1 degraded: bob
                        next: `rosterctl status` says why and when it is tried again
        yellow clock    it is not known whether it is kept in step
                        next: `timedatectl` says more
        yellow disk     /: 40960 MiB (40 %) and 3 % of the inodes are free
                        next: free some space: `du -xh --max-depth=2 / | sort -h | tail`
        green  config   valid
        yellow roster   there is none yet, so there is nothing to do
                        next: write one: /usr/share/doc/rosterd/roster.example.yaml shows how
        yellow ledger   the newest is damaged (it is gone), the copy before is whole and will be used
                        next: look at the disk; the next run writes a new one
        green  modes    3 files and folders, none open to others
        green  access   no kept file, unlocked clone or shared base is open or closed to the wrong people
        green  tmux     /usr/bin/tmux

        7 green, 7 yellow, 0 red.
        ");
    }
}
