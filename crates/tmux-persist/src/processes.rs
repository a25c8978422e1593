//! What runs in a pane, from `/proc` of that pane's own processes and of no others. Everything read here belongs to
//! the person, who may arrange it as they like: sizes and numbers are bounded, and what cannot be read is not there.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};

use nix::fcntl::OFlag;
use nix::sys::termios::{InputFlags, LocalFlags, SpecialCharacterIndices, tcgetattr};

use crate::model::Folder;

/// More processes than a pane ever has; whoever has more keeps the machine from looking at them all.
const MAX_PROCESSES: usize = 2000;
/// The longest command line that is read.
const MAX_ARGUMENTS: u64 = 64 * 1024;
/// The largest environment that is read.
const MAX_ENVIRONMENT: u64 = 256 * 1024;

/// The process in the foreground of a terminal.
#[derive(Debug)]
pub(crate) struct Foreground {
    pub(crate) arguments: Vec<Vec<u8>>,
    pub(crate) folder: Option<Folder>,
    /// Whether it belongs to whoever asks.
    pub(crate) ours: bool,
}

/// The first process named `claude` in a pane.
#[derive(Debug)]
pub(crate) struct Claude {
    pub(crate) arguments: Vec<Vec<u8>>,
    pub(crate) folder: Option<Folder>,
    /// When it started, in seconds since 1970 by today's clock.
    pub(crate) started: f64,
}

/// What runs in the foreground of the pane whose first process is `pid`.
pub(crate) fn foreground(pid: u32) -> Option<Foreground> {
    let leader = stat(pid).and_then(|stat| u32::try_from(stat.foreground).ok()).filter(|leader| *leader > 0);
    let shown = leader.filter(|leader| fs::metadata(format!("/proc/{leader}")).is_ok()).unwrap_or(pid);
    Some(Foreground {
        arguments: list(&read(shown, "cmdline", MAX_ARGUMENTS)?),
        folder: folder(shown).or_else(|| folder(pid)),
        ours: fs::metadata(format!("/proc/{shown}"))
            .is_ok_and(|meta| meta.uid() == nix::unistd::Uid::effective().as_raw()),
    })
}

/// The first `claude` among the process `pid` and what descends from it, nearest first.
pub(crate) fn claude(pid: u32) -> Option<Claude> {
    let pid = Below::of(pid).find(|pid| name(*pid).is_some_and(|name| name == "claude"))?;
    Some(Claude {
        arguments: list(&read(pid, "cmdline", MAX_ARGUMENTS)?),
        folder: folder(pid),
        started: started(pid)?,
    })
}

/// Whether the first process of a pane is still the one that a restore began, which is to resume the conversation `id`: its
/// arguments name it, or it is the server's own fork that becomes it. A shell that comes after has no such arguments.
pub(crate) fn is_on_its_way(pid: u32, id: &str) -> bool {
    let names = |argument: &[u8]| argument.windows(id.len()).any(|part| part == id.as_bytes());
    let forked = || name(pid).is_some_and(|name| name.starts_with("tmux"));
    read(pid, "cmdline", MAX_ARGUMENTS).is_some_and(|arguments| names(&arguments)) || forked()
}

/// A process and what descends from it, nearest first. The children of each are looked for when the next one is asked for.
struct Below {
    waiting: VecDeque<u32>,
    last: Option<u32>,
    seen: usize,
}

impl Below {
    fn of(pid: u32) -> Below {
        Below { waiting: VecDeque::from([pid]), last: None, seen: 0 }
    }

    /// Whether there were more than are looked at.
    fn is_cut(&self) -> bool {
        self.seen > MAX_PROCESSES
    }
}

impl Iterator for Below {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        self.waiting.extend(self.last.take().into_iter().flat_map(children));
        let next = self.waiting.pop_front()?;
        self.seen += 1;
        if self.is_cut() {
            self.waiting.clear();
            return None;
        }
        self.last = Some(next);
        Some(next)
    }
}

/// Shells that take what is typed.
const SHELLS: [&str; 9] = ["bash", "zsh", "sh", "fish", "dash", "ksh", "ksh93", "mksh", "tcsh"];

/// The shell that has the foreground of the pane whose first process is `pid` to itself, and reads commands from the pane's
/// terminal as far as the kernel can tell. Not a shell that runs a script, one that waits for another program or for an
/// answer to its own `read`, nor anybody else's.
pub(crate) fn waiting_shell(pid: u32) -> Option<u32> {
    let pane = stat(pid)?;
    let shell = u32::try_from(pane.foreground).ok().filter(|leader| *leader > 0)?;
    let of_shell = stat(shell)?;
    let alone = {
        let mut below = Below::of(pid);
        let others = below.by_ref().any(|other| {
            other != shell && stat(other).is_some_and(|stat| i64::from(stat.group) == pane.foreground)
        });
        !others && !below.is_cut()
    };
    let sleeps = of_shell.state == "S" && of_shell.group == shell && of_shell.terminal == pane.terminal;
    let ours = fs::metadata(format!("/proc/{shell}"))
        .is_ok_and(|meta| meta.uid() == nix::unistd::Uid::effective().as_raw());
    let shows = name(shell).is_some_and(|name| SHELLS.contains(&name.as_str()));
    let asks = shows && takes_commands(&list(&read(shell, "cmdline", MAX_ARGUMENTS)?));
    (alone && sleeps && ours && asks && edits_a_line(shell, pane.terminal)).then_some(shell)
}

/// Whether a shell with these arguments reads commands from its terminal. An argument that is not known is doubt.
fn takes_commands(arguments: &[Vec<u8>]) -> bool {
    let Some((program, options)) = arguments.split_first() else { return false };
    let program = program.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    let program = program.strip_prefix(b"-").unwrap_or(program);
    let mut options = options.iter().map(Vec::as_slice);
    while let Some(option) = options.next() {
        let known = match option {
            b"--login" | b"--posix" | b"--norc" | b"--noprofile" | b"--interactive" | b"--no-config"
            | b"--private" | b"--no-rcs" | b"--no-globalrcs" => true,
            b"--rcfile" | b"--init-file" | b"-o" | b"+o" | b"-O" | b"+O" => options.next().is_some(),
            // Of none of these shells does any of these letters take a script, a command or the standard input.
            [b'-', letters @ ..] => !letters.is_empty() && letters.iter().all(|b| b"filmpuvx".contains(b)),
            _ => false,
        };
        if !known {
            return false;
        }
    }
    SHELLS.iter().any(|shell| shell.as_bytes() == program)
}

/// Whether the shell's standard input is that terminal, and in the mode in which a shell edits a line: the kernel neither
/// gathers lines nor shows what is typed, and does not take Enter for the end of a line either, or takes that for Enter too.
/// While a shell runs a command the kernel does all of it; for `read -n 1` it does not gather, for `read -s -n 1` it does not
/// show either. dash leaves all to the kernel, and is known by how much it reads: for a command as much as there is, for
/// `read` a byte at a time.
fn edits_a_line(shell: u32, terminal: u64) -> bool {
    let path = format!("/proc/{shell}/fd/0");
    let is_terminal = |meta: &fs::Metadata| meta.file_type().is_char_device() && meta.rdev() == terminal;
    if !fs::metadata(&path).is_ok_and(|meta| is_terminal(&meta)) {
        return false;
    }
    let flags = OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
    let Ok(file) = OpenOptions::new().read(true).custom_flags(flags.bits()).open(&path) else { return false };
    if !file.metadata().is_ok_and(|meta| is_terminal(&meta)) {
        return false;
    }
    let Ok(mode) = tcgetattr(&file) else { return false };
    let by_kernel = LocalFlags::ICANON | LocalFlags::ECHO;
    let enter = mode.input_flags & (InputFlags::ICRNL | InputFlags::INLCR);
    let edits = !mode.local_flags.intersects(by_kernel) && enter != InputFlags::ICRNL;
    // And it shows its line once more when it is told to.
    let again = mode.local_flags.contains(LocalFlags::IEXTEN)
        && mode.control_chars.get(SpecialCharacterIndices::VREPRINT as usize) == Some(&CONTROL_R);
    edits || mode.local_flags.contains(by_kernel) && again && is_dash(shell) && reads_much(shell)
}

const CONTROL_R: u8 = 0x12;

/// Whether a shell is the one that leaves its line to the kernel.
pub(crate) fn is_dash(shell: u32) -> bool {
    program(shell).is_some_and(|program| program == "dash")
}

/// The name of the file that a process executes.
pub(crate) fn program(pid: u32) -> Option<String> {
    let exe = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    Some(exe.file_name()?.to_str()?.to_owned())
}

/// Whether a process waits in a call of the kernel with the arguments of `read(0, …, more than one)`. Where the kernel lets
/// nobody look, it does not.
fn reads_much(pid: u32) -> bool {
    let Some(call) = read(pid, "syscall", 256) else { return false };
    let call = String::from_utf8_lossy(&call);
    let mut arguments = call.split_ascii_whitespace().skip(1);
    let (from, length) = (arguments.next(), arguments.nth(1).and_then(|hex| hex.strip_prefix("0x")));
    let length = length.and_then(|hex| u64::from_str_radix(hex, 16).ok());
    from == Some("0x0") && length.is_some_and(|length| length > 1)
}

/// Whether two processes see the same files and processes, as far as that can be seen: a command that is meant for the one
/// is not typed into a container.
pub(crate) fn see_the_same(one: u32, other: u32) -> bool {
    ["ns/mnt", "ns/pid", "ns/user", "root"].iter().all(|what| {
        let of = |pid| fs::read_link(format!("/proc/{pid}/{what}"));
        match (of(one), of(other)) {
            (Ok(one), Ok(other)) => one == other,
            _ => true,
        }
    })
}

/// The children of a process.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let mut found = Vec::new();
    // Each thread lists the children that it forked itself.
    for thread in
        fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten().take(MAX_PROCESSES)
    {
        let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        found.extend(children.split_ascii_whitespace().filter_map(|child| child.parse::<u32>().ok()));
    }
    found
}

/// The value of each of `keys` in the environment that the process `pid` was started with.
pub(crate) fn environment(pid: u32, keys: &[String]) -> Vec<(String, String)> {
    if keys.is_empty() {
        return Vec::new();
    }
    let Some(environment) = read(pid, "environ", MAX_ENVIRONMENT) else { return Vec::new() };
    list(&environment)
        .into_iter()
        .filter_map(|entry| {
            let entry = String::from_utf8(entry).ok()?;
            let (key, value) = entry.split_once('=')?;
            keys.iter().any(|wanted| wanted == key).then(|| (key.to_owned(), value.to_owned()))
        })
        .collect()
}

fn name(pid: u32) -> Option<String> {
    let name = read(pid, "comm", 64)?;
    Some(String::from_utf8_lossy(&name).trim_end_matches('\n').to_owned())
}

/// The folder that a process is in.
pub(crate) fn folder(pid: u32) -> Option<Folder> {
    let folder = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
    // The kernel marks a folder that was removed so.
    if folder.as_os_str().as_encoded_bytes().ends_with(b" (deleted)")
        && fs::symlink_metadata(&folder).is_err()
    {
        let text = folder.into_os_string().into_string().ok()?;
        return Folder::new(text.strip_suffix(" (deleted)")?);
    }
    Folder::new(folder)
}

struct Stat {
    state: String,
    group: u32,
    /// The number of the terminal's device.
    terminal: u64,
    /// The group in the foreground of that terminal.
    foreground: i64,
    /// In ticks since the machine started.
    started: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = read(pid, "stat", 4096)?;
    let text = String::from_utf8_lossy(&text);
    // The second field is the name, which may hold anything but ends with the last parenthesis.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    // The kernel writes a device's number in an int: the minor's upper bits, the major, the minor's lower bits.
    let device = u64::from(fields.get(4)?.parse::<i32>().ok()?.cast_unsigned());
    let (major, minor) = ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xf_ff00));
    Some(Stat {
        state: (*fields.first()?).to_owned(),
        group: fields.get(2)?.parse().ok()?,
        terminal: nix::sys::stat::makedev(major, minor),
        foreground: fields.get(5)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
    })
}

fn started(pid: u32) -> Option<f64> {
    let ticks = stat(pid)?.started as f64;
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten()? as f64;
    let uptime = fs::read_to_string("/proc/uptime").ok()?;
    let uptime: f64 = uptime.split_ascii_whitespace().next()?.parse().ok()?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok()?.as_secs_f64();
    Some(now - uptime + ticks / per_second)
}

fn read(pid: u32, file: &str, at_most: u64) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    File::open(format!("/proc/{pid}/{file}")).ok()?.take(at_most).read_to_end(&mut content).ok()?;
    Some(content)
}

fn list(bytes: &[u8]) -> Vec<Vec<u8>> {
    let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    bytes.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn the_nearest_claude_is_found_with_its_arguments_and_folder() {
        let dir = tempfile::tempdir().unwrap();
        // `exec -a` gives the arguments, a copy named claude the name that the kernel shows.
        let program = dir.path().join("claude");
        fs::copy("/bin/sleep", &program).unwrap();
        let script = format!("(sleep 60 & exec {} 60.0) & wait", program.display());
        let mut shell = Command::new("sh")
            .args(["-c", &script])
            .current_dir(dir.path())
            .env("WANTED", "a\nb=c")
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let before =
            std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        let found = std::iter::repeat_with(|| {
            std::thread::sleep(std::time::Duration::from_millis(5));
            claude(shell.id())
        })
        .take(1000)
        .flatten()
        .next()
        .unwrap();
        assert_eq!(found.arguments.last().unwrap(), b"60.0");
        assert_eq!(found.folder.unwrap().path(), dir.path().canonicalize().unwrap());
        assert!((found.started - before).abs() < 30.0, "{} {before}", found.started);
        assert_eq!(
            environment(shell.id(), &["WANTED".into(), "OTHER".into()]),
            [("WANTED".to_owned(), "a\nb=c".to_owned())]
        );
        let shown = foreground(shell.id()).unwrap();
        assert!(shown.ours && shown.arguments.first().is_some_and(|name| name == b"sh"), "{shown:?}");
        let group = nix::unistd::Pid::from_raw(i32::try_from(shell.id()).unwrap());
        nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL).unwrap();
        shell.wait().unwrap();
    }

    #[test]
    fn a_shell_takes_commands_unless_its_arguments_say_something_else() {
        let takes =
            |line: &str| takes_commands(&line.split(' ').map(|a| a.as_bytes().to_vec()).collect::<Vec<_>>());
        for shell in [
            "bash",
            "-bash",
            "/bin/bash -l",
            "bash --login --norc -i",
            "bash --rcfile x -o vi",
            "zsh -il",
            "zsh -l -p",
            "sh",
            "-dash",
            "fish -l -i",
            "bash -O extglob",
        ] {
            assert!(takes(shell), "{shell}");
        }
        for other in [
            "bash wizard.sh",
            "bash -i wizard.sh",
            "bash -c x",
            "bash -lic x",
            "bash -l -i -c x",
            "bash -s",
            "bash -si",
            "bash -",
            "bash -- x",
            "bash --rcfile",
            "bash --rcfile x y",
            "bash -o",
            "bash --what",
            "bash -i --what",
            "fish -C x",
            "bash ",
            "",
            "sleep -i",
            "x/bash/y",
        ] {
            assert!(!takes(other), "{other}");
        }
        assert!(!takes_commands(&[]));
    }

    #[test]
    fn a_process_that_is_gone_is_not_there() {
        assert!(foreground(4_000_000).is_none() && claude(4_000_000).is_none());
        assert!(waiting_shell(4_000_000).is_none());
        assert!(environment(4_000_000, &["PATH".into()]).is_empty());
    }
}
