//! `rosterctl tmux`: whom it may be asked about, and the command line. What it does is shown on real machines.

use crate::Place;

#[test]
fn only_people_in_the_map_may_be_asked_about() {
    let place = Place::new();
    place.write("map", "# by rosterd\nx=daemon\ny=no-such-account-here\n");
    let run = |args: &[&str]| place.run(&[&["tmux", "--map", "map", "--state", "state"], args].concat());
    insta::assert_snapshot!(
        run(&["--user", "nobody", "save"]).complaint(2),
        @"error: nobody to work for: nobody is not among the people in map"
    );
    insta::assert_snapshot!(
        run(&["--user", "no-such-account-here", "history"]).complaint(2),
        @"error: nobody to work for: no-such-account-here has no account of a person on this machine"
    );
    insta::assert_snapshot!(run(&["snapshots"]).complaint(2), @r"
    error: this is asked for one person
      next: give one with --user
    ");
    // Nobody in it has an account: nobody to save, and that is no failure.
    assert_eq!(run(&["save"]).answer(0), "");
    assert_eq!(run(&["save", "--json"]).answer(0), "[]\n");
    insta::assert_snapshot!(place.run(&["tmux", "save", "--map", "none"]).complaint(1), @r"
    error: nobody is known: cannot read none: No such file or directory (os error 2)
      next: rosterd writes that map; name another one with --map
    ");
}

#[test]
fn a_wrong_command_line_exits_64() {
    for args in [
        &["tmux"][..],
        &["tmux", "save", "--tsv", "--json"],
        &["tmux", "snapshot", "yesterday"],
        &["tmux", "restore-selection", "20260301T120000"],
        &["tmux", "forget", "a b"],
        &["tmux", "save", "--socket", "a/b"],
        &["tmux", "save", "--now", "soon"],
    ] {
        let done = Place::new().run(args);
        assert_eq!(done.code, Some(64), "{args:?}: {}", done.stderr);
    }
}

#[test]
fn the_daemons_socket_is_no_tmux_servers_name() {
    let place = Place::new();
    place.write("map", "");
    let said = place.run(&["--socket", "/run/x", "tmux", "--map", "map", "save"]).complaint(1);
    assert!(said.contains("no tmux server can be asked at /run/x"), "{said}");
}

#[test]
fn a_worker_is_nobody_without_an_order() {
    let done = Place::new().run_with(&["tmux", "worker"], "{\"work\":{}}\n");
    assert_eq!(done.code, Some(1));
    assert!(done.stderr.starts_with("tmux worker: "), "{}", done.stderr);
}
