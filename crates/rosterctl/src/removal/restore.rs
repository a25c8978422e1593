//! `rosterctl restore-account`: an archive becomes an account and a home again, as they were. Every one of its steps may be
//! the last before a kill; the same command begins anew.

use std::path::{Path, PathBuf};

use control::Client;
use host::Host;
use roster::config::Config;
use serde_json::json;

use crate::args::Global;
use crate::error::{CommandError, Result};
use crate::online;
use crate::out::Out;
use crate::removal::manifest::Manifest;
use crate::removal::worker::{self, Task};
use crate::removal::{Person, admins, archive, leaver, moved_aside, only_root, person};

/// `rosterctl restore-account ARCHIVE`.
pub(crate) fn restore(global: &Global, archive: &Path, out: &Out) -> Result<u8> {
    let config = only_root(global, out)?;
    let (path, mut manifest) = Manifest::read(archive)?;
    let user = manifest.user.clone();
    let leaver = leaver(global, &user)?;
    let person = person(&config, &user, &leaver)?;
    if person.ids != (manifest.uid, manifest.gid) || person.home != manifest.home {
        return Err(CommandError::new(format!(
            "the archive is of uid {} at {}, and {user} has uid {} at {} here",
            manifest.uid,
            manifest.home.display(),
            person.ids.0,
            person.home.display()
        )));
    }
    let host = Host::system();
    let has_account = host.account_lines(user.as_str())?.is_some();
    let aside = moved_aside(&host, &person)?;
    if let Some((home, stem)) = &aside {
        if has_account && !host.stands(&person.home)? {
            // Interrupted before anything of it went: it is the home itself. Of the account, some may be gone.
            host.move_folder(home, &person.home)?;
            let not_given = account(&host, &mut manifest, &config)?;
            return ended(&person, &[], &not_given, out);
        } else if path.file_stem().is_none_or(|of| of != stem.as_str()) {
            return Err(CommandError::new(format!(
                "a removal of {user} was interrupted, and its archive is another one: {stem}"
            ))
            .next(format!("restore that one, or end the removal first: `rosterctl offboard {user}`")));
        }
    }
    let has_home = host.stands(&person.home)?;
    if has_account && has_home && leaver.archive.is_none() {
        return Err(CommandError::new(format!("{user} has an account and a home, which are not replaced"))
            .next(format!(
                "`rosterctl offboard {user}` keeps these in an archive of their own; then restore this one"
            )));
    }
    let told = match manifest.archive.as_ref().filter(|_| !has_home) {
        Some(name) => home(&host, &person, &path.with_file_name(name), &manifest)?,
        None => Vec::new(),
    };
    if let Some((left, _)) = &aside {
        // What the interrupted removal had not removed yet. By now all of it is in its place.
        discard(&host, &person, left)?;
    }
    let not_given = account(&host, &mut manifest, &config)?;
    let shown = path.display().to_string();
    online::asking(global.daemon(), async |client: &mut Client| client.restored(&user, &shown).await)?;
    ended(&person, &told, &not_given, out)
}

fn ended(person: &Person, told: &[String], not_given: &[String], out: &Out) -> Result<u8> {
    let Person { user, home, .. } = person;
    if out.json {
        out.document(&json!({ "restored": user, "home": home, "told": told, "not_given": not_given }))?;
        return Ok(0);
    }
    out.text(&format!(
        "{user} is restored, and cut as before: `rosterctl user add {user} …` or a line in the roster gives access back.\n"
    ))?;
    if !told.is_empty() {
        out.text(&format!("What belonged to somebody else is theirs now: {}\n", told.join(", ")))?;
    }
    if !not_given.is_empty() {
        let groups = not_given.join(", ");
        out.text(&format!("Not given back, as it makes an admin, which only the roster does: {groups}\n"))?;
    }
    Ok(0)
}

/// Unpacks a home beside, and moves it into its place when it is what the archive holds.
fn home(host: &Host, person: &Person, archive: &Path, manifest: &Manifest) -> Result<Vec<String>> {
    let restoring = place(person);
    discard(host, person, &restoring)?;
    host.make_folder(&restoring, person.ids)?;
    let folder = host.home_folder(&restoring, person.ids.0)?;
    match archive::restore(archive, person.ids, &folder, manifest) {
        Ok(told) => {
            host.move_folder(&restoring, &person.home)?;
            Ok(told)
        }
        Err(error) => {
            // What it was refused for is the news, not whether this can be removed at once.
            let _ = discard(host, person, &restoring);
            Err(error)
        }
    }
}

/// Where a home is unpacked.
pub(super) fn place(person: &Person) -> PathBuf {
    person.home.with_file_name(format!(".rosterd-restoring-{}", person.user))
}

/// Removes what an unfinished restore or removal left beside.
pub(super) fn discard(host: &Host, person: &Person, left: &Path) -> Result<()> {
    // One that is empty may be root's still: a kill came before it was given away.
    if !host.stands(left)? || host.remove_folder(left).is_ok() {
        return Ok(());
    }
    let folder = host.home_folder(left, person.ids.0)?;
    archive::end(worker::start(Task::Empty, person.ids, &folder)?, "removing what was left beside")?;
    Ok(host.remove_folder(left)?)
}

/// Puts the account back, but for the groups that make an admin: no archive is one's way to root. Gives those.
fn account(host: &Host, manifest: &mut Manifest, config: &Config) -> Result<Vec<String>> {
    let Some(lines) = &mut manifest.account else { return Ok(Vec::new()) };
    let is_admins = |group: &String| admins(config).iter().any(|admin| admin.as_str() == group);
    let (not_given, given) = std::mem::take(&mut lines.member_of).into_iter().partition(is_admins);
    lines.member_of = given;
    host.put_account_back(manifest.user.as_str(), lines)?;
    Ok(not_given)
}
