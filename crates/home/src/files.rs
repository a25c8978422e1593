//! Files that the configuration names: looks at what stands in their places, and changes one as the plan says. Nothing
//! here decides whose a file is.
//!
//! How one is changed while others write it is in `change`.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::{OFlag, readlinkat, renameat};
use nix::libc;
use nix::sys::stat::{Mode, fchmod, fstat, mkdirat};
use nix::unistd::symlinkat;

use roster::files::json::{self, At};
use roster::files::{
    BEFORE, ClosedFolder, Content, FileAction, FileDesired, FileSeen, FileWanted, Found, JSON_MODE, Over,
    block, sha256,
};

use crate::change::{Lock, beside, change, is_untouched, remove, sync, words, write};
use crate::edit::closed;
use crate::protocol::Failure;
use crate::tree;

/// No text that is configured comes near this.
const MAX_TEXT: u64 = 4 << 20;
/// As many versions of a person's own as are kept beside a copy.
const MAX_KEPT: usize = 20;
/// Agents keep much in their JSON files.
const MAX_JSON: u64 = 16 << 20;

/// What stands in the place of each file.
pub(crate) fn observe(home: &OwnedFd, files: &[FileDesired]) -> BTreeMap<String, FileSeen> {
    let seen = |file: &FileDesired| {
        let unfinished = tree::open(home, &beside(&file.path), OFlag::O_PATH).is_ok();
        (file.path.clone(), FileSeen { found: look(home, file), unfinished })
    };
    files.iter().map(seen).collect()
}

/// Of the folders that other homes link to, those that others cannot reach. The home's own folder is root's to look at.
pub(crate) fn closed_bases(home: &OwnedFd, bases: &[String]) -> BTreeMap<String, ClosedFolder> {
    bases.iter().filter_map(|base| Some((base.clone(), closed_below(home, base)?))).collect()
}

/// Whether others can go through to a folder of this home and read it.
pub(crate) fn is_open(home: &OwnedFd, path: &str) -> bool {
    let of_home = fstat(home).is_ok_and(|stat| stat.st_mode & 0o001 != 0);
    of_home && tree::open(home, path, OFlag::O_PATH).is_ok() && closed_below(home, path).is_none()
}

/// The first folder below the home on the way to `path`, itself included, that others cannot go through. What is not
/// there, or behind a symlink, is not looked at.
fn closed_below(home: &OwnedFd, path: &str) -> Option<ClosedFolder> {
    let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
    for folder in ends.map(|end| &path[..end]) {
        let stat = fstat(tree::open(home, folder, OFlag::O_PATH).ok()?).ok()?;
        let mode = stat.st_mode & 0o7777;
        // What is at the end is read as well.
        let wanted = if folder == path { 0o005 } else { 0o001 };
        if tree::is_folder(&stat) && mode & wanted != wanted {
            return Some(ClosedFolder { folder: folder.to_owned(), mode });
        }
    }
    None
}

fn look(home: &OwnedFd, file: &FileDesired) -> Found {
    let unreadable = |errno: Errno| Found::Unreadable(tree::words(errno).to_owned());
    let found = match tree::open(home, &file.path, OFlag::O_PATH) {
        Ok(found) => found,
        Err(Errno::ENOENT) => return Found::Absent,
        Err(Errno::ELOOP) => return Found::Other("a place behind a symlink".into()),
        Err(Errno::ENOTDIR) => return Found::Other("a place below something that is no folder".into()),
        Err(errno) => return unreadable(errno),
    };
    let stat = match fstat(&found) {
        Ok(stat) => stat,
        Err(errno) => return unreadable(errno),
    };
    if tree::is_folder(&stat) {
        return Found::Folder;
    }
    if stat.st_mode & libc::S_IFMT == libc::S_IFLNK {
        return match readlinkat(&found, "") {
            Ok(target) => Found::Link { target: target.to_string_lossy().into_owned() },
            Err(errno) => unreadable(errno),
        };
    }
    if let Some(why) = closed(&stat) {
        let what =
            why.strip_prefix("it is ").map_or_else(|| format!("somebody else's: {why}"), str::to_owned);
        return Found::Other(what);
    }
    match content(home, file) {
        Ok(content) => Found::File { mode: stat.st_mode & 0o7777, content },
        Err(why) => Found::Unreadable(why),
    }
}

/// As much of a file as its kind needs.
fn content(home: &OwnedFd, file: &FileDesired) -> Result<Content, String> {
    let read = |most| tree::read(home, &file.path, most).map(Option::unwrap_or_default);
    Ok(match &file.wanted {
        FileWanted::Once { .. } | FileWanted::Link { .. } => Content::NotRead,
        FileWanted::Copy { text, header, .. } => {
            let bytes = read(MAX_TEXT)?;
            let has_header = header.as_deref().is_some_and(|header| begins_with(&bytes, header));
            let sha256 = sha256(&bytes);
            // Of one that stays nobody asks.
            let is_untouched = sha256 == text.sha256 || is_untouched(home, &file.path, &sha256);
            Content::Text { sha256, has_header, is_untouched }
        }
        FileWanted::Json { keys } => {
            let bytes = read(MAX_JSON)?;
            let pointers: Vec<&str> = keys.iter().map(|(pointer, _)| pointer.as_str()).collect();
            match utf8(&bytes).and_then(|text| json::look(text, &pointers)) {
                Err(why) => Content::Unfit(why),
                Ok(all) => {
                    let those = |wanted: At| {
                        let with = pointers.iter().zip(&all).filter(|(_, at)| **at == wanted);
                        with.map(|(pointer, _)| (*pointer).to_owned()).collect()
                    };
                    Content::Keys { absent: those(At::Nothing), blocked: those(At::Blocked) }
                }
            }
        }
        FileWanted::Block { comment, .. } => {
            let bytes = read(MAX_TEXT)?;
            match utf8(&bytes).and_then(|text| block::find(text, comment)) {
                Ok(Some(body)) => Content::Block { sha256: sha256(body.as_bytes()) },
                Ok(None) => Content::NoBlock,
                Err(why) => Content::Unfit(why),
            }
        }
    })
}

fn utf8(bytes: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())
}

/// Whether the first line is this one.
fn begins_with(bytes: &[u8], header: &str) -> bool {
    bytes.split(|byte| *byte == b'\n').next().is_some_and(|line| line.trim_ascii_end() == header.as_bytes())
}

/// Changes one file.
pub(crate) fn apply(home: &OwnedFd, action: &FileAction, text: &str) -> Result<(), Failure> {
    done(home, action, text).map_err(|why| {
        Failure::new(
            format!("cannot {action}: {why}"),
            "tried again later by itself; what was there is still there",
        )
    })
}

fn done(home: &OwnedFd, action: &FileAction, text: &str) -> Result<(), String> {
    match action {
        FileAction::CleanUp { path } => {
            let (dir, name) = tree::parent(home, path).map_err(words)?;
            remove(&dir, &beside(name)).map_err(words)
        }
        FileAction::Mode { path, to, .. } => set_mode(home, path, *to),
        FileAction::Link { path, target } => {
            let (dir, name) = folder(home, path)?;
            symlinkat(target.as_str(), &dir, name).and_then(|()| sync(&dir)).map_err(words)
        }
        FileAction::Create { path, mode, .. } => {
            let (dir, name) = folder(home, path)?;
            let new = |old: Option<&[u8]>| match old {
                None => Ok(text.as_bytes().to_vec()),
                Some(_) => Err(words(Errno::EEXIST)),
            };
            change(&dir, name, MAX_TEXT, &|_| *mode, &new)
        }
        FileAction::Replace { path, mode, over: Over::Kept, .. } => replace_and_keep(home, path, *mode, text),
        FileAction::Replace { path, mode, over, .. } => {
            let (dir, name) = tree::parent(home, path).map_err(words)?;
            let is_ours = |old: &[u8]| match over {
                Over::Header(header) => begins_with(old, header),
                Over::Digest(digest) => sha256(old) == *digest,
                Over::Kept => false,
            };
            let new = |old: Option<&[u8]>| match old {
                Some(old) if is_ours(old) => Ok(text.as_bytes().to_vec()),
                _ => Err("it is no longer rosterd's".to_owned()),
            };
            change(&dir, name, MAX_TEXT, &|_| *mode, &new)
        }
        FileAction::AddKeys { path, keys } => {
            let (dir, name) = folder(home, path)?;
            let _lock = Lock::take(&dir, name)?;
            let new = |old: Option<&[u8]>| {
                json::add(utf8(old.unwrap_or_default())?, keys, old.is_none()).map(String::into_bytes)
            };
            change(&dir, name, MAX_JSON, &|old| old.map_or(JSON_MODE, |mode| mode & JSON_MODE), &new)
        }
        FileAction::SetBlock { path, comment, .. } => {
            let (dir, name) = folder(home, path)?;
            let new = |old: Option<&[u8]>| {
                block::put(utf8(old.unwrap_or_default())?, comment, text).map(String::into_bytes)
            };
            change(&dir, name, MAX_TEXT, &|old| old.unwrap_or(0o644), &new)
        }
    }
}

/// The folder of a file, made where it is not there, for its owner alone.
fn folder<'p>(home: &OwnedFd, path: &'p str) -> Result<(OwnedFd, &'p str), String> {
    let (folders, name) = path.rsplit_once('/').unwrap_or(("", path));
    let mut made = String::new();
    for part in folders.split('/').filter(|part| !part.is_empty()) {
        let above = if made.is_empty() { "." } else { made.as_str() };
        let dir = tree::open(home, above, OFlag::O_PATH | OFlag::O_DIRECTORY).map_err(words)?;
        match mkdirat(&dir, part, Mode::S_IRWXU) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(words(errno)),
        }
        made = if made.is_empty() { part.to_owned() } else { format!("{made}/{part}") };
    }
    let at = if made.is_empty() { "." } else { made.as_str() };
    Ok((tree::open(home, at, OFlag::O_PATH | OFlag::O_DIRECTORY).map_err(words)?, name))
}

fn set_mode(home: &OwnedFd, path: &str, mode: u32) -> Result<(), String> {
    let file = tree::open(home, path, OFlag::O_RDONLY).map_err(words)?;
    match closed(&fstat(&file).map_err(words)?) {
        Some(why) => Err(why),
        None => fchmod(&file, Mode::from_bits_truncate(mode)).map_err(words),
    }
}

/// Puts the text in the place of a file, and that beside: no moment at which it is nowhere.
fn replace_and_keep(home: &OwnedFd, path: &str, mode: u32, text: &str) -> Result<(), String> {
    let (dir, name) = tree::parent(home, path).map_err(words)?;
    match tree::stat(&dir, name).map_err(words)?.as_ref().map(closed) {
        None => return Err("it is gone".to_owned()),
        Some(Some(why)) => return Err(why),
        Some(None) => {}
    }
    let kept = free_name(&dir, name, text.as_bytes())?;
    write(&dir, name, mode, text.as_bytes())?;
    renameat(&dir, beside(name).as_str(), &dir, kept.as_str()).map_err(words)?;
    tree::exchange(&dir, &kept, &dir, name).and_then(|()| sync(&dir)).map_err(words)
}

/// A name for what stays beside: one that is free, or that a kill left to the text that takes its place.
fn free_name(dir: &OwnedFd, name: &str, text: &[u8]) -> Result<String, String> {
    let numbered = (2..=MAX_KEPT).map(|number| format!("{name}{BEFORE}-{number}"));
    for kept in std::iter::once(format!("{name}{BEFORE}")).chain(numbered) {
        if tree::stat(dir, &kept).map_err(words)?.is_none()
            || tree::read(dir, &kept, MAX_TEXT).is_ok_and(|content| content.as_deref() == Some(text))
        {
            return Ok(kept);
        }
    }
    Err(format!("there are {MAX_KEPT} files of earlier times beside it already"))
}
