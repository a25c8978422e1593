//! The harness itself: what every other test stands on.

use std::time::{Duration, Instant};

use machine_tests::{Machine, Suite, on_each_debian};

on_each_debian!(a_machine_boots_fast_and_takes_commands, a_reboot_keeps_files_and_journal_but_no_process);

fn a_machine_boots_fast_and_takes_commands(suite: Suite) {
    let begun = Instant::now();
    let mut machine = Machine::bare(suite);
    println!("{suite}: boot with image {:?}", begun.elapsed());
    let begun = Instant::now();
    machine.reboot();
    println!("{suite}: reboot {:?}", begun.elapsed());
    assert!(machine.read_file("/etc/os-release").contains(&format!("VERSION_CODENAME={suite}")));
    let out = machine.sh("echo out; echo err >&2; exit 7").exits(7);
    assert_eq!((out.stdout.as_str(), out.stderr.as_str()), ("out\n", "err\n"));
    machine.write_file("/srv/a folder/file", "text\n");
    assert_eq!(machine.read_file("/srv/a folder/file"), "text\n");
    assert_eq!(machine.run(&["systemctl", "is-system-running"]).stdout.trim(), "running");
}

fn a_reboot_keeps_files_and_journal_but_no_process(suite: Suite) {
    let mut machine = Machine::bare(suite);
    machine.sh("useradd -m alice; logger -t harness 'before the reboot'; tmux new-session -d -s x").ok();
    machine.reboot();
    assert_eq!(machine.journal(&["SYSLOG_IDENTIFIER=harness"]).len(), 1);
    assert!(machine.exists("/home/alice/.profile"));
    assert_eq!(machine.run(&["tmux", "ls"]).status, 1);
    machine.power_off_hard();
    machine.boot();
    machine.eventually("logind answers", Duration::from_secs(5), |m| {
        (m.run(&["loginctl"]).status == 0).then_some(())
    });
}
