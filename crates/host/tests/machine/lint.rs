//! What the crate may not do, held by its text.

use std::fs;
use std::path::{Path, PathBuf};

/// The sources below a folder, each without its tests.
fn sources(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(sources(&path));
        } else {
            let text = fs::read_to_string(&path).unwrap();
            all.push((path, text.split("#[cfg(test)]").next().unwrap().to_owned()));
        }
    }
    all
}

fn of_the_crate() -> Vec<(PathBuf, String)> {
    let all = sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(all.iter().any(|(path, _)| path.ends_with("database/table.rs")), "{all:?}");
    all
}

/// Owner and mode are set through descriptors only. A chown by name after a safe open is still a
/// hole (oidc-pam#203), and so is a chmod.
#[test]
fn owner_and_mode_are_never_set_by_path() {
    let allowed = ["fchownat(&link, c\"\"", "use nix::"];
    for (path, text) in of_the_crate() {
        for line in text.lines().filter(|line| !allowed.iter().any(|allowed| line.contains(allowed))) {
            for call in
                ["set_permissions(", "fs::chown(", "lchown(", "fchownat(", "fchmodat(", "unistd::chown("]
            {
                assert!(!line.contains(call), "{}: {line}", path.display());
            }
        }
    }
}

/// Root runs no program and speaks to no network here.
#[test]
fn the_crate_starts_no_program_and_opens_no_connection() {
    for (path, text) in of_the_crate() {
        for word in ["process::Command", "std::net", "TcpStream", "UnixStream"] {
            assert!(!text.contains(word), "{}: {word}", path.display());
        }
    }
}
