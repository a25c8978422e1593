//! What a clone knows of its remotes, and what its person is in the middle of. Read by descriptor, without libgit2:
//! in most runs it is all that is asked of a clone, nothing in it can make the worker wait, and no object, no index
//! and no file of the work tree is touched.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::OFlag;

use roster::name::{ObjectId, RefName};
use roster::remote::{CloneState, LookAt, Refs, Side};

use crate::edit::MAX_CONFIG;
use crate::fast_forward::STAGING;
use crate::place::without_user;
use crate::ref_files::ROOM;
use crate::{gitconfig, tree};

/// Far more than a hundred thousand refs.
pub(crate) const MAX_PACKED: u64 = 16 << 20;
/// Loose refs of one kind; git packs them long before.
const MAX_LOOSE: usize = 50_000;
/// As deep as the name of a branch can be.
const MAX_DEPTH: usize = 64;

/// What a person can be in the middle of, and the file that says so.
const BUSY: &[(&str, &str)] = &[
    ("rebase-merge", "a rebase"),
    ("rebase-apply", "a rebase"),
    ("MERGE_HEAD", "a merge"),
    ("CHERRY_PICK_HEAD", "a cherry-pick"),
    ("REVERT_HEAD", "a revert"),
    ("BISECT_LOG", "a bisect"),
    ("sequencer", "a cherry-pick or revert"),
    ("index.lock", "a git command (`.git/index.lock` is there)"),
];

/// Looks at a clone.
pub(crate) fn state(home: &OwnedFd, look: &LookAt) -> CloneState {
    read(home, look).unwrap_or_else(|why| CloneState { unfit: Some(why), ..CloneState::default() })
}

fn read(home: &OwnedFd, look: &LookAt) -> Result<CloneState, String> {
    let git = tree::open(home, &format!("{}/.git", look.path), OFlag::O_PATH | OFlag::O_DIRECTORY)
        .map_err(|errno| format!("a clone whose .git cannot be opened: {}", tree::words(errno)))?;
    let text = tree::read(&git, "config", MAX_CONFIG).map_err(|why| format!("a clone whose config {why}"))?;
    let entries = gitconfig::entries(&text.unwrap_or_default())
        .map_err(|line| format!("a clone whose config is malformed in line {line}"))?;
    let value = |key: &str| gitconfig::value(&entries, key).map(str::to_owned);
    let is_there = |path: &str| tree::open(&git, path, OFlag::O_PATH).is_ok();
    let is_true = |value: Option<String>| {
        value.is_some_and(|value| ["true", "yes", "on", "1"].contains(&value.to_ascii_lowercase().as_str()))
    };
    for (is_so, what) in [
        (is_there("shallow"), "a shallow clone"),
        (value("extensions.partialclone").is_some(), "a partial clone"),
        (is_true(value("remote.origin.promisor")), "a partial clone"),
        (is_there("objects/info/alternates"), "a clone that borrows objects of another"),
        (value("extensions.refstorage").is_some_and(|kind| kind != "files"), "a clone with refs in a table"),
        (value("extensions.objectformat").is_some_and(|kind| kind != "sha1"), "a clone with SHA-256"),
        (is_true(value("core.sparsecheckout")), "a sparse checkout"),
        (is_true(value("core.bare")), "a bare repository"),
        (value("core.worktree").is_some(), "a clone with its work tree elsewhere"),
    ] {
        if is_so {
            return Err(what.into());
        }
    }
    let head = small(&git, "HEAD").ok_or("a clone whose HEAD cannot be read")?;
    let head = head.strip_prefix("ref: refs/heads/").and_then(|name| RefName::new(name).ok());
    let upstream = match &head {
        Some(head) => {
            let remote = value(&format!("branch.{head}.remote"));
            let merge = value(&format!("branch.{head}.merge"));
            let branch = merge.as_deref().and_then(|merge| merge.strip_prefix("refs/heads/"));
            remote.zip(branch.and_then(|branch| RefName::new(branch).ok()))
        }
        None => None,
    };
    let packed = tree::read(&git, "packed-refs", MAX_PACKED)
        .map_err(|why| format!("a clone whose packed-refs {why}"))?;
    let packed = packed.unwrap_or_default();
    let mut remotes = BTreeMap::new();
    for name in &look.remotes {
        let Some(url) = value(&format!("remote.{name}.url")) else { continue };
        let fetch = value(&format!("remote.{name}.fetch"));
        let whole = fetch.as_deref() == Some(&format!("+refs/heads/*:refs/remotes/{name}/*"));
        let prefix = format!("refs/remotes/{name}");
        let mut branches = all(&git, &packed, &prefix)?;
        let head = small(&git, &format!("{prefix}/HEAD"));
        let head = head.as_deref().and_then(|text| text.strip_prefix(&format!("ref: {prefix}/")));
        let head = head.and_then(|name| RefName::new(name).ok());
        branches.retain(|branch, _| branch.as_str() != "HEAD");
        remotes.insert(name.clone(), Side { url: without_user(&url), whole, head, branches });
    }
    let default = look.branch.clone().or_else(|| remotes.get("origin").and_then(|side| side.head.clone()));
    let mut branches = Refs::new();
    for branch in head.iter().chain(&default) {
        let full = format!("refs/heads/{branch}");
        let id =
            small(&git, &full).and_then(|text| ObjectId::new(text).ok()).or_else(|| find(&packed, &full));
        branches.extend(id.map(|id| (branch.clone(), id)));
    }
    Ok(CloneState {
        unfit: None,
        unfinished: is_there(STAGING) || is_there(ROOM),
        busy: BUSY.iter().find(|(file, _)| is_there(file)).map(|(_, what)| (*what).to_owned()),
        head,
        upstream,
        branches,
        tags: all(&git, &packed, "refs/tags")?.into_keys().collect(),
        remotes,
    })
}

/// What a ref points to, loose or packed.
pub(crate) fn value(git: &OwnedFd, name: &str) -> Option<ObjectId> {
    let loose = small(git, name).and_then(|text| ObjectId::new(text).ok());
    loose.or_else(|| find(&tree::read(git, "packed-refs", MAX_PACKED).ok()??, name))
}

/// The ref that `HEAD` names.
pub(crate) fn head(git: &OwnedFd) -> Option<String> {
    Some(small(git, "HEAD")?.strip_prefix("ref: ")?.to_owned())
}

/// A file of one line.
fn small(git: &OwnedFd, path: &str) -> Option<String> {
    let text = tree::read(git, path, 4096).ok()??;
    Some(String::from_utf8(text).ok()?.trim_end().to_owned())
}

/// One ref of `packed-refs`.
fn find(packed: &[u8], name: &str) -> Option<ObjectId> {
    lines(packed).find(|(_, full)| *full == name).and_then(|(id, _)| ObjectId::new(id).ok())
}

fn lines(packed: &[u8]) -> impl Iterator<Item = (&str, &str)> {
    let lines = packed.split(|byte| *byte == b'\n');
    lines.filter_map(|line| std::str::from_utf8(line).ok()?.trim_end().split_once(' '))
}

/// All refs below a prefix; loose ones count before packed ones.
fn all(git: &OwnedFd, packed: &[u8], prefix: &str) -> Result<Refs, String> {
    let mut refs = Refs::new();
    for (id, name) in lines(packed) {
        let name = name.strip_prefix(prefix).and_then(|name| name.strip_prefix('/'));
        if let (Some(Ok(name)), Ok(id)) = (name.map(RefName::new), ObjectId::new(id)) {
            refs.insert(name, id);
        }
    }
    let told = |errno| format!("a clone whose {prefix} cannot be read: {}", tree::words(errno));
    match tree::open(git, prefix, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
        Ok(folder) => loose(folder, "", 0, &mut refs).map_err(told)?,
        Err(Errno::ENOENT) => {}
        Err(errno) => return Err(told(errno)),
    }
    Ok(refs)
}

fn loose(folder: OwnedFd, above: &str, depth: usize, refs: &mut Refs) -> nix::Result<()> {
    if depth > MAX_DEPTH || refs.len() > MAX_LOOSE {
        return Err(Errno::E2BIG);
    }
    let here = folder.try_clone().map_err(|_| Errno::EMFILE)?;
    let mut seen = 0;
    for entry in Dir::from_fd(folder)?.iter() {
        let entry = entry?;
        seen += 1;
        if seen > MAX_LOOSE {
            return Err(Errno::E2BIG);
        }
        // A name that is no text is no ref that rosterd made or moves.
        let Ok(name) = entry.file_name().to_str() else { continue };
        if name == "." || name == ".." {
            continue;
        }
        let full = if above.is_empty() { name.to_owned() } else { format!("{above}/{name}") };
        if matches!(entry.file_type(), Some(Type::Directory) | None)
            && let Ok(below) = tree::open(&here, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY)
        {
            loose(below, &full, depth + 1, refs)?;
        } else if let (Ok(branch), Some(Ok(id))) = (RefName::new(full), small(&here, name).map(ObjectId::new))
        {
            refs.insert(branch, id);
        }
    }
    Ok(())
}
