//! The cluster's own list of people.

use roster::cluster::{Key, Kind, Kubernetes, desired};
use roster::k8s_users::MapState;
use roster::parse;
use serde_json::json;

use crate::pretend::{person, roster};

#[test]
fn both_spellings_of_a_quota_are_read_and_fields_of_others_are_theirs() {
    let text = br#"{
        "carol": {"role": "namespace-owner", "email": "carol@example.org", "namespaces": ["carol-dev"], "note": [1],
            "quota": {"cpu": 4, "memory": "8Gi"}},
        "dora": {"role": "power-user", "quota": {"cpu_requests": "4", "memory_requests": "8Gi", "memory_limits": "16Gi"}}
    }"#;
    let map = parse::k8s_users("k8s_users", text).unwrap();
    assert_eq!(map.diagnostics, None);
    let quota = |name: &str| map.people[&name.parse().unwrap()].quota.clone().unwrap();
    assert_eq!((quota("carol").cpu, quota("carol").memory), (quota("dora").cpu, quota("dora").memory));
    assert_eq!(quota("dora").memory_limits.unwrap().as_str(), "16Gi");
    assert_eq!(map.people[&"carol".parse().unwrap()].email.as_ref().unwrap().as_str(), "carol@example.org");
}

#[test]
fn a_mistake_is_told_with_its_place_and_is_that_entrys_alone() {
    let text = br#"{
  "carol": {"role": "namespace-owner", "quota": {"cpu": "4", "cpu_requests": "4"}},
  "dora": {"role": "poweruser", "email": "dora"},
  "eve": {"role": "admin"}
}"#;
    let map = parse::k8s_users("k8s_users", text).unwrap();
    assert_eq!(map.people.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["eve"]);
    assert_eq!(map.unreadable.iter().collect::<Vec<_>>(), ["carol", "dora"]);
    insta::assert_snapshot!(map.diagnostics.unwrap().render(false), @r#"
    error: `cpu_requests` and `cpu` are the same limit
     --> k8s_users:2:62
      |
    2 |   "carol": {"role": "namespace-owner", "quota": {"cpu": "4", "cpu_requests": "4"}},
      |                                                  -----       ^^^^^^^^^^^^^^
      |                                                  |
      |                                                  given here
      |
      = help: keep one of them

    error: unknown role `poweruser`
     --> k8s_users:3:20
      |
    3 |   "dora": {"role": "poweruser", "email": "dora"},
      |                    ^^^^^^^^^^^
      |
      = help: did you mean `power-user`?

    error: `dora` is not an e-mail address: no `@`
     --> k8s_users:3:42
      |
    3 |   "dora": {"role": "poweruser", "email": "dora"},
      |                                          ^^^^^^

    k8s_users: 3 errors
    "#);
}

#[test]
fn an_entry_that_is_there_twice_is_none() {
    let text = br#"{"carol": {"email": "a@example.org"}, "eve": {}, "carol": {"email": "b@example.org"}}"#;
    let map = parse::k8s_users("k8s_users", text).unwrap();
    assert_eq!(map.people.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["eve"]);
    assert_eq!(map.unreadable.iter().collect::<Vec<_>>(), ["carol"]);
}

#[test]
fn what_is_no_list_is_an_error_invariant_8() {
    for text in ["", "[]", "null", "\"{}\"", "{\"bob\": ", "7"] {
        assert!(parse::k8s_users("k8s_users", text.as_bytes()).is_err(), "{text}");
    }
    assert!(parse::k8s_users("k8s_users", b"{}").unwrap().people.is_empty());
}

#[test]
fn the_address_of_the_list_serves_whom_the_roster_gives_none() {
    let mut carol = person("carol", "namespace-owner", &["one"]);
    carol.as_object_mut().unwrap().remove("email");
    let people = roster(json!({"carol": carol}));
    let map =
        parse::k8s_users("m", br#"{"carol": {"email": "c@example.org", "quota": {"pods": "7"}}}"#).unwrap();
    let known = desired(&people, &Kubernetes::default(), &MapState::Known(map), std::iter::empty());
    let grant = &known.objects[&Key::inside(Kind::RoleBinding, "one", "carol-admin")];
    assert_eq!(grant.content["subjects"][0]["name"], "c@example.org");
    assert_eq!(
        known.objects[&Key::inside(Kind::ResourceQuota, "one", "one-quota")].content["spec"]["hard"]["pods"],
        "7"
    );
    assert!(known.problems.is_empty());

    let unknown = desired(&people, &Kubernetes::default(), &MapState::Unreadable, std::iter::empty());
    assert!(unknown.unknown.contains(&grant.key) && !unknown.objects.contains_key(&grant.key));
    assert!(unknown.problems.is_empty());
}
