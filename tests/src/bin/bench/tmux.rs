//! tmux sessions beside `tmux list-panes -a`, which is the floor: whoever saves must ask that at least.

use std::time::Duration;

use machine_tests::{Machine, Suite};

/// Sessions that each run a process named claude.
const SESSIONS: usize = 50;
/// Snapshots of so many sessions each.
const SNAPSHOTS: usize = 200;
/// Pairs of which the middle one counts.
const PAIRS: usize = 15;

/// Prepares a machine and measures.
pub(crate) fn rows(row: impl Fn(&str, Duration, Option<(&str, Duration)>)) {
    let machine = Machine::with_rosterd(Suite::Bookworm);
    let person = "users:\n  ann: {authentik_user: ann, k8s_user: ann, tier: power-user, shell: /bin/bash}\n";
    machine.write_file("/etc/rosterd/roster.yaml", person);
    machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
    machine.write_file("/usr/local/bin/claude", "#!/bin/sh\nwhile :; do sleep 1000; done\n");
    machine.sh("chmod 755 /usr/local/bin/claude").ok();
    machine
        .sh_as(
            "ann",
            &format!(
                "for n in $(seq {SESSIONS}); do tmux new-session -d -s s$n \
                 claude --session-id $(printf 00000000-0000-4000-8000-%012d $n); done"
            ),
        )
        .ok();
    std::thread::sleep(Duration::from_secs(2));
    const FLOOR: &str = "runuser -u ann -- tmux list-panes -a >/dev/null";
    let save = "rosterctl tmux save --user ann >/dev/null";
    machine.sh(save).ok();
    let (ours, floor) = paired(&machine, save, FLOOR);
    row(
        &format!("tmux save, {SESSIONS} sessions, nothing changed"),
        ours,
        Some(("tmux list-panes -a", floor)),
    );
    let written = "rm -rf /srv/fresh; rosterctl tmux save --user ann --state /srv/fresh >/dev/null";
    let (ours, floor) = paired(&machine, written, FLOOR);
    row(
        &format!("tmux save, {SESSIONS} sessions, first snapshot"),
        ours,
        Some(("tmux list-panes -a", floor)),
    );
    let many = format!(
        "for n in $(seq {SNAPSHOTS}); do runuser -u ann -- tmux rename-session -t =$(runuser -u ann -- tmux \
         list-sessions -F '#{{session_name}}' | grep -m1 -E '^s1(-|$)') s1-$n; \
         rosterctl tmux save --user ann --now $((1700000000 + n * 300)) >/dev/null; done; \
         test $(rosterctl tmux snapshots --user ann --tsv | wc -l) = {SNAPSHOTS}"
    );
    machine.sh(&many).ok();
    let (ours, floor) = paired(&machine, "rosterctl tmux snapshots --user ann --tsv >/dev/null", FLOOR);
    row(&format!("tmux snapshots, {SNAPSHOTS} files"), ours, Some(("tmux list-panes -a", floor)));
    let (ours, floor) = paired(&machine, "rosterctl tmux history --user ann --tsv >/dev/null", FLOOR);
    row(&format!("tmux history, {SNAPSHOTS} x {SESSIONS}"), ours, Some(("tmux list-panes -a", floor)));
}

/// The medians of two commands that take turns, without what it takes to enter the machine.
fn paired(machine: &Machine, ours: &str, floor: &str) -> (Duration, Duration) {
    let script = format!(
        r#"for n in $(seq {PAIRS}); do
            a=$EPOCHREALTIME; {floor}; b=$EPOCHREALTIME; {ours}; c=$EPOCHREALTIME
            echo $(( ${{c/./}} - ${{b/./}} )) $(( ${{b/./}} - ${{a/./}} ))
        done"#
    );
    let told = machine.run(&["bash", "-euc", &script]).ok();
    let column = |at: usize| {
        let mut times: Vec<u64> = told
            .lines()
            .map(|line| line.split(' ').nth(at).and_then(|n| n.parse().ok()).expect("a time"))
            .collect();
        times.sort_unstable();
        Duration::from_micros(times[times.len() / 2])
    };
    (column(0), column(1))
}
