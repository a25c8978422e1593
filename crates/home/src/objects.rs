//! Objects out of the local mirror, read as the person. The mirror belongs to somebody else, so nothing in it is
//! believed: no symlink is followed, nothing is waited for, its configuration and refs are not read, whole packs
//! are compared with their digests after they were copied, and single objects are hashed again by libgit2 as they
//! are written.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use git2::{ObjectType, Odb, Oid, Repository};
use nix::dir::Dir;
use nix::fcntl::{OFlag, openat};
use nix::libc;
use nix::sys::stat::{Mode, SFlag, fstat};

use crate::mirror::{self, PACK_FOLDER};
use crate::tree;

/// Where all mirrors are.
#[derive(Debug)]
pub(crate) struct Mirrors {
    pub(crate) dir: OwnedFd,
    pub(crate) path: PathBuf,
}

impl Mirrors {
    /// Opens the folder; without one there is no mirror.
    pub(crate) fn open(path: &Path) -> Option<Mirrors> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let dir = openat(nix::fcntl::AT_FDCWD, path, flags, Mode::empty()).ok()?;
        Some(Mirrors { dir, path: path.to_owned() })
    }

    fn of(&self, url: &str) -> Result<OwnedFd, String> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        tree::open(&self.dir, &mirror::folder(url), flags).map_err(|errno| tree::words(errno).to_owned())
    }

    /// Copies all packs into the `objects/pack` of a new repository; the file system shares their blocks where it
    /// can. No more than `mib` MiB: a mirror also keeps what was withdrawn since.
    pub(crate) fn copy(&self, url: &str, into: &OwnedFd, mib: u64) -> Result<(), String> {
        let from = self.of(url)?;
        let files = mirror::listed(&from)?.ok_or("there is none")?;
        if files.is_empty() {
            return Err("it has no objects".into());
        }
        if files.iter().map(|file| file.size).sum::<u64>() >> 20 >= mib {
            return Err(format!("it holds more than {mib} MiB"));
        }
        for file in files {
            let told = |what: &str| format!("{}: {what}", file.name);
            let source = tree::open(&from, &format!("{PACK_FOLDER}/{}", file.name), OFlag::O_RDONLY)
                .map_err(|errno| told(tree::words(errno)))?;
            let stat = fstat(&source).map_err(|errno| told(tree::words(errno)))?;
            if stat.st_mode & SFlag::S_IFMT.bits() != libc::S_IFREG
                || u64::try_from(stat.st_size) != Ok(file.size)
            {
                return Err(told("it is not the file that was listed"));
            }
            let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let copy = openat(into, file.name.as_str(), flags, Mode::from_bits_truncate(0o444))
                .map_err(|errno| told(tree::words(errno)))?;
            let mut copy = File::from(copy);
            let digest = std::io::copy(&mut File::from(source), &mut copy)
                .and_then(|_| std::io::Seek::rewind(&mut copy))
                .and_then(|()| mirror::digest(&mut copy))
                .map_err(|error| told(&error.to_string()))?;
            if digest != file.digest {
                return Err(told("its content is not what was listed"));
            }
        }
        Ok(())
    }

    /// Brings the objects that `wanted` needs and `repository` does not have into it.
    pub(crate) fn bring(&self, url: &str, wanted: &[Oid], repository: &Repository) -> Result<(), String> {
        let from = self.of(url)?;
        self.look_over(&from)?;
        let path = self.path.join(mirror::folder(url)).join("objects");
        let path = path.to_str().ok_or("its path is no text")?;
        bring(path, wanted, repository).map_err(|error| error.message().to_owned())
    }

    /// libgit2 opens the packs by their paths, and would wait for a FIFO. Only the mirror's own user could put one
    /// there after this look.
    fn look_over(&self, from: &OwnedFd) -> Result<(), String> {
        let errno = |errno| tree::words(errno).to_owned();
        let folder = tree::open(from, PACK_FOLDER, OFlag::O_RDONLY | OFlag::O_DIRECTORY).map_err(errno)?;
        let copy = folder.try_clone().map_err(|error| error.to_string())?;
        for entry in Dir::from_fd(copy).map_err(errno)?.iter() {
            let entry = entry.map_err(errno)?;
            let name = entry.file_name().to_string_lossy();
            if name == "." || name == ".." {
                continue;
            }
            let stat = tree::stat(&folder, &name).map_err(errno)?;
            if stat.is_none_or(|stat| stat.st_mode & SFlag::S_IFMT.bits() != libc::S_IFREG) {
                return Err(format!("{name}: it is no plain file"));
            }
        }
        Ok(())
    }
}

fn bring(objects: &str, wanted: &[Oid], repository: &Repository) -> Result<(), git2::Error> {
    let odb = Odb::new()?;
    odb.add_disk_alternate(objects)?;
    let has = repository.odb()?;
    let mirror = Repository::from_odb(odb)?;
    let odb = mirror.odb()?;
    let mut pack = mirror.packbuilder()?;
    // The worker may start no thread.
    pack.set_threads(1);
    let mut walk = mirror.revwalk()?;
    walk.set_sorting(git2::Sort::TIME)?;
    for id in wanted.iter().filter(|id| !has.exists(**id)) {
        let mut id = *id;
        // An annotated tag, or a chain of them, leads to what it is about.
        loop {
            match odb.read_header(id)?.1 {
                ObjectType::Commit => walk.push(id)?,
                ObjectType::Tag => {
                    pack.insert_object(id, None)?;
                    id = mirror.find_tag(id)?.target_id();
                    if !has.exists(id) {
                        continue;
                    }
                }
                _ => pack.insert_recursive(id, None)?,
            }
            break;
        }
    }
    for reference in repository.references()? {
        let Some(id) = reference?.target() else { continue };
        if odb.read_header(id).is_ok_and(|(_, kind)| kind == ObjectType::Commit) {
            walk.hide(id)?;
        }
    }
    pack.insert_walk(&mut walk)?;
    if pack.object_count() == 0 {
        return Ok(());
    }
    let mut writer = has.packwriter()?;
    let mut failed = None;
    pack.foreach(|part| match std::io::Write::write_all(&mut writer, part) {
        Ok(()) => true,
        Err(error) => {
            failed = Some(error);
            false
        }
    })
    .map_err(|error| failed.take().map_or(error, |failed| git2::Error::from_str(&failed.to_string())))?;
    writer.commit()?;
    Ok(())
}
