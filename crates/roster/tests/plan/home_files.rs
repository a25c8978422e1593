//! Plans of the files in a home.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use proptest::prelude::*;
use roster::config::Config;
use roster::derive::derive;
use roster::desired::{HomeDesired, Ports, UnknownPorts};
use roster::files::{self, Content, FileDesired, FileSeen, FileWanted, Found, Text};
use roster::observed::{FileState, HomeObserved};
use roster::plan::{Plan, home};
use serde_json::json;

use crate::machine::{Machine, roster, shown, user};

fn text(text: &str) -> Text {
    Text::new(text)
}

fn wanted(header: Option<&str>) -> Vec<FileDesired> {
    let file = |path: &str, wanted| FileDesired { path: path.into(), wanted };
    vec![
        file("copy", FileWanted::Copy { text: text("new"), header: header.map(str::to_owned), mode: 0o755 }),
        file("once", FileWanted::Once { text: text("first"), mode: 0o600 }),
        file("link", FileWanted::Link { target: "/srv/base".into() }),
        file("json", FileWanted::Json { keys: vec![("/a".into(), json!(1)), ("/b/c".into(), json!(2))] }),
        file("block", FileWanted::Block { text: text("ours\n"), comment: "#".into() }),
    ]
}

fn plan(files: Vec<FileDesired>, found: &[(&str, Found)]) -> Plan {
    let desired = HomeDesired { files, ..HomeDesired::default() };
    let seen = |(path, found): &(&str, Found)| {
        ((*path).to_owned(), FileSeen { found: found.clone(), unfinished: false })
    };
    let observed = HomeObserved { files: found.iter().map(seen).collect(), ..HomeObserved::default() };
    home(&user("alice"), &desired, &observed)
}

fn table(plan: &Plan) -> String {
    let row = |file: &files::FileStatus| {
        format!("{} {} {}: {}\n", file.path, file.kind.as_str(), file.owner.as_str(), file.found)
    };
    plan.seen.values().flat_map(|seen| &seen.files).map(row).collect()
}

fn file(mode: u32, content: Content) -> Found {
    Found::File { mode, content }
}

fn of(sha256: &Text, has_header: bool) -> Content {
    Content::Text { sha256: sha256.sha256.clone(), has_header, is_untouched: false }
}

#[test]
fn a_new_home_gets_everything() {
    let desired = HomeDesired { files: wanted(None), ..HomeDesired::default() };
    let plan = home(&user("alice"), &desired, &HomeObserved::of_a_new_home(&desired));
    insta::assert_snapshot!(format!("{}{}", shown(&plan), table(&plan)), @"
    alice: make ~/copy, mode 0755
    alice: make ~/once, mode 0600
    alice: link ~/link to /srv/base
    alice: add /a /b/c to ~/json
    alice: set the block of rosterd in ~/block
    ~/copy copy rosterd: not there yet
    ~/once once person: not there yet
    ~/link link person: not there yet
    ~/json json both: not there yet
    ~/block block both: not there yet
    ");
}

#[test]
fn what_is_there_and_whose_it_is_invariant_1() {
    let cases = [
        (
            None,
            vec![
                ("copy", file(0o755, of(&text("new"), false))),
                ("once", file(0o600, Content::NotRead)),
                ("link", Found::Link { target: "/srv/base".into() }),
                ("json", file(0o600, Content::Keys { absent: vec![], blocked: vec![] })),
                ("block", file(0o644, Content::Block { sha256: text("ours\n").sha256 })),
            ],
        ),
        (
            None,
            vec![
                ("copy", file(0o700, of(&text("old"), false))),
                ("once", file(0o644, Content::NotRead)),
                ("link", Found::Folder),
                ("json", file(0o644, Content::Keys { absent: vec!["/b/c".into()], blocked: vec![] })),
                ("block", file(0o600, Content::Block { sha256: text("older\n").sha256 })),
            ],
        ),
        (
            Some("# ours"),
            vec![
                ("copy", file(0o755, of(&text("theirs"), false))),
                ("once", Found::Link { target: "/elsewhere".into() }),
                ("link", Found::Link { target: "/elsewhere".into() }),
                ("json", file(0o644, Content::Keys { absent: vec![], blocked: vec!["/b/c".into()] })),
                ("block", file(0o644, Content::NoBlock)),
            ],
        ),
        (
            Some("# ours"),
            vec![
                ("copy", file(0o755, of(&text("old"), true))),
                ("once", Found::Other("a FIFO".into())),
                ("link", Found::Unreadable("permission denied".into())),
                ("json", file(0o600, Content::Unfit("it is no valid JSON (line 1, column 1)".into()))),
                ("block", file(0o600, Content::Unfit("rosterd's block begins twice in it".into()))),
            ],
        ),
        (
            None,
            vec![
                ("copy", Found::Link { target: "/elsewhere".into() }),
                ("once", Found::Folder),
                ("link", file(0o644, Content::NotRead)),
                ("json", Found::Folder),
                ("block", Found::Link { target: "dotfiles/zshrc".into() }),
            ],
        ),
    ];
    let all: Vec<String> = cases
        .iter()
        .map(|(header, found)| {
            let plan = plan(wanted(*header), found);
            format!("{}{}", shown(&plan), table(&plan))
        })
        .collect();
    insta::assert_snapshot!(all.join("--\n"), @"
    ~/copy copy rosterd: up to date
    ~/once once person: there
    ~/link link person: a link to /srv/base, as configured
    ~/json json both: 2 of 2 keys there
    ~/block block both: its block is up to date
    --
    alice: replace ~/copy; what was there stays beside it
    alice: add /b/c to ~/json
    alice: set the block of rosterd in ~/block
    - alice: others may use ~/once, mode 0644: chmod 0600 ~alice/once
    ~/copy copy rosterd: differs
    ~/once once person: there, see the note
    ~/link link person: their own folder
    ~/json json both: 1 of 2 keys there
    ~/block block both: its block differs
    --
    alice: set the mode of ~/json from 0644 to 0600
    alice: set the block of rosterd in ~/block
    - alice: ~/link is left alone: it is a link to /elsewhere, not to /srv/base (kind `link`)
    - alice: ~/json does not get /b/c: what is above is no object
    ~/copy copy person: their own, without the header of a copy
    ~/once once person: their own link to /elsewhere
    ~/link link person: a link to /elsewhere, not to /srv/base, see the note
    ~/json json both: 2 of 2 keys there, see the note
    ~/block block both: it has no block of rosterd's
    --
    alice: replace ~/copy
    - alice: ~/once is left alone: it is a FIFO (kind `once`)
    - alice: ~/link is left alone: it cannot be read: permission denied (kind `link`)
    - alice: ~/json is left alone: it is no valid JSON (line 1, column 1) (kind `json`)
    - alice: ~/block is left alone: rosterd's block begins twice in it (kind `block`)
    ~/copy copy rosterd: differs
    ~/once once person: a FIFO, see the note
    ~/link link person: it cannot be read: permission denied, see the note
    ~/json json person: no valid JSON (line 1, column 1), see the note
    ~/block block person: rosterd's block begins twice in it, see the note
    --
    - alice: ~/copy is left alone: it is a symlink to /elsewhere (kind `copy`)
    - alice: ~/once is left alone: it is a folder (kind `once`)
    - alice: ~/json is left alone: it is a folder (kind `json`)
    - alice: ~/block is left alone: it is a symlink to dotfiles/zshrc (kind `block`)
    ~/copy copy person: a symlink to /elsewhere, see the note
    ~/once once person: a folder, see the note
    ~/link link person: their own file
    ~/json json person: a folder, see the note
    ~/block block person: a symlink to dotfiles/zshrc, see the note
    ");
}

fn any_found() -> impl Strategy<Value = Found> {
    let content = prop_oneof![
        Just(Content::NotRead),
        any::<bool>().prop_map(|header| of(&text("theirs"), header)),
        Just(Content::Keys { absent: vec!["/a".into()], blocked: vec![] }),
        Just(Content::NoBlock),
        Just(Content::Unfit("no".into())),
    ];
    prop_oneof![
        (prop::sample::select(vec![0o600_u32, 0o644, 0o666, 0o755]), content)
            .prop_map(|(mode, content)| Found::File { mode, content }),
        Just(Found::Folder),
        Just(Found::Link { target: "/elsewhere".into() }),
        Just(Found::Other("a FIFO".into())),
        Just(Found::Unreadable("no".into())),
    ]
}

proptest! {
    /// Whatever stands there and is the person's: no step for it, but the mode of a file with keys.
    #[test]
    fn a_persons_own_gets_no_step_invariant_1(found in prop::collection::vec(any_found(), 5)) {
        let names = ["copy", "once", "link", "json", "block"];
        let found: Vec<_> = names.into_iter().zip(found).collect();
        let plan = plan(wanted(Some("# ours")), &found);
        let files = plan.seen.values().flat_map(|seen| &seen.files);
        for status in files.filter(|status| status.owner == files::FileOwner::Person) {
            let touched = plan.steps.iter().any(|step| step.action.to_string().contains(&status.path));
            prop_assert!(!touched, "{status:?} {:?}", plan.steps);
        }
        for (name, found) in &found {
            if !matches!(found, Found::File { .. }) {
                let touched = plan.steps.iter().any(|step| step.action.to_string().contains(&format!("~/{name}")));
                prop_assert!(!touched, "{name} {:?}", plan.steps);
            }
        }
    }
}

const SITE: &str = r##"
[[file]]
path = "~/.codex/AGENTS.md"
kind = "copy"
source = "/srv/settings.json"
source_key = "/claudeMd"
header = "<!-- ours -->"
[[file]]
path = "~/settings.json"
kind = "copy"
source = "/srv/settings.json"
tiers = ["admin"]
[[file]]
path = "~/mail"
kind = "once"
content = "{{os_user}} {{home}} {{login}} {{email}}"
[[file]]
path = "~/.claude.json"
kind = "json"
keys = {"/done" = true}
[[file]]
path = "~/.claude.json"
kind = "json"
keys = {"/mcp" = ["http://localhost:{{port.t3}}"]}
[[service]]
name = "t3"
base_port = 4000
env_file = "/etc/t3/{user}.env"
port_key = "PORT"
tiers = ["admin"]
[[file]]
path = "/etc/skel/x"
kind = "copy"
source = "/srv/gone"
[[file]]
path = "/etc/zsh/zprofile"
kind = "block"
content = "site"
[[file]]
path = "/etc/once"
kind = "once"
content = "x"
[[file]]
path = "/etc/copy"
kind = "copy"
content = "x"
"##;

fn config() -> Config {
    roster::parse::config("config.toml", SITE.as_bytes())
        .unwrap_or_else(|all| panic!("{}", all.render(false)))
}

fn derived(settings: FileState) -> String {
    let people = roster(json!({
        "ana": {"authentik_user": "ana.a@x", "k8s_user": "ana", "tier": "admin", "email": "ana@example.org"},
        "bob": {"authentik_user": "bob", "k8s_user": "bob", "tier": "power-user"},
    }));
    let mut desired =
        derive(&people, &config(), &Ports::new(), &UnknownPorts::new(), &BTreeSet::new()).unwrap();
    let sources = BTreeMap::from([(PathBuf::from("/srv/settings.json"), settings)]);
    let told = files::add(&mut desired, &people, &config(), &sources);
    let mut text = String::new();
    for (user, account) in &desired.accounts {
        for file in &account.home_content.files {
            let what = match &file.wanted {
                FileWanted::Copy { text, .. } | FileWanted::Once { text, .. } => {
                    format!("{:?}", text.as_str())
                }
                other => format!("{other:?}"),
            };
            text += &format!("{user} ~/{} {what}\n", file.path);
        }
    }
    text + &shown(&told)
}

fn present(text: &str) -> FileState {
    FileState::Present { content: text.into(), mode: 0o644 }
}

#[test]
fn entries_become_files_of_each_person() {
    insta::assert_snapshot!(derived(present(r#"{"claudeMd": "be kind"}"#)), @r#"
    ana ~/.codex/AGENTS.md "<!-- ours -->\nbe kind\n"
    ana ~/settings.json "{\"claudeMd\": \"be kind\"}"
    ana ~/mail "ana /home/ana ana.a ana@example.org"
    ana ~/.claude.json Json { keys: [("/done", Bool(true)), ("/mcp", Array [String("http://localhost:4000")])] }
    bob ~/.codex/AGENTS.md "<!-- ours -->\nbe kind\n"
    bob ~/.claude.json Json { keys: [("/done", Bool(true))] }
    - bob: ~/mail is not made: it wants an `email`, and the roster gives none
    "#);
}

/// What stands in the homes stays: no file is derived, and the machine says why.
#[test]
fn a_source_that_cannot_be_used_makes_no_file() {
    let all: Vec<String> = [
        FileState::Absent,
        FileState::Unreadable("it is a folder".into()),
        present(""),
        present(r#"{"claudeMd": "be ki"#),
        present(r#"{"claudeMd": 1}"#),
    ]
    .into_iter()
    .map(|state| {
        derived(state).lines().filter(|line| line.contains("settings")).map(|l| format!("{l}\n")).collect()
    })
    .collect();
    insta::assert_snapshot!(all.join("--\n"), @r#"
    ! machine: ~/.codex/AGENTS.md is not kept up to date from /srv/settings.json: there is no such file; correct /srv/settings.json, which is read again when it is saved; until then what is there stays
    ! machine: ~/settings.json is not kept up to date from /srv/settings.json: there is no such file; correct /srv/settings.json, which is read again when it is saved; until then what is there stays
    --
    ! machine: ~/.codex/AGENTS.md is not kept up to date from /srv/settings.json: it cannot be read: it is a folder; correct /srv/settings.json, which is read again when it is saved; until then what is there stays
    ! machine: ~/settings.json is not kept up to date from /srv/settings.json: it cannot be read: it is a folder; correct /srv/settings.json, which is read again when it is saved; until then what is there stays
    --
    ! machine: ~/.codex/AGENTS.md is not kept up to date from /srv/settings.json: it is empty; correct /srv/settings.json, which is read again when it is saved; until then what is there stays
    ! machine: ~/settings.json is not kept up to date from /srv/settings.json: it is empty; correct /srv/settings.json, which is read again when it is saved; until then what is there stays
    --
    ! machine: ~/.codex/AGENTS.md is not kept up to date from /srv/settings.json: it is no valid JSON: EOF while parsing a string at line 1 column 19; correct /srv/settings.json, which is read again when it is saved; until then what is there stays
    ! machine: ~/settings.json is not kept up to date from /srv/settings.json: it is no valid JSON: EOF while parsing a string at line 1 column 19; correct /srv/settings.json, which is read again when it is saved; until then what is there stays
    --
    ana ~/settings.json "{\"claudeMd\": 1}"
    ! machine: ~/.codex/AGENTS.md is not kept up to date from /srv/settings.json: it has no text under /claudeMd; correct /srv/settings.json, which is read again when it is saved; until then what is there stays
    "#);
}

#[test]
fn files_of_the_machine_are_written_by_their_kind() {
    let mut machine = Machine::fresh();
    machine.config = config();
    let people = roster(json!({}));
    let mut told = |untouched: &[&str], state: &[(&str, FileState)]| {
        machine.host.files.clear();
        machine.host.untouched = untouched.iter().map(PathBuf::from).collect();
        for (path, state) in state {
            machine.host.files.insert((*path).into(), state.clone());
        }
        machine.host.sources.insert("/srv/gone".into(), FileState::Absent);
        let plan = machine.plan(&people).1.plan;
        let shown = shown(&plan);
        let lines = shown
            .lines()
            .filter(|line| ["/etc/zsh", "skel", "once", "copy"].iter().any(|word| line.contains(word)));
        lines.map(|line| format!("{line}\n")).collect::<String>()
    };
    let absent = FileState::Absent;
    let paths = ["/etc/skel/x", "/etc/zsh/zprofile", "/etc/once", "/etc/copy"];
    let mine = FileState::Present { content: "mine\n".into(), mode: 0o600 };
    let block = present(&files::block::put("mine\n", "#", "site").unwrap());
    let all = [
        told(&[], &paths.map(|path| (path, absent.clone()))),
        told(&[], &paths.map(|path| (path, mine.clone()))),
        told(&["/etc/copy"], &paths.map(|path| (path, mine.clone()))),
        told(&[], &paths.map(|path| (path, if path == "/etc/copy" { present("x") } else { block.clone() }))),
    ];
    insta::assert_snapshot!(all.join("--\n"), @"
    machine: write /etc/zsh/zprofile, mode 0644
    machine: write /etc/once, mode 0644
    machine: write /etc/copy, mode 0644
    ! machine: /etc/skel/x is not kept up to date from /srv/gone: there is no such file; correct /srv/gone, which is read again when it is saved; until then what is there stays
    --
    machine: write /etc/zsh/zprofile, mode 0600
    ! machine: /etc/skel/x is not kept up to date from /srv/gone: there is no such file; correct /srv/gone, which is read again when it is saved; until then what is there stays
    ! machine: /etc/copy is not replaced: somebody else wrote what it holds; move it away, or name another file in /etc/rosterd/config.toml
    --
    machine: write /etc/zsh/zprofile, mode 0600
    machine: write /etc/copy, mode 0644
    ! machine: /etc/skel/x is not kept up to date from /srv/gone: there is no such file; correct /srv/gone, which is read again when it is saved; until then what is there stays
    --
    ! machine: /etc/skel/x is not kept up to date from /srv/gone: there is no such file; correct /srv/gone, which is read again when it is saved; until then what is there stays
    ");
}
