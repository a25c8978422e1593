//! A locked clone: git-crypt's filter is answered by the clone's own configuration, so that encrypted files stay
//! ciphertext and no plain text can be committed over them. It works without rosterd, in every worktree, until a
//! `git-crypt unlock` replaces the filter by git-crypt itself.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use git2::{ConfigLevel, Repository};
use roster::wiring::{Driver, Filter};

use crate::edit;
use crate::gitconfig::{self, Entry};

/// Passes what git-crypt encrypted, and nothing, and refuses all else. Sites used plain `cat` here, with which a
/// person commits a plain secret without noticing. `dd` takes its ten bytes one by one, so the rest is left for
/// `cat`; git replaces `%f` by the quoted path.
const CLEAN: &str = r#"set -- $(dd bs=1 count=10 2>/dev/null | od -An -tx1); case "$*" in "") ;; "00 47 49 54 43 52 59 50 54 00") printf '\000GITCRYPT\000' && cat ;; *) printf '%s: this clone is locked, and only encrypted content may be committed here. Undo the change with `git checkout -- FILE`, or ask an admin for the key and run `git-crypt unlock`.\n' %f >&2; exit 1 ;; esac"#;

/// More named keys than anybody has in one repository.
pub(crate) const MAX_DRIVERS: usize = 100;

/// Key and value of each setting of a locked clone. There is none for `diff`: git itself says that encrypted files
/// are binary, where `textconv = cat` would throw ciphertext at a terminal.
pub(crate) fn settings(driver: &Driver) -> [(String, &'static str); 3] {
    [("smudge", "cat"), ("clean", CLEAN), ("required", "true")]
        .map(|(key, value)| (format!("filter.{driver}.{key}"), value))
}

/// Locks a repository before its first checkout.
pub(crate) fn lock(repository: &Repository) -> Result<(), git2::Error> {
    let mut config = repository.config()?.open_level(ConfigLevel::Local)?;
    settings(&Driver::default_key()).iter().try_for_each(|(key, value)| config.set_str(key, value))
}

/// The same for the named keys that its files use, when it has files.
pub(crate) fn lock_named(repository: &Repository) -> Result<(), git2::Error> {
    let mut config = repository.config()?.open_level(ConfigLevel::Local)?;
    let mut drivers = BTreeSet::new();
    for entry in repository.index()?.iter() {
        if entry.path.rsplit(|byte| *byte == b'/').next() == Some(b".gitattributes") {
            drivers.extend(drivers_in(repository.find_blob(entry.id)?.content()));
        }
    }
    drivers.remove(&Driver::default_key());
    drivers
        .iter()
        .take(MAX_DRIVERS)
        .flat_map(settings)
        .try_for_each(|(key, value)| config.set_str(&key, value))
}

/// Lets the configuration file `file` answer those of some drivers that nothing answers.
pub(crate) fn guard(home: &OwnedFd, file: &str, drivers: &BTreeSet<Driver>) -> Result<(), String> {
    edit::edit(home, file, |old| {
        let seen = gitconfig::entries(old).map_err(|line| format!("line {line} is malformed"))?;
        let open = drivers.iter().filter(|driver| !is_answered(&seen, driver)).take(MAX_DRIVERS);
        let settings: Vec<_> = open.flat_map(settings).collect();
        let settings: Vec<_> = settings.iter().map(|(key, value)| (key.as_str(), *value)).collect();
        gitconfig::set(old, &settings).map_err(|line| format!("line {line} is malformed"))
    })
}

/// The filters of git-crypt that attributes name.
pub(crate) fn drivers_in(attributes: &[u8]) -> BTreeSet<Driver> {
    let text = String::from_utf8_lossy(attributes);
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let words = lines.flat_map(|line| line.split_whitespace().skip(1));
    words.filter_map(|word| word.strip_prefix("filter=").and_then(Driver::new)).take(MAX_DRIVERS).collect()
}

/// Whether a clone with this `filter.git-crypt.clean` is locked: it has one, and it is not git-crypt's.
pub(crate) fn is_locked(clean: Option<&str>) -> bool {
    clean.is_some_and(|command| !is_git_crypt(command))
}

/// Whether this is git-crypt itself.
pub(crate) fn is_git_crypt(clean: &str) -> bool {
    clean.contains("git-crypt\" clean") || clean.contains("git-crypt clean")
}

/// What answers a filter of git-crypt in a configuration.
pub(crate) fn filter(entries: &[Entry], driver: &Driver) -> Filter {
    let value = |key: &str| gitconfig::value(entries, &format!("filter.{driver}.{key}"));
    let (smudge, clean) = (value("smudge"), value("clean"));
    match (smudge, clean) {
        (None, None) => Filter::Absent,
        _ if settings(driver).iter().all(|(key, wanted)| gitconfig::value(entries, key) == Some(wanted)) => {
            Filter::Ours
        }
        (_, Some(_)) if !is_locked(clean) => Filter::Unlocked,
        (smudge, clean) if [smudge, clean].into_iter().flatten().all(is_ours_or_cat) => Filter::Weak,
        _ => Filter::Own,
    }
}

/// `cat` as scripts of sites set it up, or how a clone of ours began with any version.
fn is_ours_or_cat(command: &str) -> bool {
    let word = command.trim().trim_matches(['"', '\'']);
    matches!(word, "cat" | "/bin/cat" | "/usr/bin/cat" | "cat -")
        || command.starts_with("set -- $(dd bs=1 count=10")
}

/// Whether a filter is there that is not to be replaced.
pub(crate) fn is_answered(entries: &[Entry], driver: &Driver) -> bool {
    !matches!(filter(entries, driver), Filter::Absent | Filter::Weak)
}
