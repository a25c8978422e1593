//! What runs in a pane, from `/proc` of that pane's own processes and of no others. Everything read here belongs to
//! the person, who may arrange it as they like: sizes and numbers are bounded, and what cannot be read is not there.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;

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
    pub(crate) name: String,
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
        name: name(shown)?,
        arguments: list(&read(shown, "cmdline", MAX_ARGUMENTS)?),
        folder: folder(shown).or_else(|| folder(pid)),
        ours: fs::metadata(format!("/proc/{shown}"))
            .is_ok_and(|meta| meta.uid() == nix::unistd::Uid::effective().as_raw()),
    })
}

/// The first `claude` among the process `pid` and what descends from it, nearest first.
pub(crate) fn claude(pid: u32) -> Option<Claude> {
    let mut waiting = VecDeque::from([pid]);
    let mut seen = 0;
    while let Some(pid) = waiting.pop_front() {
        seen += 1;
        if seen > MAX_PROCESSES {
            return None;
        }
        let Some(name) = name(pid) else { continue };
        if name == "claude" {
            return Some(Claude {
                arguments: list(&read(pid, "cmdline", MAX_ARGUMENTS)?),
                folder: folder(pid),
                started: started(pid)?,
            });
        }
        waiting.extend(children(pid));
    }
    None
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

fn folder(pid: u32) -> Option<Folder> {
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
    foreground: i64,
    /// In ticks since the machine started.
    started: u64,
}

fn stat(pid: u32) -> Option<Stat> {
    let text = read(pid, "stat", 4096)?;
    let text = String::from_utf8_lossy(&text);
    // The second field is the name, which may hold anything but ends with the last parenthesis.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    Some(Stat { foreground: fields.get(5)?.parse().ok()?, started: fields.get(19)?.parse().ok()? })
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
        assert!(shown.ours && shown.name == "sh", "{shown:?}");
        let group = nix::unistd::Pid::from_raw(i32::try_from(shell.id()).unwrap());
        nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL).unwrap();
        shell.wait().unwrap();
    }

    #[test]
    fn a_process_that_is_gone_is_not_there() {
        assert!(foreground(4_000_000).is_none() && claude(4_000_000).is_none());
        assert!(environment(4_000_000, &["PATH".into()]).is_empty());
    }
}
