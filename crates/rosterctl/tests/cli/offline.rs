//! Commands that need no daemon.

use serde_json::{Value, json};

use crate::Place;

/// Names a shell that every machine has, so that the answers are the same everywhere.
const CONFIG: &str = r#"
[accounts]
shells = ["/bin/sh"]

[code]
infra = "https://git.example.org/infra.git"
repositories = "https://git.example.org/{name}.git"
"#;

const ROSTER: &str = "\
users:
  alice:
    authentik_user: alice
    k8s_user: alice
    tier: admin
  carol:
    authentik_user: carol
    k8s_user: carol
    tier: namespace-owner
    namespaces: [carol-dev]
    code_layout: workspace
    repos: [tripit]
";

/// A place with a valid configuration and roster. Every call names the configuration: the machine's own is not
/// part of the test.
fn place() -> Place {
    let place = Place::new();
    place.write("config.toml", CONFIG);
    place.write("roster.yaml", ROSTER);
    place
}

#[test]
fn a_valid_roster_is_counted() {
    let place = place();
    let text = place.run(&["--config", "config.toml", "validate", "roster.yaml"]).answer(0);
    insta::assert_snapshot!(text, @r"
    config.toml: valid
    roster.yaml: valid, 2 people
    ");
    let json = place.run(&["--config", "config.toml", "validate", "roster.yaml", "--json"]).json(0);
    assert_eq!(json, json!([]));
    let text = place.run_with(&["--config", "config.toml", "validate", "-"], "users: {}\n").answer(0);
    assert_eq!(text, "config.toml: valid\nstandard input: valid, 0 people\n");
    place.write("other.toml", "[guard]\nmax_cut = 1\n");
    assert_eq!(place.run(&["validate", "config.toml"]).answer(0), "config.toml: valid\n");
    assert!(place.run(&["validate", "other.toml"]).complaint(1).contains("max_cuts"));
}

#[test]
fn every_mistake_of_a_roster_is_told_with_its_place() {
    let place = place();
    place
        .write("bad.yaml", &ROSTER.replace("tier: admin", "teir: admin").replace("[carol-dev]", "carol-dev"));
    let done = place.run(&["--config", "config.toml", "validate", "bad.yaml"]);
    assert_eq!((done.code, done.stdout.as_str()), (Some(1), "config.toml: valid\n"));
    insta::assert_snapshot!(done.stderr, @r"
    error: unknown field `teir` in user `alice`
     --> bad.yaml:5:5
      |
    5 |     teir: admin
      |     ^^^^
      |
      = help: did you mean `tier`?

    error: `namespaces` must be a list, found one value
      --> bad.yaml:10:17
       |
    10 |     namespaces: carol-dev
       |                 ^^^^^^^^^
       |
       = help: write `namespaces: [carol-dev]`

    bad.yaml: 2 errors
    ");
    let done = place.run(&["--config", "config.toml", "validate", "bad.yaml", "--json"]);
    let list = done.json(1);
    assert_eq!(
        (&list[0]["file"], &list[0]["line"], &list[0]["column"]),
        (&json!("bad.yaml"), &json!(5), &json!(5))
    );
    assert!(list.as_array().unwrap().len() >= 2, "{list}");
}

#[test]
fn a_bad_configuration_is_told_together_with_the_roster() {
    let place = place();
    place.write("config.toml", "[guard]\nmax_cuts = \"many\"\n");
    place.write("bad.yaml", "users: 3\n");
    let text = place.run(&["--config", "config.toml", "validate", "bad.yaml"]).complaint(1);
    assert!(text.contains("config.toml:2:") && text.contains("bad.yaml:1:"), "{text}");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let place = place();
    insta::assert_snapshot!(place.run(&["--config", "config.toml", "derive", "none.yaml"]).complaint(1), @"error: cannot read none.yaml: No such file or directory (os error 2)");
    insta::assert_snapshot!(place.run(&["--config", "none.toml", "validate", "none.yaml"]).complaint(1), @"error: cannot read none.toml: No such file or directory (os error 2)");
}

#[test]
fn without_a_roster_validate_says_how_to_begin() {
    let place = place();
    place.write("gone.toml", "[roster]\npath = \"/none/roster.yaml\"\n");
    let done = place.run(&["--config", "gone.toml", "validate"]);
    assert_eq!(done.code, Some(1), "{}", done.stderr);
    assert!(done.stderr.contains("roster.example.yaml, saved as /none/roster.yaml"), "{}", done.stderr);
}

#[test]
fn bytes_that_are_no_roster_are_refused_without_panic() {
    let place = place();
    std::fs::write(place.path().join("binary.yaml"), [0xff, 0xfe, 0x00, 0x80]).unwrap();
    for (name, text) in
        [("tab.yaml", "users:\n\talice: {}\n"), ("list.yaml", "- a\n"), ("open.yaml", "users: {")]
    {
        place.write(name, text);
    }
    for name in ["binary.yaml", "tab.yaml", "list.yaml", "open.yaml"] {
        for command in ["validate", "derive"] {
            let text = place.run(&["--config", "config.toml", command, name, "--json"]);
            assert_eq!(text.code, Some(1), "{}", text.stderr);
            assert!((text.stdout + &text.stderr).contains(name), "{name}");
        }
    }
}

#[test]
fn derive_shows_a_tree() {
    let text = place().run(&["--config", "config.toml", "derive", "roster.yaml"]).answer(0);
    insta::assert_snapshot!(text, @r"
    alice  admin
       account  /home/alice, /bin/sh
       groups   code-shared, docker, sudo
       ports    playwright 8931, t3 3773
       clone    ~/code from https://git.example.org/infra.git (locked)
       git      user.name alice, credential.helper store, each where it has no value
    carol  namespace-owner
       account  /home/carol, /bin/sh
       ports    playwright 8932, t3 3774
       clone    ~/code/infra from https://git.example.org/infra.git (locked)
       clone    ~/code/tripit from https://git.example.org/tripit.git
       git      user.name carol, credential.helper store, each where it has no value
       spaces   carol-dev

    /etc/ttyd-user-map
      # Generated by rosterd from the roster. Do not edit: changes are replaced.
      # <login>=<account>, in the order of their ports
      alice=alice
      carol=carol

    /etc/ttyd-admins
      # Generated by rosterd from the roster. Do not edit: changes are replaced.
      alice

    /etc/t3-serve/dispatch.json
      alice -> alice port 3773
      carol -> carol port 3774

    2 accounts.
    ");
}

#[test]
fn derive_prints_the_desired_state_for_programs() {
    let place = place();
    let json = place.run(&["--config", "config.toml", "derive", "roster.yaml", "--json"]).json(0);
    let carol = &json["accounts"]["carol"];
    assert_eq!(carol["tier"], "namespace-owner");
    assert_eq!(carol["shell"], "/bin/sh");
    assert_eq!(carol["code_layout"], "workspace");
    assert_eq!(carol["repos"], json!(["tripit"]));
    assert_eq!((&carol["parked"], &carol["claude_auth"]), (&json!(false), &json!(true)));
    assert_eq!(json["accounts"]["alice"]["groups"], json!(["code-shared", "docker", "sudo"]));
    assert_eq!(
        json["ports"],
        json!({ "t3": { "alice": 3773, "carol": 3774 }, "playwright": { "alice": 8931, "carol": 8932 } })
    );
    assert_eq!(json["dispatch"]["carol"], json!({ "os_user": "carol", "port": 3774 }));
    for key in ["ttyd_user_map", "ttyd_admins"] {
        assert!(json[key].as_str().unwrap().contains("alice"), "{json}");
    }
}

#[test]
fn ports_that_were_given_out_stay() {
    let place = place();
    place.write("ports.json", r#"{ "t3": { "carol": 3773, "gone": 3774 } }"#);
    let args = ["--config", "config.toml", "derive", "roster.yaml", "--ports", "ports.json", "--json"];
    let ports = place.run(&args).json(0)["ports"]["t3"].clone();
    assert_eq!((&ports["carol"], &ports["alice"]), (&json!(3773), &json!(3775)), "{ports}");
    place.write("ports.json", r#"{ "t3": ["carol"] }"#);
    let text = place.run(&args).complaint(1);
    assert!(text.starts_with("error: cannot take ports from ports.json: "), "{text}");
}

#[test]
fn a_tier_that_differs_from_the_cluster_ends_derive_and_names_both() {
    let place = place();
    let derive = |map: &str| {
        place.write("map.json", map);
        place.run(&["--config", "config.toml", "derive", "roster.yaml", "--k8s-users", "map.json", "--json"])
    };
    let text = derive(r#"{ "alice": { "role": "admin" }, "carol": { "role": "power-user" } }"#).complaint(1);
    insta::assert_snapshot!(text, @r"
    error: tiers differ from the map in map.json:
      - carol is `namespace-owner` in the roster, `carol` is `power-user` in the map
      next: make the roster and the cluster's map agree
    ");
    let _all_equal: Value =
        derive(r#"{ "alice": { "role": "admin" }, "carol": { "role": "namespace-owner" } }"#).json(0);
    let missing = derive(r#"{ "alice": { "role": "admin" } }"#);
    assert_eq!(missing.code, Some(0));
    assert!(
        missing.stderr.starts_with("warning: ") && missing.stderr.contains("carol"),
        "{}",
        missing.stderr
    );
    let unreadable = derive("not JSON");
    assert_eq!(unreadable.code, Some(0));
    assert!(
        unreadable.stderr.starts_with("warning: the tiers are not checked: map.json: "),
        "{}",
        unreadable.stderr
    );
}

#[test]
fn one_roster_serves_several_machines() {
    let place = place();
    place.write("roster.yaml", &ROSTER.replace("tier: admin", "tier: admin\n    hosts: [devvm, \"lab-*\"]"));
    let validate = |more: &[&str]| {
        let args = [&["--config", "config.toml", "validate", "roster.yaml"], more].concat();
        place.run(&args).answer(0)
    };
    assert_eq!(
        validate(&["--host", "lab-3"]),
        "config.toml: valid\nroster.yaml: valid, 2 people, 2 of them on lab-3\n"
    );
    assert_eq!(
        validate(&["--host", "other"]),
        "config.toml: valid\nroster.yaml: valid, 2 people, 1 of them on other\n"
    );
    let people = |more: &[&str]| {
        let args = [&["--config", "config.toml", "derive", "roster.yaml", "--json"], more].concat();
        let json = place.run(&args).json(0);
        json["accounts"].as_object().unwrap().keys().cloned().collect::<Vec<_>>()
    };
    assert_eq!(people(&["--host", "devvm.example.org"]), ["alice", "carol"]);
    assert_eq!(people(&["--host", "other"]), ["carol"]);
    place.write("config.toml", &format!("host = \"devvm\"\n{CONFIG}"));
    assert_eq!(people(&[]), ["alice", "carol"]);
    assert_eq!(place.run(&["derive", "--host", "de vm"]).code, Some(64));
}
