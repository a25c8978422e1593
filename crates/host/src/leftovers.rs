//! What a killed run left and no step of a later plan would meet again: when the kill came right after the last
//! rename, the next plan is empty, and the locks and temporary files of the dead process would stay.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use roster::config::Config;

use crate::files::{self, BESIDE};
use crate::folder::{self, Missing};
use crate::{Host, homes, lock};

impl Host {
    /// See [`crate::clear_leftovers`].
    pub fn clear_leftovers(&self, config: &Config) -> Vec<String> {
        let mut cleared = Vec::new();
        let base = &config.accounts.home_base;
        if let Ok(true) = homes::clear_leftovers(self.root(), base) {
            cleared.push(base.join(homes::STAGING).display().to_string());
        }
        let mut folders = BTreeSet::from([Path::new("/etc")]);
        let maps = &config.maps;
        folders.extend(
            [&maps.ttyd_user_map, &maps.ttyd_admins, &maps.dispatch, &config.claude.managed_settings]
                .into_iter()
                .filter_map(|path| path.parent()),
        );
        folders
            .extend(config.service.iter().filter_map(|service| Path::new(service.port()?.env_file).parent()));
        for shown in folders {
            let Ok(folder) = folder::open(self.root(), shown, Missing::Fail) else { continue };
            if shown == Path::new("/etc") {
                cleared.extend(lock::clear_leftovers(&folder));
            }
            for name in folder::names(&folder).unwrap_or_default() {
                if name.as_bytes().starts_with(BESIDE.as_bytes())
                    && files::remove(&folder, OsStr::new(&name)).is_ok()
                {
                    cleared.push(shown.join(name).display().to_string());
                }
            }
        }
        cleared
    }
}
