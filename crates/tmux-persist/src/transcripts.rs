//! The transcripts of a person's conversations: `~/.claude/projects/<slug of the folder>/<uuid>.jsonl`. Read as that
//! person. Nothing planted there makes it wait or read much: only regular files are opened, and of each only the
//! beginning and the end.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use nix::fcntl::OFlag;

use crate::attribution::{Touched, recorded_folder, recorded_name, slug};
use crate::model::{ConversationId, Folder};

/// How much of a transcript's beginning is read for a name or a folder, and of its end for a name.
const BEGINNING: u64 = 256 * 1024;
const END: u64 = 64 * 1024;
/// How many transcripts of one folder, and how many folders, are looked at.
const MOST: usize = 10_000;
/// Of how many of them, the newest, the names are read.
const NAMED: usize = 200;
/// A file's time may be a tick behind the process that wrote it.
const SLACK: f64 = 1.0;

/// The transcripts of one person.
#[derive(Debug, Clone)]
pub(crate) struct Transcripts {
    root: PathBuf,
}

impl Transcripts {
    pub(crate) fn new(home: &Path) -> Transcripts {
        Transcripts { root: home.join(".claude/projects") }
    }

    /// The conversation that a session's stamp names. Whoever owns the session wrote it, so it counts only when it is
    /// the path of a transcript in this very place.
    pub(crate) fn stamped(&self, stamp: &[u8]) -> Option<ConversationId> {
        let path = Path::new(OsStr::from_bytes(stamp));
        let below = path.strip_prefix(&self.root).ok()?;
        let plain = below.components().all(|part| matches!(part, Component::Normal(_)));
        if !plain || below.components().count() < 2 {
            return None;
        }
        let id = id_of(path.file_name()?)?;
        is_file(path).then_some(id)
    }

    /// The transcripts of `folder` touched since `started`, the newest first, with the names they record. Of a folder with
    /// more than can be looked at none, since the only one of a part need not be the only one.
    pub(crate) fn touched(&self, folder: &Folder, started: f64) -> Vec<Touched> {
        let entries: Vec<_> =
            fs::read_dir(self.of(folder)).into_iter().flatten().flatten().take(MOST + 1).collect();
        if entries.len() > MOST {
            return Vec::new();
        }
        let mut found: Vec<(f64, ConversationId, PathBuf)> = entries
            .into_iter()
            .filter_map(|entry| {
                let id = id_of(&entry.file_name())?;
                let meta = entry.metadata().ok().filter(|meta| meta.is_file())?;
                let touched = meta.mtime() as f64 + meta.mtime_nsec() as f64 / 1e9;
                (touched >= started - SLACK).then(|| (touched, id, entry.path()))
            })
            .collect();
        found.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        let named = found.into_iter().take(NAMED);
        named.map(|(_, id, path)| Touched { id, name: name_in(&path) }).collect()
    }

    /// Whether `folder` has any transcripts.
    pub(crate) fn has(&self, folder: &Folder) -> bool {
        self.of(folder).is_dir()
    }

    /// The folder in which a conversation resumes, if its transcript exists: `folder` when it lies there, and
    /// otherwise the one that the transcript says.
    pub(crate) fn resumes_in(&self, id: &ConversationId, folder: &Folder) -> Option<Folder> {
        let name = format!("{id}.jsonl");
        if is_file(&self.of(folder).join(&name)) {
            return Some(folder.clone());
        }
        let real = fs::canonicalize(folder.path()).ok().and_then(Folder::new).filter(|real| real != folder);
        if let Some(real) = real
            && is_file(&self.of(&real).join(&name))
        {
            return Some(real);
        }
        let place = fs::read_dir(&self.root)
            .into_iter()
            .flatten()
            .flatten()
            .take(MOST)
            .map(|entry| entry.path())
            .find(|place| is_file(&place.join(&name)))?;
        let said = recorded_folder(&beginning(&place.join(&name))?).and_then(Folder::new);
        // What it says counts only if it would be looked for where it lies.
        let fits =
            |said: &Folder| place.file_name().is_some_and(|name| name.as_bytes() == slug(said.bytes()));
        Some(said.filter(fits).unwrap_or_else(|| folder.clone()))
    }

    fn of(&self, folder: &Folder) -> PathBuf {
        self.root.join(std::ffi::OsString::from_vec(slug(folder.bytes())))
    }
}

fn id_of(file: &OsStr) -> Option<ConversationId> {
    ConversationId::new(file.to_str()?.strip_suffix(".jsonl")?)
}

fn is_file(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file())
}

fn open(path: &Path) -> Option<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path).ok()?;
    file.metadata().ok()?.is_file().then_some(file)
}

fn beginning(path: &Path) -> Option<Vec<u8>> {
    let mut part = Vec::new();
    open(path)?.take(BEGINNING).read_to_end(&mut part).ok()?;
    Some(part)
}

fn name_in(path: &Path) -> Option<String> {
    let mut file = open(path)?;
    let length = file.metadata().ok()?.len();
    let mut end = Vec::new();
    file.seek(SeekFrom::Start(length.saturating_sub(END))).ok()?;
    (&mut file).take(END).read_to_end(&mut end).ok()?;
    recorded_name(&end).or_else(|| recorded_name(&beginning(path)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const X: &str = "00000000-0000-4000-8000-00000000000a";
    const Y: &str = "00000000-0000-4000-8000-00000000000b";

    struct Home(tempfile::TempDir);

    impl Home {
        fn new() -> Home {
            Home(tempfile::tempdir().unwrap())
        }

        fn transcript(&self, folder: &str, id: &str, text: &str) -> PathBuf {
            let place = self.0.path().join(".claude/projects").join(folder);
            fs::create_dir_all(&place).unwrap();
            fs::write(place.join(format!("{id}.jsonl")), text).unwrap();
            place.join(format!("{id}.jsonl"))
        }

        fn all(&self) -> Transcripts {
            Transcripts::new(self.0.path())
        }
    }

    fn id(text: &str) -> ConversationId {
        ConversationId::new(text).unwrap()
    }

    #[test]
    fn a_stamp_counts_only_for_a_transcript_in_its_place() {
        let home = Home::new();
        let path = home.transcript("-srv", X, "");
        let stamped = |path: &str| home.all().stamped(path.as_bytes());
        assert_eq!(stamped(path.to_str().unwrap()), Some(id(X)));
        let root = home.0.path().join(".claude/projects");
        fs::write(root.join(format!("{Y}.jsonl")), "").unwrap();
        let outside = home.0.path().join(format!("{X}.jsonl"));
        fs::write(&outside, "").unwrap();
        std::os::unix::fs::symlink(&path, root.join(format!("-srv/{Y}.jsonl"))).unwrap();
        for bad in [
            outside.display().to_string(),
            format!("{}/-srv/{Y}.jsonl", root.display()),
            format!("{}/{Y}.jsonl", root.display()),
            format!("{}/-srv/../-srv/{X}.jsonl", root.display()),
            format!("{}/-srv/../../../{X}.jsonl", root.display()),
            format!("{}/-other/{X}.jsonl", root.display()),
            format!("{}/-srv/{X}.json", root.display()),
            format!("{}\n", path.display()),
            String::new(),
        ] {
            assert_eq!(stamped(&bad), None, "{bad}");
        }
    }

    #[test]
    fn transcripts_touched_since_are_listed_with_their_names() {
        let home = Home::new();
        let folder = Folder::new("/srv/a.b").unwrap();
        let old = home.transcript("-srv-a-b", X, "{\"customTitle\":\"old\"}\n");
        let hour_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
        File::open(&old).unwrap().set_modified(hour_ago).unwrap();
        let filler = format!("{{\"text\":\"{}\"}}\n", "x".repeat(1000)).repeat(400);
        home.transcript("-srv-a-b", Y, &format!("{{\"agentName\":\"web\"}}\n{filler}"));
        fs::write(home.0.path().join(".claude/projects/-srv-a-b/notes.jsonl"), "").unwrap();
        nix::unistd::mkfifo(
            &home.0.path().join(".claude/projects/-srv-a-b/00000000-0000-4000-8000-00000000000c.jsonl"),
            nix::sys::stat::Mode::S_IRWXU,
        )
        .unwrap();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        let touched = home.all().touched(&folder, now - 60.0);
        assert_eq!(touched, [Touched { id: id(Y), name: Some("web".into()) }]);
        assert_eq!(home.all().touched(&folder, now - 7200.0).len(), 2);
        assert!(home.all().touched(&Folder::new("/nowhere").unwrap(), 0.0).is_empty());
    }

    #[test]
    fn nothing_planted_is_waited_for_or_read_without_end() {
        let home = Home::new();
        let folder = Folder::new("/srv/x").unwrap();
        let projects = home.0.path().join(".claude/projects");
        let place = projects.join("-srv-x");
        let look = || {
            assert_eq!(home.all().stamped(place.join(format!("{X}.jsonl")).as_os_str().as_bytes()), None);
            assert_eq!(home.all().resumes_in(&id(X), &folder), None);
            home.all().touched(&folder, 0.0)
        };
        let fifo = |path: &Path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        // In the place of all folders, of this folder, of a transcript: a FIFO, and links that lead in a circle.
        fs::create_dir_all(home.0.path().join(".claude")).unwrap();
        fifo(&projects);
        assert_eq!(look(), []);
        fs::remove_file(&projects).unwrap();
        std::os::unix::fs::symlink("projects", &projects).unwrap();
        assert_eq!(look(), []);
        fs::remove_file(&projects).unwrap();
        fs::create_dir(&projects).unwrap();
        fifo(&place);
        assert_eq!(look(), []);
        fs::remove_file(&place).unwrap();
        std::os::unix::fs::symlink("-srv-x", &place).unwrap();
        assert_eq!(look(), []);
        fs::remove_file(&place).unwrap();
        fs::create_dir(&place).unwrap();
        fifo(&place.join(format!("{X}.jsonl")));
        assert_eq!(look(), []);
        // One among more than are looked at is not taken for the only one.
        home.transcript("-srv-x", Y, "{\"agentName\":\"web\"}\n");
        assert_eq!(look(), [Touched { id: id(Y), name: Some("web".into()) }]);
        for number in 0..MOST {
            File::create(place.join(number.to_string())).unwrap();
        }
        assert_eq!(look(), []);
    }

    #[test]
    fn a_conversation_resumes_where_its_transcript_says() {
        let home = Home::new();
        let here = Folder::new("/srv/here").unwrap();
        assert_eq!(home.all().resumes_in(&id(X), &here), None);
        home.transcript("-srv-here", X, "");
        assert_eq!(home.all().resumes_in(&id(X), &here), Some(here.clone()));
        home.transcript("-srv-there", Y, "{\"x\":1}\n{\"cwd\":\"/srv/there\"}\n");
        assert_eq!(home.all().resumes_in(&id(Y), &here), Folder::new("/srv/there"));
        // A transcript that was moved says a folder that it does not lie in.
        home.transcript("-srv-there", Y, "{\"cwd\":\"/srv/elsewhere\"}\n");
        assert_eq!(home.all().resumes_in(&id(Y), &here), Some(here));
    }
}
