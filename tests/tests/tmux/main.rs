//! tmux sessions on real machines.

mod claims;
mod manager;
mod memory;
mod others;
mod versions;

use machine_tests::{Machine, Output, Suite};

pub(crate) const PEOPLE: [&str; 5] = ["ann", "bob", "cyd", "dan", "eve"];

/// A program that the kernel names claude. It records how it was started, keeps a transcript as Claude Code does, and
/// stays.
pub(crate) const CLAUDE: &str = r#"#!/bin/sh
echo "$PWD|$*" >>"$HOME/claude.log"
while [ $# -gt 0 ]; do
    case $1 in --session-id | --resume) id=$2 ;; esac
    shift
done
folder="$HOME/.claude/projects/$(printf %s "$PWD" | tr /. --)"
mkdir -p "$folder"
[ -z "${id:-}" ] || [ -e "$folder/$id.jsonl" ] || echo "{\"cwd\":\"$PWD\"}" >"$folder/$id.jsonl"
while :; do sleep 1000; done
"#;

pub(crate) fn machine(suite: Suite) -> Machine {
    let machine = Machine::with_rosterd(suite);
    machine.write_file("/usr/local/bin/claude", CLAUDE);
    machine.sh("chmod 755 /usr/local/bin/claude").ok();
    let people: String = PEOPLE
        .iter()
        .map(|name| {
            format!(
                "  {name}: {{authentik_user: {name}, k8s_user: {name}, tier: power-user, shell: /bin/bash}}\n"
            )
        })
        .collect();
    machine.write_file("/etc/rosterd/roster.yaml", format!("users:\n{people}"));
    machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
    machine
}

/// A conversation's id that ends so.
pub(crate) fn id(number: u32) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

/// tmux as a person in a login of their own, which goes on after it.
pub(crate) fn tmux(machine: &Machine, user: &str, script: &str) -> String {
    machine.sh_as(user, script).ok()
}

pub(crate) fn ctl(machine: &Machine, arguments: &str) -> Output {
    machine.sh(&format!("rosterctl tmux {arguments}"))
}

/// What a save into a fresh store writes for each person, without its first line: nothing for who has no sessions.
pub(crate) fn capture(machine: &Machine, store: &str) -> Vec<String> {
    machine.sh(&format!("rm -rf /srv/{store}")).ok();
    ctl(machine, &format!("save --state /srv/{store}")).ok();
    let read = |user: &&str| {
        machine.sh(&format!("cd /srv/{store}/users/{user}; test ! -e newest || tail -n +2 newest")).ok()
    };
    PEOPLE.iter().map(read).collect()
}
