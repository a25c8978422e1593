//! A roster that came from git says so itself, in its last line, so that text and commit are never apart. The line holds a
//! digest of the text: once somebody has edited it by hand, it is no longer what that commit has.

use sha2::{Digest as _, Sha256};

const MARK: &str = "# rosterd: from commit ";

/// Whether this names a commit.
pub fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// A text that ends with a line break.
pub fn whole_lines(text: &str) -> String {
    if text.is_empty() || text.ends_with('\n') { text.to_owned() } else { format!("{text}\n") }
}

/// The text with its commit.
pub fn with_commit(text: &str, commit: &str) -> String {
    let text = whole_lines(text);
    format!("{text}{MARK}{commit}, sha256 {}\n", digest(&text))
}

/// The text as it is in the repository; nothing when it did not come from there, or not like this.
pub fn without_commit(text: &str) -> Option<&str> {
    split(text).map(|(text, _)| text)
}

/// The commit that a text came from.
pub fn commit_of(text: &str) -> Option<&str> {
    split(text).map(|(_, commit)| commit)
}

fn split(text: &str) -> Option<(&str, &str)> {
    let lines = text.strip_suffix('\n')?;
    let last = lines.rfind('\n').map_or(0, |at| at + 1);
    let (before, last) = lines.split_at_checked(last)?;
    let (commit, of) = last.strip_prefix(MARK)?.split_once(", sha256 ")?;
    (is_commit(commit) && digest(before) == of).then_some((before, commit))
}

fn digest(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_and_its_commit_are_never_apart() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        for text in ["", "users:\n", "users: {}", "a\r\nb\r\n"] {
            let marked = with_commit(text, commit);
            assert_eq!(commit_of(&marked), Some(commit), "{text:?}");
            assert_eq!(without_commit(&marked), Some(whole_lines(text).as_str()), "{text:?}");
            let valid = crate::parse::roster("r", text.as_bytes()).is_ok();
            assert_eq!(crate::parse::roster("r", marked.as_bytes()).is_ok(), valid, "{text:?}");
        }
        let edited = with_commit("users:\n", commit).replacen("users:", "users: {}", 1);
        assert_eq!(commit_of(&edited), None);
        for by_hand in ["", "users:\n", "# rosterd: from commit x\n", "# rosterd: from commit"] {
            assert_eq!(commit_of(by_hand), None, "{by_hand:?}");
        }
    }
}
