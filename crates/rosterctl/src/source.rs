//! The worker that fetches the roster's repository, as the system user `rosterd`, with git itself. The daemon starts it;
//! by hand it is of no use. What it gives back is a commit and a text.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use nix::sys::resource::{Resource, setrlimit};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::network;

/// The word by which the daemon starts it.
pub(crate) const WORD: &str = "source-worker";

/// More than any roster needs; the parser has a smaller limit with a better message.
const MOST_BYTES: u64 = 16 << 20;

/// The most that one fetch may bring, in bytes: rosters are text.
const MOST_FETCHED: u64 = 256 << 20;

/// What the fetched commit is called in our clone.
const HEAD: &str = "refs/rosterd/head";

/// What it is told.
#[derive(Deserialize)]
struct Task {
    folder: PathBuf,
    url: String,
    r#ref: String,
    path: String,
    deadline_s: u64,
    /// The commit whose roster is in its place.
    after: Option<String>,
    allowed_signers: Option<String>,
    credentials: Option<String>,
}

/// The worker's own life.
pub(crate) fn work() -> ExitCode {
    network::work(|task| {
        setrlimit(Resource::RLIMIT_FSIZE, MOST_FETCHED, MOST_FETCHED).map_err(|errno| errno.to_string())?;
        fetch(task)
    })
}

fn fetch(task: Task) -> Result<(String, String), String> {
    let digest: String = Sha256::digest(&task.url).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let clone = task.folder.join(format!("{digest}.git"));
    let git = Git { deadline_s: task.deadline_s, clone: &clone };
    if !clone.join("HEAD").exists() {
        // What a kill has left of it is nothing to keep.
        let _ = fs::remove_dir_all(&clone);
        git.run(&["init", "--quiet", "--bare"], &[clone.as_os_str()])?;
    }
    let credentials = task
        .credentials
        .as_ref()
        .map(|text| Secret::write(&task.folder.join("credentials"), text))
        .transpose()?;
    let helper =
        credentials.as_ref().map(|file| format!("credential.helper=store --file={}", file.0.display()));
    let refspec = format!("+{}:{HEAD}", task.r#ref);
    // One file for all that a fetch brings, so that the limit is one for all of it.
    let mut arguments = vec!["-c", "http.followRedirects=false", "-c", "fetch.unpackLimit=1"];
    arguments.extend(helper.iter().flat_map(|helper| ["-c", helper.as_str()]));
    arguments.extend(["fetch", "--quiet", "--no-tags", "--no-write-fetch-head"]);
    // What came before is of no interest, unless it must be shown that something follows it.
    if task.after.is_none() {
        arguments.push("--depth=1");
    }
    arguments.extend(["--end-of-options", task.url.as_str(), refspec.as_str()]);
    git.run(&arguments, &[])?;
    judge(&task, &git).inspect_err(|_| {
        // Whoever is refused may push again and again, and none of it is kept.
        let _ = fs::remove_dir_all(&clone);
    })
}

/// Whether what was fetched may be taken: the commit and the text.
fn judge(task: &Task, git: &Git<'_>) -> Result<(String, String), String> {
    let peeled = format!("{HEAD}^{{commit}}");
    let commit = text(git.run(&["rev-parse", "--verify", &peeled], &[])?)?.trim().to_owned();
    if let Some(signers) = &task.allowed_signers {
        let file = Secret::write(&task.folder.join("allowed-signers"), signers)?;
        let allowed = format!("gpg.ssh.allowedSignersFile={}", file.0.display());
        git.run(&["-c", &allowed, "verify-commit", &commit], &[])
            .map_err(|why| format!("commit {commit} is not signed by anybody who may: {why}"))?;
    }
    // An earlier roster was signed, too, and would give back to people what was taken from them since.
    if let Some(after) = task.after.as_ref().filter(|after| **after != commit) {
        git.run(&["merge-base", "--is-ancestor", after, &commit], &[]).map_err(|_| {
            format!(
                "commit {commit} does not follow {after}, whose roster is in place: the branch was rewritten, or the \
                 server gives an earlier state; if it is to be taken all the same, move the roster away"
            )
        })?;
    }
    let blob = format!("{commit}:{}", task.path);
    let size = text(git.run(&["cat-file", "-s", &blob], &[])?)?;
    if size.trim().parse::<u64>().map_or(true, |size| size > MOST_BYTES) {
        return Err(format!("{} is bigger than {} MiB", task.path, MOST_BYTES >> 20));
    }
    Ok((commit, text(git.run(&["cat-file", "blob", &blob], &[])?)?))
}

fn text(bytes: Vec<u8>) -> Result<String, String> {
    String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned())
}

/// A file that only we can read, gone when it is dropped.
struct Secret(PathBuf);

impl Secret {
    fn write(path: &Path, text: &str) -> Result<Secret, String> {
        let _ = fs::remove_file(path);
        let written = File::options().write(true).create_new(true).mode(0o600).open(path);
        let secret = Secret(path.to_path_buf());
        written
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        Ok(secret)
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// git, without anybody's configuration, prompts or other ways to a server.
struct Git<'a> {
    deadline_s: u64,
    clone: &'a Path,
}

impl Git<'_> {
    fn run(&self, arguments: &[&str], paths: &[&std::ffi::OsStr]) -> Result<Vec<u8>, String> {
        let init = arguments.first() == Some(&"init");
        let mut command = Command::new("/usr/bin/timeout");
        command.args(["--kill-after=5", &self.deadline_s.to_string(), "/usr/bin/git"]);
        if !init {
            command.arg("--git-dir").arg(self.clone);
        }
        let output = command
            .args(arguments)
            .args(paths)
            .env_clear()
            .envs([
                ("PATH", "/usr/bin:/bin"),
                ("LC_ALL", "C"),
                ("HOME", "/nonexistent"),
                ("GIT_CONFIG_NOSYSTEM", "1"),
                ("GIT_CONFIG_GLOBAL", "/dev/null"),
                ("GIT_TERMINAL_PROMPT", "0"),
                ("GIT_ASKPASS", "/bin/false"),
                ("GIT_ALLOW_PROTOCOL", "https:http"),
            ])
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("cannot start git: {error}"))?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        if output.status.code() == Some(124) {
            return Err(format!("git took longer than {} s", self.deadline_s));
        }
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains("signal 25") || said.contains("File too large") {
            return Err(format!("the server sends more than {} MiB", MOST_FETCHED >> 20));
        }
        let first: Vec<_> = said.lines().filter(|line| !line.trim().is_empty()).take(3).collect();
        Err(if first.is_empty() { format!("git ended with {}", output.status) } else { first.join("; ") })
    }
}
