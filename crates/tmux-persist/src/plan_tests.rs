//! What a restore does, case by case.

use super::*;
use crate::format::from_tsv;

const X: &str = "00000000-0000-4000-8000-00000000000a";
const Y: &str = "00000000-0000-4000-8000-00000000000b";

fn name(text: &str) -> SessionName {
    SessionName::new(text).unwrap()
}

fn folder(text: &str) -> Folder {
    Folder::new(text).unwrap()
}

fn id(text: &str) -> ConversationId {
    ConversationId::new(text).unwrap()
}

/// `20260301T120700`.
const TAKEN: i64 = 1_772_366_820;

fn snapshot(rows: &[(&str, &str)]) -> Snapshot {
    let text: String = rows.iter().map(|(name, id)| format!("{name}\t/srv/{name}\t{id}\n")).collect();
    from_tsv(Moment(TAKEN), text.as_bytes(), &folder("/home/ann"))
}

fn facts() -> Facts {
    let of = |text| (id(text), folder("/srv/a"));
    Facts {
        home: folder("/home/ann"),
        transcripts: [of(X), of(Y)].into(),
        folders: ["/home/ann", "/srv/a", "/srv/b"].map(folder).into(),
        seen_in: BTreeMap::new(),
    }
}

fn pane(conversation: Option<&str>) -> LivePane {
    LivePane {
        id: "%1".into(),
        window: 0,
        pane: 0,
        position: 0,
        active: true,
        pid: None,
        prompt: Prompt::new("1 %1 2 80 0 0 0 bash 0 2 0").filter(|_| conversation.is_none()),
        doubtful: false,
        claude: conversation.is_some(),
        conversation: conversation.map(id),
    }
}

fn live(sessions: &[(&str, LivePane)]) -> Live {
    Live { server: None, sessions: sessions.iter().map(|(n, pane)| (name(n), vec![pane.clone()])).collect() }
}

fn told(snapshot: &Snapshot, live: &Live, facts: &Facts, closed: &[(&str, i64)]) -> String {
    let closed = Tombstones::new(closed.iter().map(|(n, at)| (name(n), Moment(*at))).collect());
    let rows = resolve(snapshot, live, facts, &closed);
    let line = |one: &Resolved| {
        let row = &one.row;
        let (state, action, on) =
            (row.state.as_str(), row.action.as_str(), if row.default { "on" } else { "off" });
        let does = match &one.doing {
            Doing::Make { starts, .. } => format!("{:?}", starts[0]).split(' ').next().unwrap().to_owned(),
            Doing::Type(typed) => format!("types into {}", typed[0].pane.id),
            Doing::Nothing => "nothing".into(),
        };
        format!(
            "{} {state} {action} {} {on} {} | {does}",
            row.name,
            row.target,
            row.note.as_deref().unwrap_or("-")
        )
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn what_is_missing_is_made_and_what_is_live_is_left_alone() {
    insta::assert_snapshot!(
        told(
            &snapshot(&[("a", X), ("b", "-"), ("c", Y)]),
            &live(&[("a", pane(Some(X))), ("b", pane(None)), ("other", pane(None))]),
            &facts(),
            &[],
        ),
        @r"
    a live_same skip a off - | nothing
    b live_same skip b off - | nothing
    c missing new c on - | Resume
    "
    );
}

#[test]
fn another_conversation_is_restored_beside() {
    let long = "x".repeat(32);
    insta::assert_snapshot!(
        told(
            &snapshot(&[("a", X), (&long, Y)]),
            &live(&[("a", pane(Some("00000000-0000-4000-8000-00000000000c"))), (&long, LivePane { prompt: None, ..pane(None) })]),
            &facts(),
            &[],
        ),
        @r"
    a live_other_conv suffixed a-1207 on - | Resume
    xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx live_other_conv suffixed xxxxxxxxxxxxxxxxxxxxxxxxxxx-1207 on - | Resume
    "
    );
    // A claude whose conversation is not known is somebody's work as well.
    let unknown = LivePane { claude: true, prompt: None, ..pane(None) };
    insta::assert_snapshot!(
        told(&snapshot(&[("a", X)]), &live(&[("a", unknown.clone()), ("a-1207", unknown)]), &facts(), &[]),
        @"a live_other_conv suffixed a-1207-2 on - | Resume"
    );
}

#[test]
fn a_shell_whose_claude_died_is_typed_into() {
    insta::assert_snapshot!(
        told(&snapshot(&[("a", X)]), &live(&[("a", pane(None))]), &facts(), &[]),
        @"a live_no_claude in_place a on - | types into %1"
    );
    let gone = Facts { transcripts: Default::default(), ..facts() };
    insta::assert_snapshot!(
        told(&snapshot(&[("a", X)]), &live(&[("a", pane(None))]), &gone, &[]),
        @"a live_no_claude skip a off gone | nothing"
    );
}

#[test]
fn no_other_pane_is_typed_into_than_the_one_that_had_the_conversation() {
    let mut taken = snapshot(&[("a", X)]);
    let beside = taken.sessions[0].windows[0].panes[0].clone();
    taken.sessions[0].windows[0].index = Some(0);
    taken.sessions[0].windows[0].panes.push(Pane { conversation: None, ..beside });
    let seen = Facts { seen_in: [(id(X), "%1".to_owned())].into(), ..facts() };
    let other = LivePane { id: "%2".into(), position: 1, active: false, ..pane(None) };
    let of = |panes: &[&LivePane]| Live {
        sessions: [(name("a"), panes.iter().map(|pane| (*pane).clone()).collect())].into(),
        ..Live::default()
    };
    let beside = "a live_other_conv suffixed a-1207 on - | Resume";
    let into = "a live_no_claude in_place a on - | types into %1";
    // As they were, and swapped: it is that very pane, wherever it stands.
    assert_eq!(told(&taken, &of(&[&pane(None), &other]), &seen, &[]), into);
    let swapped =
        [&LivePane { position: 0, ..other.clone() }, &LivePane { position: 1, window: 4, ..pane(None) }];
    assert_eq!(told(&taken, &of(&swapped), &seen, &[]), into);
    // It is busy, and the other one waits.
    let busy = LivePane { prompt: None, ..pane(None) };
    assert_eq!(told(&taken, &of(&[&busy, &other]), &seen, &[]), beside);
    let unsent = LivePane { doubtful: true, ..busy };
    let why = beside.replace("on -", "on half_typed");
    assert_eq!(told(&taken, &of(&[&unsent, &other]), &seen, &[]), why);
    // It is closed, and another one has its place: alone, or after a split.
    let beside = beside.replace("on -", "on pane_closed");
    let moved = LivePane { position: 0, active: true, ..other.clone() };
    let new = LivePane { id: "%3".into(), ..other.clone() };
    assert_eq!(told(&taken, &of(&[&moved]), &seen, &[]), beside);
    assert_eq!(told(&taken, &of(&[&moved, &new]), &seen, &[]), beside);
    assert_eq!(told(&snapshot(&[("a", X)]), &of(&[&moved]), &seen, &[]), beside);
}

#[test]
fn on_a_server_that_never_showed_it_only_one_pane_can_be_meant() {
    let into = "a live_no_claude in_place a on - | types into %1";
    let beside = "a live_other_conv suffixed a-1207 on - | Resume";
    let mut taken = snapshot(&[("a", X)]);
    let of = |panes: &[&LivePane]| Live {
        sessions: [(name("a"), panes.iter().map(|pane| (*pane).clone()).collect())].into(),
        ..Live::default()
    };
    // The only one of the session, in a window that has another number now.
    taken.sessions[0].windows[0].index = Some(0);
    assert_eq!(told(&taken, &of(&[&LivePane { window: 7, ..pane(None) }]), &facts(), &[]), into);
    // The only one of its window.
    let elsewhere = LivePane { id: "%2".into(), window: 1, ..pane(None) };
    assert_eq!(told(&taken, &of(&[&pane(None), &elsewhere]), &facts(), &[]), into);
    assert_eq!(
        told(&taken, &of(&[&LivePane { window: 2, ..pane(None) }, &elsewhere]), &facts(), &[]),
        beside
    );
    // Two, now or then.
    let second = LivePane { id: "%2".into(), position: 1, ..pane(None) };
    assert_eq!(told(&taken, &of(&[&pane(None), &second]), &facts(), &[]), beside);
    let plain = Pane { conversation: None, ..taken.sessions[0].windows[0].panes[0].clone() };
    taken.sessions[0].windows[0].panes.push(plain);
    assert_eq!(told(&taken, &of(&[&pane(None), &second]), &facts(), &[]), beside);
    assert_eq!(told(&taken, &of(&[&pane(None)]), &facts(), &[]), beside);
}

#[test]
fn what_a_terminal_would_obey_is_not_typed() {
    // Nor what is longer than it takes on a line: in quotes, each `'` is four.
    for odd in ["/srv/a\u{3}b".to_owned(), format!("/srv/{}", "'".repeat(800))] {
        let odd = folder(&odd);
        let facts = Facts {
            transcripts: [(id(X), odd.clone())].into(),
            folders: [odd, folder("/home/ann")].into(),
            ..facts()
        };
        let told = told(&snapshot(&[("a", X)]), &live(&[("a", pane(None))]), &facts, &[]);
        assert_eq!(told, "a live_no_claude skip a off unprintable | nothing");
    }
}

#[test]
fn a_conversation_is_never_resumed_twice() {
    // It goes on in a session of another name; and a snapshot of the earlier layout may name it twice.
    insta::assert_snapshot!(
        told(&snapshot(&[("a", X), ("b", Y), ("c", Y)]), &live(&[("renamed", pane(Some(X)))]), &facts(), &[]),
        @r"
    a live_same skip a off live@renamed | nothing
    b missing new b on - | Resume
    c live_same skip c off live@b | nothing
    "
    );
}

#[test]
fn what_was_closed_after_the_snapshot_is_unticked() {
    insta::assert_snapshot!(
        told(&snapshot(&[("a", X), ("b", "-")]), &Live::default(), &facts(), &[("a", TAKEN + 1), ("b", TAKEN)]),
        @r"
    a missing new a off killed@1772366821 | Resume
    b missing new b on - | Shell
    "
    );
}

#[test]
fn a_conversation_that_is_gone_leaves_a_shell_that_says_so() {
    let no_transcript = Facts { transcripts: Default::default(), ..facts() };
    insta::assert_snapshot!(
        told(&snapshot(&[("a", X)]), &Live::default(), &no_transcript, &[]),
        @"a missing new a on gone | Gone"
    );
    let no_folder = Facts { folders: [folder("/home/ann")].into(), ..facts() };
    insta::assert_snapshot!(
        told(&snapshot(&[("a", X), ("b", "-")]), &Live::default(), &no_folder, &[]),
        @r"
    a missing new a on folder_gone | FolderGone
    b missing new b on - | Shell
    "
    );
    let rows = resolve(&snapshot(&[("b", "-")]), &Live::default(), &no_folder, &Tombstones::default());
    let Doing::Make { starts, .. } = &rows[0].doing else { panic!() };
    assert_eq!(*starts, [Start::Shell { folder: folder("/home/ann") }]);
}

#[test]
fn a_selection_is_whole_or_nothing_and_names_are_text() {
    let rows = || {
        resolve(&snapshot(&[("007", "-"), ("b", "-")]), &Live::default(), &facts(), &Tombstones::default())
    };
    let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<Vec<_>>();
    assert_eq!(select(rows(), &names(&["b", "7"])), Err(NotThere(vec!["7".into()])));
    let chosen = select(rows(), &names(&["b", "007", "b"])).unwrap();
    assert_eq!(chosen.iter().map(|one| one.row.name.as_str()).collect::<Vec<_>>(), ["b", "007"]);
}
