//! Notices by inotify when a file of interest changes. Watches folders, because editors replace files.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt;
use inotify::{EventStream, Inotify, WatchDescriptor, WatchMask};
use roster::config::Config;

/// What has changed.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Changed {
    /// A file besides roster and config: a source that is copied on change.
    pub(crate) others: bool,
}

/// The watched folders.
pub(crate) struct Watch {
    events: EventStream<[u8; 4096]>,
    folders: BTreeMap<PathBuf, WatchDescriptor>,
    main: BTreeSet<OsString>,
    others: BTreeSet<OsString>,
    /// The names of the folders in their own: one may be moved away, and another put in its place.
    own: BTreeSet<OsString>,
    wanted: BTreeSet<PathBuf>,
    seen: Option<Seen>,
}

impl Watch {
    pub(crate) fn new() -> io::Result<Self> {
        let events = Inotify::init()?.into_event_stream([0; 4096])?;
        Ok(Watch {
            events,
            folders: BTreeMap::new(),
            main: BTreeSet::new(),
            others: BTreeSet::new(),
            own: BTreeSet::new(),
            wanted: BTreeSet::new(),
            seen: None,
        })
    }

    /// Watches the files that the config names, and no longer those that it named before.
    pub(crate) fn follow(&mut self, config_path: &Path, config: &Config) {
        let main = [config_path, &config.roster.path];
        let others: Vec<&Path> = [&config.claude.managed_settings_source, &config.tier_check.k8s_users]
            .into_iter()
            .filter_map(Option::as_deref)
            .chain(roster::files::sources(config).into_iter().map(PathBuf::as_path))
            .collect();
        let name = |path: &&Path| path.file_name().map(ToOwned::to_owned);
        self.main = main.iter().filter_map(name).collect();
        self.others = others.iter().filter_map(name).collect();
        let mut wanted: BTreeSet<PathBuf> =
            main.iter().chain(&others).filter_map(|path| path.parent()).map(Path::to_path_buf).collect();
        self.own = wanted.iter().filter_map(|folder| folder.file_name()).map(ToOwned::to_owned).collect();
        let around: Vec<_> =
            wanted.iter().filter_map(|folder| folder.parent()).map(ToOwned::to_owned).collect();
        wanted.extend(around);
        let gone: Vec<_> = self.folders.keys().filter(|folder| !wanted.contains(*folder)).cloned().collect();
        for folder in gone {
            if let Some(watch) = self.folders.remove(&folder) {
                // It fails when the folder itself is gone, and then the kernel has removed the watch already.
                let _ = self.events.watches().remove(watch);
            }
        }
        self.wanted = wanted;
        self.watch_wanted();
    }

    fn watch_wanted(&mut self) {
        for folder in self.wanted.clone() {
            self.add(&folder);
        }
    }

    /// Adding a folder again keeps its watch; a folder that was replaced gets a new one. One that is not there is
    /// looked at again when its name appears.
    fn add(&mut self, folder: &Path) {
        let mask = WatchMask::CREATE
            | WatchMask::CLOSE_WRITE
            | WatchMask::MOVED_TO
            | WatchMask::MOVED_FROM
            | WatchMask::DELETE
            | WatchMask::ATTRIB
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR;
        let before = self.folders.remove(folder);
        let now = self.events.watches().add(folder, mask).ok();
        if let Some(before) = before.filter(|before| Some(before) != now.as_ref()) {
            // It fails when that folder is gone, and then the kernel has removed the watch already.
            let _ = self.events.watches().remove(before);
        }
        self.folders.extend(now.map(|watch| (folder.to_path_buf(), watch)));
    }

    /// Returns when something of interest has changed and nothing more did for `quiet`, or for ten times that.
    /// Cancel-safe: what was seen is kept for the next call.
    pub(crate) async fn changed(&mut self, quiet: Duration) -> Changed {
        loop {
            let event = match &self.seen {
                None => self.events.next().await,
                Some(seen) => match tokio::time::timeout_at(seen.until, self.events.next()).await {
                    Ok(event) => event,
                    Err(_) => return self.seen.take().map(|seen| seen.changed).unwrap_or_default(),
                },
            };
            let others = match event {
                Some(Ok(event)) => match event.name {
                    Some(name) if self.others.contains(&name) => true,
                    Some(name) if self.main.contains(&name) => false,
                    Some(name) if self.own.contains(&name) => {
                        self.watch_wanted();
                        false
                    }
                    Some(_) => continue,
                    // The folder itself, or an overflow of the queue.
                    None => false,
                },
                Some(Err(_)) => false,
                None => std::future::pending().await,
            };
            let now = tokio::time::Instant::now();
            let seen = self.seen.get_or_insert(Seen {
                changed: Changed::default(),
                until: now,
                latest: now + quiet * 10,
            });
            seen.changed.others |= others;
            seen.until = (now + quiet).min(seen.latest);
        }
    }
}

/// Changes that have been seen and not yet been reported.
#[derive(Debug)]
struct Seen {
    changed: Changed,
    until: tokio::time::Instant,
    latest: tokio::time::Instant,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const SOON: Duration = Duration::from_secs(20);

    /// Whatever stands in the place of the folder is watched, though nothing has called for a new look.
    #[tokio::test]
    async fn a_folder_that_was_replaced_is_watched_again() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("rosterd");
        let config_path = folder.join("config.toml");
        let config = Config {
            roster: roster::config::RosterSource { path: folder.join("roster.yaml") },
            ..Config::default()
        };
        let mut watch = Watch::new().unwrap();
        watch.follow(&config_path, &config);
        let quiet = Duration::from_millis(20);
        let mut seen = async |what: &str| {
            let changed = tokio::time::timeout(SOON, watch.changed(quiet)).await;
            assert!(changed.is_ok(), "{what} was not seen");
        };
        fs::create_dir(&folder).unwrap();
        seen("a new folder").await;
        fs::write(folder.join("roster.yaml"), "users:").unwrap();
        seen("a file in it").await;
        fs::rename(&folder, dir.path().join("away")).unwrap();
        seen("that it was moved away").await;
        fs::create_dir(&folder).unwrap();
        seen("another in its place").await;
        fs::hard_link(dir.path().join("away/roster.yaml"), folder.join("roster.yaml")).unwrap();
        seen("a linked file in the other").await;
        fs::remove_dir_all(&folder).unwrap();
        seen("that it was removed").await;
        fs::rename(dir.path().join("away"), &folder).unwrap();
        seen("that the first is back").await;
        fs::write(folder.join("config.toml"), "").unwrap();
        seen("a file in the first").await;
    }
}
