//! The harness itself: what every other test stands on.

use std::time::{Duration, Instant};

use machine_tests::{Forge, Machine, Suite, on_each_debian};

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

#[test]
fn a_machine_clones_from_the_forge_as_git_itself_does() {
    let mut forge = Forge::start();
    let machine = Machine::bare(Suite::Bookworm);
    let clone = |name: &str| {
        machine.run(&[
            "timeout",
            "3",
            "git",
            "-c",
            "credential.helper=store",
            "clone",
            "--quiet",
            &forge.url(name),
            "/srv/x",
        ])
    };
    clone("website").ok();
    assert_eq!(machine.run(&["git", "-C", "/srv/x", "rev-parse", "HEAD"]).ok().trim(), forge.head("website"));
    assert_eq!(machine.run(&["git", "-C", "/srv/x", "branch", "--show-current"]).ok(), "master\n");
    let asked = forge.requests("website");
    assert_eq!(asked[0].what, "GET /info/refs?service=git-upload-pack");
    assert!(asked.iter().all(|request| request.status == 200), "{asked:?}");

    machine.sh("rm -r /srv/x").ok();
    assert_ne!(clone("ledgerbook").status, 0, "a private repository without a password");
    machine.write_file("/root/.git-credentials", forge.credentials());
    clone("ledgerbook").ok();
    assert_eq!(forge.requests("ledgerbook").last().unwrap().login, Forge::LOGIN.0);

    machine.sh("rm -r /srv/x").ok();
    assert!(forge.ciphertext().starts_with(b"\0GITCRYPT\0"));
    forge.fail("infra", true);
    assert!(clone("infra").stderr.contains("503"));
    forge.fail("infra", false);
    forge.hang("infra", true);
    assert_eq!(clone("infra").status, 124, "a forge that hangs");
    forge.hang("infra", false);
    forge.push("infra", "news", "x\n");
    clone("infra").ok();
    assert_eq!(machine.read_file("/srv/x/news"), "x\n");
    forge.down();
    assert!(machine.run(&["git", "ls-remote", &forge.url("infra")]).stderr.contains("Failed to connect"));
    forge.up();
    machine.run(&["git", "ls-remote", &forge.url("infra")]).ok();
}
