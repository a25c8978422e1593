//! The roster from a git repository. A worker that has become the system user `rosterd` fetches it; root gets a text and
//! a commit, and puts the text where the roster is. From there it is a roster as every other: what is not valid, or held,
//! is not taken over. A fetch that fails changes nothing (invariant 8), and no run waits for one.

use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use jiff::Timestamp;
use roster::config::Config;
use roster::ledger::{SourceFailure, SourceState};
use roster::plan::WholeFile;
use roster::{parse, source};
use serde_json::json;

use crate::daemon::Daemon;
use crate::journal;
use crate::network;
use crate::remotes::ACCOUNT;
use crate::sources::{self, SourceError};

/// The clone of the roster's repository, of the system user.
const FOLDER: &str = "/var/cache/rosterd/source";

/// What it costs to start and to end, beside the fetch.
const GRACE: Duration = Duration::from_secs(10);

/// Fetches for as long as the daemon lives.
pub(crate) async fn follow(daemon: Rc<Daemon>) {
    let mut ends = daemon.run_ends();
    loop {
        let config = config_on_disk(&daemon);
        let wait = match &config.source.git {
            Some(url) => {
                once(&daemon, &config, url).await;
                Some(Duration::from_secs(config.source.interval_s))
            }
            None => {
                daemon.change_ledger(|ledger| ledger.source = None);
                None
            }
        };
        let again = async {
            match wait {
                None => drop(ends.changed().await),
                // Another configuration asks at once.
                Some(wait) => {
                    let end = tokio::time::Instant::now() + wait;
                    while tokio::time::timeout_at(end, ends.changed()).await.is_ok()
                        && config_on_disk(&daemon).source == config.source
                    {}
                }
            }
        };
        tokio::select! {
            () = again => {}
            () = daemon.stopped() => return,
        }
    }
}

/// What the configuration says now: the one in force may not have come with a roster yet.
fn config_on_disk(daemon: &Daemon) -> Config {
    let disk = sources::read(&daemon.config_path).ok();
    disk.and_then(|bytes| parse::config("config.toml", &bytes).ok()).unwrap_or_else(|| daemon.config())
}

async fn once(daemon: &Daemon, config: &Config, url: &str) {
    let placed = match fetch(config, url).await {
        Ok((commit, text)) => place(&config.roster.path, &commit, &text).await.map(|()| commit),
        Err(why) => Err(why),
    };
    let now = Timestamp::now();
    let before = daemon.ledger().source.clone();
    let known = before.as_ref().and_then(|before| before.commit.clone());
    let state = match placed {
        Ok(commit) => {
            if known.as_ref() != Some(&commit) {
                journal::fetched(url, &commit);
            }
            SourceState { commit: Some(commit), failed: None }
        }
        Err(why) => {
            let failed = before.and_then(|before| before.failed);
            if failed.is_none() {
                journal::not_fetched(url, &why);
            }
            let since = failed.map_or(now, |failed| failed.since);
            SourceState { commit: known, failed: Some(SourceFailure { since, why }) }
        }
    };
    daemon.change_ledger(|ledger| ledger.source = Some(state));
}

async fn fetch(config: &Config, url: &str) -> Result<(String, String), String> {
    let source = &config.source;
    let there = sources::read(&config.roster.path).ok();
    let there = there.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let account = users::get_user_by_name(ACCOUNT).ok_or_else(|| {
        format!("there is no system user `{ACCOUNT}`; `systemd-sysusers rosterd.conf` makes it")
    })?;
    host::mirrors_folder(Path::new(FOLDER), (account.uid(), account.primary_group_id()))
        .map_err(|error| format!("the folder {FOLDER} cannot be made: {error}"))?;
    let text = |path: &Option<std::path::PathBuf>| {
        let read = |path| {
            let bytes = sources::read(path).map_err(|error| error.to_string())?;
            String::from_utf8(bytes).map_err(|_| format!("{} is not text", path.display()))
        };
        path.as_deref().map(read).transpose()
    };
    let task = json!({
        "folder": FOLDER,
        "url": url,
        "ref": source.r#ref,
        "path": source.path,
        "deadline_s": source.deadline_s,
        "after": there.as_deref().and_then(source::commit_of),
        "allowed_signers": text(&source.allowed_signers)?,
        "credentials": text(&source.credentials_file)?,
    });
    let given = Duration::from_secs(source.deadline_s) + GRACE;
    let (commit, text): (String, String) =
        network::ask("source-worker", &task, "fetching the roster", given).await?;
    if !source::is_commit(&commit) {
        return Err("the worker's answer makes no sense".into());
    }
    Ok((commit, text))
}

/// Puts a text where the roster is, unless what is there is somebody else's or the same.
async fn place(path: &Path, commit: &str, text: &str) -> Result<(), String> {
    match sources::read(path) {
        Err(SourceError::Absent(_)) => {}
        Err(error) => return Err(error.to_string()),
        Ok(there) => {
            let there = String::from_utf8_lossy(&there);
            match source::without_commit(&there) {
                Some(before) if before == source::whole_lines(text) => return Ok(()),
                Some(_) => {}
                None => {
                    return Err(format!(
                        "{} was not written from git, or was edited since; move it away if the repository's is to take its place",
                        path.display()
                    ));
                }
            }
        }
    }
    let file =
        WholeFile { path: path.to_path_buf(), content: source::with_commit(text, commit), mode: 0o644 };
    match tokio::task::spawn_blocking(move || host::Host::system().write_whole_file(&file)).await {
        Ok(written) => written.map_err(|failure| format!("{failure}; {}", failure.next)),
        Err(error) => Err(error.to_string()),
    }
}
