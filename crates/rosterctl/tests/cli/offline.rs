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
    insta::assert_snapshot!(text, @"");
    let json = place.run(&["--config", "config.toml", "validate", "roster.yaml", "--json"]).json(0);
    assert_eq!(json, json!([]));
    let text = place.run_with(&["validate", "-"], "users: {}\n").answer(0);
    assert!(text.ends_with("standard input: valid, 0 people\n"), "{text}");
}

#[test]
fn every_mistake_of_a_roster_is_told_with_its_place() {
    let place = place();
    place.write("bad.yaml", &ROSTER.replace("tier: admin", "teir: admin").replace("[carol-dev]", "carol-dev"));
    let text = place.run(&["validate", "bad.yaml"]).complaint(1);
    insta::assert_snapshot!(text, @"");
    let done = place.run(&["validate", "bad.yaml", "--json"]);
    let list = done.json(1);
    assert_eq!((&list[0]["file"], &list[0]["line"], &list[0]["column"]), (&json!("bad.yaml"), &json!(5), &json!(5)));
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
    let place = Place::new();
    insta::assert_snapshot!(place.run(&["validate", "none.yaml"]).complaint(1), @"");
    insta::assert_snapshot!(place.run(&["--config", "none.toml", "validate", "none.yaml"]).complaint(1), @"");
}

#[test]
fn bytes_that_are_no_roster_are_refused_without_panic() {
    let place = Place::new();
    std::fs::write(place.path().join("binary.yaml"), [0xff, 0xfe, 0x00, 0x80]).unwrap();
    for (name, text) in [("tab.yaml", "users:\n\talice: {}\n"), ("list.yaml", "- a\n"), ("open.yaml", "users: {")] {
        place.write(name, text);
    }
    for name in ["binary.yaml", "tab.yaml", "list.yaml", "open.yaml"] {
        for command in ["validate", "derive"] {
            let text = place.run(&[command, name]).complaint(1);
            assert!(text.contains(name) && !text.contains("panicked"), "{text}");
        }
    }
}

#[test]
fn derive_shows_a_tree() {
    let text = place().run(&["--config", "config.toml", "derive", "roster.yaml"]).answer(0);
    insta::assert_snapshot!(text, @"");
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
    assert_eq!(json["ports"], json!({ "t3": { "alice": 3773, "carol": 3774 }, "playwright": { "alice": 8931, "carol": 8932 } }));
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
    insta::assert_snapshot!(text, @"");
    let _all_equal: Value = derive(r#"{ "alice": { "role": "admin" }, "carol": { "role": "namespace-owner" } }"#).json(0);
    let missing = derive(r#"{ "alice": { "role": "admin" } }"#);
    assert_eq!(missing.code, Some(0));
    assert!(missing.stderr.starts_with("warning: ") && missing.stderr.contains("carol"), "{}", missing.stderr);
    let unreadable = derive("not JSON");
    assert_eq!(unreadable.code, Some(0));
    assert!(unreadable.stderr.starts_with("warning: the tiers are not checked: map.json: "), "{}", unreadable.stderr);
}
