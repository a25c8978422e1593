//! Edits of a roster as a site has it, and the texts that are refused.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

use roster::edit::{self, Edit, EditError};
use roster::name::OsUser;

const ROSTER: &str = r#"# yaml-language-server: $schema=/usr/share/rosterd/roster.schema.json
# The people of the lab; ask the office before you change a tier.
users:
  alice: {authentik_user: alice.doe, k8s_user: alice, tier: admin}   # until May
  bob:   {authentik_user: 'bob.roe', k8s_user: bobr, tier: power-user}

  # On loan from the other lab.
  carol:
    authentik_user: carol            # the login
    k8s_user: carol
    tier: namespace-owner   # asked for more
    namespaces:
      - carol-prod          # the important one
      - carol-dev
    code_layout: workspace
    repos: [tripit]
    quota:
      cpu_requests: "4"
      # memory: 8Gi
    # shell: /bin/fish

# That is everybody.
"#;

fn user(name: &str) -> OsUser {
    OsUser::new(name).unwrap()
}

fn set(name: &str, fields: &[&str]) -> Edit {
    Edit::Set { user: user(name), fields: fields.iter().map(|field| field.parse().unwrap()).collect() }
}

fn add(name: &str, fields: &[&str], note: Option<&str>) -> Edit {
    let fields = fields.iter().map(|field| field.parse().unwrap()).collect();
    Edit::Add { user: user(name), fields, note: note.map(str::to_owned) }
}

/// The lines that changed, with their numbers in the old text and in the new one.
fn changed(text: &str, edits: &[Edit]) -> String {
    let edited = edit::apply("roster.yaml", text.as_bytes(), edits).unwrap();
    let (old, new): (Vec<_>, Vec<_>) = (text.lines().collect(), edited.text.lines().collect());
    let head = old.iter().zip(&new).take_while(|(old, new)| old == new).count();
    let tail =
        old[head..].iter().rev().zip(new[head..].iter().rev()).take_while(|(old, new)| old == new).count();
    let mut text = String::new();
    for (number, line) in old[..old.len() - tail].iter().enumerate().skip(head) {
        text.push_str(&format!("{:2} -{line}\n", number + 1));
    }
    for (number, line) in new[..new.len() - tail].iter().enumerate().skip(head) {
        text.push_str(&format!("{:2} +{line}\n", number + 1));
    }
    text
}

fn refused(text: &str, edits: &[Edit]) -> String {
    match edit::apply("roster.yaml", text.as_bytes(), edits).unwrap_err() {
        EditError::Invalid(all) => format!("invalid: {}", all.render(false)),
        EditError::Refused(all) => format!("refused: {}", all.render(false)),
        error => error.to_string(),
    }
}

#[test]
fn a_value_changes_in_its_place_and_keeps_its_quotes() {
    insta::assert_snapshot!(changed(ROSTER, &[set("bob", &["authentik_user=bob"])]), @r"
     5 -  bob:   {authentik_user: 'bob.roe', k8s_user: bobr, tier: power-user}
     5 +  bob:   {authentik_user: 'bob', k8s_user: bobr, tier: power-user}
    ");
    insta::assert_snapshot!(changed(ROSTER, &[set("carol", &["quota.cpu=8"])]), @r#"
    18 -      cpu_requests: "4"
    18 +      cpu_requests: "8"
    "#);
    assert_eq!(changed(ROSTER, &[set("carol", &["tier=namespace-owner"]), set("bob", &["email="])]), "");
}

#[test]
fn a_tier_changes_with_what_depends_on_it() {
    insta::assert_snapshot!(changed(ROSTER, &[set("carol", &["tier=power-user", "namespaces="])]), @r"
    11 -    tier: namespace-owner   # asked for more
    12 -    namespaces:
    13 -      - carol-prod          # the important one
    14 -      - carol-dev
    11 +    tier: power-user   # asked for more
    ");
}

#[test]
fn lists_gain_and_lose_lines_or_items() {
    insta::assert_snapshot!(changed(ROSTER, &[set("carol", &["namespaces+=carol-lab", "namespaces-=carol-dev"])]), @r"
    14 -      - carol-dev
    14 +      - carol-lab
    ");
    insta::assert_snapshot!(changed(ROSTER, &[set("carol", &["repos+=website,docs"])]), @r"
    16 -    repos: [tripit]
    16 +    repos: [tripit, website, docs]
    ");
    insta::assert_snapshot!(changed(ROSTER, &[set("carol", &["namespaces=carol-dev,carol-prod"])]), @r"
    12 -    namespaces:
    13 -      - carol-prod          # the important one
    14 -      - carol-dev
    12 +    namespaces: [carol-dev, carol-prod]
    ");
    let gone = refused(ROSTER, &[set("carol", &["repos-=website"])]);
    assert_eq!(gone, "`website` is not in the repos of `carol`");
}

#[test]
fn people_are_parked_and_unparked() {
    insta::assert_snapshot!(changed(ROSTER, &[set("bob", &["parked=true"]), set("carol", &["parked=true"])]), @r#"
     5 -  bob:   {authentik_user: 'bob.roe', k8s_user: bobr, tier: power-user}
     6 -
     7 -  # On loan from the other lab.
     8 -  carol:
     9 -    authentik_user: carol            # the login
    10 -    k8s_user: carol
    11 -    tier: namespace-owner   # asked for more
    12 -    namespaces:
    13 -      - carol-prod          # the important one
    14 -      - carol-dev
    15 -    code_layout: workspace
    16 -    repos: [tripit]
    17 -    quota:
    18 -      cpu_requests: "4"
    19 -      # memory: 8Gi
     5 +  bob:   {authentik_user: 'bob.roe', k8s_user: bobr, tier: power-user, parked: true}
     6 +
     7 +  # On loan from the other lab.
     8 +  carol:
     9 +    authentik_user: carol            # the login
    10 +    k8s_user: carol
    11 +    tier: namespace-owner   # asked for more
    12 +    namespaces:
    13 +      - carol-prod          # the important one
    14 +      - carol-dev
    15 +    code_layout: workspace
    16 +    repos: [tripit]
    17 +    quota:
    18 +      cpu_requests: "4"
    19 +      # memory: 8Gi
    20 +    parked: true
    "#);
}

#[test]
fn a_newcomer_is_written_as_the_last_one_is() {
    let dave =
        ["authentik_user=dave", "k8s_user=yes", "tier=admin", "quota.cpu=4", "quota.pods=20", "hosts=lab-*"];
    insta::assert_snapshot!(changed(ROSTER, &[add("dave", &dave, Some("2026-11-25: joined"))]), @r#"
    22 +  # 2026-11-25: joined
    23 +  dave:
    24 +    authentik_user: dave
    25 +    k8s_user: "yes"
    26 +    tier: admin
    27 +    quota: {cpu: "4", pods: "20"}
    28 +    hosts: ["lab-*"]
    29 +
    "#);
    let (short, _) = ROSTER.split_once("\n\n").unwrap();
    insta::assert_snapshot!(changed(short, &[add("dave", &dave[..3], None)]), @r#" 6 +  dave: {authentik_user: dave, k8s_user: "yes", tier: admin}"#);
    for empty in ["", "# nobody yet\n", "users:\n", "users: {}\n", "---\n", "users: ~\n"] {
        let edited = edit::apply("roster.yaml", empty.as_bytes(), &[add("dave", &dave[..3], None)]).unwrap();
        assert!(
            edited.text.ends_with(
                "users:\n  dave:\n    authentik_user: dave\n    k8s_user: \"yes\"\n    tier: admin\n"
            ),
            "{}",
            edited.text
        );
    }
}

#[test]
fn who_leaves_takes_their_lines_along_or_leaves_them_as_comments() {
    assert_eq!(
        changed(ROSTER, &[Edit::Remove { user: user("bob") }]),
        " 5 -  bob:   {authentik_user: 'bob.roe', k8s_user: bobr, tier: power-user}\n"
    );
    let out = Edit::CommentOut { user: user("carol"), note: "2026-11-25: left".into() };
    insta::assert_snapshot!(changed(ROSTER, &[out]), @r#"
     8 -  carol:
     9 -    authentik_user: carol            # the login
    10 -    k8s_user: carol
    11 -    tier: namespace-owner   # asked for more
    12 -    namespaces:
    13 -      - carol-prod          # the important one
    14 -      - carol-dev
    15 -    code_layout: workspace
    16 -    repos: [tripit]
    17 -    quota:
    18 -      cpu_requests: "4"
    19 -      # memory: 8Gi
    20 -    # shell: /bin/fish
     8 +  # 2026-11-25: left
     9 +  # carol:
    10 +  #   authentik_user: carol            # the login
    11 +  #   k8s_user: carol
    12 +  #   tier: namespace-owner   # asked for more
    13 +  #   namespaces:
    14 +  #     - carol-prod          # the important one
    15 +  #     - carol-dev
    16 +  #   code_layout: workspace
    17 +  #   repos: [tripit]
    18 +  #   quota:
    19 +  #     cpu_requests: "4"
    20 +  #     # memory: 8Gi
    21 +  #   # shell: /bin/fish
    "#);
}

#[test]
fn what_would_not_be_valid_is_refused_with_the_lines_that_would_be_there() {
    insta::assert_snapshot!(refused(ROSTER, &[set("carol", &["tier=power-usr", "parked=yes"])]), @r#"
    refused: error: unknown tier `power-usr`
      --> roster.yaml:11:11
       |
    11 |     tier: power-usr   # asked for more
       |           ^^^^^^^^^
       |
       = help: did you mean `power-user`?

    error: expected true or false, found the text `yes`
      --> roster.yaml:20:13
       |
    20 |     parked: "yes"
       |             ^^^^^
       |
       = help: write `true`

    roster.yaml: 2 errors
    "#);
    let shared = refused(ROSTER, &[set("carol", &["authentik_user=Alice.Doe@example.org"])]);
    assert!(shared.contains("is already the `authentik_user` of user `alice`"), "{shared}");
    assert_eq!(
        refused(ROSTER, &[set("carl", &["tier=admin"])]),
        "there is no `carl` in the roster; did you mean `carol`?"
    );
    assert_eq!(refused(ROSTER, &[add("carol", &["tier=admin"], None)]), "`carol` is in the roster already");
}

#[test]
fn a_text_that_is_not_safe_to_edit_is_refused() {
    let invalid = [
        "users:\n  a: &x {authentik_user: a, k8s_user: a, tier: admin}\n  b: *x\n",
        "users:\n  a: {<<: {tier: admin}, authentik_user: a, k8s_user: a}\n",
        "users: {}\n---\nusers: {}\n",
        "users:\n  a: {authentik_user: a, k8s_user: a, teir: admin}\n",
    ];
    for text in invalid {
        assert!(refused(text, &[Edit::Remove { user: user("a") }]).starts_with("invalid: error: "), "{text}");
    }
    let person = "{authentik_user: a, k8s_user: a, tier: admin}";
    let out = || Edit::CommentOut { user: user("a"), note: "left".into() };
    for (text, edits) in [
        (format!("users: {{a: {person}}}\n"), vec![out()]),
        (format!("? users\n: a: {person}\n"), vec![out()]),
        (format!("users:\r  a: {person}\r"), vec![Edit::Remove { user: user("a") }]),
        (
            format!("users: {{a: {person}}}\n"),
            vec![add("b", &["authentik_user=b", "k8s_user=b", "tier=admin"], Some("joined"))],
        ),
        ("users:\n  ? a\n  : authentik_user: a\n    k8s_user: a\n    tier: admin\n".into(), vec![out()]),
    ] {
        let why = refused(&text, &edits);
        assert!(
            why.starts_with("the roster is laid out in a way that is not safe to change by program: "),
            "{text}: {why}"
        );
    }
}

#[test]
fn thousands_of_newcomers_are_one_change() {
    let edits: Vec<Edit> = (0..10_000)
        .map(|number| {
            let fields =
                [format!("authentik_user=u{number}"), format!("k8s_user=u{number}"), "tier=admin".into()];
            add(&format!("u{number}"), &fields.each_ref().map(String::as_str), Some("2026-11-25: joined"))
        })
        .collect();
    let edited = edit::apply("roster.yaml", ROSTER.as_bytes(), &edits).unwrap();
    assert_eq!(edited.after.users.len(), 10_003);
    let out: Vec<Edit> = (0..10_000)
        .map(|number| Edit::CommentOut { user: user(&format!("u{number}")), note: "2026-11-26: left".into() })
        .collect();
    let edited = edit::apply("roster.yaml", edited.text.as_bytes(), &out).unwrap();
    assert_eq!(edited.after.users.len(), 3);
}
