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
            seen: None,
        })
    }

    /// Watches the files that the config names, and no longer those that it named before.
    pub(crate) fn follow(&mut self, config_path: &Path, config: &Config) {
        let main = [config_path, &config.roster.path];
        let others: Vec<&Path> = [&config.claude.managed_settings_source, &config.tier_check.k8s_users]
            .into_iter()
            .filter_map(Option::as_deref)
            .collect();
        let name = |path: &&Path| path.file_name().map(ToOwned::to_owned);
        self.main = main.iter().filter_map(name).collect();
        self.others = others.iter().filter_map(name).collect();
        let wanted: BTreeSet<PathBuf> =
            main.iter().chain(&others).filter_map(|path| path.parent()).map(Path::to_path_buf).collect();
        let gone: Vec<_> = self.folders.keys().filter(|folder| !wanted.contains(*folder)).cloned().collect();
        for folder in gone {
            if let Some(watch) = self.folders.remove(&folder) {
                // It fails when the folder itself is gone, and then the kernel has removed the watch already.
                let _ = self.events.watches().remove(watch);
            }
        }
        let mask = WatchMask::CLOSE_WRITE
            | WatchMask::MOVED_TO
            | WatchMask::MOVED_FROM
            | WatchMask::DELETE
            | WatchMask::ATTRIB
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR;
        for folder in wanted {
            // Adding a folder again keeps its watch; a folder that was replaced gets a new one. One that is not
            // there is looked at again after the next run.
            match self.events.watches().add(&folder, mask) {
                Ok(watch) => drop(self.folders.insert(folder, watch)),
                Err(_) => drop(self.folders.remove(&folder)),
            }
        }
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
