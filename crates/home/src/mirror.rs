//! The local mirror of a public repository, as the user `rosterd` keeps it: a bare repository of which nothing is
//! ever pruned, so that the network carries an object once.
//!
//! What counts is what the file `packs` lists. It is replaced after everything it names is on disk, so whatever a
//! kill leaves behind is not in it, and goes at the beginning of the next run. Those who read compare each file with the digest in
//! it: see [`crate::objects`].

use std::fs::File;
use std::io::{self, BufRead, Write};
use std::os::fd::OwnedFd;
use std::time::Instant;

use git2::{Direction, Oid, Repository};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, renameat};
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use roster::name::{ObjectId, RefName};
use roster::plan::MirrorAction;
use roster::remote::{Answer, Asked, RemoteRefs};
use sha2::{Digest, Sha256};

use crate::protocol::{self, Failure, Reply, Request};
use crate::transfer::{self, Bounds, Transfer};
use crate::{sys, tree};

const PACKS: &str = "packs";
const HEADER: &str = "rosterd mirror 1";
/// Room for some ten thousand packs.
const MAX_PACKS_FILE: u64 = 4 << 20;
/// Where the packs of a bare repository are.
pub(crate) const PACK_FOLDER: &str = "objects/pack";

/// The folder of a repository's mirror: what a person recognises, and what makes it the only one.
pub(crate) fn folder(url: &str) -> String {
    let last = url.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let name: String = last.chars().filter(plain).take(60).collect();
    let digest: String = Sha256::digest(url).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("{digest}-{name}")
}

/// One file of the mirror.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) name: String,
    pub(crate) size: u64,
    pub(crate) digest: String,
}

/// Reads the list of the files that count; nothing where there is no mirror.
pub(crate) fn listed(mirror: &OwnedFd) -> Result<Option<Vec<Listed>>, String> {
    let Some(text) = tree::read_anyones(mirror, PACKS, MAX_PACKS_FILE)? else { return Ok(None) };
    let text = String::from_utf8(text).map_err(|_| "its list is no text".to_owned())?;
    let mut lines = text.lines();
    if lines.next() != Some(HEADER) || !text.ends_with('\n') {
        return Err("its list is of another version, or cut off".into());
    }
    let entry = |line: &str| {
        let mut words = line.split(' ');
        let (digest, size, name) = (words.next()?, words.next()?.parse().ok()?, words.next()?);
        let stem = name.strip_prefix("pack-")?;
        let stem = stem.strip_suffix(".pack").or_else(|| stem.strip_suffix(".idx"))?;
        let hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
        (hex(stem) && hex(digest)).then(|| Listed { name: name.into(), size, digest: digest.into() })
    };
    lines
        .map(|line| entry(line).ok_or_else(|| "its list is malformed".to_owned()))
        .collect::<Result<_, _>>()
        .map(Some)
}

/// The digest of a whole file.
pub(crate) fn digest(file: &mut File) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut part = vec![0; 1 << 16];
    loop {
        match io::Read::read(file, &mut part)? {
            0 => break,
            read => hash.update(&part[..read]),
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Where a mirror is, or would be.
#[derive(Clone, Copy)]
pub(crate) struct Room<'a> {
    /// The working folder.
    pub(crate) folder: Option<&'a OwnedFd>,
    /// Whether the mirror is kept; else it is only looked at.
    pub(crate) keeps: bool,
}

/// The life of a worker that asks one remote, and keeps or looks at its mirror.
pub(crate) fn serve(
    requests: &mut impl BufRead,
    replies: &mut impl Write,
    room: Room<'_>,
    url: &str,
    (asking, bounds): (Instant, Bounds),
) -> io::Result<()> {
    let unexpected = || io::Error::new(io::ErrorKind::InvalidData, "not what a worker of a mirror does");
    match protocol::next(requests)? {
        None => return Ok(()),
        Some(Request::Ask { url: asked }) if asked == url => {}
        Some(Request::Mirror(MirrorAction::Check { url: asked })) if asked == url => {
            let Some(room) = room.folder.filter(|_| room.keeps) else { return Err(unexpected()) };
            let checked = if is_whole(room) { Ok(()) } else { empty(room) };
            let reply = match checked {
                Ok(()) => Reply::Done,
                Err(errno) => Reply::Failed(cannot(url, tree::words(errno).to_owned())),
            };
            return protocol::write_line(replies, &reply);
        }
        Some(_) => return Err(unexpected()),
    }
    let transfer = Transfer::new(url, bounds, None);
    // The ref list comes at once or never; objects may take their time.
    let first = Transfer::new(url, bounds.until(asking), None);
    let failed = |error: &git2::Error| Asked { answer: first.answer(error), not_mirrored: 0 };
    if let Err((why, next)) = transfer::check_url(url) {
        let answer = Answer::Failed { why: why.into(), next: next.into() };
        return protocol::write_line(replies, &Reply::Asked(Asked { answer, not_mirrored: 0 }));
    }
    let Some(folder) = room.folder.filter(|_| room.keeps) else {
        let answer = first.ask();
        let not_mirrored = match &answer {
            Answer::Refs(refs) => not_mirrored(room.folder, refs),
            _ => 0,
        };
        return protocol::write_line(replies, &Reply::Asked(Asked { answer, not_mirrored }));
    };
    let room = folder;
    let mirror = Writer { room, damaged: is_damaged(room) };
    let repository = match sys::set_up_libgit2().and_then(|()| mirror.open()) {
        Ok(repository) => repository,
        Err(error) => return protocol::write_line(replies, &Reply::Asked(failed(&error))),
    };
    let answered = (|| {
        let mut remote = repository.remote_anonymous(url)?;
        let mut connection = remote.connect_auth(Direction::Fetch, Some(first.callbacks()), None)?;
        let refs = transfer::refs(connection.list()?)?;
        let not_mirrored = lacks(&repository, &refs);
        let asked = Asked { answer: Answer::Refs(refs.clone()), not_mirrored };
        Ok(protocol::write_line(replies, &Reply::Asked(asked)).and_then(|()| {
            // The same connection goes on, so that the ref list is asked for once.
            match protocol::next(requests)? {
                None => Ok(()),
                Some(Request::Mirror(MirrorAction::Fetch { url: asked })) if asked == url => {
                    let fetched = mirror.fetch(&repository, connection.remote(), &refs, &transfer);
                    protocol::write_line(replies, &done(url, &transfer, fetched))
                }
                Some(_) => Err(unexpected()),
            }
        }))
    })();
    match answered {
        Ok(written) => written,
        Err(error) => protocol::write_line(replies, &Reply::Asked(failed(&error))),
    }
}

fn done(url: &str, transfer: &Transfer<'_>, fetched: Result<(), FetchError>) -> Reply {
    match fetched {
        Ok(()) => Reply::Done,
        Err(FetchError::Git(error)) => {
            let (why, next) = transfer.explain(&error);
            Reply::Failed(Failure::new(format!("cannot fetch {url} into the mirror: {why}"), next))
        }
        Err(FetchError::Os(errno)) => Reply::Failed(cannot(url, tree::words(errno).to_owned())),
        Err(FetchError::Io(error)) => Reply::Failed(cannot(url, error.to_string())),
    }
}

fn cannot(url: &str, why: String) -> Failure {
    let next = "see to it that the mirror's folder has space and can be written by the user `rosterd`";
    Failure::new(format!("cannot change the mirror of {url}: {why}"), next)
}

#[derive(Debug)]
enum FetchError {
    Git(git2::Error),
    Os(Errno),
    Io(io::Error),
}

impl From<git2::Error> for FetchError {
    fn from(error: git2::Error) -> Self {
        FetchError::Git(error)
    }
}

impl From<Errno> for FetchError {
    fn from(errno: Errno) -> Self {
        FetchError::Os(errno)
    }
}

impl From<io::Error> for FetchError {
    fn from(error: io::Error) -> Self {
        FetchError::Io(error)
    }
}

/// Whether the list cannot be read, or names what is not there as it says.
fn is_damaged(room: &OwnedFd) -> bool {
    let is_there = |file: &Listed| {
        let path = format!("{PACK_FOLDER}/{}", file.name);
        tree::open(room, &path, OFlag::O_PATH)
            .and_then(fstat)
            .is_ok_and(|stat| u64::try_from(stat.st_size) == Ok(file.size))
    };
    match listed(room) {
        Ok(None) => false,
        Ok(Some(files)) => !files.iter().all(is_there),
        Err(_) => true,
    }
}

/// Whether each listed file is what it was when it was listed.
fn is_whole(room: &OwnedFd) -> bool {
    let is_same = |file: &Listed| {
        let path = format!("{PACK_FOLDER}/{}", file.name);
        tree::open(room, &path, OFlag::O_RDONLY)
            .is_ok_and(|fd| digest(&mut File::from(fd)).is_ok_and(|digest| digest == file.digest))
    };
    matches!(listed(room), Ok(Some(files)) if files.iter().all(is_same))
}

/// How many of the objects that the refs name a mirror does not have, which is only looked at.
fn not_mirrored(folder: Option<&OwnedFd>, refs: &RemoteRefs) -> usize {
    let usable = folder.is_some_and(|folder| !is_damaged(folder));
    match sys::set_up_libgit2().and_then(|()| Repository::open_bare(".")) {
        Ok(repository) if usable => lacks(&repository, refs),
        _ => refs.branches.len() + refs.tags.len(),
    }
}

/// How many of the objects that the refs name are not in a repository.
fn lacks(repository: &Repository, refs: &RemoteRefs) -> usize {
    let Ok(odb) = repository.odb() else { return usize::MAX };
    let has = |id: &ObjectId| Oid::from_str(id.as_str()).is_ok_and(|id| odb.exists(id));
    refs.branches.values().chain(refs.tags.values()).filter(|id| !has(id)).count()
}

/// The mirror in the working folder.
struct Writer<'a> {
    room: &'a OwnedFd,
    damaged: bool,
}

impl Writer<'_> {
    /// Opens the repository, or makes it where there is none or none that can be used. What a kill left goes before:
    /// libgit2 believes in a pack that it has seen once.
    fn open(&self) -> Result<Repository, git2::Error> {
        let told = |errno| git2::Error::from_str(tree::words(errno));
        if let Ok(folder) = tree::open(self.room, PACK_FOLDER, OFlag::O_PATH | OFlag::O_DIRECTORY) {
            for stray in self.strays().map_err(told)? {
                unlinkat(&folder, stray.as_str(), UnlinkatFlags::NoRemoveDir).map_err(told)?;
            }
        }
        let usable = if self.damaged { None } else { Repository::open_bare(".").ok() };
        match usable {
            Some(repository) => Ok(repository),
            None => {
                empty(self.room).map_err(told)?;
                let repository = Repository::init_bare(".")?;
                // Redirects to another host are followed for nobody.
                repository.config()?.set_bool("http.followRedirects", false)?;
                Ok(repository)
            }
        }
    }

    /// What is in the folder of the packs and does not count: a kill left it there.
    fn strays(&self) -> nix::Result<Vec<String>> {
        let known = listed(self.room).ok().flatten().unwrap_or_default();
        let mut strays = self.names()?;
        strays.retain(|name| !known.iter().any(|file| file.name == *name));
        Ok(strays)
    }

    fn names(&self) -> nix::Result<Vec<String>> {
        let folder = tree::open(self.room, PACK_FOLDER, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        let mut names = Vec::new();
        for entry in Dir::from_fd(folder)?.iter() {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn fetch(
        &self,
        repository: &Repository,
        remote: &mut git2::Remote<'_>,
        refs: &RemoteRefs,
        transfer: &Transfer<'_>,
    ) -> Result<(), FetchError> {
        let folder = tree::open(self.room, PACK_FOLDER, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
        let all = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"];
        remote.download(&all, Some(&mut transfer.options()))?;
        let odb = repository.odb()?;
        odb.refresh()?;
        for id in refs.branches.values().chain(refs.tags.values()) {
            if !odb.exists(Oid::from_str(id.as_str())?) {
                return Err(git2::Error::from_str("the server did not send all that it names").into());
            }
        }
        tree::sync(self.room)?;
        self.list(&folder)?;
        // What the next fetch tells the server that we have.
        let mut lines = String::from("# pack-refs with: sorted \n");
        let all = [("refs/heads/", &refs.branches), ("refs/tags/", &refs.tags)];
        for (prefix, refs) in all {
            for (name, id) in refs as &std::collections::BTreeMap<RefName, ObjectId> {
                lines.push_str(&format!("{id} {prefix}{name}\n"));
            }
        }
        self.replace("packed-refs", &lines)
    }

    /// Lists all packs. Those listed before are not read again.
    fn list(&self, folder: &OwnedFd) -> Result<(), FetchError> {
        let mut files = listed(self.room).ok().flatten().unwrap_or_default();
        let mut names = self.names()?;
        names.sort();
        for name in names {
            let is_pack = name.starts_with("pack-") && (name.ends_with(".pack") || name.ends_with(".idx"));
            if !is_pack || files.iter().any(|file| file.name == name) {
                continue;
            }
            let mut file = File::from(tree::open(folder, &name, OFlag::O_RDONLY)?);
            let size = file.metadata()?.len();
            files.push(Listed { digest: digest(&mut file)?, name, size });
        }
        let lines = files.iter().map(|file| format!("{} {} {}\n", file.digest, file.size, file.name));
        self.replace(PACKS, &format!("{HEADER}\n{}", lines.collect::<String>()))
    }

    /// Replaces a file as a whole.
    fn replace(&self, name: &str, content: &str) -> Result<(), FetchError> {
        let new = format!("{name}.new");
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mode = Mode::from_bits_truncate(0o644);
        let mut file = File::from(nix::fcntl::openat(self.room, new.as_str(), flags, mode)?);
        file.write_all(content.as_bytes())?;
        file.sync_all()?;
        renameat(self.room, new.as_str(), self.room, name)?;
        let dir = tree::open(self.room, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        nix::unistd::fsync(dir)?;
        Ok(())
    }
}

/// Removes all that is in a folder.
fn empty(room: &OwnedFd) -> nix::Result<()> {
    let folder = tree::open(room, ".", OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
    let mut names = Vec::new();
    for entry in Dir::from_fd(folder)?.iter() {
        let name = entry?.file_name().to_owned();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name);
        }
    }
    // The list goes first: without it nothing of the rest counts.
    names.sort_by_key(|name| name.to_bytes() != PACKS.as_bytes());
    for name in names {
        match unlinkat(room, name.as_c_str(), UnlinkatFlags::NoRemoveDir) {
            Err(Errno::EISDIR) => tree::remove(room, &name.to_string_lossy())?,
            other => other?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_repository_has_a_folder_of_its_own_that_is_a_plain_name() {
        let urls =
            ["https://a.example/x/infra.git", "https://b.example/x/infra.git", "https://a.example/../é/", ""];
        let folders = urls.map(folder);
        for (index, name) in folders.iter().enumerate() {
            assert!(!name.contains('/') && !name.starts_with('.') && name.is_ascii(), "{name}");
            assert!(!folders[index + 1..].contains(name));
        }
        assert!(folders[0].ends_with("-infra.git"), "{}", folders[0]);
    }
}
