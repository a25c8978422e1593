//! A locked clone: git-crypt's filter is answered by the clone's own configuration, so that encrypted files stay
//! ciphertext and no plain text can be committed over them. It works without rosterd and in every worktree.
//!
//! The answers stand in a file beside the clone's `config`, which includes it first of all. So `git-crypt unlock`, which
//! writes into `config`, has the last word, and when `git-crypt lock` takes that away again, the answers are there at once.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use git2::{Config, ConfigLevel, Repository};
use roster::wiring::{Driver, Filter};

use crate::edit;
use crate::gitconfig::{self, Entry};
use crate::wiring::config_of;

/// The file with the answers, in the folder of the clone's `config`.
const ANSWERS: &str = "rosterd-locked";

/// Whoever has no key cannot make ciphertext, so ciphertext passes when it is an object of the repository already: as it
/// was, renamed, of another commit, one side of a merge. Plain text passes where the index has it at this very path: it
/// came from upstream. That it is some object would not do, for it may have been added elsewhere by mistake before it was moved
/// to where it belongs. What passes comes out of the object, because the input can be read once only.
///
/// `git checkout -- FILE` stores nothing. It compares, when an edit was so quick that times and size do not tell it, and is
/// answered that the file differs: it is what the message advises, and what `git-crypt lock` does to take the plain text away.
///
/// git runs this for every file whose times changed, so it starts as few programs as possible: the header is read by the
/// shell itself, which leaves out the zero bytes, from the file, which the input is of. That chooses how strict this is and
/// what is said; nothing passes by it that is not stored already. An empty file stays one with git-crypt too. git replaces
/// `%f` by the quoted path below the top, where this runs. There is no `process` filter, which would be one program for all
/// files: git prefers it to what `git-crypt unlock` sets.
const CLEAN: &str = r#"export GIT_NO_LAZY_FETCH=1 GIT_NO_REPLACE_OBJECTS=1; [ -e %f ] && [ ! -s %f ] && exit; o=$(git hash-object --stdin) || exit; { h=; read -r h <%f; } 2>/dev/null; case $h in GITCRYPT*) w="changed encrypted content, which its key no longer opens" ;; *) w="plain text, where only encrypted content may be committed"; git --literal-pathspecs ls-files -s -- %f | grep -q " $o " || o= ;; esac; git cat-file blob "$o" 2>/dev/null && exit; case $(tr '\0' ' ' </proc/$PPID/cmdline) in "git checkout -- "*) echo changed ;; *) printf '%s: %s; this clone is locked. Undo the change with `git checkout -- FILE`, or ask an admin for the key and run `git-crypt unlock`.\n' %f "$w" >&2; exit 1 ;; esac"#;

/// How the command began in this version and in earlier ones.
const OURS: [&str; 2] = ["export GIT_NO_LAZY_FETCH=1 ", "set -- $(dd bs=1 count=10"];

/// What each file begins with that git-crypt encrypted.
pub(crate) const HEADER: &[u8] = b"\0GITCRYPT\0";

/// More named keys than anybody has in one repository.
pub(crate) const MAX_DRIVERS: usize = 100;

/// Key and value of each setting of a locked clone. There is none for `diff`: git itself says that encrypted files
/// are binary, where `textconv = cat` would throw ciphertext at a terminal.
pub(crate) fn settings(driver: &Driver) -> [(String, &'static str); 3] {
    [("smudge", "cat"), ("clean", CLEAN), ("required", "true")]
        .map(|(key, value)| (format!("filter.{driver}.{key}"), value))
}

/// The file with the answers of a clone.
pub(crate) fn answers_of(clone: &str) -> String {
    format!("{clone}/.git/{ANSWERS}")
}

/// Whether a clone's configuration names the file with the answers.
pub(crate) fn has_answers(entries: &[Entry]) -> bool {
    entries.iter().any(|entry| entry.is(&gitconfig::Key::of("include.path")) && entry.value == ANSWERS)
}

/// Locks a repository before its first checkout.
pub(crate) fn lock(repository: &Repository) -> Result<(), git2::Error> {
    answer(repository, [&Driver::default_key()])?;
    // There is nothing of git-crypt in it yet, so it may come last.
    repository.config()?.open_level(ConfigLevel::Local)?.set_str("include.path", ANSWERS)
}

/// The same for the named keys that its files use, when it has files.
pub(crate) fn lock_named(repository: &Repository) -> Result<(), git2::Error> {
    let mut drivers = BTreeSet::new();
    for entry in repository.index()?.iter() {
        if entry.path.rsplit(|byte| *byte == b'/').next() == Some(b".gitattributes") {
            drivers.extend(drivers_in(repository.find_blob(entry.id)?.content()));
        }
    }
    drivers.remove(&Driver::default_key());
    answer(repository, drivers.iter().take(MAX_DRIVERS))
}

fn answer<'a>(
    repository: &Repository,
    drivers: impl IntoIterator<Item = &'a Driver>,
) -> Result<(), git2::Error> {
    let mut answers = Config::open(&repository.path().join(ANSWERS))?;
    let mut settings = drivers.into_iter().flat_map(settings);
    settings.try_for_each(|(key, value)| answers.set_str(&key, value))
}

/// Answers some filters of a clone, in the place of `cat` and of our own earlier versions too. Returns those that
/// something else answers, which stays.
pub(crate) fn guard(
    home: &OwnedFd,
    clone: &str,
    drivers: &BTreeSet<Driver>,
) -> Result<BTreeSet<Driver>, String> {
    let malformed = |line| format!("line {line} is malformed");
    let of = |drivers: &[&Driver]| -> Vec<(String, &'static str)> {
        drivers.iter().copied().flat_map(settings).collect()
    };
    let set = |old: &[u8], settings: &[(String, &str)]| {
        let settings: Vec<_> = settings.iter().map(|(key, value)| (key.as_str(), *value)).collect();
        gitconfig::set(old, &settings).map_err(malformed)
    };
    // First what is included: a file that is not there is nothing to git.
    let all: Vec<_> = drivers.iter().take(MAX_DRIVERS).collect();
    edit::edit(home, &answers_of(clone), |old| set(old, &of(&all)))?;
    let mut others = BTreeSet::new();
    edit::edit(home, &config_of(clone), |old| {
        let seen = gitconfig::entries(old).map_err(malformed)?;
        let mut weak = Vec::new();
        for driver in all {
            match filter(&seen, driver) {
                Filter::Absent => {}
                Filter::Weak | Filter::Ours => weak.push(driver),
                Filter::Unlocked | Filter::Own => _ = others.insert(driver.clone()),
            }
        }
        let new = set(old, &of(&weak))?;
        Ok(if has_answers(&seen) { new } else { gitconfig::include_first(&new, ANSWERS) })
    })?;
    Ok(others)
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
        _ if is_answered(entries, driver) => Filter::Ours,
        (_, Some(_)) if !is_locked(clean) => Filter::Unlocked,
        (smudge, clean) if [smudge, clean].into_iter().flatten().all(is_ours_or_cat) => Filter::Weak,
        _ => Filter::Own,
    }
}

/// Whether these are our answers.
pub(crate) fn is_answered(entries: &[Entry], driver: &Driver) -> bool {
    settings(driver).iter().all(|(key, wanted)| gitconfig::value(entries, key) == Some(wanted))
}

/// `cat` as scripts of sites set it up, or how a clone of ours began with any version.
fn is_ours_or_cat(command: &str) -> bool {
    let word = command.trim().trim_matches(['"', '\'']);
    matches!(word, "cat" | "/bin/cat" | "/usr/bin/cat" | "cat -")
        || OURS.iter().any(|ours| command.starts_with(ours))
}
