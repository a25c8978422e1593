//! Files that the configuration names, in homes that are new, lived in, and arranged against the machine.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test may panic")]

mod support;
#[path = "support/work.rs"]
mod work;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Child;

use roster::desired::HomeDesired;
use roster::files::{FileAction, FileDesired, FileWanted, Text};
use roster::plan::HomeAction;
use roster::report::StepResult;
use serde_json::{Value, json};

use support::Somebody;
use work::{run_by, run_in, start};

const HEADER: &str = "<!-- ours -->";
const BLOCK: &str =
    "# >>> rosterd: what is between these two lines is replaced >>>\nyes\n# <<< rosterd <<<\n";

fn keys() -> Vec<(String, Value)> {
    vec![
        ("/done".into(), json!(true)),
        ("/mcpServers/playwright".into(), json!({"url": "http://localhost:1/mcp"})),
    ]
}

/// One of each kind.
fn desired() -> HomeDesired {
    let file = |path: &str, wanted| FileDesired { path: path.into(), wanted };
    let text = |text: &str| Text::new(text);
    let files = vec![
        file("start.sh", FileWanted::Copy { text: text("#!/bin/sh\n"), header: None, mode: 0o755 }),
        file(
            ".codex/AGENTS.md",
            FileWanted::Copy {
                text: text(&format!("{HEADER}\nrules\n")),
                header: Some(HEADER.into()),
                mode: 0o644,
            },
        ),
        file(".kube/config", FileWanted::Once { text: text("server: x\n"), mode: 0o600 }),
        file(".claude/skills", FileWanted::Link { target: "/srv/skills".into() }),
        file(".claude.json", FileWanted::Json { keys: keys() }),
        file(".zshrc", FileWanted::Block { text: text("yes\n"), comment: "#".into() }),
    ];
    HomeDesired { files, ..HomeDesired::default() }
}

const ALL: &str = "make ~/start.sh, mode 0755\n\
                   make ~/.codex/AGENTS.md, mode 0644\n\
                   make ~/.kube/config, mode 0600\n\
                   link ~/.claude/skills to /srv/skills\n\
                   add /done /mcpServers/playwright to ~/.claude.json\n\
                   set the block of rosterd in ~/.zshrc\n";

fn read(of: &Somebody, path: &str) -> String {
    fs::read_to_string(of.path(path)).unwrap()
}

fn mode(of: &Somebody, path: &str) -> u32 {
    fs::symlink_metadata(of.path(path)).unwrap().mode() & 0o7777
}

#[tokio::test]
async fn a_new_home_gets_one_of_each_kind_and_a_second_run_does_nothing_invariant_9() {
    let ana = Somebody::new();
    assert_eq!(run_in(&ana, &desired()).await, ALL);
    let before = ana.snapshot();
    assert_eq!(run_in(&ana, &desired()).await, "");
    assert_eq!(ana.snapshot(), before);
    assert_eq!(read(&ana, "start.sh"), "#!/bin/sh\n");
    assert_eq!(read(&ana, ".codex/AGENTS.md"), "<!-- ours -->\nrules\n");
    assert_eq!(fs::read_link(ana.path(".claude/skills")).unwrap(), Path::new("/srv/skills"));
    assert_eq!(read(&ana, ".zshrc"), BLOCK);
    let json: Value = serde_json::from_str(&read(&ana, ".claude.json")).unwrap();
    assert_eq!(json, json!({"done": true, "mcpServers": {"playwright": {"url": "http://localhost:1/mcp"}}}));
    let modes = ["start.sh", ".codex", ".kube", ".kube/config", ".claude.json", ".zshrc"]
        .map(|path| mode(&ana, path));
    assert_eq!(modes, [0o755, 0o700, 0o700, 0o600, 0o600, 0o644]);
    for path in ["start.sh", ".codex", ".claude.json", ".claude/skills"] {
        assert_eq!(fs::symlink_metadata(ana.path(path)).unwrap().uid(), ana.uid, "{path}");
    }
}

#[tokio::test]
async fn what_a_person_has_of_their_own_stays_byte_for_byte_invariant_1() {
    let ana = Somebody::new();
    for folder in [".codex", ".kube", ".claude", ".claude/skills"] {
        ana.mkdir(folder);
    }
    ana.write(".codex/AGENTS.md", "my rules\n");
    ana.write(".kube/config", "mine");
    fs::set_permissions(ana.path(".kube/config"), fs::Permissions::from_mode(0o600)).unwrap();
    ana.write(".claude/skills/SKILL.md", "my skill");
    ana.write(".claude.json", r#"{"mcpServers": {"playwright": "mine"}, "done": false}"#);
    fs::set_permissions(ana.path(".claude.json"), fs::Permissions::from_mode(0o600)).unwrap();
    ana.write(".zshrc", format!("mine\n{BLOCK}mine too"));
    ana.write("start.sh", "#!/bin/sh\n");
    fs::set_permissions(ana.path("start.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    let before = ana.snapshot();
    for _ in 0..10 {
        assert_eq!(run_in(&ana, &desired()).await, "");
    }
    assert_eq!(ana.snapshot(), before);
}

#[tokio::test]
async fn a_copy_is_replaced_and_the_one_before_stays_beside() {
    let ana = Somebody::new();
    run_in(&ana, &desired()).await;
    ana.write("start.sh", "my own launcher\n");
    ana.write(".codex/AGENTS.md", format!("{HEADER}\r\nold rules\n"));
    ana.write(".zshrc", read(&ana, ".zshrc").replace("yes", "no") + "alias x=y\n");
    fs::set_permissions(ana.path(".zshrc"), fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(
        run_in(&ana, &desired()).await,
        "replace ~/start.sh; what was there stays beside it\n\
         replace ~/.codex/AGENTS.md\n\
         set the block of rosterd in ~/.zshrc\n"
    );
    assert_eq!(read(&ana, "start.sh.rosterd-before"), "my own launcher\n");
    assert_eq!((read(&ana, "start.sh").as_str(), mode(&ana, "start.sh")), ("#!/bin/sh\n", 0o755));
    assert_eq!(read(&ana, ".codex/AGENTS.md"), "<!-- ours -->\nrules\n");
    assert_eq!((read(&ana, ".zshrc"), mode(&ana, ".zshrc")), (format!("{BLOCK}alias x=y\n"), 0o640));
    assert_eq!(run_in(&ana, &desired()).await, "");
    // What rosterd wrote itself is not kept; what its person made of it is, each version.
    let mut newer = desired();
    newer.files[0].wanted = FileWanted::Copy { text: Text::new("newer\n"), header: None, mode: 0o755 };
    assert_eq!(run_in(&ana, &newer).await, "replace ~/start.sh\n");
    assert_eq!(
        (read(&ana, "start.sh"), read(&ana, "start.sh.rosterd-before")),
        ("newer\n".into(), "my own launcher\n".into())
    );
    for edit in ["in place", "again"] {
        ana.write("start.sh", edit);
        assert!(run_in(&ana, &newer).await.contains("what was there stays beside it"));
    }
    let kept = ["", "-2", "-3"].map(|number| read(&ana, &format!("start.sh.rosterd-before{number}")));
    assert_eq!(kept, ["my own launcher\n", "in place", "again"]);
    assert!(!ana.path("start.sh.rosterd-before-4").exists());
}

#[tokio::test]
async fn a_file_that_holds_keys_is_closed_and_one_that_is_too_open_is_told_invariant_7() {
    let ana = Somebody::new();
    run_in(&ana, &desired()).await;
    for path in [".claude.json", ".kube/config", "start.sh"] {
        fs::set_permissions(ana.path(path), fs::Permissions::from_mode(0o664)).unwrap();
    }
    assert_eq!(
        run_in(&ana, &desired()).await,
        "set the mode of ~/start.sh from 0664 to 0755\n\
         set the mode of ~/.claude.json from 0664 to 0600\n\
         - others may use ~/.kube/config, mode 0664: chmod 0600 ~ana/.kube/config\n"
    );
    assert_eq!((mode(&ana, ".claude.json"), mode(&ana, ".kube/config")), (0o600, 0o664));
    // A merge closes it as well, and keeps all else.
    ana.write(".claude.json", "{\n\t\"token\": \"s3cret\"\n}");
    fs::set_permissions(ana.path(".claude.json"), fs::Permissions::from_mode(0o644)).unwrap();
    run_in(&ana, &desired()).await;
    assert!(read(&ana, ".claude.json").starts_with("{\n\t\"token\": \"s3cret\",\n\t\"done\": true,\n"));
    assert_eq!(mode(&ana, ".claude.json"), 0o600);
}

#[tokio::test]
async fn a_json_file_that_does_not_parse_is_told_and_never_touched() {
    let ana = Somebody::new();
    run_in(&ana, &desired()).await;
    for broken in ["", "{\"half\": ", "{} // mine", "[]", "{\"a\": s3cret}"] {
        ana.write(".claude.json", broken);
        let told = run_in(&ana, &desired()).await;
        assert!(told.starts_with("- ~/.claude.json is left alone: it is no "), "{told}");
        assert!(!told.contains("s3cret"), "{told}");
        assert_eq!(read(&ana, ".claude.json"), broken);
    }
}

/// A kill leaves a file beside; it goes, and the change is made.
#[tokio::test]
async fn what_a_kill_left_beside_goes_invariant_5() {
    let ana = Somebody::new();
    run_in(&ana, &desired()).await;
    fs::remove_file(ana.path("start.sh")).unwrap();
    ana.write(".rosterd-new.start.sh", "half");
    ana.write(".rosterd-new..claude.json", "{");
    assert_eq!(
        run_in(&ana, &desired()).await,
        "remove what an interrupted change of ~/start.sh left\n\
         make ~/start.sh, mode 0755\n\
         remove what an interrupted change of ~/.claude.json left\n"
    );
    assert_eq!(run_in(&ana, &desired()).await, "");
}

/// Puts something in the place of a file.
type Trap<'t> = &'t dyn Fn(&Somebody, &str);

/// Whatever stands in the place of each file: nothing outside changes, nothing hangs, and it is told.
#[tokio::test]
async fn hostile_places_are_told_and_left_alone_invariant_3() {
    let outside = support::open_dir();
    let canary = outside.path().join("canary");
    fs::write(&canary, "canary").unwrap();
    let places = ["start.sh", ".codex/AGENTS.md", ".kube/config", ".claude.json", ".zshrc"];
    let traps: &[(&str, Trap<'_>)] = &[
        ("a symlink", &|ana, path| symlink(&canary, ana.path(path)).unwrap()),
        ("a FIFO", &|ana, path| {
            nix::unistd::mkfifo(&ana.path(path), nix::sys::stat::Mode::S_IRWXU).unwrap();
            chown(ana.path(path), Some(ana.uid), Some(ana.uid)).unwrap();
        }),
        ("a hard link", &|ana, path| {
            ana.write("other", "mine");
            fs::hard_link(ana.path("other"), ana.path(path)).unwrap();
        }),
        ("a folder", &|ana, path| ana.mkdir(path)),
        ("somebody else's", &|ana, path| {
            fs::write(ana.path(path), "root's").unwrap();
            fs::set_permissions(ana.path(path), fs::Permissions::from_mode(0o666)).unwrap();
        }),
        ("closed", &|ana, path| {
            ana.write(path, "mine");
            fs::set_permissions(ana.path(path), fs::Permissions::from_mode(0o000)).unwrap();
        }),
    ];
    for (what, trap) in traps {
        for path in places {
            let ana = Somebody::new();
            for folder in [".codex", ".kube", ".claude"] {
                ana.mkdir(folder);
            }
            trap(&ana, path);
            let first = run_in(&ana, &desired()).await;
            let own_link = *what == "a symlink" && path == ".kube/config";
            let own_file = *what == "closed" && path == ".kube/config";
            assert_eq!(
                first.contains(&format!("- ~/{path} is left alone: ")),
                !own_link && !own_file,
                "{what}: {first}"
            );
            assert!(!first.contains("FAILED"), "{what}: {first}");
            let before = ana.snapshot();
            run_in(&ana, &desired()).await;
            assert_eq!(ana.snapshot(), before, "{what} at {path}");
            assert_eq!(fs::read_to_string(&canary).unwrap(), "canary", "{what} at {path}");
        }
    }
    // A folder on the way that leads out of the home, or that is no folder.
    let ana = Somebody::new();
    for folder in [".codex", ".kube", ".claude"] {
        symlink(outside.path(), ana.path(folder)).unwrap();
    }
    fs::set_permissions(outside.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let told = run_in(&ana, &desired()).await;
    assert_eq!(told.matches("it is a place behind a symlink").count(), 3, "{told}");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    // In the way of what is written beside.
    let ana = Somebody::new();
    symlink(&canary, ana.path(".rosterd-new.start.sh")).unwrap();
    ana.mkdir(".rosterd-new..zshrc");
    let told = run_in(&ana, &desired()).await;
    assert!(told.contains("make ~/start.sh, mode 0755\n"), "{told}");
    assert!(told.contains("set the block of rosterd in ~/.zshrc: FAILED"), "{told}");
    assert_eq!(fs::read_to_string(&canary).unwrap(), "canary");
}

/// One process that counts in a key of its own, as agents write the file: under their lock, beside, and renamed.
const WRITER: &str = r#"
    my ($me, $file) = @ARGV;
    for my $round (1 .. 150) {
        until (mkdir "$file.lock") { select undef, undef, undef, 0.001 }
        open my $in, '<', $file or die; my $text = join '', <$in>; close $in;
        $text =~ s/"$me": (\d+)/'"' . $me . '": ' . ($1 + 1)/e or die "no $me in $text";
        open my $out, '>', "$file.$me" or die; print $out $text; close $out;
        rename "$file.$me", $file or die;
        rmdir "$file.lock";
        select undef, undef, undef, rand 0.006;
    }
"#;

#[tokio::test]
async fn ten_other_writers_lose_no_key_by_us_and_we_none_by_them() {
    let ana = Somebody::new();
    let counters: Vec<String> = (0..10).map(|number| format!("w{number}")).collect();
    let object: serde_json::Map<String, Value> =
        counters.iter().map(|name| (name.clone(), json!(0))).collect();
    ana.write(".claude.json", format!("{:#}\n", Value::Object(object)));
    let start_writer = |name: &String| -> Child {
        ana.command("perl").args(["-e", WRITER, name, ".claude.json"]).spawn().unwrap()
    };
    let writers: Vec<Child> = counters.iter().map(start_writer).collect();
    let mut worker = start(&ana).await;
    let mut merged = 0;
    let mut running = writers;
    while !running.is_empty() {
        let keys = vec![(format!("/ours/k{merged}"), json!({"n": merged}))];
        let action = HomeAction::File(FileAction::AddKeys { path: ".claude.json".into(), keys });
        assert_eq!(worker.apply(&action).await, StepResult::Done);
        merged += 1;
        running.retain_mut(|writer| match writer.try_wait().unwrap() {
            Some(status) => {
                assert!(status.success());
                false
            }
            None => true,
        });
    }
    worker.finish();
    let end: Value = serde_json::from_str(&read(&ana, ".claude.json")).unwrap();
    for name in &counters {
        assert_eq!(end[name], 150, "{name}: {end}");
    }
    let ours = end["ours"].as_object().unwrap();
    assert!(merged > 3, "{merged}");
    assert_eq!(ours.len(), merged);
    println!("{merged} merges among 1500 rewrites");
    assert!(!ana.path(".claude.json.lock").exists());
}

/// `strace` kills the worker at every call of the kernel that changes something, each in its turn: nothing is half
/// written, nothing of the person's is gone at any moment, and the next run completes it.
#[tokio::test]
async fn invariant_5_killed_between_any_two_calls_nothing_is_lost_and_the_next_run_completes_it() {
    let ana = Somebody::new();
    let tracer = ana.base().join("tracer");
    let prepare = || {
        for name in fs::read_dir(&ana.home).unwrap().map(|entry| entry.unwrap().path()) {
            let _ = fs::remove_dir_all(&name);
            let _ = fs::remove_file(&name);
        }
        ana.mkdir(".codex");
        ana.write("start.sh", "my own");
        ana.write(".codex/AGENTS.md", format!("{HEADER}\nolder\n"));
        ana.write(".claude.json", "{\n  \"token\": 1\n}\n");
        ana.write(".zshrc", "mine\n");
    };
    let is_whole = |told: &str| {
        let text = |path: &str| fs::read_to_string(ana.path(path)).unwrap_or_default();
        let launcher = text("start.sh");
        assert!(["my own", "#!/bin/sh\n"].contains(&launcher.as_str()), "{launcher:?}: {told}");
        assert!(launcher == "my own" || text("start.sh.rosterd-before") == "my own", "{told}");
        assert!(
            [format!("{HEADER}\nolder\n"), format!("{HEADER}\nrules\n")].contains(&text(".codex/AGENTS.md")),
            "{told}"
        );
        let json: Value = serde_json::from_str(&text(".claude.json")).unwrap_or_default();
        assert_eq!(json["token"], 1, "{told}");
        assert!(["mine\n".to_owned(), format!("mine\n{BLOCK}")].contains(&text(".zshrc")), "{told}");
        assert!(["", "server: x\n"].contains(&text(".kube/config").as_str()), "{told}");
    };
    let mut killed = 0;
    for call in ["mkdirat", "fchmod", "fsync", "renameat2", "renameat", "symlinkat", "unlinkat"] {
        for number in 1.. {
            prepare();
            let script = format!(
                "#!/bin/sh\nexec /usr/bin/strace -qq -o /dev/null -e trace={call} -e inject={call}:signal=SIGKILL:when={number} {} worker\n",
                work::program().display()
            );
            fs::write(&tracer, script).unwrap();
            fs::set_permissions(&tracer, fs::Permissions::from_mode(0o755)).unwrap();
            let first = run_by(&tracer, &ana, &desired()).await;
            let was_killed = first.contains("FAILED") || first.starts_with('?');
            is_whole(&format!("killed at {call} {number}\n{first}"));
            let lock = ana.path(".claude.json.lock");
            if lock.exists() {
                // As time has it.
                let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(60);
                fs::File::open(&lock).unwrap().set_modified(long_ago).unwrap();
            }
            let rest = run_in(&ana, &desired()).await;
            let told = format!("killed at {call} {number}\n--\n{first}--\n{rest}");
            assert!(!rest.contains("FAILED"), "{told}");
            assert_eq!(run_in(&ana, &desired()).await, "", "{told}");
            is_whole(&told);
            // A lock that is left is stale, and goes when whoever uses that lock wants it next.
            let left: Vec<_> =
                ana.snapshot().into_iter().filter(|line| line.contains("rosterd-new")).collect();
            assert!(left.is_empty(), "{left:?}: {told}");
            if !was_killed {
                break;
            }
            killed += 1;
        }
    }
    println!("killed at {killed} calls");
    assert!(killed > 25, "{killed}");
}
