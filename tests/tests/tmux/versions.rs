//! The tests of the crate `tmux-persist` on real servers, with the tmux of each Debian: 3.3a and 3.5a.

use std::fs;
use std::path::PathBuf;

use machine_tests::{Machine, Suite, on_each_debian};

on_each_debian!(whatever_was_saved_is_saved_again_with_this_tmux);

/// The program with those tests, which cargo puts beside this one when it builds all tests of the workspace.
fn program() -> PathBuf {
    let here = std::env::current_exe().unwrap();
    let built =
        fs::read_dir(here.parent().unwrap()).unwrap().flatten().map(|entry| entry.path()).filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy();
            name.starts_with("real-") && path.extension().is_none()
        });
    built
        .max_by_key(|path| fs::metadata(path).and_then(|meta| meta.modified()).unwrap())
        .unwrap_or_else(|| panic!("run `cargo test --release -p tmux-persist --no-run` first"))
}

fn whatever_was_saved_is_saved_again_with_this_tmux(suite: Suite) {
    let machine = Machine::bare(suite);
    fs::copy(program(), machine.root().join("usr/local/bin/real")).unwrap();
    let wanted = match suite {
        Suite::Bookworm => "tmux 3.3a\n",
        Suite::Trixie => "tmux 3.5a\n",
    };
    assert_eq!(machine.sh("useradd -m ann; tmux -V").ok(), wanted);
    // With habits of their own.
    machine.write_file(
        "/home/ann/.tmux.conf",
        "set -g base-index 1\nset -g pane-base-index 1\nset -g renumber-windows on\nset -g mouse on\n\
         set -g history-limit 50000\nset -g default-terminal tmux-256color\nset -g status-position top\n\
         set -g set-titles on\nset -s escape-time 0\n",
    );
    // `words` is about what is said, not about who hears it.
    let done = machine.sh_as("ann", "real --skip words:: 2>&1").ok();
    assert!(done.contains("test trees::what_was_saved_is_saved_again_after_a_restore ... ok"), "{done}");
    assert!(done.contains("test result: ok. 25 passed"), "{done}");
}
