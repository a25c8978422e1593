//! Whether a branch can go forward without a loss.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use git2::{AttrCheckFlags, AttrValue, Delta, DiffOptions, FileMode, Oid, Repository, StatusOptions};

use roster::remote::{FastForward, Relation, Standing};
use roster::wiring::Driver;

use crate::{fetch, locked, panics};

/// One path that differs between the two commits.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) path: PathBuf,
    pub(crate) old: Option<(Oid, u32)>,
    pub(crate) new: Option<(Oid, u32)>,
}

/// `git update-index --assume-unchanged`, `--skip-worktree`, `git add --intent-to-add`.
const VALID: u16 = 0x8000;
const SKIP: u16 = 0x4000;
const INTENT: u16 = 0x2000;

const SUBMODULE: u32 = 0o160_000;
pub(crate) const LINK: u32 = 0o120_000;
/// More files in plain text than anybody reads of in one notice.
pub(crate) const MAX_PLAIN: usize = 20;

impl Change {
    /// Only the index knows of it; what is in its folder is another repository.
    pub(crate) fn is_submodule(&self) -> bool {
        [self.old, self.new].into_iter().flatten().any(|(_, mode)| mode == SUBMODULE)
    }
}

/// Looks at a branch that may be behind.
pub(crate) fn inspect(forward: &FastForward) -> Standing {
    let looked = panics::contained(|| {
        fetch::open(&forward.path)
            .and_then(|repository| standing(&repository, forward).map_err(|error| error.message().to_owned()))
    });
    looked.unwrap_or_else(|| Err("it holds what git2 cannot read".into())).unwrap_or_else(|why| Standing {
        relation: Relation::Behind,
        dirty: false,
        obstacle: Some(format!("it cannot be looked at: {why}")),
        plain: Vec::new(),
    })
}

pub(crate) fn standing(repository: &Repository, forward: &FastForward) -> Result<Standing, git2::Error> {
    let plain = |relation| Standing { relation, dirty: false, obstacle: None, plain: Vec::new() };
    let (from, to) = (Oid::from_str(forward.from.as_str())?, Oid::from_str(forward.to.as_str())?);
    match repository.graph_ahead_behind(from, to)? {
        (0, _) => {}
        (_, 0) => return Ok(plain(Relation::Ahead)),
        _ => return Ok(plain(Relation::Diverged)),
    }
    let head = repository.head()?;
    if head.name_bytes() != format!("refs/heads/{}", forward.branch).as_bytes() || head.target() != Some(from)
    {
        let obstacle = Some("another branch or commit was checked out meanwhile".to_owned());
        return Ok(Standing { obstacle, ..plain(Relation::Behind) });
    }
    let mut options = StatusOptions::new();
    options.include_untracked(false).include_ignored(false).exclude_submodules(true).update_index(false);
    if !repository.statuses(Some(&mut options))?.is_empty() {
        return Ok(Standing { dirty: true, ..plain(Relation::Behind) });
    }
    let changes = changes(repository, forward)?;
    let obstacle = obstacle(repository, &changes)?;
    let unencrypted = if obstacle.is_none() { unencrypted(repository, &changes)? } else { Vec::new() };
    Ok(Standing { obstacle, plain: unencrypted, ..plain(Relation::Behind) })
}

/// The files that come in plain text to a locked clone, though their attributes say that git-crypt encrypts them. git-crypt
/// leaves an empty file as it is.
fn unencrypted(repository: &Repository, changes: &[Change]) -> Result<Vec<String>, git2::Error> {
    let mut found = Vec::new();
    if !is_locked(repository)? {
        return Ok(found);
    }
    for change in changes.iter().filter(|change| !change.is_submodule()) {
        let Some((id, _)) = change.new.filter(|(_, mode)| *mode != LINK) else { continue };
        let driver = filter(repository, &change.path)?;
        if driver.is_some_and(|driver| Driver::new(&driver).is_some()) {
            let blob = repository.find_blob(id)?;
            if blob.size() > 0 && !blob.content().starts_with(locked::HEADER) && found.len() < MAX_PLAIN {
                found.push(change.path.display().to_string());
            }
        }
    }
    Ok(found)
}

fn is_locked(repository: &Repository) -> Result<bool, git2::Error> {
    let clean = repository.config()?.get_string(&Driver::default_key().clean()).ok();
    Ok(locked::is_locked(clean.as_deref()))
}

/// The mode as an index has it: old repositories have others in their trees.
fn mode(mode: FileMode) -> u32 {
    match mode {
        FileMode::BlobGroupWritable => u32::from(FileMode::Blob),
        mode => u32::from(mode),
    }
}

/// What differs between the two commits.
pub(crate) fn changes(repository: &Repository, forward: &FastForward) -> Result<Vec<Change>, git2::Error> {
    let tree = |id: &str| repository.find_commit(Oid::from_str(id)?)?.tree();
    let (old, new) = (tree(forward.from.as_str())?, tree(forward.to.as_str())?);
    let mut options = DiffOptions::new();
    options.include_typechange(true).skip_binary_check(true);
    let diff = repository.diff_tree_to_tree(Some(&old), Some(&new), Some(&mut options))?;
    let side = |file: git2::DiffFile<'_>, absent: bool| (!absent).then(|| (file.id(), mode(file.mode())));
    let changes: Vec<Change> = diff
        .deltas()
        .map(|delta| {
            let path = delta.new_file().path_bytes().or(delta.old_file().path_bytes());
            let path = path.ok_or_else(|| git2::Error::from_str("a change without a path"))?;
            Ok(Change {
                path: Path::new(std::ffi::OsStr::from_bytes(path)).to_owned(),
                old: side(delta.old_file(), delta.status() == Delta::Added),
                new: side(delta.new_file(), delta.status() == Delta::Deleted),
            })
        })
        .collect::<Result<_, git2::Error>>()?;
    match impossible(&changes) {
        None => Ok(changes),
        Some(path) => Err(git2::Error::from_str(&format!(
            "its commits hold {}, which no work tree can have",
            path.display()
        ))),
    }
}

/// A path that a tree can hold and git never makes: one that leads out of the work tree or into `.git`, one that is there
/// twice, or one below a file or a symlink of the same commit. By way of such a link, files would be written to
/// wherever it leads.
fn impossible(changes: &[Change]) -> Option<&Path> {
    let leads_astray = |path: &Path| {
        path.as_os_str().as_bytes().split(|byte| *byte == b'/').any(|part| {
            matches!(part, b"" | b"." | b"..")
                || part.eq_ignore_ascii_case(b".git")
                || part.eq_ignore_ascii_case(b"git~1")
        })
    };
    let mut seen = BTreeSet::new();
    let new = changes.iter().filter(|change| change.new.is_some()).map(|change| change.path.as_path());
    let written: BTreeSet<&Path> = new.clone().collect();
    changes
        .iter()
        .map(|change| change.path.as_path())
        .find(|path| leads_astray(path) || !seen.insert(*path))
        .or_else(|| new.clone().find(|path| path.ancestors().skip(1).any(|above| written.contains(above))))
}

/// The filters of git-crypt that new attributes name, of a locked clone.
pub(crate) fn new_drivers(
    repository: &Repository,
    changes: &[Change],
) -> Result<BTreeSet<Driver>, git2::Error> {
    let mut drivers = BTreeSet::new();
    let is_attributes =
        |change: &&Change| change.path.file_name().is_some_and(|name| name == ".gitattributes");
    if is_locked(repository)? {
        for (id, _) in changes.iter().filter(is_attributes).filter_map(|change| change.new) {
            drivers.extend(locked::drivers_in(repository.find_blob(id)?.content()));
        }
    }
    Ok(drivers)
}

/// What besides changed files is in the way.
fn obstacle(repository: &Repository, changes: &[Change]) -> Result<Option<String>, git2::Error> {
    let Some(workdir) = repository.workdir() else { return Ok(Some("it has no work tree".into())) };
    let config = repository.config()?;
    let clean = |driver: &Driver| config.get_string(&driver.clean()).ok();
    let is_locked = is_locked(repository)?;
    // Of a locked clone, unless the person has just this key: it passes as it is.
    let passes = |driver: &str| {
        let driver = Driver::new(driver).filter(|_| is_locked);
        driver.is_some_and(|driver| !clean(&driver).is_some_and(|clean| locked::is_git_crypt(&clean)))
    };
    // libgit2 does not write a file where another kind of thing was, so these are left to git itself.
    let folders: BTreeSet<&Path> = changes
        .iter()
        .filter(|change| change.new.is_none())
        .flat_map(|change| change.path.ancestors().skip(1))
        .collect();
    let was_folder = |change: &Change| folders.contains(change.path.as_path());
    let index = repository.index()?;
    for change in changes {
        let shown = change.path.display();
        // The status does not look at what git was told not to look at, so what is in it is not known to be clean.
        let entry = index.get_path(&change.path, 0);
        if entry.is_some_and(|entry| entry.flags & VALID != 0 || entry.flags_extended & (SKIP | INTENT) != 0)
        {
            return Ok(Some(format!("git was told to look away from {shown}, which it changes")));
        }
        let Some((id, mode)) = change.new else { continue };
        if change.is_submodule() {
            let both = change.old.is_none_or(|(_, mode)| mode == SUBMODULE) && mode == SUBMODULE;
            if !both {
                return Ok(Some(format!("a submodule and a file change places at {shown}")));
            }
            continue;
        }
        if mode == LINK {
            // No filter and no attribute applies to it.
        } else if change.old.is_some_and(|(_, mode)| mode == LINK) {
            return Ok(Some(format!("it makes a file of the symlink {shown}")));
        } else if let Some(driver) = filter(repository, &change.path)?
            && !passes(&driver)
        {
            return Ok(Some(format!(
                "it changes {shown}, which the filter `{driver}` writes; rosterd runs no filter"
            )));
        } else if change.path.file_name().is_some_and(|name| name == ".gitattributes")
            && converts(repository.find_blob(id)?.content(), passes)
        {
            return Ok(Some(format!("it changes how files are written ({shown})")));
        }
        if change.old.is_none() && was_folder(change) {
            return Ok(Some(format!("it makes a file of the folder {shown}")));
        }
        if change.old.is_none() && workdir.join(&change.path).symlink_metadata().is_ok() {
            return Ok(Some(format!("{shown} is in the way, which is not in git")));
        }
    }
    Ok(None)
}

/// The driver that writes a file, or the encoding, which libgit2 does not know.
fn filter(repository: &Repository, path: &Path) -> Result<Option<String>, git2::Error> {
    for name in ["filter", "working-tree-encoding"] {
        let value = repository.get_attr_bytes(path, name, AttrCheckFlags::FILE_THEN_INDEX)?;
        match AttrValue::from_bytes(value) {
            AttrValue::String(driver) => return Ok(Some(driver.to_owned())),
            AttrValue::Bytes(driver) => return Ok(Some(String::from_utf8_lossy(driver).into_owned())),
            AttrValue::True | AttrValue::False | AttrValue::Unspecified => {}
        }
    }
    Ok(None)
}

/// Whether attributes that come with the same commits change the content of files as they are written: the new
/// ones are not in force yet when the files are.
fn converts(attributes: &[u8], passes: impl Fn(&str) -> bool) -> bool {
    let text = String::from_utf8_lossy(attributes);
    let words = text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .flat_map(|line| line.split_whitespace().skip(1));
    words.into_iter().any(|word| match word.split_once('=') {
        Some(("filter", driver)) => !passes(driver),
        Some(("eol" | "text" | "crlf" | "working-tree-encoding", _)) => true,
        _ => matches!(word, "ident" | "crlf"),
    })
}
