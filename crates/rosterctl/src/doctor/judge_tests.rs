//! What doctor says of machines in good and bad shape.

use std::collections::BTreeSet;
use std::path::PathBuf;

use roster::ledger::{Applied, Degraded};
use roster::plan::{Access, Seen};
use roster::report::{Outcome, RemoteStatus, RunSummary, Trigger, WaitingStatus};

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
    status.waiting = Some(WaitingStatus { since: now(), cause: WaitingCause::Invalid { diagnostics: gone } });
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
    facts.sources = vec![Err(failure("/srv/settings.json may be written by the group 1000", "chmod g-w it"))];
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
        ("alice", access("others may read ~/code, which git-crypt has unlocked", "chmod o-rwx ~alice/code")),
    ]
    .map(|(name, access)| (name.to_owned().try_into().unwrap(), seen(access)))
    .into();
    let asked = "2026-11-25T11:58:00Z".parse().unwrap();
    let fails = RemoteAnswer::Fails { why: "connection refused".into(), next: "look at the server".into() };
    status.remotes = [("a", RemoteAnswer::Answers), ("b", RemoteAnswer::WantsLogin), ("c", fails)]
        .map(|(name, answer)| (format!("https://git.example.org/{name}.git"), RemoteStatus { asked, answer }))
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
    let degraded = roster::ledger::Degraded { since: now(), failures: 1, next_try: now(), problems: vec![] };
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

#[test]
fn what_cluster_and_vault_are_like_is_told() {
    let never = ProviderStatus {
        running: false,
        last_run: None,
        degraded: BTreeMap::new(),
        pending: BTreeSet::new(),
    };
    let is = |provider, status: &ProviderStatus| judge_provider(provider, status).found;
    assert_eq!(is(Provider::Vault, &never), "no run yet");
    let last_run = Some(RunSummary {
        id: "1".into(),
        trigger: Trigger::Change,
        generation: 1,
        started: now(),
        took_ms: 1,
        outcome: Outcome::Converged,
        commit: None,
        done: 0,
        failed: 0,
    });
    let mut ran = ProviderStatus { last_run, ..never };
    assert_eq!(judge_provider(Provider::Vault, &ran).light, Light::Green);
    let degraded = Degraded { since: now(), failures: 1, next_try: now(), problems: Vec::new() };
    ran.degraded.insert(Subject::User("bob".parse().unwrap()), degraded.clone());
    assert_eq!(is(Provider::Kubernetes, &ran), "1 person is degraded");
    ran.degraded.insert(Subject::Machine, degraded);
    assert_eq!(is(Provider::Kubernetes, &ran), "degraded as a whole");
}
