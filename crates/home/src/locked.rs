//! A locked clone: git-crypt's filter is answered by the clone's own configuration, so that encrypted files stay
//! ciphertext and no plain text can be committed over them. It works without rosterd, in every worktree, until a
//! `git-crypt unlock` replaces the filter by git-crypt itself.

use git2::{ConfigLevel, Repository};
use roster::wiring::Filter;

use crate::gitconfig::{self, Entry};

/// Passes what git-crypt encrypted, and nothing, and refuses all else. Sites used plain `cat` here, with which a
/// person commits a plain secret without noticing. `dd` takes its ten bytes one by one, so the rest is left for
/// `cat`; git replaces `%f` by the quoted path.
const CLEAN: &str = r#"set -- $(dd bs=1 count=10 2>/dev/null | od -An -tx1); case "$*" in "") ;; "00 47 49 54 43 52 59 50 54 00") printf '\000GITCRYPT\000' && cat ;; *) printf '%s: this clone is locked, and only encrypted content may be committed here. Undo the change with `git checkout -- FILE`, or ask an admin for the key and run `git-crypt unlock`.\n' %f >&2; exit 1 ;; esac"#;

/// Key and value of each setting of a locked clone. There is none for `diff`: git itself says that encrypted files
/// are binary, where `textconv = cat` would throw ciphertext at a terminal.
pub(crate) const SETTINGS: &[(&str, &str)] = &[
    ("filter.git-crypt.smudge", "cat"),
    ("filter.git-crypt.clean", CLEAN),
    ("filter.git-crypt.required", "true"),
];

/// Locks a repository before its first checkout.
pub(crate) fn lock(repository: &Repository) -> Result<(), git2::Error> {
    let mut config = repository.config()?.open_level(ConfigLevel::Local)?;
    SETTINGS.iter().try_for_each(|(key, value)| config.set_str(key, value))
}

/// Whether a clone with this `filter.git-crypt.clean` is locked: it has one, and it is not git-crypt's.
pub(crate) fn is_locked(clean: Option<&str>) -> bool {
    clean.is_some_and(|command| {
        !(command.contains("git-crypt\" clean") || command.contains("git-crypt clean"))
    })
}

/// What answers git-crypt's filter in a configuration.
pub(crate) fn filter(entries: &[Entry]) -> Filter {
    let value = |key: &str| gitconfig::value(entries, &format!("filter.git-crypt.{key}"));
    let (smudge, clean) = (value("smudge"), value("clean"));
    match (smudge, clean) {
        (None, None) => Filter::Absent,
        _ if SETTINGS.iter().all(|(key, wanted)| gitconfig::value(entries, key) == Some(wanted)) => {
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
pub(crate) fn is_answered(entries: &[Entry]) -> bool {
    !matches!(filter(entries), Filter::Absent | Filter::Weak)
}
