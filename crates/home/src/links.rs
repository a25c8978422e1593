//! The links between a clone and its worktrees, which hold paths: a clone that moves has to take them along.
//!
//! `worktrees/<name>/gitdir` in the clone's `.git` names the worktree's `.git` file, and that file names
//! `worktrees/<name>`; either may be absolute or relative to the folder that it stands in. A link is changed only
//! when the two name each other, and each change can be made twice, for a run may end between any two.

use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, renameat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::{edit, tree};

/// More than anybody has.
const MAX_WORKTREES: usize = 1000;
/// How deep modules may lie within modules.
const MAX_MODULES: usize = 5;
const MAX_LINK: u64 = 16 << 10;

/// A clone on its way.
pub(crate) struct Moving<'a> {
    pub(crate) home: &'a OwnedFd,
    /// The home's absolute path, as the kernel has it and git writes it.
    pub(crate) root: &'a Path,
    /// Where the clone is now, below the home.
    pub(crate) now: &'a str,
    /// Where it was.
    pub(crate) from: &'a str,
    /// Where it will be.
    pub(crate) to: &'a str,
}

/// A worktree as the clone knows it.
struct Worktree {
    /// Its place in the clone, such as `.git/worktrees/tree`.
    admin: String,
    /// What its `gitdir` says.
    link: String,
}

/// Where a worktree's `.git` file is.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// Below the clone, which moves with it.
    Inside(PathBuf),
    /// Elsewhere.
    Outside(PathBuf),
}

impl Moving<'_> {
    fn place_before(&self) -> PathBuf {
        self.root.join(self.from)
    }

    fn place_after(&self) -> PathBuf {
        self.root.join(self.to)
    }

    /// Lets each worktree that this process can reach, and the clone, name each other by their places after the move.
    /// Gives what could not be mended: that is no reason to keep a clone on its way.
    pub(crate) fn repair(&self) -> Vec<String> {
        let trees = match worktrees(self.home, self.now) {
            Ok(trees) => trees,
            Err(errno) => return vec![tree::words(errno).to_owned()],
        };
        let mend = |worktree: &Worktree| match self.mend(worktree) {
            Ok(()) => None,
            Err(errno) => Some(format!("{}: {}", worktree.link, tree::words(errno))),
        };
        trees.iter().filter_map(mend).collect()
    }

    fn mend(&self, worktree: &Worktree) -> nix::Result<()> {
        for place in self.places(worktree) {
            let Some(file) = self.git_file(&place) else { continue };
            let Some(content) = read_line(self.home, &file) else { continue };
            let Some(back) = content.strip_prefix("gitdir: ") else { continue };
            if !self.names_it(&place, back, worktree) {
                continue;
            }
            let admin = self.place_after().join(&worktree.admin);
            let target = match &place {
                Place::Inside(rest) => self.place_after().join(rest),
                Place::Outside(path) => path.clone(),
            };
            let folder = target.parent().unwrap_or(Path::new("/"));
            let gitdir = like(&worktree.link, &admin, &target);
            let back = like(back, folder, &admin);
            replace(self.home, &file, &format!("gitdir: {back}\n"))?;
            return replace(
                self.home,
                &format!("{}/{}/gitdir", self.now, worktree.admin),
                &format!("{gitdir}\n"),
            );
        }
        Ok(())
    }

    /// Where the worktree may be by its link, whether that was changed already or not.
    fn places(&self, tree: &Worktree) -> Vec<Place> {
        let link = Path::new(&tree.link);
        // Joined to an absolute link, the folder plays no part.
        let read_at = |clone: PathBuf| normal(&clone.join(&tree.admin).join(link));
        let (new, old) = (read_at(self.place_after()), read_at(self.place_before()));
        let mut places = Vec::new();
        // The new place may lie within the old one, so it is asked first.
        for (path, clone) in [(&new, self.place_after()), (&old, self.place_before())] {
            if let Ok(rest) = path.strip_prefix(clone) {
                places.push(Place::Inside(rest.to_owned()));
            }
        }
        places.extend([Place::Outside(new), Place::Outside(old)]);
        places
    }

    /// The worktree's `.git` file below the home, as it can be opened now.
    fn git_file(&self, place: &Place) -> Option<String> {
        let path = match place {
            Place::Inside(rest) => Path::new(self.now).join(rest),
            Place::Outside(path) => path.strip_prefix(self.root).ok()?.to_owned(),
        };
        path.to_str().map(str::to_owned)
    }

    /// Whether what a worktree's `.git` file says leads to the clone's entry for it, before the move or after.
    fn names_it(&self, place: &Place, back: &str, tree: &Worktree) -> bool {
        let folders = match place {
            Place::Inside(rest) => vec![self.place_after().join(rest), self.place_before().join(rest)],
            Place::Outside(path) => vec![path.clone()],
        };
        folders.iter().filter_map(|file| file.parent()).any(|folder| {
            let leads = normal(&folder.join(back));
            [self.place_after(), self.place_before()].iter().any(|clone| leads == clone.join(&tree.admin))
        })
    }
}

/// What would not survive a move of the clone at `from`, and what its person has to see to.
pub(crate) fn baggage(
    home: &OwnedFd,
    root: &Path,
    from: &str,
    to: &str,
) -> nix::Result<(Vec<String>, Vec<String>)> {
    let (mut obstacles, mut remarks) = (Vec::new(), Vec::new());
    let trees = match worktrees(home, from) {
        Err(Errno::EOVERFLOW) => return Ok((vec!["it has too many worktrees".to_owned()], remarks)),
        trees => trees?,
    };
    let moving = Moving { home, root, now: from, from, to };
    for tree in &trees {
        let name = tree.admin.rsplit('/').next().unwrap_or_default();
        if tree::open(home, &format!("{from}/{}/modules", tree.admin), OFlag::O_PATH).is_ok() {
            obstacles.push(format!("its worktree {name} has submodules, whose links git cannot mend"));
        }
        let inside = |place: &Place| moving.git_file(place).is_some();
        if !moving.places(tree).iter().any(inside) {
            remarks.push(format!(
                "the worktree {} of ~/{from} is outside the home. After the move: git -C ~/{to} worktree repair",
                tree.link
            ));
        }
    }
    if let Some(borrowed) = read_line(home, &format!("{from}/.git/objects/info/alternates"))
        && !borrowed.is_empty()
        && borrowed.lines().any(|line| !line.starts_with('/'))
    {
        obstacles.push("it borrows objects from another clone by a relative path".to_owned());
    }
    let config = tree::read(home, &format!("{from}/.git/config"), edit::MAX_CONFIG).ok().flatten();
    let config = String::from_utf8_lossy(&config.unwrap_or_default()).into_owned();
    let entries = crate::gitconfig::entries(config.as_bytes()).unwrap_or_default();
    if crate::gitconfig::value(&entries, "core.worktree").is_some() {
        obstacles.push("its core.worktree says where its files are".to_owned());
    }
    let full = root.join(from);
    let names_itself =
        |value: &str| Path::new(value).starts_with(&full) || value.starts_with(&format!("~/{from}/"));
    for entry in entries.iter().filter(|entry| names_itself(&entry.value)) {
        let name = [&entry.section, &entry.subsection, &entry.key].map(String::as_str);
        let name = name.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(".");
        remarks.push(format!("{name} of ~/{from} names {}, which will be below ~/{to}", entry.value));
    }
    Ok((obstacles, remarks))
}

/// Every worktree of a clone and of its submodules.
fn worktrees(home: &OwnedFd, clone: &str) -> nix::Result<Vec<Worktree>> {
    let mut found = Vec::new();
    let mut stores = vec![(".git".to_owned(), 0)];
    while let Some((store, depth)) = stores.pop() {
        for name in list(home, &format!("{clone}/{store}/worktrees"))? {
            let admin = format!("{store}/worktrees/{name}");
            if let Some(link) = read_line(home, &format!("{clone}/{admin}/gitdir")) {
                found.push(Worktree { admin, link });
            }
            if found.len() > MAX_WORKTREES {
                return Err(Errno::EOVERFLOW);
            }
        }
        if depth < MAX_MODULES {
            // A module's name may have slashes, so a folder in between is gone through like a module.
            let below = match store.contains("/modules") {
                true => vec![store.clone(), format!("{store}/modules")],
                false => vec![format!("{store}/modules")],
            };
            for folder in below {
                if folder == store
                    && tree::open(home, &format!("{clone}/{store}/HEAD"), OFlag::O_PATH).is_ok()
                {
                    continue;
                }
                let names = list(home, &format!("{clone}/{folder}"))?;
                stores.extend(names.into_iter().map(|name| (format!("{folder}/{name}"), depth + 1)));
            }
        }
        if stores.len() > MAX_WORKTREES {
            return Err(Errno::EOVERFLOW);
        }
    }
    Ok(found)
}

/// The names in a folder, or none where it is no folder of this user.
fn list(home: &OwnedFd, path: &str) -> nix::Result<Vec<String>> {
    let folder = match tree::open(home, path, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
        Ok(folder) => folder,
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EACCES) => return Ok(Vec::new()),
        Err(errno) => return Err(errno),
    };
    let mut names = Vec::new();
    for entry in Dir::from_fd(folder)?.iter() {
        let entry = entry?;
        if let Ok(name) = entry.file_name().to_str()
            && !matches!(name, "." | "..")
        {
            names.push(name.to_owned());
        }
        if names.len() > MAX_WORKTREES {
            return Err(Errno::EOVERFLOW);
        }
    }
    names.sort();
    Ok(names)
}

/// A small file without its last line break.
fn read_line(home: &OwnedFd, path: &str) -> Option<String> {
    let content = tree::read(home, path, MAX_LINK).ok()??;
    Some(String::from_utf8(content).ok()?.trim_end_matches('\n').to_owned())
}

/// Replaces a link, unless it says that already.
fn replace(home: &OwnedFd, path: &str, content: &str) -> nix::Result<()> {
    if read_line(home, path).as_deref() == Some(content.trim_end_matches('\n')) {
        return Ok(());
    }
    let (dir, name) = tree::parent(home, path)?;
    let beside = format!("{name}.rosterd-unfinished");
    match unlinkat(&dir, beside.as_str(), UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(errno) => return Err(errno),
    }
    let file = edit::create(&dir, &beside, 0o644)?;
    let mut file = std::fs::File::from(file);
    let io = |error: std::io::Error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw);
    std::io::Write::write_all(&mut file, content.as_bytes()).and_then(|()| file.sync_all()).map_err(io)?;
    renameat(&dir, beside.as_str(), &dir, name)
}

/// A path to `target` in the manner of `before`: absolute, or relative to `folder`.
fn like(before: &str, folder: &Path, target: &Path) -> String {
    match before.starts_with('/') {
        true => target.display().to_string(),
        false => relative(folder, target).display().to_string(),
    }
}

fn relative(folder: &Path, target: &Path) -> PathBuf {
    let mut here = folder.components().peekable();
    let mut there = target.components().peekable();
    while here.peek().is_some() && here.peek() == there.peek() {
        here.next();
        there.next();
    }
    here.map(|_| Component::ParentDir).chain(there).collect()
}

/// A path without `.` and `..`, by its words alone: git writes no link through a symlink.
fn normal(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => _ = plain.pop(),
            part => plain.push(part),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Both kinds of links, to worktrees beside the clone and within it, mended twice, as after a kill.
    #[test]
    fn links_are_mended_in_their_own_manner_and_only_once_invariant_5() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let full = |path: &str| root.join(path).display().to_string();
        let write = |path: &str, content: &str| {
            fs::create_dir_all(root.join(path).parent().unwrap()).unwrap();
            fs::write(root.join(path), format!("{content}\n")).unwrap();
        };
        let clone = ".code.rosterd-moving";
        let git = format!("{clone}/.git/worktrees");
        // Absolute: beside, within, and one whose place in the clone has the name of the place it moves to.
        write(&format!("{git}/beside/gitdir"), &full("beside/.git"));
        write("beside/.git", &format!("gitdir: {}", full("code/.git/worktrees/beside")));
        write(&format!("{git}/within/gitdir"), &full("code/infra/w/.git"));
        write(&format!("{clone}/infra/w/.git"), &format!("gitdir: {}", full("code/.git/worktrees/within")));
        // Relative: beside and within.
        write(&format!("{git}/rel/gitdir"), "../../../../rel/.git");
        write("rel/.git", "gitdir: ../code/.git/worktrees/rel");
        write(&format!("{git}/relin/gitdir"), "../../../relin/.git");
        write(&format!("{clone}/relin/.git"), "gitdir: ../.git/worktrees/relin");
        // Not ours: it names another clone, or nothing is there.
        write(&format!("{git}/taken/gitdir"), &full("taken/.git"));
        write("taken/.git", &format!("gitdir: {}", full("other/.git/worktrees/taken")));
        write(&format!("{git}/gone/gitdir"), &full("gone/.git"));
        // Of a submodule with a slash in its name.
        let module = format!("{clone}/.git/modules/lib/part");
        write(&format!("{module}/HEAD"), "ref: refs/heads/main");
        write(&format!("{module}/worktrees/sub/gitdir"), &full("sub/.git"));
        write("sub/.git", &format!("gitdir: {}", full("code/.git/modules/lib/part/worktrees/sub")));

        let home = tree::open_home(&root).unwrap();
        let moving = Moving { home: &home, root: &root, now: clone, from: "code", to: "code/infra" };
        for _ in 0..2 {
            assert_eq!(moving.repair(), [""; 0]);
            let says = |path: &str| fs::read_to_string(root.join(path)).unwrap().trim_end().to_owned();
            let gitdir = |name: &str| says(&format!("{git}/{name}/gitdir"));
            assert_eq!(gitdir("beside"), full("beside/.git"));
            assert_eq!(says("beside/.git"), format!("gitdir: {}", full("code/infra/.git/worktrees/beside")));
            assert_eq!(gitdir("within"), full("code/infra/infra/w/.git"));
            let within = format!("gitdir: {}", full("code/infra/.git/worktrees/within"));
            assert_eq!(says(&format!("{clone}/infra/w/.git")), within);
            assert_eq!(gitdir("rel"), "../../../../../rel/.git");
            assert_eq!(says("rel/.git"), "gitdir: ../code/infra/.git/worktrees/rel");
            assert_eq!(gitdir("relin"), "../../../relin/.git");
            assert_eq!(says(&format!("{clone}/relin/.git")), "gitdir: ../.git/worktrees/relin");
            assert_eq!(says("taken/.git"), format!("gitdir: {}", full("other/.git/worktrees/taken")));
            assert_eq!(gitdir("gone"), full("gone/.git"));
            let sub = full("code/infra/.git/modules/lib/part/worktrees/sub");
            assert_eq!(says("sub/.git"), format!("gitdir: {sub}"));
        }
    }

    #[test]
    fn paths_are_thought_through_by_their_words() {
        assert_eq!(
            normal(Path::new("/home/a/code/.git/worktrees/t/../../../../tree/.git")),
            Path::new("/home/a/tree/.git")
        );
        let from = |folder, target| relative(Path::new(folder), Path::new(target));
        assert_eq!(from("/home/a/tree", "/home/a/code/infra/.git"), Path::new("../code/infra/.git"));
        assert_eq!(
            from("/home/a/code/.git/worktrees/t", "/home/a/code/t/.git"),
            Path::new("../../../t/.git")
        );
        assert_eq!(like("/x", Path::new("/a"), Path::new("/b/c")), "/b/c");
        assert_eq!(like("../x", Path::new("/a"), Path::new("/b/c")), "../b/c");
    }
}
