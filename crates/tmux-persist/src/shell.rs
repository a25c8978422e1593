//! Words for a shell. Pure.

/// A word that any shell gives back as it is: those of POSIX, fish and tcsh. Within single quotes, fish takes a backslash
/// for an escape and tcsh a `!` for history, so these stand outside of them.
pub(crate) fn quoted(word: &[u8]) -> Vec<u8> {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/_-.,:@+".contains(byte);
    if !word.is_empty() && word.iter().all(plain) {
        return word.to_vec();
    }
    let mut text = vec![b'\''];
    for byte in word {
        match byte {
            b'\'' | b'\\' | b'!' => text.extend([b'\'', b'\\', *byte, b'\'']),
            byte => text.push(*byte),
        }
    }
    text.push(b'\'');
    text
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_shell_would_obey_is_quoted() {
        for (word, wanted) in [
            ("/srv/a.b", "/srv/a.b"),
            ("", "''"),
            ("=x", "'=x'"),
            ("a b", "'a b'"),
            ("it's", r"'it'\''s'"),
            // Read by fish, the second quote would end nothing and the `;` would begin a command.
            (r"x\';id;#", r"'x'\\''\'';id;#'"),
        ] {
            assert_eq!(String::from_utf8(quoted(word.as_bytes())).unwrap(), wanted);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn every_shell_gives_a_word_back(words in proptest::collection::vec("[ -~é\t\n\\\\'\"$`!;#(){}*?~=]{0,12}", 1..8)) {
            let quoted: Vec<Vec<u8>> = words.iter().map(|word| quoted(word.as_bytes())).collect();
            for shell in ["sh", "dash", "bash", "zsh", "fish", "ksh", "mksh"] {
                let script = [&b"printf '%s\\0' "[..], &quoted.join(&b' ')].concat();
                // A machine has some of them.
                let Ok(output) = Command::new(shell).arg("-c").arg(std::ffi::OsStr::from_bytes(&script)).output() else {
                    continue;
                };
                let given: String = words.iter().flat_map(|word| [word.as_str(), "\0"]).collect();
                prop_assert_eq!(String::from_utf8_lossy(&output.stdout), given, "{}", shell);
            }
        }
    }
}
