//! What daemon and worker say to each other: one JSON value a line, of bounded length at both ends.

use std::io::{self, BufRead, Read, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use roster::desired::HomeDesired;
use roster::files::FileAction;
use roster::observed::HomeObserved;
use roster::plan::{HomeAction, MirrorAction};
use roster::remote::{Asked, CloneState, FastForward, LookAt, MirrorClone, Standing};

/// The longest line either end accepts: room for the refs of a very big repository.
pub(crate) const MAX_LINE: usize = 16 << 20;

/// From the daemon.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// The first request, and only the first.
    Become(Become),
    /// Look at what is desired.
    Observe(HomeDesired),
    /// So many transfers are to come; each gets its share of the time.
    Transfers(u32),
    /// Do one step.
    Apply(HomeAction),
    /// Change a file. The text comes beside, because a step holds only its digest.
    File { action: FileAction, text: String },
    /// Clone from the mirror.
    CloneMirrored(MirrorClone),
    /// Look at what clones know of their remotes.
    Look(Vec<LookAt>),
    /// Ask a remote for its refs.
    Ask { url: String },
    /// Look closer at branches that may be behind.
    Inspect(Vec<FastForward>),
    /// Do one step in the mirror.
    Mirror(MirrorAction),
}

/// From the worker, one for each request.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reply {
    /// The worker is the user.
    Ready { landlock: Landlock },
    /// Only a worker with libgit2 can tell.
    NeedsGit,
    /// What there is.
    Observed(Box<HomeObserved>),
    /// The step was applied.
    Done,
    /// The step was applied from the server, because the mirror failed: why.
    DoneWithoutMirror { why: String },
    /// What each clone knows, in the order of the request.
    States(Vec<CloneState>),
    /// What the remote answered.
    Asked(Asked),
    /// How each branch stands, in the order of the request.
    Standings(Vec<Standing>),
    /// The request could not be met.
    Failed(Failure),
}

/// Whom to become and within which limits.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Become {
    /// For messages.
    pub(crate) user: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: PathBuf,
    pub(crate) memory_mib: u64,
    pub(crate) max_clone_mib: u64,
    pub(crate) deadline_s: u64,
    pub(crate) task: Task,
}

/// What a worker is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Task {
    /// To look at a person's home, and nothing else.
    Look,
    /// A person's home, and objects out of the folder of the mirrors.
    Home { mirrors: PathBuf },
    /// One remote that everybody may read, as a system user; its mirror is kept, or looked at.
    Remote { url: String, mirror: bool },
}

/// Why something was not done, for an admin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) why: String,
    pub(crate) next: String,
}

impl Failure {
    pub(crate) fn new(why: impl Into<String>, next: impl Into<String>) -> Failure {
        Failure { why: why.into(), next: next.into() }
    }
}

/// How far Landlock confines a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Landlock {
    /// To the home and what a connection needs.
    Enforced,
    /// The same, without what this kernel's version of Landlock does not know yet.
    Partial,
    /// Not at all: this kernel has no Landlock, or something forbids it. Separation is by uid alone.
    Absent,
}

impl Become {
    /// Whether these are the ids of a person. Both ends ask: nothing that is below the first uid of a person,
    /// and none of the ids that mean "nobody" or "no change", is ever worked for.
    ///
    /// A remote is asked by a user of the system, who is not root and owns nothing but the mirrors.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        use become_user::is_system;

        let is_remote = matches!(self.task, Task::Remote { .. });
        let refuse = |what: String| {
            let why = format!("no worker for {}: {what}", self.user);
            Err(Failure::new(
                why,
                "rosterd works only in homes of people; give the person an account of their own",
            ))
        };
        if is_remote && !(is_system(self.uid) && is_system(self.gid) && self.groups.is_empty()) {
            return refuse(format!("uid {} or gid {} is not a system user's", self.uid, self.gid));
        }
        if !is_remote && !become_user::is_person(self.uid) {
            return refuse(format!("uid {} is a system account's", self.uid));
        }
        if let Some(gid) =
            std::iter::once(&self.gid).chain(&self.groups).find(|gid| !become_user::is_group(**gid))
        {
            return refuse(format!("gid {gid} is the system's own"));
        }
        if !self.home.is_absolute() {
            return refuse(format!("the home {} is no absolute path", self.home.display()));
        }
        Ok(())
    }
}

/// Reads a line of at most `MAX_LINE` bytes; nothing at the end of the input.
pub(crate) fn read_line(from: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    from.take(MAX_LINE as u64 + 1).read_until(b'\n', &mut line)?;
    match line.pop() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(line)),
        Some(_) if line.len() >= MAX_LINE => {
            Err(io::Error::new(io::ErrorKind::InvalidData, "the line is too long"))
        }
        Some(_) => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// The next request; nothing at the end of the input.
pub(crate) fn next(requests: &mut impl BufRead) -> io::Result<Option<Request>> {
    match read_line(requests)? {
        Some(line) => Ok(Some(serde_json::from_slice(&line)?)),
        None => Ok(None),
    }
}

/// Writes a message as a line.
pub(crate) fn write_line(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    to.write_all(&line)?;
    to.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn person(uid: u32, gid: u32) -> Become {
        Become {
            user: "ana".into(),
            uid,
            gid,
            groups: vec![],
            home: "/home/ana".into(),
            memory_mib: 64,
            max_clone_mib: 64,
            deadline_s: 10,
            task: Task::Home { mirrors: "/var/cache/rosterd/mirror".into() },
        }
    }

    #[test]
    fn invariant_3_no_worker_becomes_root_or_a_system_account() {
        for (uid, gid) in
            [(0, 1000), (999, 1000), (65_534, 1000), (u32::MAX, 1000), (1000, 0), (1000, u32::MAX)]
        {
            assert!(person(uid, gid).check().is_err(), "{uid}:{gid}");
        }
        assert_eq!(person(1000, 100).check(), Ok(()));
        assert!(Become { groups: vec![0], ..person(1000, 1000) }.check().is_err());
        assert!(Become { home: "ana".into(), ..person(1000, 1000) }.check().is_err());

        // Who asks remotes is a system user with no other group, and never root or a person.
        let task = Task::Remote { url: "https://git.example/x".into(), mirror: true };
        let remote = |uid, gid| Become { task: task.clone(), ..person(uid, gid) };
        assert_eq!(remote(998, 998).check(), Ok(()));
        for (uid, gid) in [(0, 998), (998, 0), (1000, 998), (998, 1000), (65_534, 998)] {
            assert!(remote(uid, gid).check().is_err(), "{uid}:{gid}");
        }
        assert!(Become { groups: vec![27], ..remote(998, 998) }.check().is_err());
    }

    #[test]
    fn lines_are_bounded() {
        let read = |bytes: &[u8]| read_line(&mut io::BufReader::new(bytes));
        assert_eq!(read(b"").unwrap(), None);
        assert_eq!(read(b"{}\nrest").unwrap(), Some(b"{}".to_vec()));
        assert_eq!(read(b"cut off").unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(read(&vec![b'x'; MAX_LINE + 10]).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
