//! `rosterctl offboard` and `restore-account`: the one way in which anything of a person is ever removed, and the way
//! back. Only after the cut, after an archive that was read back, and after somebody typed the name (invariant 6).
//!
//! Where it is interrupted is seen from what is there, so that the same command goes on or begins anew:
//!
//! | there is | then |
//! | --- | --- |
//! | the home | everything before counts for nothing; archives that are whole stay |
//! | `.rosterd-removed-<user>-<stamp>` beside the homes | the archive of that stamp is whole: the account goes, then the folder |
//! | neither, and no account | the daemon is told |
//! | `.rosterd-restoring-<user>` | a restore that was interrupted: it begins anew |
//! | both the home and `.rosterd-removed-…` | the same, and the home is whole |

mod archive;
mod manifest;
mod restore;
mod worker;

pub(crate) use restore::restore;
pub(crate) use worker::{WORD, work};

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use control::Client;
use host::{ASIDE, Failure, Host, aside_of};
use jiff::Timestamp;
use nix::unistd::geteuid;
use roster::config::Config;
use roster::model::Tier;
use roster::name::{GroupName, OsUser};
use roster::provider::Provider;
use roster::report::Leaver;
use roster::revocation::Left;
use serde_json::json;

use crate::args::Global;
use crate::error::{CommandError, Result};
use crate::out::{Out, ask};
use crate::page::clean;
use crate::removal::archive::Archives;
use crate::removal::manifest::Manifest;
use crate::removal::worker::{Measured, Named, Task};
use crate::{offline, online, render};

/// Free beyond what a home takes uncompressed: no archive fills the disk to its end.
const SPARE: u64 = 64 << 20;
/// What a file takes in the list of checksums, besides.
const LINE: u64 = 256;

impl From<Failure> for CommandError {
    fn from(failure: Failure) -> Self {
        CommandError::new(failure.why).next(failure.next)
    }
}

/// A person who is removed.
struct Person {
    user: OsUser,
    ids: (u32, u32),
    home: PathBuf,
}

/// `rosterctl offboard USER`.
pub(crate) fn offboard(
    global: &Global,
    user: &OsUser,
    yes: Option<&str>,
    force: bool,
    out: &Out,
) -> Result<u8> {
    let config = only_root(global, out)?;
    let leaver = leaver(global, user)?;
    let person = person(&config, user, &leaver)?;
    let host = Host::system();
    let lines = host.account_lines(user.as_str())?;
    let half_restored = |archive: &str| {
        Err(CommandError::new(format!("a restore of {user} was interrupted"))
            .next(format!("let it end first: `rosterctl restore-account {archive}`")))
    };
    if let Some(archive) = &leaver.archive {
        if lines.is_some() || host.stands(&person.home)? {
            return half_restored(archive);
        }
        restore::discard(&host, &person, &restore::place(&person))?;
        return done(user, archive, &leaver.rights, out);
    }
    let archives = Archives::open(&config.removal.archives)?;
    if let Some((aside, stem)) = moved_aside(&host, &person)? {
        if host.stands(&person.home)? {
            return half_restored(&archives.shown(&format!("{stem}.json")).display().to_string());
        }
        out.aside(&format!(
            "An earlier removal of {user} was interrupted after its archive was whole; it goes on.\n"
        ));
        return finish(global, &person, &archives, &stem, Some(&aside), out);
    }
    if lines.is_none() && !host.stands(&person.home)? {
        // Everything is gone, and only the daemon does not know.
        let stem = newest(&archives, user, &config)?;
        return finish(global, &person, &archives, &stem, None, out);
    }
    let manifest = look(&host, &person, lines)?;
    let preview = preview(&manifest, &host, &person, &leaver.rights)?;
    match out.json {
        true => out.aside(&preview),
        false => out.text(&preview)?,
    }
    refuse(&host, &config, &leaver, &person, &manifest, force)?;
    let Measured { bytes, entries, .. } = manifest.measured;
    let needed = bytes.saturating_add(entries.saturating_mul(LINE)).saturating_add(SPARE);
    let free = archives.free()?;
    if free < needed {
        return Err(CommandError::new(format!(
            "the archive may need {} and {} are free in {}",
            size(needed),
            size(free),
            config.removal.archives.display()
        ))
        .next("free some space, or set `archives` of [removal] in config.toml to another disk"));
    }
    typed(user, yes, out)?;
    // However long that took: who is in the roster again by now is not removed, and nothing of theirs is ended.
    self::leaver(global, user)?;
    host.end_sessions(person.ids.0)?;
    still_runs(&host, &person)?;
    archives.clear(user)?;
    let stem = pack(&host, &person, &archives, manifest)?;
    // So may packing have taken long. The archive stays, and counts for nothing.
    self::leaver(global, user)?;
    let aside = aside(&person, &stem);
    if host.stands(&person.home)? {
        host.move_folder(&person.home, &aside)?;
    }
    let aside = host.stands(&aside)?.then_some(aside);
    finish(global, &person, &archives, &stem, aside.as_deref(), out)
}

/// From here on nothing is decided: the archive is whole.
fn finish(
    global: &Global,
    person: &Person,
    archives: &Archives,
    stem: &str,
    aside: Option<&Path>,
    out: &Out,
) -> Result<u8> {
    let host = Host::system();
    let user = &person.user;
    host.remove_account(user.as_str(), person.ids.0)?;
    host.forget_linger(user.as_str())?;
    if let Some(aside) = aside {
        let folder = host.home_folder(aside, person.ids.0)?;
        archive::end(worker::start(Task::Empty, person.ids, &folder)?, "removing what was in the home")?;
        drop(folder);
        host.remove_folder(aside)?;
    }
    let shown = archives.shown(&format!("{stem}.json")).display().to_string();
    online::asking(global.daemon(), async |client: &mut Client| client.removed(user, &shown).await)?;
    // It is done, whether or not the daemon says what it left elsewhere.
    let rights = leaver(global, user).map(|leaver| leaver.rights).unwrap_or_default();
    done(user, &shown, &rights, out)
}

fn done(user: &OsUser, archive: &str, rights: &BTreeMap<Provider, Left>, out: &Out) -> Result<u8> {
    match out.json {
        true => out.document(&json!({ "removed": user, "archive": archive, "rights": rights }))?,
        false => out.text(&format!(
            "{user} is removed. Kept: {archive}\nBack with: rosterctl restore-account {archive}\n{}",
            render::left_after(user, rights, out.look)
        ))?,
    }
    Ok(0)
}

/// What the daemon knows of somebody who is cut or removed. It refuses whoever is in the roster.
fn leaver(global: &Global, user: &OsUser) -> Result<Leaver> {
    online::asking(global.daemon(), async |client: &mut Client| client.leaver(user).await)
}

fn only_root(global: &Global, out: &Out) -> Result<Config> {
    if !geteuid().is_root() {
        return Err(CommandError::new("only root may remove or restore an account").next("run it with sudo"));
    }
    offline::valid_configuration(global, out)
}

fn person(config: &Config, user: &OsUser, leaver: &Leaver) -> Result<Person> {
    let Some(identity) = &leaver.identity else {
        return Err(CommandError::new(format!("{user} never had an account here that rosterd knew")));
    };
    let home = config.accounts.home_base.join(user.as_str());
    Ok(Person { user: user.clone(), ids: (identity.uid, identity.gid), home })
}

fn aside(person: &Person, stem: &str) -> PathBuf {
    person.home.with_file_name(format!("{ASIDE}{stem}"))
}

/// A home that an interrupted removal has moved aside, and the stem of its archive.
fn moved_aside(host: &Host, person: &Person) -> Result<Option<(PathBuf, String)>> {
    let names = host.names_beside(&person.home)?;
    Ok(aside_of(&names, person.user.as_str()).map(|name| {
        let stem = name.trim_start_matches(ASIDE).to_owned();
        (person.home.with_file_name(name), stem)
    }))
}

/// The stem of the newest whole archive of somebody.
fn newest(archives: &Archives, user: &OsUser, config: &Config) -> Result<String> {
    let names = std::fs::read_dir(archives.shown("")).into_iter().flatten().flatten();
    let mut stems: Vec<String> = names
        .filter_map(|entry| entry.file_name().to_str()?.strip_suffix(".json").map(str::to_owned))
        .filter(|stem| stem.strip_prefix(&format!("{user}-")).is_some_and(|stamp| !stamp.contains('-')))
        .collect();
    stems.sort();
    stems.pop().ok_or_else(|| {
        CommandError::new(format!(
            "{user} has no account and no home here, and no archive in {}",
            config.removal.archives.display()
        ))
        .next("somebody else removed them; there is nothing to do")
    })
}

fn look(host: &Host, person: &Person, account: Option<host::AccountLines>) -> Result<Manifest> {
    let (uid, gid) = person.ids;
    let measured = if host.stands(&person.home)? {
        archive::measure(person.ids, &host.home_folder(&person.home, uid)?)?
    } else {
        Measured::default()
    };
    Ok(Manifest {
        version: 1,
        user: person.user.clone(),
        uid,
        gid,
        home: person.home.clone(),
        made: Timestamp::now(),
        archive: None,
        archive_bytes: 0,
        archive_sha256: String::new(),
        tar_bytes: 0,
        tar_sha256: String::new(),
        files: None,
        measured,
        outside: host.outside(uid, person.home.parent().unwrap_or(Path::new("/home"))),
        account,
    })
}

fn pack(host: &Host, person: &Person, archives: &Archives, mut manifest: Manifest) -> Result<String> {
    let stem = format!("{}-{}", person.user, manifest.made.strftime("%Y%m%dT%H%M%SZ"));
    if host.stands(&person.home)? {
        let home = host.home_folder(&person.home, person.ids.0)?;
        archives.pack(&stem, person.ids, &home, &mut manifest)?;
    }
    archives.seal(&stem, &manifest)?;
    Ok(stem)
}

/// What will go, and what will not.
fn preview(
    manifest: &Manifest,
    host: &Host,
    person: &Person,
    rights: &BTreeMap<Provider, Left>,
) -> Result<String> {
    let Manifest { user, home, measured, outside, uid, .. } = manifest;
    let mut text = format!("{user}, uid {uid}\n");
    let mut line = |text_of: String| text.push_str(&format!("  {text_of}\n"));
    line(format!(
        "home     {}, {} in {} files and folders",
        home.display(),
        size(measured.bytes),
        measured.entries
    ));
    let running = host.processes(person.ids.0)?;
    let mut names: Vec<_> = running.iter().map(|process| clean(&process.name)).collect();
    names.sort();
    names.dedup();
    match names.as_slice() {
        [] => line("running  nothing".into()),
        names => line(format!("running  {} processes: {}", running.len(), names.join(", "))),
    }
    let mut outside_line = format!("outside  {} files and folders, {}", outside.count, size(outside.bytes));
    if outside.count > 0 {
        outside_line.push_str(&format!(", which stay: {}", shown(&outside.first, outside.count)));
    }
    line(outside_line);
    if measured.foreign.count > 0 {
        line(format!(
            "foreign  {} in the home that belong to others: {}",
            measured.foreign.count,
            named(&measured.foreign)
        ));
    }
    for (provider, left) in rights {
        line(format!("rights   in {provider}: {}", render::left_before(left)));
    }
    Ok(text)
}

fn named(named: &Named) -> String {
    shown(&named.first, named.count)
}

fn shown(first: &[String], count: u64) -> String {
    let names: Vec<_> = first.iter().map(|name| clean(name)).collect();
    let more = if count > first.len() as u64 { ", …" } else { "" };
    format!("{}{more}", names.join(", "))
}

/// What stands against it.
fn refuse(
    host: &Host,
    config: &Config,
    leaver: &Leaver,
    person: &Person,
    manifest: &Manifest,
    force: bool,
) -> Result<()> {
    let user = &person.user;
    let Measured { unreadable, stuck, mounts, holes, .. } = &manifest.measured;
    let not = |why: String| CommandError::new(format!("{user} is not removed: {why}"));
    let admins = admins(config);
    let member_of = manifest.account.as_ref().map(|account| account.member_of.as_slice()).unwrap_or_default();
    if let Some(group) = admins.iter().find(|group| member_of.iter().any(|name| *name == group.as_str())) {
        return Err(not(format!("an admin, by the group {group}"))
            .next(format!("take them out of it first: `gpasswd --delete {user} {group}`")));
    }
    if let Some(account) = &manifest.account {
        let field = |index| account.passwd.split(':').nth(index).unwrap_or_default();
        if field(2) != person.ids.0.to_string() || !become_user::is_person(person.ids.0) {
            return Err(not(format!("the account has uid {}, the ledger knows {}", field(2), person.ids.0)));
        }
        if Path::new(field(5)) != person.home {
            return Err(not(format!("its home is {}, not {}", field(5), person.home.display()))
                .next("remove it by hand"));
        }
    }
    if mounts.count > 0 {
        return Err(
            not(format!("file systems are mounted in the home: {}", named(mounts))).next("unmount them")
        );
    }
    if holes.count > 0 {
        return Err(not(format!(
            "files that are nearly all hole would take a day to be read: {}",
            named(holes)
        ))
        .next("remove or shrink them first; on disk they hold next to nothing"));
    }
    if unreadable.count > 0 {
        return Err(not(format!(
            "{} in the home cannot be read, and so not archived: {}",
            unreadable.count,
            named(unreadable)
        ))
        .next(format!(
            "let {user} read their own: `runuser -u {user} -- chmod -R u+rX {}`",
            person.home.display()
        ))
        .next("what belongs to somebody else: give it to them (`chown -h`), or move it away"));
    }
    if stuck.count > 0 {
        return Err(not(format!(
            "folders in the home belong to others and hold something: {}",
            named(stuck)
        ))
        .next("rosterd opens nothing in a home as root: move them away, or give them to their person"));
    }
    let known = leaver.identity.as_ref().is_some_and(|identity| identity.created);
    if !known && !force {
        return Err(
            not("the account was there before rosterd".into()).next("say `--force` if it is meant so")
        );
    }
    if !force {
        still_runs(host, person).map_err(|error| error.next("`--force` ends it"))?;
    }
    Ok(())
}

/// The groups that make an admin.
fn admins(config: &Config) -> &[GroupName] {
    config.tiers.get(&Tier::Admin).map(|policy| policy.groups.as_slice()).unwrap_or_default()
}

fn still_runs(host: &Host, person: &Person) -> Result<()> {
    let running = host.processes(person.ids.0)?;
    match running.first() {
        None => Ok(()),
        Some(first) => Err(CommandError::new(format!(
            "{} is not removed: {} of their processes run, among them {} ({})",
            person.user,
            running.len(),
            clean(&first.name),
            first.pid
        ))),
    }
}

fn typed(user: &OsUser, yes: Option<&str>, out: &Out) -> Result<()> {
    let refused = |why: &str| CommandError::new(format!("{user} is not removed: {why}"));
    let answer = match yes {
        Some(name) => Some(name.to_owned()),
        None => ask(out, &format!("Type {user} to archive and remove the account and its home: "))?,
    };
    match answer.as_deref() {
        Some(name) if name == user.as_str() => Ok(()),
        Some(_) => Err(refused("that is not the name")),
        None => Err(refused("there is no terminal to ask on").next(format!("say it with `--yes {user}`"))),
    }
}

/// `1.5 GiB`.
fn size(bytes: u64) -> String {
    let mut number = bytes as f64;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if number < 1024.0 {
            break;
        }
        (number, unit) = (number / 1024.0, next);
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{number:.1} {unit}") }
}
