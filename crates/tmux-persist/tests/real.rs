//! Sessions on a real tmux server: saved, killed, restored and saved again, the snapshots are the same.

// The lint spares tests, and does not see that all of this program is one.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use tempfile::TempDir;
use tmux_persist::{Answer, Job, Outcome, Restored, Saved, Settings, run_here};

/// A server, a home and a store of their own.
struct Place {
    dir: TempDir,
    socket: String,
}

impl Place {
    fn new() -> Place {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let place = Place {
            dir: tempfile::tempdir().unwrap(),
            socket: format!("rosterd-test-{}-{number}", std::process::id()),
        };
        fs::create_dir(place.home()).unwrap();
        place
    }

    fn home(&self) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join("home")
    }

    fn settings(&self, state: &str) -> Settings {
        Settings {
            state: self.dir.path().join(state),
            socket: self.socket.clone(),
            claude: "claude".into(),
            commands: vec!["sleep".into()],
            environment: vec!["PROJECT".into()],
            scrollback_kib: 0,
            now: None,
            // Goes to the folder and stays; with a conversation, as one that goes on in it.
            pane: [
                "sh",
                "-c",
                r#"cd "$2"; shift 2; [ "$1" = --claude ] && exec "$0" "$@"; exec sleep 99999"#,
            ]
            .iter()
            .map(|part| (*part).to_owned())
            .chain([self.claude().display().to_string()])
            .collect(),
        }
    }

    /// A program that the kernel names claude, whatever its arguments.
    fn claude(&self) -> PathBuf {
        let program = self.dir.path().join("claude");
        if !program.exists() {
            fs::write(&program, "#!/bin/sh\nwhile :; do sleep 1000; done\n").unwrap();
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        }
        program
    }

    fn job(&self, state: &str, job: Job) -> Answer {
        run_here("ann", &self.home(), &self.settings(state), &job).unwrap_or_else(|f| panic!("{f:?}"))
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        // A word that ends so would end the command.
        let whole =
            |word: &&str| word.strip_suffix(';').map_or((*word).to_owned(), |rest| format!("{rest}\\;"));
        let output = Command::new("tmux")
            .args(["-u", "-L", &self.socket, "-f", "/dev/null"])
            .args(arguments.iter().map(whole))
            .env_remove("TMUX")
            .env("PROJECT", "a 'b' \"$c\"")
            .env("SHELL", "/bin/sh")
            .current_dir(self.home())
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    fn kill_server(&self) {
        let _ = Command::new("tmux").args(["-L", &self.socket, "kill-server"]).output();
        while Command::new("tmux")
            .args(["-L", &self.socket, "has-session"])
            .output()
            .unwrap()
            .status
            .success()
        {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What a save writes, without its first line.
    fn saved(&self, state: &str) -> String {
        match self.job(state, Job::Save) {
            Answer::Saved(Saved::Stored { .. } | Saved::Unchanged) => {}
            other => panic!("{other:?}"),
        }
        let newest = self.dir.path().join(state).join("users/ann/newest");
        let text = fs::read_to_string(newest).unwrap();
        text.split_once('\n').unwrap().1.to_owned()
    }

    fn transcript(&self, folder: &Path, id: &str, text: &str) -> PathBuf {
        let slug = folder.display().to_string().replace(['/', '.'], "-");
        let place = self.home().join(".claude/projects").join(slug);
        fs::create_dir_all(&place).unwrap();
        fs::write(place.join(format!("{id}.jsonl")), text).unwrap();
        place.join(format!("{id}.jsonl"))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.kill_server();
    }
}

/// Programs in panes take a moment to go where they belong; the snapshots are asked for until they are the same.
#[track_caller]
fn same_again(place: &Place, before: &str) {
    let begun = Instant::now();
    let mut tries = 0;
    loop {
        tries += 1;
        let after = place.saved(&format!("after{tries}"));
        if after == before {
            return;
        }
        if begun.elapsed() > Duration::from_secs(60) {
            assert_eq!(after, before);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn restore(place: &Place) -> Restored {
    match place.job("state", Job::Restore) {
        Answer::Restored(restored) => restored,
        other => panic!("{other:?}"),
    }
}

#[derive(Debug, Clone)]
struct Tree {
    sessions: Vec<Vec<Window>>,
    base_index: bool,
}

#[derive(Debug, Clone)]
struct Window {
    name: Option<String>,
    gap: bool,
    splits: Vec<(bool, usize, u32)>,
    folders: Vec<usize>,
    title: Option<(usize, String)>,
    zoomed: bool,
    active: usize,
}

const FOLDERS: [&str; 8] = [
    "plain",
    "with space",
    "#(touch pwned)",
    "##{pid}#[x",
    "tab\tand\nline",
    "é'\"\\$HOME;",
    "-dash",
    "%H{}~",
];

const SESSIONS: [&str; 3] = ["7", "007", "-a_B"];

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~]{1,20}",
        "[#{}\\[(,:;'\"\\\\$%~é✳ ]{1,12}",
        Just("-n".to_owned()),
        Just("a\tb".to_owned())
    ]
}

fn window() -> impl Strategy<Value = Window> {
    (
        proptest::option::of(text()),
        any::<bool>(),
        proptest::collection::vec((any::<bool>(), 0..5usize, 20..80u32), 0..4),
        proptest::collection::vec(0..FOLDERS.len(), 5),
        proptest::option::of((0..5usize, "[ -~é✳]{1,20}")),
        any::<bool>(),
        0..5usize,
    )
        .prop_map(|(name, gap, splits, folders, title, zoomed, active)| Window {
            name,
            gap,
            splits,
            folders,
            title,
            zoomed,
            active,
        })
}

fn tree() -> impl Strategy<Value = Tree> {
    (proptest::collection::vec(proptest::collection::vec(window(), 1..4), 1..4), any::<bool>())
        .prop_map(|(sessions, base_index)| Tree { sessions, base_index })
}

/// Makes the tree as a person would, command by command.
fn plant(place: &Place, tree: &Tree) {
    for folder in FOLDERS {
        fs::create_dir_all(place.home().join(folder)).unwrap();
    }
    let folder = |at: usize| place.home().join(FOLDERS[at]);
    let format = |text: &str| {
        let mut out = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('#') {
            let after = rest[at..].trim_start_matches('#');
            let count = rest[at..].len() - after.len();
            out += &rest[..at];
            out += &"#".repeat(if after.starts_with('[') { count } else { 2 * count });
            rest = after;
        }
        out + rest
    };
    let shell = |at: usize| {
        vec![
            "sh".to_owned(),
            "-c".to_owned(),
            "cd \"$0\"; exec sleep 99999".to_owned(),
            folder(at).display().to_string(),
        ]
    };
    for (windows, session) in tree.sessions.iter().zip(SESSIONS) {
        for (number, window) in windows.iter().enumerate() {
            let mut command: Vec<String> = match number {
                0 => ["new-session", "-d", "-x", "180", "-y", "60", "-s", session].map(str::to_owned).into(),
                _ => vec![
                    "new-window".into(),
                    "-t".into(),
                    format!("={session}:{}", number * 3 + usize::from(window.gap)),
                ],
            };
            if let Some(name) = &window.name {
                command.extend(["-n".to_owned(), format(name)]);
            }
            command.push("--".into());
            command.extend(shell(window.folders[0]));
            place.tmux(&command.iter().map(String::as_str).collect::<Vec<_>>());
            if number == 0 && tree.base_index {
                place.tmux(&["move-window", "-s", &format!("={session}:"), "-t", &format!("={session}:1")]);
            }
            for (split, (across, target, percent)) in window.splits.iter().enumerate() {
                let panes = place.tmux(&["list-panes", "-t", &format!("={session}:"), "-F", "#{pane_id}"]);
                let panes: Vec<&str> = panes.lines().collect();
                let mut command: Vec<String> =
                    vec!["split-window".into(), if *across { "-h" } else { "-v" }.into()];
                command.extend([
                    "-l".into(),
                    format!("{percent}%"),
                    "-t".into(),
                    panes[target % panes.len()].into(),
                    "--".into(),
                ]);
                command.extend(shell(window.folders[split + 1]));
                // A pane may be too small by now.
                let mut call = Command::new("tmux");
                if let Some(last) = command.last_mut().filter(|last| last.ends_with(';')) {
                    last.insert(last.len() - 1, '\\');
                }
                call.args(["-L", &place.socket]).args(&command).env_remove("TMUX").output().unwrap();
            }
            let panes = place.tmux(&["list-panes", "-t", &format!("={session}:"), "-F", "#{pane_id}"]);
            let panes: Vec<&str> = panes.lines().collect();
            if let Some((pane, title)) = &window.title {
                place.tmux(&["select-pane", "-t", panes[pane % panes.len()], "-T", &format(title)]);
            }
            place.tmux(&["select-pane", "-t", panes[window.active % panes.len()]]);
            if window.zoomed && panes.len() > 1 {
                place.tmux(&["resize-pane", "-Z", "-t", panes[window.active % panes.len()]]);
            }
        }
        let count = windows.len();
        if count > 1 {
            place.tmux(&["select-window", "-t", &format!("={session}:{{start}}")]);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, max_shrink_iters: 8, ..ProptestConfig::default() })]

    #[test]
    fn what_was_saved_is_saved_again_after_a_restore(tree in tree()) {
        let place = Place::new();
        plant(&place, &tree);
        // Each pane's shell goes to its folder and becomes what stays there.
        while place.tmux(&["list-panes", "-a", "-F", "#{pane_current_command}"]).lines().any(|it| it != "sleep") {
            std::thread::sleep(Duration::from_millis(10));
        }
        let before = place.saved("state");
        place.kill_server();
        let restored = restore(&place);
        for (row, outcome) in &restored.sessions {
            prop_assert_eq!(outcome, &Outcome::Made, "{:?}", row);
        }
        same_again(&place, &before);
        prop_assert!(!place.home().join("pwned").exists());
    }
}

const A: &str = "00000000-0000-4000-8000-00000000000a";
const B: &str = "00000000-0000-4000-8000-00000000000b";
const C: &str = "00000000-0000-4000-8000-00000000000c";
const D: &str = "00000000-0000-4000-8000-00000000000d";

#[test]
fn conversations_are_attributed_and_resumed_where_they_were() {
    let place = Place::new();
    let claude = place.claude().display().to_string();
    let folder = |name: &str| {
        let folder = place.home().join(name);
        fs::create_dir_all(&folder).unwrap();
        folder
    };
    let start = |session: &str, folder: &Path, arguments: &[&str]| {
        let folder = folder.display().to_string();
        let mut command = vec!["new-session", "-d", "-s", session, "-c", &folder, "--", &claude];
        command.extend(arguments);
        place.tmux(&command);
    };
    let (one, two, three) = (folder("one.d"), folder("two"), folder("three"));
    // By stamp, which beats the arguments; by arguments; by name; as the only one; and two that cannot be told apart.
    start("stamp", &one, &["--session-id", B]);
    let stamp = place.transcript(&one, A, "");
    place.tmux(&["set-option", "-t", "=stamp:", "@claude_transcript", stamp.to_str().unwrap()]);
    start("argument", &one, &["--name", "argument", "--resume", B]);
    start("named", &two, &[]);
    place.transcript(&two, C, "{\"agentName\":\"named\"}\n");
    place.transcript(&two, "00000000-0000-4000-8000-0000000000ff", "");
    start("nameless", &two, &[]);
    start("only", &three, &[]);
    place.transcript(&three, D, "");
    place.transcript(&one, B, "");
    start("lost", &one, &["--resume", "00000000-0000-4000-8000-0000000000ee"]);
    // What another person's or no transcript is counts for nothing.
    start("forged", &three, &["--resume", "not-an-id"]);
    place.tmux(&["set-option", "-t", "=forged:", "@claude_transcript", "/etc/passwd"]);
    // Each claude takes a moment to be there.
    let begun = Instant::now();
    for probe in 0.. {
        if place.saved(&format!("probe{probe}")).matches("\"conversation\"").count() == 5 {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "not all conversations are seen");
        std::thread::sleep(Duration::from_millis(20));
    }
    place.saved("state");
    let rows = |place: &Place| match place.job("state", Job::Snapshot(None)) {
        Answer::Snapshot(view) => view
            .rows
            .iter()
            .map(|row| {
                let id = row.conversation.as_ref().map_or("-", |id| &id.as_str()[35..]);
                let note = row.note.as_deref().unwrap_or("-");
                format!("{} {id} {} {} {note}", row.name, row.state.as_str(), row.action.as_str())
            })
            .collect::<Vec<_>>()
            .join("\n"),
        other => panic!("{other:?}"),
    };
    insta::assert_snapshot!(rows(&place), @r"
    argument b live_same skip -
    forged d live_same skip -
    lost e live_same skip -
    named c live_same skip -
    nameless - live_same skip -
    only - live_same skip -
    stamp a live_same skip -
    ");
    place.kill_server();
    insta::assert_snapshot!(rows(&place), @r"
    argument b missing new -
    forged d missing new -
    lost e missing new gone
    named c missing new -
    nameless - missing new -
    only - missing new -
    stamp a missing new -
    ");
    assert!(restore(&place).sessions.iter().all(|(_, outcome)| *outcome == Outcome::Made));
    let begun = Instant::now();
    let wanted = [(A, "stamp", &one), (B, "argument", &one), (C, "named", &two), (D, "forged", &three)];
    for (id, session, folder) in wanted {
        loop {
            let pid = place.tmux(&["list-panes", "-t", &format!("={session}:"), "-F", "#{pane_pid}"]);
            let arguments =
                fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().replace('\0', " ");
            if arguments.contains(&format!("--name {session} --resume {id}"))
                && fs::read_link(format!("/proc/{pid}/cwd")).unwrap() == *folder
            {
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "{session}: {arguments}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn listed_programs_and_variables_come_back() {
    let place = Place::new();
    place.tmux(&["new-session", "-d", "-s", "work", "-e", "PROJECT=x 'y' $z", "--", "sleep", "77777"]);
    let before = place.saved("state");
    assert!(
        before.contains(r#""command":["sleep","77777"]"#) && before.contains(r#""PROJECT":"x 'y' $z""#),
        "{before}"
    );
    place.kill_server();
    restore(&place);
    assert_eq!(place.tmux(&["show-environment", "-t", "=work:", "PROJECT"]), "PROJECT=x 'y' $z");
}

#[test]
fn sessions_that_share_windows_come_back_as_such() {
    let place = Place::new();
    place.tmux(&["new-session", "-d", "-s", "first", "--", "sleep", "99999"]);
    place.tmux(&["new-session", "-d", "-s", "second", "-t", "=first"]);
    let before = place.saved("state");
    place.kill_server();
    restore(&place);
    same_again(&place, &before);
    assert_eq!(place.tmux(&["list-panes", "-a", "-F", "#{session_name} #{pane_id}"]), "first %0\nsecond %0");
}

#[test]
fn nothing_is_started_where_there_is_no_server() {
    let place = Place::new();
    assert_eq!(place.job("state", Job::Save), Answer::Saved(Saved::NoSessions));
    assert_eq!(place.job("state", Job::Snapshots), Answer::Snapshots(vec![]));
    let running = Command::new("tmux").args(["-L", &place.socket, "has-session"]).output().unwrap();
    assert!(!running.status.success());
}
