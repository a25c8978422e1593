//! `rosterctl user`: the roster's file as an admin finds it afterwards.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use serde_json::json;

use crate::{Done, Place};

const ROSTER: &str = "\
# The lab.
users:
  alice: {authentik_user: alice, k8s_user: alice, tier: admin}  # until May
  carol: {authentik_user: carol, k8s_user: carol, tier: power-user}
";

fn place() -> Place {
    let place = Place::new();
    place.write("config.toml", &format!("[roster]\npath = \"{}/roster.yaml\"\n", place.path().display()));
    place.write("roster.yaml", ROSTER);
    place
}

fn user(place: &Place, args: &[&str]) -> Done {
    place.run(&[&["--config", "config.toml", "user"], args].concat())
}

fn read(place: &Place, name: &str) -> String {
    fs::read_to_string(place.path().join(name)).unwrap()
}

#[test]
fn a_change_is_told_saved_and_the_text_before_is_kept() {
    let place = place();
    fs::set_permissions(place.path().join("roster.yaml"), fs::Permissions::from_mode(0o640)).unwrap();
    let done = user(&place, &["set", "carol", "tier=admin", "email=carol@example.org"]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    insta::assert_snapshot!(done.stdout, @r"
    carol: tier power-user → admin
    carol: email changed
    ");
    assert_eq!(done.stderr, "saved PLACE/roster.yaml, 2 people; the text before is in PLACE/roster.yaml~\n");
    let changed = ROSTER.replace("tier: power-user}", "tier: admin, email: carol@example.org}");
    assert_eq!(read(&place, "roster.yaml"), changed);
    assert_eq!(read(&place, "roster.yaml~"), ROSTER);
    let mode = |name: &str| fs::metadata(place.path().join(name)).unwrap().mode() & 0o7777;
    assert_eq!((mode("roster.yaml"), mode("roster.yaml~")), (0o640, 0o640));
}

#[test]
fn a_person_joins_is_parked_and_leaves() {
    let place = place();
    let run = |args: &[&str]| {
        let done = user(&place, args);
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        done.stdout
    };
    let fields = ["authentik_user=dave", "k8s_user=dave", "tier=namespace-owner", "namespaces=dave"];
    assert_eq!(run(&[&["add", "dave"], &fields[..]].concat()), "dave: joined as namespace-owner\n");
    assert_eq!(run(&["park", "dave"]), "dave: parked\n");
    assert_eq!(run(&["unpark", "dave"]), "dave: no longer parked\n");
    let written = format!(
        "{ROSTER}  dave: {{authentik_user: dave, k8s_user: dave, tier: namespace-owner, namespaces: [dave], parked: false}}\n"
    );
    assert_eq!(read(&place, "roster.yaml"), written);
    let same = run(&["unpark", "dave"]);
    assert_eq!(same, "PLACE/roster.yaml says so already; nothing is changed\n");
    assert_eq!(run(&["remove", "dave"]), "dave: left\n");
    assert_eq!(read(&place, "roster.yaml"), ROSTER);
}

#[test]
fn a_dry_run_shows_the_lines_and_changes_nothing() {
    let place = place();
    let text = user(&place, &["set", "alice", "hosts=devvm,lab-*", "--dry-run"]).answer(0);
    insta::assert_snapshot!(text, @r#"
    --- PLACE/roster.yaml
    +++ PLACE/roster.yaml
    @@ -1,4 +1,4 @@
     # The lab.
     users:
    -  alice: {authentik_user: alice, k8s_user: alice, tier: admin}  # until May
    +  alice: {authentik_user: alice, k8s_user: alice, tier: admin, hosts: [devvm, "lab-*"]}  # until May
       carol: {authentik_user: carol, k8s_user: carol, tier: power-user}
    "#);
    assert_eq!(read(&place, "roster.yaml"), ROSTER);
    assert!(!place.path().join("roster.yaml~").exists());
    let answer = user(&place, &["remove", "carol", "--dry-run", "--json"]).json(0);
    assert_eq!(
        (&answer["written"], &answer["changes"]),
        (&json!(false), &json!([{ "user": "carol", "change": "left" }]))
    );
}

#[test]
fn what_cannot_be_done_changes_nothing_and_says_what_next() {
    let place = place();
    let text = user(&place, &["set", "carol", "tier=namespace-owner"]).complaint(1);
    insta::assert_snapshot!(text, @r"
    error: user `carol` is a namespace-owner without `namespaces`
     --> PLACE/roster.yaml:4:57
      |
    4 |   carol: {authentik_user: carol, k8s_user: carol, tier: namespace-owner}
      |                                                         ^^^^^^^^^^^^^^^
      |
      = help: add `namespaces: [carol]`

    PLACE/roster.yaml: 1 error
    error: PLACE/roster.yaml is not changed: the roster would not be valid
      next: the lines above are those that would have been written; give other values
    ");
    insta::assert_snapshot!(user(&place, &["park", "karol"]).complaint(1), @r"
    error: PLACE/roster.yaml is not changed: there is no `karol` in the roster; did you mean `carol`?
      next: `rosterctl derive` lists everybody
    ");
    for wrong in ["teir=admin", "tier", "parked+=true", "quota=4"] {
        assert_eq!(user(&place, &["set", "carol", wrong]).code, Some(64), "{wrong}");
    }
    assert_eq!(user(&place, &["remove", "root"]).code, Some(64));
    assert_eq!(read(&place, "roster.yaml"), ROSTER);
    assert!(!place.path().join("roster.yaml~").exists());
}

#[test]
fn a_roster_that_cannot_be_edited_safely_stays() {
    let place = place();
    let text = "users:\n  alice: &a {authentik_user: alice, k8s_user: alice, tier: admin}\n";
    place.write("roster.yaml", text);
    let told = user(&place, &["park", "alice"]).complaint(1);
    assert!(told.contains("anchors (`&…`) are not accepted"), "{told}");
    assert!(told.contains("next: correct it; `rosterctl validate PLACE/roster.yaml` checks it"), "{told}");
    fs::rename(place.path().join("roster.yaml"), place.path().join("real.yaml")).unwrap();
    std::os::unix::fs::symlink("real.yaml", place.path().join("roster.yaml")).unwrap();
    let told = user(&place, &["park", "alice"]).complaint(1);
    assert!(told.contains("it is a symlink"), "{told}");
    fs::remove_file(place.path().join("roster.yaml")).unwrap();
    let told = user(&place, &["park", "alice"]).complaint(1);
    assert!(told.contains("next: name the roster by [roster] path in config.toml"), "{told}");
    assert_eq!(read(&place, "real.yaml"), text);
}

/// Everybody's change is there in the end, whoever was overtaken.
#[test]
fn admins_who_change_the_roster_at_once_lose_nothing() {
    let place = place();
    let children: Vec<_> = (0..8)
        .map(|number| {
            let (login, name) = (format!("authentik_user=u{number}"), format!("k8s_user=u{number}"));
            let user = format!("u{number}");
            let args = ["--config", "config.toml", "user", "add", &user, &login, &name, "tier=admin"];
            place
                .command(&args)
                .stdout(std::process::Stdio::null())
                .stderr(std::process::Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let mut done = 0;
    for child in children {
        let output = child.wait_with_output().unwrap();
        // Whoever was overtaken too often says so.
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() || text.contains("somebody else keeps saving"), "{text}");
        done += usize::from(output.status.success());
    }
    let text = read(&place, "roster.yaml");
    assert_eq!(text.lines().count(), 4 + done, "{text}");
    assert!(text.starts_with(ROSTER) && done > 0, "{text}");
}
