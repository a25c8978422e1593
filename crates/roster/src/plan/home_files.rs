//! The files of a home: from what should be to the steps, given what the worker saw. What is the person's is left as it
//! is, and shown; only what stands where nobody would want it is told.

use super::{Action, HomeAction, Plan, Subject};
use crate::desired::HomeDesired;
use crate::files::{
    BEFORE, ClosedFolder, Content, FileAction, FileDesired, FileOwner, FileSeen, FileStatus, FileWanted,
    Found, JSON_MODE, Over,
};
use crate::observed::HomeObserved;

/// Plans the files.
pub(super) fn files(plan: &mut Plan, subject: &Subject, desired: &HomeDesired, observed: &HomeObserved) {
    for (base, closed) in &observed.closed_bases {
        let ClosedFolder { folder, mode } = closed;
        let what =
            format!("others cannot reach ~/{base}, which homes link to: ~/{folder} has mode {mode:04o}");
        plan.access(subject, what, format!("chmod {} ~{subject}/{folder}", closed.wanted(base)));
    }
    for file in &desired.files {
        let Some(FileSeen { found, unfinished }) = observed.files.get(&file.path) else { continue };
        if *unfinished {
            let action = FileAction::CleanUp { path: file.path.clone() };
            step(plan, subject, action, "an earlier run ended in the middle of a change", None);
        }
        let before = plan.notices.len();
        let (owner, words) = one(plan, subject, file, found);
        let told = plan.notices.get(before).is_some();
        plan.seen.entry(subject.clone()).or_default().files.push(FileStatus {
            path: format!("~/{}", file.path),
            kind: file.wanted.kind(),
            owner,
            found: if told { format!("{words}, see the note") } else { words },
        });
    }
}

fn step(plan: &mut Plan, subject: &Subject, action: FileAction, reason: &str, inverse: Option<String>) {
    plan.step(subject, Action::Home(HomeAction::File(action)), reason).inverse = inverse;
}

/// Plans one file. Gives whose it is and what is there.
fn one(plan: &mut Plan, subject: &Subject, file: &FileDesired, found: &Found) -> (FileOwner, String) {
    let path = &file.path;
    let kind = file.wanted.kind().as_str();
    let left = |plan: &mut Plan, what: &str| {
        plan.notice(subject, format!("~/{path} is left alone: {what} (kind `{kind}`)"));
        (FileOwner::Person, what.trim_start_matches("it is ").to_owned())
    };
    match (&file.wanted, found) {
        (_, Found::Unreadable(why)) => left(plan, &format!("it cannot be read: {why}")),
        (_, Found::Other(what)) => left(plan, &format!("it is {what}")),
        (wanted, Found::Absent) => absent(plan, subject, path, wanted),
        (FileWanted::Link { target }, Found::Link { target: found }) if found == target => {
            (FileOwner::Person, format!("a link to {target}, as configured"))
        }
        (FileWanted::Link { target }, Found::Link { target: found }) => {
            left(plan, &format!("it is a link to {found}, not to {target}"))
        }
        (FileWanted::Link { .. }, Found::Folder) => (FileOwner::Person, "their own folder".into()),
        (FileWanted::Link { .. }, Found::File { .. }) => (FileOwner::Person, "their own file".into()),
        (FileWanted::Once { .. }, Found::Link { target }) => {
            (FileOwner::Person, format!("their own link to {target}"))
        }
        (_, Found::Link { target }) => left(plan, &format!("it is a symlink to {target}")),
        (_, Found::Folder) => left(plan, "it is a folder"),
        (wanted, Found::File { mode, content }) => match present(plan, subject, path, wanted, *mode, content)
        {
            Ok(status) => status,
            Err(why) => left(plan, &why),
        },
    }
}

fn absent(plan: &mut Plan, subject: &Subject, path: &str, wanted: &FileWanted) -> (FileOwner, String) {
    let path = path.to_owned();
    let remove = Some(format!("rm ~/{path}"));
    let (action, reason, owner) = match wanted.clone() {
        FileWanted::Copy { text, mode, .. } => {
            (FileAction::Create { path, text, mode }, "a copy, and there is none", FileOwner::Rosterd)
        }
        FileWanted::Once { text, mode } => {
            (FileAction::Create { path, text, mode }, "made once, and there is none", FileOwner::Person)
        }
        FileWanted::Link { target } => {
            (FileAction::Link { path, target }, "a link where there is nothing", FileOwner::Person)
        }
        FileWanted::Json { keys } => {
            (FileAction::AddKeys { path, keys }, "there is no such file", FileOwner::Both)
        }
        FileWanted::Block { text, comment } => {
            (FileAction::SetBlock { path, text, comment }, "there is no such file", FileOwner::Both)
        }
    };
    step(plan, subject, action, reason, remove);
    (owner, "not there yet".into())
}

/// Plans what stands there as a file of the person's. The error says why it is left alone.
fn present(
    plan: &mut Plan,
    subject: &Subject,
    path: &str,
    wanted: &FileWanted,
    mode: u32,
    content: &Content,
) -> Result<(FileOwner, String), String> {
    let not_read = || Err("the worker did not say what is in it".to_owned());
    let owned = |owner, words: &str| Ok((owner, words.to_owned()));
    let set_mode = |plan: &mut Plan, to: u32, reason: &str| {
        let action = FileAction::Mode { path: path.to_owned(), from: mode, to };
        step(plan, subject, action, reason, Some(format!("chmod {mode:04o} ~/{path}")));
    };
    match (wanted, content) {
        (_, Content::Unfit(why)) => Err(why.clone()),
        (
            FileWanted::Copy { text, header, mode: wanted },
            Content::Text { sha256, has_header, is_untouched },
        ) => {
            if *sha256 == text.sha256 {
                if mode != *wanted {
                    set_mode(plan, *wanted, "a copy has the mode that it is configured with");
                }
                return owned(FileOwner::Rosterd, "up to date");
            }
            let over = match header {
                Some(_) if !has_header => {
                    return owned(FileOwner::Person, "their own, without the header of a copy");
                }
                Some(header) => Over::Header(header.clone()),
                None if *is_untouched => Over::Digest(sha256.clone()),
                None => Over::Kept,
            };
            let inverse = (over == Over::Kept).then(|| format!("mv ~/{path}{BEFORE} ~/{path}"));
            let (path, text) = (path.to_owned(), text.clone());
            let action = FileAction::Replace { path, text, mode: *wanted, over };
            step(plan, subject, action, "a copy, and its content differs", inverse);
            owned(FileOwner::Rosterd, "differs")
        }
        (FileWanted::Once { mode: widest, .. }, _) => {
            let wider = mode & !widest & 0o077;
            if wider != 0 {
                let fix = format!("chmod {:04o} ~{subject}/{path}", mode & !wider);
                plan.access(subject, format!("others may use ~/{path}, mode {mode:04o}"), fix);
            }
            owned(FileOwner::Person, "there")
        }
        (FileWanted::Link { .. }, _) => owned(FileOwner::Person, "their own file"),
        (FileWanted::Json { keys }, Content::Keys { absent, blocked }) => {
            let is_absent = |(pointer, _): &&(String, _)| absent.contains(pointer);
            let missing: Vec<_> = keys.iter().filter(is_absent).cloned().collect();
            if !missing.is_empty() {
                let action = FileAction::AddKeys { path: path.to_owned(), keys: missing };
                step(plan, subject, action, "it has no such key", None);
            } else if mode & !JSON_MODE & 0o077 != 0 {
                set_mode(plan, mode & JSON_MODE, "it may hold keys, and others may use it");
            }
            if !blocked.is_empty() {
                let text =
                    format!("~/{path} does not get {}: what is above is no object", blocked.join(", "));
                plan.notice(subject, text);
            }
            let words = format!("{} of {} keys there", keys.len() - absent.len().min(keys.len()), keys.len());
            Ok((FileOwner::Both, words))
        }
        (FileWanted::Block { text, comment }, Content::NoBlock | Content::Block { .. }) => {
            let reason = match content {
                Content::Block { sha256 } if *sha256 == text.sha256 => {
                    return owned(FileOwner::Both, "its block is up to date");
                }
                Content::Block { .. } => "its block differs",
                _ => "it has no block of rosterd's",
            };
            let action =
                FileAction::SetBlock { path: path.to_owned(), text: text.clone(), comment: comment.clone() };
            step(plan, subject, action, reason, None);
            owned(FileOwner::Both, reason)
        }
        (FileWanted::Copy { .. } | FileWanted::Json { .. } | FileWanted::Block { .. }, _) => not_read(),
    }
}
