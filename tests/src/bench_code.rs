//! The part of the bench that is about the people's code: clones that are kept fresh, and first clones of a big
//! repository, beside git itself in the same run.

use std::time::Duration;

use machine_tests::{Forge, Machine, Suite};

use super::{CLONERS, apply, no_op, roster, row, timed};

/// People who get a first clone of the big repository.
const FIRST: usize = 20;
/// Its history: this many commits, each of which changes all of its megabytes.
const COMMITS: usize = 10;
const MEGABYTES: usize = 20;

/// `git` as each of some people, one after the other.
fn loop_of(machine: &Machine, people: usize, words: &str) -> Duration {
    let script = format!("for n in $(seq -f %04g 0 {}); do runuser -u dev$n -- {words}; done", people - 1);
    timed(|| machine.sh(&script).ok())
}

/// A hundred clones of one repository: nothing has moved, and one commit has.
pub(crate) fn refresh() {
    let forge = Forge::start();
    let machine = Machine::with_rosterd(Suite::Bookworm);
    machine.write_file("/etc/rosterd/config.toml", forge.config());
    apply(&machine, &roster(CLONERS));
    let fetch_all = || loop_of(&machine, CLONERS, "git -C /home/dev$n/code fetch --all --quiet");
    let name = "git fetch --all in a loop";

    // Once each before it counts: git writes FETCH_HEAD and packs refs.
    fetch_all();
    let theirs = (0..3).map(|_| fetch_all()).min().unwrap_or_default();
    row(&format!("{CLONERS} clones, nothing moved"), no_op(&machine), Some((name, theirs)));
    // Its children are who looks at the homes, and who asks the remote.
    let (before, runs) = (processor_time(&machine), 5);
    (0..runs).for_each(|_| drop(machine.run(&["rosterctl", "reconcile"]).ok()));
    let each = (processor_time(&machine) - before) * 1e3 / (runs * CLONERS) as f64;
    println!("| the same, processor time for each clone | {each:.2} ms | | |");

    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for number in 0..3 {
        forge.push("infra", "README.md", &format!("# ours {number}\n"));
        ours.push(timed(|| machine.run(&["rosterctl", "reconcile"]).ok()));
        let behind = format!(
            "for n in $(seq -f %04g 0 {}); do git -c safe.directory='*' -C /home/dev$n/code \
                              rev-parse HEAD; done | sort -u",
            CLONERS - 1
        );
        assert_eq!(machine.sh(&behind).ok().trim(), forge.head("infra"), "somebody is behind");
        forge.push("infra", "README.md", &format!("# theirs {number}\n"));
        theirs.push(fetch_all());
        // Whoever fetched by themselves goes forward before the next round.
        machine.run(&["rosterctl", "reconcile"]).ok();
    }
    let (ours, theirs) =
        (ours.into_iter().min().unwrap_or_default(), theirs.into_iter().min().unwrap_or_default());
    row(
        &format!("{CLONERS} clones, one upstream commit, fetched and fast-forwarded"),
        ours,
        Some((name, theirs)),
    );
}

/// Seconds that the daemon and its children have used.
fn processor_time(machine: &Machine) -> f64 {
    // Let the last of them end.
    std::thread::sleep(Duration::from_millis(500));
    let ticks = machine.sh("cut -d ' ' -f 14-17 /proc/$(pidof rosterd)/stat; getconf CLK_TCK").ok();
    let numbers: Vec<f64> = ticks.split_whitespace().filter_map(|number| number.parse().ok()).collect();
    let [user, system, their_user, their_system, a_second] = numbers[..] else { panic!("{ticks}") };
    (user + system + their_user + their_system) / a_second
}

/// Twenty people get a first clone of a repository with 200 MB of history.
pub(crate) fn first_clones() {
    let forge = Forge::start();
    forge.grow("infra", COMMITS, MEGABYTES);
    let machine = Machine::with_rosterd(Suite::Bookworm);
    // The accounts first, so that only the clones count.
    apply(&machine, &roster(FIRST));
    let sent = || forge.requests("infra").iter().map(|request| request.bytes).sum::<u64>();
    let theirs =
        loop_of(&machine, FIRST, &format!("git clone --quiet {} /home/dev$n/by-hand", forge.url("infra")));
    let by_git = sent();
    machine.sh("rm -rf /home/*/by-hand; sync").ok();
    machine.write_file("/etc/rosterd/config.toml", forge.config());
    let ours = timed(|| machine.run(&["rosterctl", "wait", "--timeout", "600"]).ok());
    let by_rosterd = sent() - by_git;
    let size = COMMITS * MEGABYTES;
    row(
        &format!("first clone of {size} MB of history for {FIRST} people"),
        ours,
        Some(("git clone in a loop", theirs)),
    );
    println!(
        "| the same, bytes from the server | {:.1} MB | git clone in a loop: {:.1} MB | {:.1} |",
        by_rosterd as f64 / 1e6,
        by_git as f64 / 1e6,
        by_git as f64 / by_rosterd.max(1) as f64
    );
}
