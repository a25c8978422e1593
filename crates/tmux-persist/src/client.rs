//! Calls of tmux. The server may be hostile, hung or gone: a call has a deadline, what it says is bounded, and whether
//! there is a server is asked of its socket, so that nothing is started where there is none.
//!
//! A server can make its client execute a program (its answer to `tmux -c`, which a client heeds whatever it asked). In
//! root's worker that would be a process of the person's outside their slice, so there a client may not fork: whatever it
//! becomes is one process, which is killed at the deadline.

use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};
use nix::unistd::{Pid, Uid};

/// How long a server may take to answer. One with a thousand panes takes a quarter of a second.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// How long a server may take to make sessions.
pub(crate) const MAKING: Duration = Duration::from_secs(30);
/// The most that is read of an answer: room for ten thousand panes.
const MAX_ANSWER: usize = 8 << 20;
/// The most that is kept of what is said on standard error.
const MAX_SAID: usize = 4096;

/// Why a call of tmux gave nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("cannot start tmux")]
    Start(#[source] io::Error),
    #[error("the tmux server at {} did not answer within {seconds} s", socket.display())]
    Deadline { socket: PathBuf, seconds: u64 },
    #[error("the tmux server at {} said more than {MAX_ANSWER} bytes", socket.display())]
    TooMuch { socket: PathBuf },
    #[error("tmux failed: {said}")]
    Failed { said: String },
    #[error("the socket {} cannot be used", socket.display())]
    Socket { socket: PathBuf, source: io::Error },
    /// Where anybody may make a folder, somebody made this one.
    #[error("{} is a link or belongs to somebody else, so whoever listens in it is not spoken to", folder.display())]
    Folder { folder: PathBuf },
}

/// A person's tmux server.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    name: String,
    socket: PathBuf,
    clients: Clients,
}

/// What a client may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clients {
    /// It is the person's own, and may become the server.
    Free,
    /// It is started by root's worker, with an environment of its own, and may not fork.
    Alone,
}

/// What a call said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) output: Vec<u8>,
    pub(crate) errors: String,
    pub(crate) success: bool,
}

impl Server {
    /// The server that `tmux -L name` means for whoever asks.
    pub(crate) fn new(name: &str, clients: Clients) -> Server {
        let base = std::env::var_os("TMUX_TMPDIR").filter(|dir| !dir.is_empty());
        let base = base.map_or_else(|| PathBuf::from("/tmp"), PathBuf::from);
        let socket = base.join(format!("tmux-{}", Uid::current())).join(name);
        Server { name: name.to_owned(), socket, clients }
    }

    /// Whether something listens. A socket that outlived its server is none.
    pub(crate) fn is_there(&self) -> Result<bool, ClientError> {
        let failed = |errno: Errno| ClientError::Socket { socket: self.socket.clone(), source: errno.into() };
        if let Some(folder) = self.socket.parent() {
            match std::fs::symlink_metadata(folder) {
                Ok(meta) if meta.is_dir() && meta.uid() == Uid::effective().as_raw() => {}
                Ok(_) => return Err(ClientError::Folder { folder: folder.to_owned() }),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                Err(source) => return Err(ClientError::Socket { socket: self.socket.clone(), source }),
            }
        }
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let address = UnixAddr::new(&self.socket).map_err(failed)?;
        let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None).map_err(failed)?;
        match connect(std::os::fd::AsRawFd::as_raw_fd(&socket), &address) {
            Ok(()) => Ok(true),
            Err(Errno::ENOENT | Errno::ECONNREFUSED | Errno::ENOTDIR) => Ok(false),
            // It accepts nobody any more.
            Err(Errno::EAGAIN) => Err(ClientError::Deadline { socket: self.socket.clone(), seconds: 0 }),
            Err(errno) => Err(failed(errno)),
        }
    }

    /// One call of tmux with `arguments`, fed with `input`.
    pub(crate) fn call(
        &self,
        arguments: &[&str],
        input: &[u8],
        patience: Duration,
    ) -> Result<Said, ClientError> {
        let mut child = self
            .client()
            .args(["-u", "-L", &self.name])
            .args(arguments)
            // Within a session of its own, tmux would mean that one's server.
            .env_remove("TMUX")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(ClientError::Start)?;
        let said = self.listen(&mut child, input, patience);
        if said.is_err() {
            end(&mut child);
        }
        said
    }

    fn client(&self) -> Command {
        match self.clients {
            Clients::Free => Command::new("tmux"),
            Clients::Alone => {
                let mut client = Command::new("tmux");
                client.env_clear().env("LANG", "C.UTF-8");
                client.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
                become_user::alone(&mut client);
                client
            }
        }
    }

    fn listen(&self, child: &mut Child, input: &[u8], patience: Duration) -> Result<Said, ClientError> {
        let failed = |source: io::Error| ClientError::Failed { said: source.to_string() };
        let late = || ClientError::Deadline { socket: self.socket.clone(), seconds: patience.as_secs() };
        let until = Instant::now() + patience;
        // The input of a restore is larger than a pipe holds, and a hung server reads none of it.
        let mut stdin = child.stdin.take();
        if let Some(stdin) = &stdin {
            non_blocking(stdin).map_err(failed)?;
        }
        let mut rest = input;
        let (Some(mut stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) else {
            return Err(ClientError::Failed { said: "no pipes".into() });
        };
        let (mut output, mut errors) = (Vec::new(), Vec::new());
        let (mut out_open, mut err_open) = (true, true);
        while out_open || err_open {
            if rest.is_empty() {
                stdin = None;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(late());
            }
            let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
            let (out_ready, err_ready, in_ready) = {
                use std::os::fd::AsFd;
                let flags = |on: bool, flags| if on { flags } else { PollFlags::empty() };
                let mut fds = vec![
                    PollFd::new(stdout.as_fd(), flags(out_open, PollFlags::POLLIN)),
                    PollFd::new(stderr.as_fd(), flags(err_open, PollFlags::POLLIN)),
                ];
                if let Some(stdin) = &stdin {
                    fds.push(PollFd::new(stdin.as_fd(), PollFlags::POLLOUT));
                }
                match poll(&mut fds, timeout) {
                    Ok(_) | Err(Errno::EINTR) => {}
                    Err(errno) => return Err(failed(errno.into())),
                }
                let any = |at: usize| fds.get(at).and_then(PollFd::any).unwrap_or(false);
                (out_open && any(0), err_open && any(1), any(2))
            };
            if in_ready && let Some(pipe) = &mut stdin {
                match pipe.write(rest) {
                    Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    // It ends without reading on; what it says tells why.
                    Err(_) => rest = &[],
                }
            }
            let mut part = [0; 16 * 1024];
            if out_ready {
                let read = stdout.read(&mut part).map_err(failed)?;
                out_open = read > 0;
                output.extend_from_slice(part.get(..read).unwrap_or_default());
                if output.len() > MAX_ANSWER {
                    return Err(ClientError::TooMuch { socket: self.socket.clone() });
                }
            }
            if err_ready {
                let read = stderr.read(&mut part).map_err(failed)?;
                err_open = read > 0;
                let room = MAX_SAID.saturating_sub(errors.len());
                errors.extend_from_slice(part.get(..read.min(room)).unwrap_or_default());
            }
        }
        drop(stdin);
        // Its output is closed, so it is about to end.
        let status = loop {
            if let Some(status) = child.try_wait().map_err(failed)? {
                break status;
            }
            if Instant::now() > until {
                return Err(late());
            }
            std::thread::sleep(Duration::from_micros(200));
        };
        let errors = String::from_utf8_lossy(&errors).trim().to_owned();
        Ok(Said { output, errors, success: status.success() })
    }
}

fn non_blocking(pipe: &std::process::ChildStdin) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(())
}

fn end(child: &mut Child) {
    // It leads a process group of its own, unless it has left that meanwhile.
    if let Ok(group) = i32::try_from(child.id()) {
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
    let _ = child.kill();
    let _ = child.wait();
}
