//! Answers about tmux sessions: for people, for scripts and for programs.

use jiff::Timestamp;
use serde_json::{Value, json};
use tmux_persist::{Action, Answer, Failure, Forgotten, Known, Moment, Outcome, Past, Restored, Row, Saved};

use crate::page::{self, Look, Page, Style, count};
use crate::tmux::Answers;
use crate::when;

/// For programs: a list with an object for each person where several may be asked about, and otherwise the answer.
pub(crate) fn json(answers: &Answers) -> Value {
    let one = |(user, answer): &(String, Result<Answer, Failure>)| match answer {
        Err(Failure { why, next }) => json!({"user": user, "error": {"why": why, "next": next}}),
        Ok(Answer::Saved { saved, left_out }) => {
            let (result, taken, sessions) = told(saved);
            json!({"user": user, "result": result, "snapshot": taken, "sessions": sessions, "left_out": left_out})
        }
        Ok(Answer::Restored(restored)) => {
            let session = |(row, outcome): &(Row, Outcome)| {
                let mut value = json!(row);
                if let Some(fields) = value.as_object_mut() {
                    fields.insert("outcome".into(), outcome_word(outcome).into());
                    if let Outcome::Failed(why) = outcome {
                        fields.insert("why".into(), why.as_str().into());
                    }
                }
                value
            };
            let sessions: Vec<Value> = restored.sessions.iter().map(session).collect();
            json!({"user": user, "snapshot": restored.taken, "sessions": sessions})
        }
        Ok(Answer::History(lines)) => json!({"user": user, "sessions": lines}),
        Ok(Answer::Snapshots(list)) => list
            .iter()
            .map(|one| json!({"snapshot": one.taken, "sessions": one.sessions, "newest": one.newest}))
            .collect(),
        Ok(Answer::Snapshot(view)) => json!({"snapshot": view.taken, "sessions": view.rows}),
        Ok(Answer::Forgotten(one)) => json!({"user": user, "forgotten": one.name, "known": one.known}),
    };
    match answers.as_slice() {
        [single @ (_, Ok(Answer::Snapshots(_) | Answer::Snapshot(_) | Answer::Forgotten(_)))] => one(single),
        all => all.iter().map(one).collect(),
    }
}

fn told(saved: &Saved) -> (&'static str, Option<Moment>, Option<usize>) {
    match saved {
        Saved::NoSessions => ("none", None, None),
        Saved::Unchanged => ("unchanged", None, None),
        Saved::Stored { taken, sessions, held: false } => ("stored", Some(*taken), Some(*sessions)),
        Saved::Stored { taken, sessions, held: true } => ("held", Some(*taken), Some(*sessions)),
        Saved::Confirmed { taken } => ("confirmed", Some(*taken), None),
    }
}

fn outcome_word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Made => "made",
        Outcome::Resumed => "resumed",
        Outcome::LeftAlone => "left_alone",
        Outcome::Failed(_) => "failed",
    }
}

fn known_word(known: Known) -> &'static str {
    match known {
        Known::Live => "live",
        Known::Saved => "saved",
        Known::Unknown => "unknown",
        Known::Unclear => "unclear",
    }
}

/// For scripts: a line a thing, its fields separated by tabs, `-` for nothing. A tab, a line break, a backslash and
/// other control characters in a field are written as in C.
pub(crate) fn tsv(answers: &Answers) -> String {
    let mut text = String::new();
    let mut line = |fields: Vec<String>| {
        let fields: Vec<String> = fields.iter().map(|field| escaped(field)).collect();
        text.push_str(&fields.join("\t"));
        text.push('\n');
    };
    let or_none = |value: Option<String>| value.unwrap_or_default();
    for (user, answer) in answers {
        match answer {
            Err(_) => {}
            Ok(Answer::Saved { saved, .. }) => {
                let (result, taken, sessions) = told(saved);
                line(vec![
                    user.clone(),
                    result.into(),
                    or_none(taken.map(|taken| taken.to_string())),
                    or_none(sessions.map(|sessions| sessions.to_string())),
                ]);
            }
            Ok(Answer::Restored(restored)) => {
                for (row, outcome) in &restored.sessions {
                    let why = if let Outcome::Failed(why) = outcome { why.as_str() } else { "" };
                    line(vec![
                        user.clone(),
                        row.name.to_string(),
                        outcome_word(outcome).into(),
                        row.target.to_string(),
                        why.into(),
                    ]);
                }
            }
            Ok(Answer::Snapshots(list)) => {
                for one in list {
                    let newest = if one.newest { "newest" } else { "" };
                    line(vec![
                        one.taken.to_string(),
                        or_none(one.sessions.map(|sessions| sessions.to_string())),
                        newest.into(),
                    ]);
                }
            }
            Ok(Answer::Snapshot(view)) => {
                for row in &view.rows {
                    line(vec![
                        row.name.to_string(),
                        row.folder.text(),
                        or_none(row.conversation.as_ref().map(ToString::to_string)),
                        row.state.as_str().into(),
                        row.action.as_str().into(),
                        row.target.to_string(),
                        if row.default { "on" } else { "off" }.into(),
                        or_none(row.note.clone()),
                    ]);
                }
            }
            Ok(Answer::History(lines)) => {
                for past in lines {
                    line(vec![
                        user.clone(),
                        past.name.to_string(),
                        past.folder.text(),
                        or_none(past.conversation.as_ref().map(ToString::to_string)),
                        past.first_seen.to_string(),
                        past.last_seen.to_string(),
                        if past.alive { "alive" } else { "dead" }.into(),
                        or_none(past.closed.map(|closed| format!("killed@{}", closed.0))),
                    ]);
                }
            }
            Ok(Answer::Forgotten(one)) => {
                line(vec![user.clone(), one.name.to_string(), known_word(one.known).into()]);
            }
        }
    }
    text
}

fn escaped(field: &str) -> String {
    if field.is_empty() {
        return "-".into();
    }
    let mut text = String::with_capacity(field.len());
    for c in field.chars() {
        match c {
            '\\' => text.push_str(r"\\"),
            '\t' => text.push_str(r"\t"),
            '\n' => text.push_str(r"\n"),
            '\r' => text.push_str(r"\r"),
            c if c.is_control() => text.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => text.push(c),
        }
    }
    text
}

/// For people.
pub(crate) fn text(answers: &Answers, now: Timestamp, look: Look) -> String {
    let mut page = Page::new(look);
    let alone = answers.len() == 1;
    for (user, answer) in answers {
        let Ok(answer) = answer else { continue };
        match answer {
            Answer::Saved { saved, left_out } => {
                self::saved(&mut page, user, saved, alone);
                // Warm spares are no news to a timer.
                if alone && !left_out.is_empty() {
                    self::left_out(&mut page, user, left_out);
                }
            }
            Answer::Restored(restored) => self::restored(&mut page, user, restored, alone),
            Answer::Snapshots(list) if list.is_empty() => {
                page.para(Style::Plain, "no snapshot yet; `rosterctl tmux save` makes one");
            }
            Answer::Snapshots(list) => {
                let row = |one: &tmux_persist::Listed| {
                    let sessions = one.sessions.map_or_else(|| "damaged".into(), |n| n.to_string());
                    let style = if one.sessions.is_none() { Style::Bad } else { Style::Plain };
                    vec![
                        (Style::Strong, one.taken.to_string()),
                        (Style::Plain, ago(one.taken, now)),
                        (style, sessions),
                        (Style::Good, if one.newest { "newest".into() } else { String::new() }),
                    ]
                };
                page.table(&["SNAPSHOT", "TAKEN", "SESSIONS", ""], &list.iter().map(row).collect::<Vec<_>>());
            }
            Answer::Snapshot(view) => {
                page.para(Style::Strong, &format!("{}, {}", view.taken, ago(view.taken, now)));
                page.table(
                    &["", "SESSION", "FOLDER", "CONVERSATION", "RESTORE", "NOTE"],
                    &view.rows.iter().map(row).collect::<Vec<_>>(),
                );
            }
            Answer::History(lines) => history(&mut page, user, lines, now, alone),
            Answer::Forgotten(one) => forgotten(&mut page, user, one),
        }
    }
    let nothing = |(_, answer): &(String, Result<Answer, Failure>)| matches!(answer, Ok(Answer::Restored(restored)) if did_nothing(restored) && restored.damaged.is_none());
    if !alone && !answers.is_empty() && answers.iter().all(nothing) {
        page.para(Style::Plain, "nothing is missing of anybody's sessions");
    }
    page.finish()
}

/// When a snapshot was taken. Two in one second are told apart by a second more; what is farther ahead was named by a clock
/// that was wrong then or is now.
pub(crate) fn ago(then: Moment, now: Timestamp) -> String {
    match then.0.saturating_sub(now.as_second()) {
        1..=60 => "just now".into(),
        61.. => "clock ahead".into(),
        _ => Timestamp::from_second(then.0).map_or_else(|_| "?".into(), |then| when::ago(then, now)),
    }
}

fn forgotten(page: &mut Page, user: &str, one: &Forgotten) {
    let name = &one.name;
    page.para(Style::Plain, &format!("{user}: {name} was closed on purpose; restore leaves it out"));
    let (style, more) = match one.known {
        Known::Saved | Known::Unclear => return,
        Known::Live => (Style::Warn, "it is live, and counts as closed until a save finds it so".to_owned()),
        Known::Unknown => (
            Style::Warn,
            format!("no session {name} is live or in any snapshot: `rosterctl tmux history` has their names"),
        ),
    };
    page.para(style, &format!("{user}: {more}"));
}

fn left_out(page: &mut Page, user: &str, names: &[String]) {
    let names: Vec<String> = names.iter().map(|name| format!("`{}`", page::clean_line(name))).collect();
    let text = format!(
        "{user}: not saved, as their names have more than letters, digits, `_` and `-`, or more than 32 of them: {}",
        names.join(", ")
    );
    page.para(Style::Warn, &text);
}

fn did_nothing(restored: &Restored) -> bool {
    restored.sessions.iter().all(|(_, outcome)| *outcome == Outcome::LeftAlone)
}

fn saved(page: &mut Page, user: &str, saved: &Saved, alone: bool) {
    let text = match saved {
        // Every five minutes, for everybody, this would fill the journal with nothing.
        Saved::NoSessions | Saved::Unchanged if !alone => return,
        Saved::NoSessions => "no session to save".into(),
        Saved::Unchanged => "nothing has changed since the newest snapshot".into(),
        Saved::Stored { taken, sessions, held } => {
            let sessions = count(*sessions, "session", "sessions");
            let held = if *held {
                "; most of what was there is missing, so restore takes the one before until the next save finds the same"
            } else {
                ""
            };
            format!("saved {sessions} as {taken}{held}")
        }
        Saved::Confirmed { taken } => format!("what is missing stays missing; restore takes {taken} now"),
    };
    page.para(Style::Plain, &format!("{user}: {text}"));
}

fn restored(page: &mut Page, user: &str, restored: &Restored, alone: bool) {
    if let Some(damaged) = restored.damaged {
        let instead =
            restored.taken.map_or_else(|| "none before it is whole".to_owned(), |t| format!("{t} is taken"));
        page.para(Style::Warn, &format!("{user}: the snapshot {damaged} is damaged; {instead}"));
    }
    for (row, outcome) in &restored.sessions {
        let target = if row.target == row.name { String::new() } else { format!(" as {}", row.target) };
        let conversation = match &row.conversation {
            Some(id) if row.note.as_deref() == Some("gone") => {
                format!(", its conversation {} is gone", short(id))
            }
            Some(id) if row.note.as_deref() == Some("folder_gone") => {
                format!(", its conversation {} not, as the folder where it resumes is gone", short(id))
            }
            Some(id) => format!(", conversation {}", short(id)),
            None => String::new(),
        };
        let instead = row.instead.as_ref().map_or_else(String::new, |folder| {
            let gone =
                if row.note.as_deref() == Some("folder_gone") { "" } else { ", as its folder is gone" };
            format!("; a shell is in {} instead{gone}", one_line(folder))
        });
        let beside = if row.action == Action::Suffixed { format!("; {}", note(row)) } else { String::new() };
        let (style, text) = match outcome {
            Outcome::LeftAlone => continue,
            Outcome::Made => {
                (Style::Plain, format!("restored {}{target}{conversation}{instead}{beside}", row.name))
            }
            Outcome::Resumed => (Style::Plain, format!("resumed {} in place{conversation}", row.name)),
            Outcome::Failed(why) => {
                (Style::Bad, format!("could not restore {}{target}: {}", row.name, page::clean_line(why)))
            }
        };
        page.para(style, &format!("{user}: {text}"));
    }
    if did_nothing(restored) && alone {
        let text = if restored.taken.is_some() { "nothing is missing" } else { "there is no snapshot yet" };
        page.para(Style::Plain, &format!("{user}: {text}"));
    }
}

/// The beginning of a conversation's id.
pub(crate) fn short(id: &tmux_persist::ConversationId) -> &str {
    id.as_str().get(..8).unwrap_or(id.as_str())
}

/// A folder on one line.
pub(crate) fn one_line(folder: &tmux_persist::Folder) -> String {
    page::clean_line(&folder.text())
}

/// What restoring a row does, in words.
pub(crate) fn does(row: &Row) -> (Style, String) {
    match row.action {
        Action::New => (Style::Good, "make it".into()),
        Action::Suffixed => (Style::Warn, format!("make {}", row.target)),
        Action::InPlace => (Style::Good, "resume in place".into()),
        Action::Skip => (Style::Faint, "nothing, it is live".into()),
    }
}

/// A note in words.
pub(crate) fn note(row: &Row) -> String {
    match row.note.as_deref() {
        None if row.action == Action::Suffixed => format!("{} is live with something else in it", row.name),
        None if row.instead.is_some() => "its folder is gone".into(),
        None => String::new(),
        Some("gone") => "its conversation is gone".into(),
        Some("folder_gone") => "its folder is gone".into(),
        Some("unprintable") => "its folder's name cannot be typed".into(),
        Some("taken") => "every name for it is taken".into(),
        Some("pane_closed") => format!("its pane in {} was closed", row.name),
        Some("half_typed") => format!(
            "a line may be half typed in {}: to resume it there, end {}, empty that line and restore again",
            row.name, row.target
        ),
        Some(note) => match note.split_once('@') {
            Some(("killed", _)) => "closed on purpose since".into(),
            Some(("live", name)) => format!("goes on in {}", page::clean_line(name)),
            _ => page::clean_line(note),
        },
    }
}

fn row(row: &Row) -> Vec<(Style, String)> {
    let conversation = row.conversation.as_ref().map_or_else(String::new, |id| short(id).to_owned());
    vec![
        (Style::Good, if row.default { "x".into() } else { String::new() }),
        (Style::Strong, row.name.to_string()),
        (Style::Plain, one_line(&row.folder)),
        (Style::Plain, conversation),
        does(row),
        (Style::Warn, note(row)),
    ]
}

fn history(page: &mut Page, user: &str, lines: &[Past], now: Timestamp, alone: bool) {
    if !alone {
        page.gap();
        page.para(Style::Strong, user);
    }
    if lines.is_empty() {
        page.para(Style::Plain, "no session was ever saved");
        return;
    }
    let row = |past: &Past| {
        let conversation = past.conversation.as_ref().map_or_else(String::new, |id| short(id).to_owned());
        let (style, state) = match (past.alive, past.closed) {
            (true, None) => (Style::Good, "alive"),
            (true, Some(_)) => (Style::Warn, "alive, closed on purpose"),
            (false, None) => (Style::Faint, "dead"),
            (false, Some(_)) => (Style::Faint, "closed on purpose"),
        };
        vec![
            (Style::Strong, past.name.to_string()),
            (Style::Plain, one_line(&past.folder)),
            (Style::Plain, conversation),
            (Style::Plain, ago(past.first_seen, now)),
            (Style::Plain, ago(past.last_seen, now)),
            (style, state.to_owned()),
        ]
    };
    page.table(
        &["SESSION", "FOLDER", "CONVERSATION", "FIRST SEEN", "LAST SEEN", ""],
        &lines.iter().map(row).collect::<Vec<_>>(),
    );
}

#[cfg(test)]
mod tests {
    use tmux_persist::{ConversationId, Folder, Listed, SessionName, State, View};

    use super::*;
    use crate::render::samples::{LOOK, at};

    const TAKEN: Moment = Moment(1_772_366_820);

    fn now() -> Timestamp {
        at("2026-03-01T12:10:00Z")
    }

    fn row(name: &str, folder: &str, state: State, action: Action, note: Option<&str>) -> Row {
        let name = SessionName::new(name).unwrap();
        let target = match action {
            Action::Suffixed => SessionName::new(&format!("{name}-1207")).unwrap(),
            _ => name.clone(),
        };
        Row {
            name,
            folder: Folder::new(folder).unwrap(),
            conversation: ConversationId::new("01234567-89ab-cdef-0123-456789abcdef"),
            state,
            action,
            target,
            default: action != Action::Skip && note.is_none(),
            note: note.map(str::to_owned),
            instead: None,
            windows: 2,
            panes: 3,
        }
    }

    fn rows() -> Vec<Row> {
        vec![
            row("infra", "/home/ann/code/infra", State::Missing, Action::New, None),
            row("odd", "/home/ann/a\tb\n\u{1b}[2J\\", State::LiveNoClaude, Action::InPlace, None),
            row("old", "/home/ann", State::Missing, Action::New, Some("killed@1772366900")),
            row("web", "/home/ann/code", State::LiveOtherConv, Action::Suffixed, None),
            row("work", "/home/ann", State::LiveSame, Action::Skip, Some("live@other")),
        ]
    }

    fn one(answer: Answer) -> Answers {
        vec![("ann".into(), Ok(answer))]
    }

    #[test]
    fn a_snapshot_is_a_table() {
        let answers = one(Answer::Snapshot(View { taken: TAKEN, rows: rows() }));
        insta::assert_snapshot!(text(&answers, now(), LOOK), @r"
        20260301T120700, 3 min ago
           SESSION  FOLDER                     CONVERSATION  RESTORE              NOTE
        x  infra    /home/ann/code/infra       01234567      make it
        x  odd      /home/ann/a b\n\u{1b}[2J\  01234567      resume in place
           old      /home/ann                  01234567      make it              closed on purpose since
        x  web      /home/ann/code             01234567      make web-1207        web is live with something else in it
           work     /home/ann                  01234567      nothing, it is live  goes on in other
        ");
        insta::assert_snapshot!(tsv(&answers), @r"
        infra	/home/ann/code/infra	01234567-89ab-cdef-0123-456789abcdef	missing	new	infra	on	-
        odd	/home/ann/a\tb\n\x1b[2J\\	01234567-89ab-cdef-0123-456789abcdef	live_no_claude	in_place	odd	on	-
        old	/home/ann	01234567-89ab-cdef-0123-456789abcdef	missing	new	old	off	killed@1772366900
        web	/home/ann/code	01234567-89ab-cdef-0123-456789abcdef	live_other_conv	suffixed	web-1207	on	-
        work	/home/ann	01234567-89ab-cdef-0123-456789abcdef	live_same	skip	work	off	live@other
        ");
        let value = json(&answers);
        assert_eq!(value["snapshot"], "20260301T120700");
        assert_eq!(value["sessions"][1]["folder"], "/home/ann/a\tb\n\u{1b}[2J\\");
        assert_eq!(value["sessions"][3]["action"], "suffixed");
    }

    #[test]
    fn why_a_session_is_made_beside_is_told() {
        let told =
            |note| super::note(&row("web", "/srv", State::LiveOtherConv, Action::Suffixed, Some(note)));
        assert_eq!(told("pane_closed"), "its pane in web was closed");
        assert_eq!(
            told("half_typed"),
            "a line may be half typed in web: to resume it there, end web-1207, empty that line and restore again"
        );
    }

    #[test]
    fn snapshots_are_listed() {
        let listed = |by: i64, sessions, newest| Listed { taken: Moment(TAKEN.0 - by), sessions, newest };
        let answers = one(Answer::Snapshots(vec![
            listed(0, Some(2), false),
            listed(300, Some(12), true),
            listed(600, None, false),
        ]));
        insta::assert_snapshot!(text(&answers, now(), LOOK), @r"
        SNAPSHOT         TAKEN       SESSIONS
        20260301T120700  3 min ago   2
        20260301T120200  8 min ago   12        newest
        20260301T115700  13 min ago  damaged
        ");
        insta::assert_snapshot!(tsv(&answers), @r"
        20260301T120700	2	-
        20260301T120200	12	newest
        20260301T115700	-	-
        ");
    }

    #[test]
    fn a_restore_tells_each_session() {
        let outcomes = [
            Outcome::Made,
            Outcome::Resumed,
            Outcome::LeftAlone,
            Outcome::Failed("tmux did not make it: no\nspace".into()),
            Outcome::LeftAlone,
        ];
        let sessions = rows().into_iter().zip(outcomes).collect();
        let answers = one(Answer::Restored(Restored { taken: Some(TAKEN), damaged: None, sessions }));
        insta::assert_snapshot!(text(&answers, now(), LOOK), @r"
        ann: restored infra, conversation 01234567
        ann: resumed odd in place, conversation 01234567
        ann: could not restore web as web-1207: tmux did not make it: no\nspace
        ");
        insta::assert_snapshot!(tsv(&answers), @r"
        ann	infra	made	infra	-
        ann	odd	resumed	odd	-
        ann	old	left_alone	old	-
        ann	web	failed	web-1207	tmux did not make it: no\nspace
        ann	work	left_alone	work	-
        ");
        assert_eq!(json(&answers)[0]["sessions"][0]["outcome"], "made");
    }

    #[test]
    fn a_save_for_everybody_tells_only_what_happened() {
        let stored = |held| Saved::Stored { taken: TAKEN, sessions: 3, held };
        let saved = [
            Saved::Unchanged,
            Saved::NoSessions,
            stored(false),
            stored(true),
            Saved::Confirmed { taken: TAKEN },
        ];
        let people = ["ann", "bob", "cyd", "dan", "eve"];
        let mut answers: Answers = people
            .iter()
            .zip(saved)
            .map(|(user, saved)| {
                ((*user).to_owned(), Ok(Answer::Saved { saved, left_out: vec!["x".into()] }))
            })
            .collect();
        answers.push(("flo".into(), Err(Failure { why: "gave up".into(), next: "wait".into() })));
        insta::assert_snapshot!(text(&answers, now(), LOOK), @r"
        cyd: saved 3 sessions as 20260301T120700
        dan: saved 3 sessions as 20260301T120700; most of what was there is missing, so
        restore takes the one before until the next save finds the same
        eve: what is missing stays missing; restore takes 20260301T120700 now
        ");
        insta::assert_snapshot!(tsv(&answers), @r"
        ann	unchanged	-	-
        bob	none	-	-
        cyd	stored	20260301T120700	3
        dan	held	20260301T120700	3
        eve	confirmed	20260301T120700	-
        ");
        assert_eq!(json(&answers)[5]["error"]["why"], "gave up");
        let left_out = vec!["my work".into(), "a\u{1b}b".into()];
        let alone = one(Answer::Saved { saved: Saved::Unchanged, left_out });
        insta::assert_snapshot!(text(&alone, now(), LOOK), @r"
        ann: nothing has changed since the newest snapshot
        ann: not saved, as their names have more than letters, digits, `_` and `-`, or
        more than 32 of them: `my work`, `a\u{1b}b`
        ");
    }

    #[test]
    fn a_close_of_what_is_not_known_is_told() {
        let told = |known| {
            let name = SessionName::new("wbe").unwrap();
            let answers = one(Answer::Forgotten(Forgotten { name, known }));
            text(&answers, now(), LOOK) + &tsv(&answers)
        };
        insta::assert_snapshot!(told(Known::Saved), @"
        ann: wbe was closed on purpose; restore leaves it out
        ann	wbe	saved
        ");
        insta::assert_snapshot!(told(Known::Live), @"
        ann: wbe was closed on purpose; restore leaves it out
        ann: it is live, and counts as closed until a save finds it so
        ann	wbe	live
        ");
        insta::assert_snapshot!(told(Known::Unknown), @"
        ann: wbe was closed on purpose; restore leaves it out
        ann: no session wbe is live or in any snapshot: `rosterctl tmux history` has
        their names
        ann	wbe	unknown
        ");
    }

    #[test]
    fn a_restore_for_everybody_says_so_when_there_is_nothing_to_do() {
        let nothing = || Ok(Answer::Restored(Restored::default()));
        let mut answers: Answers = vec![("ann".into(), nothing()), ("bob".into(), nothing())];
        assert_eq!(text(&answers, now(), LOOK), "nothing is missing of anybody's sessions\n");
        answers.push(("cyd".into(), Err(Failure { why: "gave up".into(), next: "wait".into() })));
        assert_eq!(text(&answers, now(), LOOK), "");
    }

    #[test]
    fn a_restore_says_where_a_session_is_whose_folder_is_gone() {
        let home = Folder::new("/home/ann");
        let row = |note: Option<&str>, conversation: bool| {
            let row = row("web", "/srv/gone", State::Missing, Action::New, note);
            let conversation = row.conversation.clone().filter(|_| conversation);
            Row { instead: home.clone(), conversation, ..row }
        };
        let sessions =
            vec![(row(Some("folder_gone"), true), Outcome::Made), (row(None, false), Outcome::Made)];
        let answers = one(Answer::Restored(Restored { taken: Some(TAKEN), damaged: None, sessions }));
        insta::assert_snapshot!(text(&answers, now(), LOOK), @"
        ann: restored web, its conversation 01234567 not, as the folder where it resumes
        is gone; a shell is in /home/ann instead
        ann: restored web; a shell is in /home/ann instead, as its folder is gone
        ");
    }

    #[test]
    fn what_a_wrong_clock_has_named_is_not_to_come() {
        let told = |ahead| ago(Moment(now().as_second() + ahead), now());
        assert_eq!(
            [told(0), told(2), told(60), told(61)],
            ["just now", "just now", "just now", "clock ahead"]
        );
    }

    #[test]
    fn a_history_says_who_is_alive() {
        let past = |name: &str, alive| Past {
            name: SessionName::new(name).unwrap(),
            folder: Folder::new("/srv").unwrap(),
            conversation: None,
            first_seen: Moment(TAKEN.0 - 90_000),
            last_seen: TAKEN,
            alive,
            closed: None,
        };
        let closed = Past { closed: Some(TAKEN.next()), ..past("old", false) };
        let answers = one(Answer::History(vec![past("7", true), past("007", false), closed]));
        insta::assert_snapshot!(text(&answers, now(), LOOK), @"
        SESSION  FOLDER  CONVERSATION  FIRST SEEN  LAST SEEN
        7        /srv                  25 h ago    3 min ago  alive
        007      /srv                  25 h ago    3 min ago  dead
        old      /srv                  25 h ago    3 min ago  closed on purpose
        ");
        insta::assert_snapshot!(tsv(&answers), @"
        ann	7	/srv	-	20260228T110700	20260301T120700	alive	-
        ann	007	/srv	-	20260228T110700	20260301T120700	dead	-
        ann	old	/srv	-	20260228T110700	20260301T120700	dead	killed@1772366821
        ");
    }
}
