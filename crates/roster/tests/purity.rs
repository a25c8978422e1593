//! The core decides and does nothing else: no file, no process, no network, no clock. Held here, because one
//! convenient `std::fs::read` would be enough to make plans that cannot be tested or repeated.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

use std::fs;
use std::path::{Path, PathBuf};

/// Crates that compute and nothing else. Whoever adds one says here what it is for.
const PURE: &[&str] = &[
    "annotate-snippets", // draws diagnostics
    "granit-parser",     // YAML with places
    "hcl-rs",            // the language of Vault's policies
    "jiff",              // dates as values; only the shell asks for the time
    "schemars",          // JSON Schemas from the types
    "serde",
    "serde_json",
    "sha2",      // which text a file holds
    "strsim",    // the nearest known name
    "thiserror", // error types
    "toml",      // TOML with places
];

const FORBIDDEN: &[&str] = &[
    "std::fs",
    "std::process",
    "std::net",
    "std::env",
    "std::io",
    "std::thread",
    "std::os",
    "std::time::Instant",
    "std::time::SystemTime",
    "SystemTime::now",
    "Instant::now",
    "Zoned::now",
    "Timestamp::now",
    "tokio",
    "nix::",
    "rustix",
    "libc::",
    "git2",
    "tracing",
];

fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else {
            into.push(path);
        }
    }
}

#[test]
fn the_core_depends_only_on_crates_that_compute() {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    let dependencies: Vec<&str> =
        manifest["dependencies"].as_table().unwrap().keys().map(String::as_str).collect();
    for name in &dependencies {
        assert!(PURE.contains(name), "{name} is not among the crates of the core; is it pure?");
    }
    for name in PURE {
        assert!(dependencies.contains(name), "{name} is allowed but not used");
    }
    for section in ["build-dependencies", "target", "features"] {
        assert!(!manifest.contains_key(section), "[{section}] could bring in more");
    }
}

#[test]
fn the_core_touches_nothing_outside_its_arguments() {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    assert!(files.len() > 10);
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        // Tests may read fixtures; by house rule they are at the end of a file.
        let code = text.split("#[cfg(test)]").next().unwrap();
        for (number, line) in code.lines().enumerate() {
            if line.trim_start().starts_with("//") {
                continue;
            }
            for word in FORBIDDEN {
                assert!(!line.contains(word), "{}:{}: {word}", file.display(), number + 1);
            }
        }
    }
}
