//! The removal of somebody who left, and the way back: on a real home with everything that a home may hold, interrupted
//! at every call that changes something.

use machine_tests::{Machine, Output, Suite, on_each_debian};

on_each_debian!(
    a_home_goes_into_an_archive_and_comes_back_whole_invariant_6,
    what_stands_against_a_removal_is_told_and_nothing_is_removed_invariant_6
);

fn person(name: &str) -> String {
    format!("  {name}: {{authentik_user: {name}, k8s_user: {name}, tier: power-user}}\n")
}

fn save(machine: &Machine, people: &[&str]) {
    let text: String = people.iter().map(|name| person(name)).collect();
    machine.write_file("/etc/rosterd/roster.yaml", format!("users:\n{text}"));
    machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
}

/// Everything that a home may hold and that its person can make.
const FILL: &str = r#"
cd ~
umask 022
mkdir -p work/deep/er 'with space' empty
echo text > work/file
printf 'odd \n name' > "$(printf 'work/new\nline')"
ln work/file work/second-name
ln -s ../../../etc/passwd work/away
ln -s work/file link
mkfifo work/pipe
truncate -s 5M work/holes && printf end >> work/holes
setfacl -m u:daemon:r work/file
setfattr -n user.note -v kept work/file
setfacl -d -m g:daemon:rx work/deep
printf '#!/bin/sh\n' > work/run && chmod 4755 work/run
mkdir -p cache/mod && echo x > cache/mod/go.mod && chmod 555 cache/mod cache
touch -d '2001-02-03 04:05:06' work/file work/deep
chmod 711 ~
"#;

/// What a home is, as far as anybody can see from outside.
fn picture(machine: &Machine) -> String {
    machine
        .sh("cd /home/ann
             find . -printf '%p %y %m %U %G %s %T@ %n %l\\n' | sort
             find . -type f -exec sha256sum {} + | sort
             getfacl -R -p -n . 2>/dev/null
             getfattr -R -d . 2>/dev/null
             test $(stat -c %b work/holes) -lt 1000 && echo sparse")
        .ok()
}

fn account(machine: &Machine) -> String {
    machine.sh("for f in passwd shadow group gshadow subuid subgid; do grep -E '(^|[:,])ann(:|,|$)' /etc/$f; done | sort").ok()
}

fn offboard(machine: &Machine) -> Output {
    machine.run(&["rosterctl", "offboard", "ann", "--yes", "ann"])
}

fn a_home_goes_into_an_archive_and_comes_back_whole_invariant_6(suite: Suite) {
    let machine = Machine::with_rosterd(suite);
    save(&machine, &["ann", "bea"]);
    machine.sh("echo ann:secret | chpasswd").ok();
    machine.sh_as("ann", FILL).ok();
    machine
        .sh("install -d -o ann /var/tmp/anns && touch /var/tmp/anns/file && chown ann /var/tmp/anns/file")
        .ok();
    save(&machine, &["bea"]);
    let (home, lines) = (picture(&machine), account(&machine));

    let out = offboard(&machine).exits(0);
    assert!(out.stdout.contains("outside  2 files and folders"), "{out}");
    assert!(out.stdout.contains("running  nothing"), "{out}");
    assert!(!machine.exists("/home/ann"));
    assert_eq!(account(&machine), "");
    machine.run(&["pwck", "-q", "-r"]).ok();
    machine.run(&["grpck", "-r"]).ok();
    assert!(machine.exists("/var/tmp/anns/file"), "what is elsewhere stays");
    assert_eq!(
        machine.sh("stat -c '%a %U' /var/backups/rosterd /var/backups/rosterd/*").ok(),
        "700 root\n600 root\n600 root\n"
    );
    assert_eq!(machine.sh("ls -A /home").ok(), "bea\n");
    let status = machine.run(&["rosterctl", "status", "--json"]).json();
    assert_eq!(status["subjects"]["ann"], serde_json::Value::Null, "{status}");
    let told = machine.journal(&["ROSTERD_USER=ann", "MESSAGE_ID=c1f4b8d0a5634f67b0b9a4e7d2f35a18"]);
    assert_eq!(told.len(), 1);
    let archive = told[0].get("ROSTERD_ARCHIVE").unwrap().to_owned();
    // Once more is fine, a run has nothing to do, and nobody gets her ids.
    offboard(&machine).ok();
    let again = machine.run(&["rosterctl", "reconcile", "--json"]).ok();
    assert!(again.contains("\"steps\":[]"), "{again}");
    save(&machine, &["bea", "cid"]);
    assert_eq!(machine.sh("id -u bea cid").ok(), "1001\n1002\n");

    machine.run(&["rosterctl", "restore-account", &archive]).ok();
    assert_eq!(picture(&machine), home);
    assert_eq!(account(&machine), lines);
    machine.run(&["pwck", "-q", "-r"]).ok();
    let status = machine.run(&["rosterctl", "status", "--json"]).json();
    assert_eq!(status["subjects"]["ann"]["state"], "cut", "{status}");
    save(&machine, &["ann", "bea", "cid"]);
    assert!(!machine.sh("grep ^ann: /etc/shadow").ok().contains('!'), "the password is not unlocked");

    // Interrupted at each call that changes something: the home is whole, or the archive is, and the same command ends it.
    save(&machine, &["bea", "cid"]);
    machine.sh("rm -rf /var/backups/rosterd").ok();
    let mut kills = 0;
    for when in 1..200 {
        let calls = "renameat2,renameat,rename,unlink,unlinkat,fsync,mkdirat,ftruncate,sendto,sendmsg";
        let traced = machine.run(&[
            "strace",
            "-f",
            "-qq",
            "-o",
            "/dev/null",
            "-e",
            &format!("trace={calls}"),
            "-e",
            &format!("inject={calls}:signal=SIGKILL:when={when}"),
            "rosterctl",
            "offboard",
            "ann",
            "--yes",
            "ann",
        ]);
        let whole = machine.exists("/home/ann");
        let sealed = machine.sh("ls /var/backups/rosterd/*.json 2>/dev/null | wc -l").ok().trim() != "0";
        assert!(whole || sealed, "killed at call {when}: neither home nor archive\n{traced}");
        if whole {
            assert_eq!(picture(&machine), home, "killed at call {when}");
        }
        if traced.status == 0 {
            break;
        }
        kills += 1;
        // Most kills come before anything is removed; from the archive on, the next try goes on from there.
        if !whole {
            offboard(&machine).ok();
            assert!(!machine.exists("/home/ann") && account(&machine).is_empty(), "killed at call {when}");
            assert_eq!(machine.sh("ls -A /home").ok(), "bea\ncid\n", "killed at call {when}");
            let newest = machine.sh("ls /var/backups/rosterd/*.tar.zst | tail -n 1").ok();
            machine.run(&["rosterctl", "restore-account", newest.trim()]).ok();
            assert_eq!(picture(&machine), home, "killed at call {when}");
            assert_eq!(account(&machine).lines().count(), lines.lines().count(), "killed at call {when}");
        }
    }
    println!("{suite}: {kills} kills");
    assert!(kills > 10, "{kills}");
    assert!(!machine.exists("/home/ann"));
}

fn what_stands_against_a_removal_is_told_and_nothing_is_removed_invariant_6(suite: Suite) {
    let machine = Machine::with_rosterd(suite);
    machine.sh("useradd -m -s /bin/sh old").ok();
    save(&machine, &["ann", "bea", "old"]);
    let refused = |argv: &[&str], why: &str| {
        let out = machine.run(argv).exits(1);
        assert!(out.stderr.contains(why), "{why}: {out}");
        assert!(machine.exists("/home/ann") && machine.exists("/home/old"));
        assert!(account(&machine).contains("ann"));
        assert_eq!(machine.sh("ls -A /var/backups/rosterd 2>/dev/null || true").ok(), "");
    };
    let ann = ["rosterctl", "offboard", "ann", "--yes", "ann"];
    refused(&ann, "is in the roster");
    save(&machine, &["bea"]);
    refused(&["rosterctl", "offboard", "ann", "--yes", "bea"], "not the name");
    refused(&["rosterctl", "offboard", "ann"], "no terminal");
    refused(&["rosterctl", "offboard", "zoe", "--yes", "zoe"], "never cut");
    refused(&["rosterctl", "offboard", "old", "--yes", "old"], "before rosterd");
    machine.sh("groupadd -f docker && usermod -aG docker ann").ok();
    refused(&ann, "an admin, by the group docker");
    machine
        .sh("gpasswd -d ann docker && echo root > /home/ann/rootfile && chmod 600 /home/ann/rootfile")
        .ok();
    refused(&ann, "cannot be read");
    machine.sh("rm /home/ann/rootfile && mkdir /home/ann/rootdir && touch /home/ann/rootdir/file").ok();
    refused(&ann, "belong to others and hold something");
    machine.sh("rm -r /home/ann/rootdir && systemd-run -q --uid=ann --slice=user-$(id -u ann).slice sleep infinity").ok();
    machine.eventually("she runs something", std::time::Duration::from_secs(10), |m| {
        (m.sh("pgrep -u ann -x sleep").status == 0).then_some(())
    });
    refused(&ann, "of their processes run, among them sleep");
    // Too little space: the folder of the archives is on a small file system.
    machine
        .sh("mkdir -p /var/backups/rosterd && mount -t tmpfs -o size=1M,mode=700 none /var/backups/rosterd")
        .ok();
    let out = machine.run(&["rosterctl", "offboard", "ann", "--yes", "ann", "--force"]).exits(1);
    assert!(out.stderr.contains("are free in /var/backups/rosterd"), "{out}");
    machine.sh("umount /var/backups/rosterd; echo text > /home/ann/roots").ok();
    machine.run(&["rosterctl", "offboard", "ann", "--yes", "ann", "--force"]).ok();
    assert!(!machine.exists("/home/ann"));
    assert_eq!(machine.sh("pgrep -x sleep || true").ok(), "");

    // What root had put into the home was readable, so it was kept; who owned it was not.
    let archive = machine.sh("ls /var/backups/rosterd/*.tar.zst").ok();
    let restored = machine.run(&["rosterctl", "restore-account", archive.trim()]).ok();
    assert!(restored.contains("./roots: Uid differs"), "{restored}");
    assert_eq!(machine.sh("stat -c %U /home/ann/roots; cat /home/ann/roots").ok(), "ann\ntext\n");
    machine.run(&["rosterctl", "offboard", "ann", "--yes", "ann"]).ok();

    // An archive that is not what it was is not restored.
    machine.sh(&format!("printf x | dd of={} bs=1 seek=100 conv=notrunc status=none", archive.trim())).ok();
    let _ = machine.run(&["rosterctl", "restore-account", archive.trim()]).exits(1);
    assert!(!machine.exists("/home/ann"));
    assert_eq!(account(&machine), "");
}
