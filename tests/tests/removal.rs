//! The removal of somebody who left, and the way back: on a real home with everything that a home may hold, interrupted
//! at every call that changes something.

use machine_tests::{Machine, Output, Suite, on_each_debian};

on_each_debian!(
    a_home_goes_into_an_archive_and_comes_back_whole_invariant_6,
    a_removal_and_a_restore_that_are_interrupted_anywhere_lose_nothing_invariant_5,
    a_disk_that_is_full_loses_nothing_invariant_5,
    who_is_in_the_roster_again_while_somebody_types_is_not_removed_invariant_6,
    an_archive_that_was_made_up_gives_nobody_anything,
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
    // What would be read for a day is named.
    machine.sh("truncate -s 15T /home/ann/work/endless; chown ann: /home/ann/work/endless").ok();
    let out = offboard(&machine).exits(1);
    assert!(out.stderr.contains("nearly all hole") && out.stderr.contains("work/endless"), "{out}");
    machine.sh("rm /home/ann/work/endless").ok();
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
        "700 root\n600 root\n600 root\n600 root\n"
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

    // The checksums are those that everybody has a program for, and one that does not fit is told by its file.
    let list = archive.replace(".json", ".sha256");
    machine.sh(&format!("cd /home/ann && sha256sum --quiet --check {list}")).ok();
    save(&machine, &["bea", "cid"]);
    offboard(&machine).ok();
    let list = machine.sh("ls /var/backups/rosterd/*.sha256 | tail -n 1").ok();
    let list = list.trim();
    machine.sh(&format!("sed -i '/[.]\\/work\\/run$/s/^./x/' {list}")).ok();
    let out = machine.run(&["rosterctl", "restore-account", &list.replace(".sha256", ".json")]).exits(1);
    assert!(out.stderr.contains("checksum"), "{out}");
    assert_eq!(machine.sh("ls -A /home").ok(), "bea\ncid\n");
}

/// Runs a command with a fault in its `when`th call of those that change something.
fn with_fault(machine: &Machine, calls: &str, fault: &str, when: u32, command: &[&str]) -> Output {
    let (trace, inject) = (format!("trace={calls}"), format!("inject={calls}:{fault}:when={when}"));
    let mut argv = vec!["strace", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject];
    argv.extend(command);
    machine.run(&argv)
}

const CHANGES: &str =
    "renameat2,renameat,rename,unlink,unlinkat,fsync,mkdirat,fchown,ftruncate,sendto,sendmsg";
const OFFBOARD: [&str; 5] = ["rosterctl", "offboard", "ann", "--yes", "ann"];

fn newest(machine: &Machine) -> String {
    machine.sh("ls /var/backups/rosterd/*.json | tail -n 1").ok().trim().to_owned()
}

fn a_removal_and_a_restore_that_are_interrupted_anywhere_lose_nothing_invariant_5(suite: Suite) {
    let machine = Machine::with_rosterd(suite);
    save(&machine, &["ann", "bea"]);
    machine.sh_as("ann", FILL).ok();
    save(&machine, &["bea"]);
    let (home, lines) = (picture(&machine), account(&machine));
    let is_whole = |what: &str| {
        assert_eq!(picture(&machine), home, "{what}");
        assert_eq!(account(&machine), lines, "{what}");
        assert_eq!(machine.sh("ls -A /home").ok(), "ann\nbea\n", "{what}");
    };
    let is_gone = |what: &str| {
        assert_eq!(machine.sh("ls -A /home").ok(), "bea\n", "{what}");
        assert_eq!(account(&machine), "", "{what}");
    };

    // The removal: the home is whole, or the archive is. The same command ends it, or a restore takes it back.
    let mut kills = 0;
    for when in 1..200 {
        let what = format!("removal killed at call {when}");
        let traced = with_fault(&machine, CHANGES, "signal=SIGKILL", when, &OFFBOARD);
        let whole = machine.exists("/home/ann");
        let sealed = machine.sh("ls /var/backups/rosterd/*.json 2>/dev/null | wc -l").ok().trim() != "0";
        assert!(whole || sealed, "{what}: neither home nor archive\n{traced}");
        if whole {
            assert_eq!(picture(&machine), home, "{what}");
        }
        if traced.status == 0 {
            break;
        }
        kills += 1;
        if whole {
            continue;
        }
        if when % 2 == 0 {
            offboard(&machine).ok();
            is_gone(&what);
        }
        machine.run(&["rosterctl", "restore-account", &newest(&machine)]).ok();
        is_whole(&what);
    }
    assert!(kills > 10, "{kills}");
    is_gone("in the end");

    // The restore: what is at the person's place is whole or nothing.
    machine
        .sh(&format!(
            "cd /var/backups/rosterd && ls | grep -v $(basename {} .json) | xargs -r rm",
            newest(&machine)
        ))
        .ok();
    let mut restores = 0;
    for when in 1..200 {
        let what = format!("restore killed at call {when}");
        let command = ["rosterctl", "restore-account", &newest(&machine)];
        let traced = with_fault(&machine, CHANGES, "signal=SIGKILL", when, &command);
        if machine.exists("/home/ann") {
            assert_eq!(picture(&machine), home, "{what}");
        }
        if traced.status == 0 {
            break;
        }
        restores += 1;
        // Whoever changes their mind is told to end it first, or gets rid of what it left.
        let gone = offboard(&machine);
        let what_now = format!("{what}: {gone}");
        match machine.exists("/home/ann") || !account(&machine).is_empty() {
            true => assert!(
                gone.status == 1 && gone.stderr.contains("a restore of ann was interrupted"),
                "{what_now}"
            ),
            false => is_gone(&what_now),
        }
        machine.run(&command).ok();
        is_whole(&what);
        offboard(&machine).ok();
        is_gone(&what);
    }
    is_whole("in the end");
    println!("{suite}: {kills} kills of a removal, {restores} of a restore");
    assert!(restores > 5, "{restores}");
    let status = machine.run(&["rosterctl", "status", "--json"]).json();
    assert_eq!(status["subjects"]["ann"]["state"], "cut", "{status}");
}

fn a_disk_that_is_full_loses_nothing_invariant_5(suite: Suite) {
    let machine = Machine::with_rosterd(suite);
    save(&machine, &["ann", "bea"]);
    machine.sh_as("ann", FILL).ok();
    machine.sh_as("ann", "head -c 4M /dev/urandom > ~/work/noise").ok();
    save(&machine, &["bea"]);
    let (home, lines) = (picture(&machine), account(&machine));
    let mut full = 0;
    for when in 1..200 {
        let out = with_fault(&machine, "write,fsync", "error=ENOSPC", when, &OFFBOARD);
        let is_removed = !machine.exists("/home/ann");
        if is_removed {
            // What failed came after the archive, or was the last word about it.
            let archive = newest(&machine);
            if out.status != 0 {
                offboard(&machine).ok();
            }
            machine.run(&["rosterctl", "restore-account", &archive]).ok();
        } else {
            assert_ne!(out.status, 0, "at write {when}: {out}");
        }
        assert_eq!(picture(&machine), home, "at write {when}");
        assert_eq!(account(&machine), lines, "at write {when}");
        full += 1;
        if out.status == 0 && is_removed {
            break;
        }
    }
    println!("{suite}: {full} writes without space");
    assert!(full > 10, "{full}");
    // A disk that is full indeed: there was room when it began.
    machine
        .sh("rm -r /var/backups/rosterd && mkdir -m 700 /var/backups/rosterd
             mount -t tmpfs -o size=72M,mode=700 none /var/backups/rosterd")
        .ok();
    machine.sh_as("ann", "head -c 4M /dev/urandom > ~/work/more").ok();
    let home = picture(&machine);
    let out = machine.run(&OFFBOARD).exits(1);
    assert!(out.stderr.contains("are free in /var/backups/rosterd"), "{out}");
    assert_eq!(picture(&machine), home);
    assert_eq!(machine.sh("ls -A /var/backups/rosterd").ok(), "");
}

fn who_is_in_the_roster_again_while_somebody_types_is_not_removed_invariant_6(suite: Suite) {
    let machine = Machine::with_rosterd(suite);
    save(&machine, &["ann", "bea"]);
    machine.sh_as("ann", FILL).ok();
    let (home, lines) = (picture(&machine), account(&machine));
    save(&machine, &["bea"]);
    machine
        .sh("mkfifo /root/in
             script -qec 'rosterctl offboard ann' /dev/null </root/in >/root/out 2>&1 &
             echo $! >/root/pid; exec 3>/root/in; sleep infinity >/dev/null 2>&1 </dev/null & echo $! >/root/holds")
        .ok();
    machine.eventually("it asks for the name", std::time::Duration::from_secs(30), |m| {
        m.read_file("/root/out").contains("Type ann").then_some(())
    });
    save(&machine, &["ann", "bea"]);
    machine.sh("echo ann >/root/in; kill $(cat /root/holds)").ok();
    machine.eventually("it ends", std::time::Duration::from_secs(30), |m| {
        (m.sh("kill -0 $(cat /root/pid)").status != 0).then_some(())
    });
    let said = machine.read_file("/root/out");
    assert!(said.contains("ann is in the roster"), "{said}");
    assert_eq!((picture(&machine), account(&machine)), (home, lines));

    // A removal that a kill has interrupted with the home aside: nobody gets another home meanwhile.
    save(&machine, &["bea"]);
    for when in 1..200 {
        let _ = with_fault(&machine, CHANGES, "signal=SIGKILL", when, &OFFBOARD);
        if !machine.exists("/home/ann") {
            break;
        }
    }
    machine.write_file("/etc/rosterd/roster.yaml", format!("users:\n{}{}", person("ann"), person("bea")));
    let told = machine.run(&["rosterctl", "wait", "--timeout", "60"]).exits(3);
    assert!(!machine.exists("/home/ann"), "{told}");
    let status = machine.run(&["rosterctl", "status", "ann"]).exits(3).stdout;
    let status = status.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(
        status.contains("a removal was interrupted, and the home is aside as .rosterd-removed-ann-"),
        "{status}"
    );
    assert!(status.contains("rosterctl restore-account"), "{status}");
    let archive = newest(&machine);
    let _ = machine.run(&["rosterctl", "restore-account", &archive]).exits(1);
    save(&machine, &["bea"]);
    machine.run(&["rosterctl", "restore-account", &archive]).ok();
    save(&machine, &["ann", "bea"]);
    assert_eq!(machine.sh("ls -A /home").ok(), "ann\nbea\n");
}

/// A tar as a zstd frame of blocks that are not compressed.
fn zstd(tar: &[u8]) -> Vec<u8> {
    const RAW: usize = 100_000;
    // Magic number, no checksum, a window of 128 KiB.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x38];
    let blocks = tar.len().div_ceil(RAW).max(1);
    for (number, block) in tar.chunks(RAW).enumerate() {
        let head = (block.len() << 3) | usize::from(number + 1 == blocks);
        frame.extend(&head.to_le_bytes()[..3]);
        frame.extend(block);
    }
    frame
}

/// Somebody gives root an archive and says that it is ann's. In the manifest, all fits.
fn an_archive_that_was_made_up_gives_nobody_anything(suite: Suite) {
    let machine = Machine::with_rosterd(suite);
    save(&machine, &["ann", "bea"]);
    machine.sh_as("ann", "echo text > ~/file").ok();
    machine.sh_as("bea", "echo hers > ~/file && chmod 777 ~ && chmod 666 ~/file").ok();
    save(&machine, &["bea"]);
    offboard(&machine).ok();
    let real: serde_json::Value = serde_json::from_str(&machine.read_file(&newest(&machine))).unwrap();
    let evil = "/root/evil";
    machine.sh(&format!("mkdir {evil}")).ok();
    let outside =
        || machine.sh("ls -lA /home /home/bea /tmp /var/tmp /etc | sha256sum; cat /home/bea/file").ok();
    let before = outside();
    let set = |manifest: &mut serde_json::Value, pointer: &str, value: serde_json::Value| {
        *manifest.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value;
    };
    let sealed = |tar: &str| -> serde_json::Value {
        let bytes = std::fs::read(machine.root().join(tar.trim_start_matches('/'))).unwrap();
        machine.write_file(&format!("{evil}/x.tar.zst"), zstd(&bytes));
        let sum = |path: &str| machine.sh(&format!("sha256sum {path} | cut -c1-64")).ok().trim().to_owned();
        let mut manifest = real.clone();
        set(&mut manifest, "/archive", "x.tar.zst".into());
        set(&mut manifest, "/archive_sha256", sum(&format!("{evil}/x.tar.zst")).into());
        set(&mut manifest, "/tar_sha256", sum(tar).into());
        set(&mut manifest, "/files", serde_json::Value::Null);
        manifest
    };
    let restore = |manifest: &serde_json::Value| {
        machine.write_file(&format!("{evil}/x.json"), manifest.to_string());
        machine.run(&["rosterctl", "restore-account", &format!("{evil}/x.json")])
    };
    let refused = |what: &str, manifest: &serde_json::Value, why: &str| {
        let out = restore(manifest).exits(1);
        assert!(out.stderr.contains(why), "{what}: {out}");
        assert_eq!(outside(), before, "{what}");
        assert!(!machine.exists("/home/ann") && account(&machine).is_empty(), "{what}");
    };

    // Members that lead out of the folder, or are what only root may make.
    machine.sh("mkdir -p /root/in/sub && cd /root/in && echo evil > evil && ln -s /home/bea away && mkdir deep && mknod device c 1 3").ok();
    for (what, tar, why) in [
        ("a way up", "--transform 's,^evil,../bea/evil,' evil", "unpacking the archive failed"),
        (
            "a way up, deeper",
            "--transform 's,^evil,sub/../../bea/evil,' sub evil",
            "unpacking the archive failed",
        ),
        ("through a link", "--transform 's,^evil,away/evil,' away evil", "unpacking the archive failed"),
        ("a device", "device", "unpacking the archive failed"),
    ] {
        machine.sh(&format!("cd /root/in && tar -P -c -f /root/x.tar {tar}")).ok();
        refused(what, &sealed("/root/x.tar"), why);
    }
    // A hard link to what is not in the archive.
    machine
        .sh("ln /home/bea/file /root/in/hard && tar -P -c -f /root/x.tar /home/bea/file /root/in/hard
             tar -P --delete -f /root/x.tar /home/bea/file; rm /root/in/hard")
        .ok();
    refused("a hard link out", &sealed("/root/x.tar"), "unpacking the archive failed");

    // Whom it is said to be of.
    machine.sh("cd /root/in && tar -c -f /root/x.tar --owner=root:0 --mode=4755 ./evil").ok();
    let whole = sealed("/root/x.tar");
    for (what, pointer, value, why) in [
        ("another person", "/user", serde_json::json!("bea"), "bea is in the roster"),
        ("nobody who left", "/user", serde_json::json!("root"), "root"),
        ("another uid", "/uid", serde_json::json!(0), "other ids"),
        ("another home", "/home", serde_json::json!("/home/bea"), "another home"),
        (
            "an account of root's",
            "/account/passwd",
            serde_json::json!("ann:x:0:0::/home/ann:/bin/sh"),
            "other ids",
        ),
        ("an archive elsewhere", "/archive", serde_json::json!("../../home/bea/x.tar.zst"), "keep one name"),
        ("another archive", "/archive_sha256", serde_json::json!("00"), "checksum"),
    ] {
        let mut manifest = whole.clone();
        set(&mut manifest, pointer, value);
        refused(what, &manifest, why);
    }
    // A manifest that somebody else could have written.
    restore_from_elsewhere(&machine, &whole);
    assert_eq!(outside(), before);

    // What is only strange is the person's, and no way to root.
    let mut strange = whole.clone();
    set(&mut strange, "/account/member_of", serde_json::json!(["sudo", "users"]));
    let out = restore(&strange).exits(0);
    assert!(out.stdout.contains("which only the roster does: sudo"), "{out}");
    assert_eq!(machine.sh("stat -c '%U %a' /home/ann/evil").ok(), "ann 4755\n");
    assert_eq!(machine.sh("find / -xdev -user root -path '/home/*/*' 2>/dev/null").ok(), "");
    assert!(!machine.sh("id ann").ok().contains("sudo"));
}

fn restore_from_elsewhere(machine: &Machine, manifest: &serde_json::Value) {
    machine.write_file("/opt/x/x.json", manifest.to_string());
    machine.sh("cp /root/evil/x.tar.zst /opt/x/").ok();
    for (arrange, why) in [
        ("chmod 777 /opt/x", "may be written by others"),
        ("chmod 755 /opt/x && chown bea /opt/x/x.json", "only root can write"),
        ("chown root /opt/x/x.json && chmod 666 /opt/x/x.json", "only root can write"),
        ("chmod 600 /opt/x/x.json && mv /opt/x/x.json /opt/x/y && ln -s y /opt/x/x.json", "symbolic"),
    ] {
        machine.sh(arrange).ok();
        let out = machine.run(&["rosterctl", "restore-account", "/opt/x/x.json"]).exits(1);
        assert!(out.stderr.contains(why), "{arrange}: {out}");
        assert!(!machine.exists("/home/ann"));
    }
    machine.sh("rm -r /opt/x").ok();
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
