//! The group of the identity provider against the roster, and Authentik's answers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

use jiff::civil::date;
use proptest::prelude::*;
use roster::edit;
use roster::membership::authentik::{AnswerError, Next, Reading};
use roster::membership::{self, Inconclusive, Member, Proposal};
use serde_json::{Value, json};

const ROSTER: &str = "\
users:
  alice: {authentik_user: alice.doe, k8s_user: alice, tier: admin}
  bob:   {authentik_user: bob.roe, k8s_user: bobr, tier: power-user, email: bob@example.org}
  # On loan.
  carol:
    authentik_user: Carol@example.org
    k8s_user: carol
    tier: namespace-owner
    namespaces: [carol-dev]
";

fn member(login: &str) -> Member {
    Member {
        login: login.into(),
        email: format!("{login}@example.org"),
        name: "Some One".into(),
        active: true,
    }
}

fn members(logins: &[&str]) -> Vec<Member> {
    logins.iter().map(|login| member(login)).collect()
}

fn compare(members: &[Member]) -> Result<Vec<Proposal>, Inconclusive> {
    let roster = roster::parse::roster("roster.yaml", ROSTER.as_bytes()).unwrap();
    membership::compare(members, &roster, |user| user.as_str() == "left_long_ago")
}

fn lines(members: &[Member]) -> String {
    compare(members).unwrap().iter().map(|proposal| format!("{proposal}\n")).collect()
}

fn text(members: &[Member]) -> String {
    let edits = membership::edits(&compare(members).unwrap(), "T3 Users", date(2026, 11, 25));
    edit::apply("roster.yaml", ROSTER.as_bytes(), &edits).unwrap().text
}

#[test]
fn a_group_that_is_the_roster_proposes_nothing() {
    assert_eq!(lines(&members(&["alice.doe", "Bob.Roe", "carol"])), "");
    assert_eq!(text(&members(&["alice.doe", "bob.roe", "carol"])), ROSTER);
}

#[test]
fn a_member_joins_at_the_floor_and_who_left_becomes_a_comment() {
    let mut group = members(&["alice.doe", "bob.roe", "Dave.O-Neil@corp.example.org"]);
    group[2].email = "dave@example.org".into();
    group[2].name = "Dave\nO'Neil # {".into();
    insta::assert_snapshot!(lines(&group), @r"
    dave_o_neil: joins as namespace-owner with the namespace dave-o-neil (Dave.O-Neil@corp.example.org is in the group)
    carol: leaves, the lines become comments (Carol@example.org is not in the group)
    ");
    insta::assert_snapshot!(text(&group), @r"
    users:
      alice: {authentik_user: alice.doe, k8s_user: alice, tier: admin}
      bob:   {authentik_user: bob.roe, k8s_user: bobr, tier: power-user, email: bob@example.org}
      # On loan.
      # 2026-11-25: Carol@example.org left the group T3 Users; commented out by rosterctl membership
      # carol:
      #   authentik_user: Carol@example.org
      #   k8s_user: carol
      #   tier: namespace-owner
      #   namespaces: [carol-dev]
      # 2026-11-25: DaveO'Neil # {, joined the group T3 Users; added by rosterctl membership
      dave_o_neil:
        authentik_user: Dave.O-Neil@corp.example.org
        k8s_user: dave_o_neil
        email: dave@example.org
        tier: namespace-owner
        namespaces: [dave-o-neil]
        code_layout: workspace
    ");
}

#[test]
fn an_admin_is_reported_and_stays() {
    let group = members(&["bob.roe", "carol"]);
    insta::assert_snapshot!(lines(&group), @"alice: is an admin and stays, though alice.doe is not in the group; `rosterctl user remove alice` takes them out");
    assert_eq!(text(&group), ROSTER);
}

#[test]
fn what_could_be_somebody_else_is_for_a_person_to_decide() {
    let mut group = members(&[
        "alice.doe",
        "carol",
        "carol_",
        "BOBR",
        "left.long.ago",
        "new.one",
        "new-one",
        "root",
        "same",
        "same@b.org",
        "carol.dev",
        "a b",
        "é",
    ]);
    group.push(Member { email: "Bob@Example.org".into(), ..member("robert") });
    group.push(Member { active: false, ..member("gone") });
    insta::assert_snapshot!(lines(&group), @r"
    a b: the login holds ' ', which would break the files made from it; for a person to decide
    BOBR: would be `bobr` in the cluster, which is the `k8s_user` of bob; for a person to decide
    carol.dev: would have the namespace `carol-dev`, which is carol's; for a person to decide
    carol_: would have the namespace `carol`, which is carol's; for a person to decide
    left.long.ago: would be `left_long_ago`, an account that is on this machine already; if it is theirs, add them with `rosterctl user add`; for a person to decide
    robert: has the e-mail address of `bob`, who has another login: was it renamed?; for a person to decide
    root: would be `root`, which is an account of the system itself; for a person to decide
    same: 2 logins in the group are the same without their domain; for a person to decide
    é: the login must begin with a letter, a digit or `_`; for a person to decide
    new-one: another newcomer would be `new_one` too, or has the same address; for a person to decide
    new.one: another newcomer would be `new_one` too, or has the same address; for a person to decide
    ");
}

#[test]
fn an_account_of_the_same_name_is_not_given_to_a_newcomer() {
    let group = members(&["alice.doe", "bob.roe", "carol", "alice"]);
    assert_eq!(
        lines(&group),
        "alice: would be `alice`, which is the account of alice.doe; for a person to decide\n"
    );
}

#[test]
fn an_empty_group_and_a_group_of_strangers_change_nothing_invariant_8() {
    assert_eq!(compare(&[]), Err(Inconclusive::Empty));
    assert_eq!(compare(&members(&["x", "y"])), Err(Inconclusive::Strangers { members: 2, leave: 2 }));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the provider says: the text is valid, no admin goes, nobody gets anybody's account, and the next
    /// comparison proposes no change.
    #[test]
    fn any_group_leaves_a_valid_roster_and_nothing_to_change_after(
        logins in proptest::collection::vec("(alice\\.doe|bob\\.roe|carol|[a-cA-C.@é _-]{0,6}|.{0,40})", 1..8),
        emails in proptest::collection::vec("([a-b]@x\\.org|bob@example\\.org|.{0,12})", 8),
        names in proptest::collection::vec(".{0,30}", 8),
        active in proptest::collection::vec(any::<bool>(), 8),
    ) {
        let members: Vec<Member> = logins.into_iter().zip(emails).zip(names).zip(active)
            .map(|(((login, email), name), active)| Member { login, email, name, active })
            .collect();
        let before = roster::parse::roster("roster.yaml", ROSTER.as_bytes()).unwrap();
        let Ok(proposals) = membership::compare(&members, &before, |_| false) else { return Ok(()) };
        let edits = membership::edits(&proposals, "a\ngroup", date(2026, 11, 25));
        let edited = edit::apply("roster.yaml", ROSTER.as_bytes(), &edits);
        prop_assert!(edited.is_ok(), "{:?}", edited);
        let after = edited.unwrap().after;
        let (alice, person) = before.users.first_key_value().unwrap();
        prop_assert_eq!(after.users.get(alice), Some(person));
        for (user, person) in &before.users {
            prop_assert!(after.users.get(user).is_none_or(|now| now == person));
        }
        // When nobody of before is left, the group is one of strangers no more: its members are in the roster.
        let again = membership::compare(&members, &after, |_| false).unwrap();
        prop_assert!(!again.iter().any(Proposal::is_change), "{again:?}");
    }

    #[test]
    fn a_name_is_one_that_useradd_accepts(login in ".{0,60}") {
        let name = membership::name_of(&login);
        prop_assert!(name.len() <= 32 && name.starts_with(|c: char| c.is_ascii_lowercase()));
        prop_assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'));
    }
}

fn group(names: &[&str]) -> Value {
    let results: Vec<_> = names
        .iter()
        .map(|name| json!({ "pk": format!("key of {name}"), "name": name, "num_pk": 7 }))
        .collect();
    json!({ "pagination": { "next": 0, "previous": 0, "count": results.len(), "current": 1, "total_pages": 1 }, "results": results })
}

fn page(current: u64, next: u64, count: u64, keys: std::ops::Range<u64>) -> Value {
    let user = |key: u64| json!({ "pk": key, "username": format!("u{key}"), "name": "", "email": null, "is_active": true });
    let results: Vec<_> = keys.map(user).collect();
    json!({ "pagination": { "next": next, "count": count, "current": current }, "results": results })
}

fn read(answers: &[Value]) -> Result<Vec<Member>, AnswerError> {
    let (mut reading, _) = Reading::of("T3 Users");
    for answer in answers {
        if let Next::Members(members) = reading.answer(answer.to_string().as_bytes())? {
            return Ok(members);
        }
    }
    panic!("more is asked")
}

#[test]
fn a_group_is_read_page_by_page() {
    let (mut reading, first) = Reading::of("T3 Users");
    assert_eq!(
        (first.path, first.query[0].clone()),
        ("api/v3/core/groups/", ("name", "T3 Users".to_owned()))
    );
    // A server that does not know the filter answers with all of them.
    let next = reading.answer(group(&["Others", "T3 Users"]).to_string().as_bytes()).unwrap();
    let Next::Ask(ask) = next else { panic!("{next:?}") };
    assert_eq!(
        (ask.path, ask.query[0].clone()),
        ("api/v3/core/users/", ("groups_by_pk", "key of T3 Users".to_owned()))
    );
    let next = reading.answer(page(1, 2, 150, 0..100).to_string().as_bytes()).unwrap();
    assert!(matches!(next, Next::Ask(ask) if ask.query.contains(&("page", "2".to_owned()))));
    let next = reading.answer(page(2, 0, 150, 100..150).to_string().as_bytes()).unwrap();
    assert!(matches!(next, Next::Members(members) if members.len() == 150 && members[149].login == "u149"));
}

#[test]
fn an_answer_that_is_not_all_of_one_group_gives_no_members_invariant_8() {
    let one = || group(&["T3 Users"]);
    let wrong_type = json!({ "pagination": { "next": 0, "count": 1, "current": 1 }, "results": [{ "pk": 1, "username": 7, "is_active": true }] });
    let without_state = json!({ "pagination": { "next": 0, "count": 1, "current": 1 }, "results": [{ "pk": 1, "username": "a" }] });
    let errors: String = [
        vec![group(&[])],
        vec![group(&["t3 users"])],
        vec![group(&["T3 Users", "T3 Users"])],
        vec![json!({ "pagination": { "next": 2, "count": 120, "current": 1 }, "results": [{ "pk": "k", "name": "T3 Users" }] })],
        vec![json!({ "detail": "Token invalid/expired" })],
        vec![json!([])],
        vec![one(), wrong_type],
        vec![one(), without_state],
        vec![one(), page(1, 0, 3, 0..2)],
        vec![one(), page(1, 0, 1, 0..2)],
        vec![one(), page(1, 2, 150, 0..100), page(2, 0, 149, 100..149)],
        vec![one(), page(1, 2, 150, 0..100), page(1, 2, 150, 0..100)],
        vec![one(), page(1, 2, 150, 0..100), page(2, 0, 150, 99..149)],
        vec![one(), page(1, 3, 150, 0..100)],
        vec![one(), page(1, 2, 150, 0..0)],
        vec![one(), page(1, 2, 1 << 40, 0..100)],
    ]
    .iter()
    .map(|answers| format!("{}\n", read(answers).unwrap_err()))
    .collect();
    insta::assert_snapshot!(errors, @r#"
    there is no group "T3 Users"
    there is no group "T3 Users"
    there are 2 groups that answer to "T3 Users", and which is meant cannot be known
    there are 120 groups that answer to "T3 Users", and which is meant cannot be known
    the answer is not what Authentik answers: missing field `pagination` at line 1 column 34
    the answer is not what Authentik answers: invalid length 0, expected struct Page with 2 elements at line 1 column 2
    the answer is not what Authentik answers: invalid type: integer `7`, expected a string at line 1 column 78
    the answer is not what Authentik answers: missing field `is_active` at line 1 column 81
    the members changed or went missing while they were read: 2 members came of 3
    the members changed or went missing while they were read: 2 members came of 1
    the members changed or went missing while they were read: there were 150 members and then 149
    the members changed or went missing while they were read: page 1 came for page 2
    the members changed or went missing while they were read: "u99" came twice
    the members changed or went missing while they were read: page 3 is said to follow page 1
    the members changed or went missing while they were read: page 1 is empty and not the last
    the group has 1099511627776 members, more than the 50000 that are read
    "#);
    let (mut reading, _) = Reading::of("T3 Users");
    let whole = group(&["T3 Users"]).to_string();
    for cut in 0..whole.len() {
        assert!(reading.answer(&whole.as_bytes()[..cut]).is_err());
    }
}
