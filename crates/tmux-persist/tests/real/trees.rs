//! Random trees of sessions: saved, killed, restored and saved again, the snapshots are the same.

use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use tmux_persist::Outcome;

use crate::{Place, eventually, restore, same_again};

#[derive(Debug, Clone)]
struct Tree {
    sessions: Vec<Session>,
    base_index: bool,
}

#[derive(Debug, Clone)]
struct Session {
    folder: Option<usize>,
    windows: Vec<Window>,
    active: usize,
}

#[derive(Debug, Clone)]
struct Window {
    name: Option<String>,
    gap: bool,
    splits: Vec<(bool, usize, u32)>,
    panes: Vec<(Kind, usize)>,
    title: Option<(usize, String)>,
    zoomed: bool,
    active: usize,
}

/// What runs in a pane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Shell,
    Program,
    Claude,
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
        proptest::collection::vec(
            (prop_oneof![Just(Kind::Shell), Just(Kind::Program), Just(Kind::Claude)], 0..FOLDERS.len()),
            5,
        ),
        proptest::option::of((0..5usize, "[ -~é✳]{1,20}")),
        any::<bool>(),
        0..5usize,
    )
        .prop_map(|(name, gap, splits, panes, title, zoomed, active)| Window {
            name,
            gap,
            splits,
            panes,
            title,
            zoomed,
            active,
        })
}

fn session() -> impl Strategy<Value = Session> {
    (proptest::option::of(0..FOLDERS.len()), proptest::collection::vec(window(), 1..4), 0..4usize)
        .prop_map(|(folder, windows, active)| Session { folder, windows, active })
}

fn tree() -> impl Strategy<Value = Tree> {
    (proptest::collection::vec(session(), 1..4), any::<bool>())
        .prop_map(|(sessions, base_index)| Tree { sessions, base_index })
}

/// A text that tmux expands to what it was.
fn format(text: &str) -> String {
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
}

/// A pane of a tree, as the kernel should show it.
struct Planted {
    pid: String,
    kind: Kind,
    folder: PathBuf,
}

impl Planted {
    fn settled(&self) -> bool {
        let arguments = fs::read_to_string(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        let runs = match self.kind {
            Kind::Shell => arguments == "sh\0",
            Kind::Program => arguments.starts_with("sleep\0"),
            Kind::Claude => {
                fs::read_to_string(format!("/proc/{}/comm", self.pid)).unwrap_or_default() == "claude\n"
            }
        };
        runs && fs::read_link(format!("/proc/{}/cwd", self.pid)).is_ok_and(|folder| folder == self.folder)
    }
}

/// Makes the tree as a person would, command by command.
struct Gardener<'a> {
    place: &'a Place,
    planted: Vec<Planted>,
}

impl Gardener<'_> {
    /// A command that makes a pane; there may be no room for it, and tmux 3.7 refuses some names.
    fn pane(&mut self, mut command: Vec<String>, (kind, folder): (Kind, usize)) -> bool {
        let folder = self.place.home().join(FOLDERS[folder]);
        let id = format!("00000000-0000-4000-8000-{:012}", self.planted.len());
        let (script, more) = match kind {
            Kind::Shell => ("cd \"$0\"; exec sh", vec![]),
            Kind::Program => ("cd \"$0\"; exec sleep 99999", vec![]),
            Kind::Claude => {
                self.place.transcript(&folder, &id, "");
                let claude = self.place.claude().display().to_string();
                ("cd \"$0\"; exec \"$1\" --session-id \"$2\"", vec![claude, id])
            }
        };
        command.extend(["-P", "-F", "#{pane_pid}", "--", "sh", "-c", script].map(str::to_owned));
        command.push(folder.display().to_string());
        command.extend(more);
        let made = self.place.try_tmux(&command.iter().map(String::as_str).collect::<Vec<_>>());
        let Some(pid) = made else { return false };
        self.planted.push(Planted { pid, kind, folder });
        true
    }

    fn window(&mut self, at: &str, window: &Window) {
        let panes = |place: &Place| -> Vec<String> {
            let panes = place.tmux(&["list-panes", "-t", at, "-F", "#{pane_id}"]);
            panes.lines().map(str::to_owned).collect()
        };
        for ((across, target, percent), pane) in window.splits.iter().zip(&window.panes[1..]) {
            let target = {
                let panes = panes(self.place);
                panes[target % panes.len()].clone()
            };
            let across = if *across { "-h" } else { "-v" };
            let command = ["split-window", across, "-l", &format!("{percent}%"), "-t", &target];
            self.pane(command.map(str::to_owned).into(), *pane);
        }
        let panes = panes(self.place);
        if let Some((pane, title)) = &window.title {
            self.place.tmux(&["select-pane", "-t", &panes[pane % panes.len()], "-T", &format(title)]);
        }
        let active = &panes[window.active % panes.len()];
        self.place.tmux(&["select-pane", "-t", active]);
        if window.zoomed && panes.len() > 1 {
            self.place.tmux(&["resize-pane", "-Z", "-t", active]);
        }
    }

    fn session(&mut self, name: &str, session: &Session, base_index: bool) {
        let at = format!("={name}:");
        let mut indices = Vec::new();
        for (number, window) in session.windows.iter().enumerate() {
            let index = number * 3 + usize::from(if number == 0 { base_index } else { window.gap });
            let mut command: Vec<String> = match number {
                0 => ["new-session", "-d", "-x", "180", "-y", "60", "-s", name].map(str::to_owned).into(),
                _ => vec!["new-window".into(), "-t".into(), format!("{at}{index}")],
            };
            if let (0, Some(folder)) = (number, session.folder) {
                let folder = self.place.home().join(FOLDERS[folder]);
                command.extend(["-c".to_owned(), format(&folder.display().to_string())]);
            }
            let named = window.name.as_ref().map(|name| ["-n".to_owned(), format(name)]);
            let whole: Vec<String> = command.iter().cloned().chain(named.into_iter().flatten()).collect();
            let made = self.pane(whole, window.panes[0]) || self.pane(command, window.panes[0]);
            assert!(made, "a first pane has room");
            if number == 0 && base_index {
                self.place.tmux(&["move-window", "-s", &at, "-t", &format!("{at}1")]);
            }
            self.window(&at, window);
            indices.push(index);
        }
        let active = indices[session.active % indices.len()];
        self.place.tmux(&["select-window", "-t", &format!("{at}{active}")]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, max_shrink_iters: 8, ..ProptestConfig::default() })]

    #[test]
    fn what_was_saved_is_saved_again_after_a_restore(tree in tree()) {
        let place = Place::new();
        for folder in FOLDERS {
            fs::create_dir_all(place.home().join(folder)).unwrap();
        }
        let mut gardener = Gardener { place: &place, planted: Vec::new() };
        for (session, name) in tree.sessions.iter().zip(SESSIONS) {
            gardener.session(name, session, tree.base_index);
        }
        // Each pane's shell goes to its folder and becomes what stays there.
        eventually("all is where it belongs", || gardener.planted.iter().all(Planted::settled).then_some(()));
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
