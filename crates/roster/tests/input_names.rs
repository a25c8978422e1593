//! What the types of names let through, whoever asks: the parser, the ledger, the control socket.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

use std::str::FromStr;

use proptest::prelude::*;
use roster::name::{
    Domain, Email, GroupName, HostGlob, HostName, KubeUser, Login, MemorySize, Namespace, ObjectId, OsUser,
    Quantity, RefName, RepoName, ServiceName, Shell, SshKey,
};

fn accepts<T: FromStr>(text: &str) -> bool {
    text.parse::<T>().is_ok()
}

/// Texts that are near to names: what matters happens at the edge.
fn near_names() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[a-zA-Z0-9_.@+/ =:~%*?\\\\\n\t-]{0,40}",
        "-?[a-z0-9./-]{0,70}\n?",
        "/?[a-z/.]{0,20}(\\.\\./)?[a-z]{0,5}",
        "[0-9.]{1,6}(Gi|G|GB|m|%| )?",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_name_is_one_word_and_no_option(text in near_names()) {
        let accepted = [
            accepts::<OsUser>(&text), accepts::<GroupName>(&text), accepts::<Login>(&text), accepts::<KubeUser>(&text),
            accepts::<Namespace>(&text), accepts::<RepoName>(&text), accepts::<Domain>(&text), accepts::<Shell>(&text),
            accepts::<ServiceName>(&text), accepts::<Quantity>(&text), accepts::<MemorySize>(&text),
            accepts::<HostGlob>(&text), accepts::<HostName>(&text),
        ];
        if accepted.contains(&true) {
            prop_assert!(!text.is_empty() && !text.starts_with('-'));
            let safe = |c: char| c.is_ascii_graphic() && !"\"'`$;&|<>(){}[]!#=:,\\".contains(c);
            prop_assert!(text.chars().all(safe), "{text:?}");
        }
    }

    #[test]
    fn a_name_that_becomes_a_path_stays_in_its_folder(text in near_names()) {
        let one_part = [
            accepts::<OsUser>(&text), accepts::<RepoName>(&text), accepts::<ServiceName>(&text), accepts::<Namespace>(&text),
            accepts::<Login>(&text),
        ];
        if one_part.contains(&true) {
            prop_assert!(!text.contains('/') && text != "." && text != ".." && !text.starts_with('.'), "{text:?}");
        }
        if accepts::<Shell>(&text) {
            prop_assert!(text.starts_with('/') && !text.split('/').any(|part| part == ".."), "{text:?}");
        }
    }

    #[test]
    fn an_address_and_a_key_are_one_line(text in near_names()) {
        if accepts::<Email>(&text) || accepts::<SshKey>(&text) {
            prop_assert!(!text.contains(char::is_control), "{text:?}");
        }
    }
}

#[test]
fn an_account_is_what_useradd_accepts_and_not_of_the_system() {
    for name in ["alice", "_x", "a-b_c9", "a", &"u".repeat(32)] {
        assert!(accepts::<OsUser>(name), "{name}");
    }
    for name in [
        "",
        "Alice",
        "1st",
        "-a",
        "a.b",
        "a b",
        "ä",
        "root",
        "nobody",
        "rosterd",
        "a$",
        &"u".repeat(33),
        "a\n",
    ] {
        assert!(!accepts::<OsUser>(name), "{name}");
    }
}

#[test]
fn a_namespace_is_a_label_and_not_of_the_cluster() {
    for name in ["a", "carol-prod", "0", &"n".repeat(63)] {
        assert!(accepts::<Namespace>(name), "{name}");
    }
    for name in ["", "default", "kube-system", "kube-x", "-a", "a-", "a.b", "A", &"n".repeat(64)] {
        assert!(!accepts::<Namespace>(name), "{name}");
    }
}

#[test]
fn sizes_and_quantities_have_their_own_spellings() {
    for size in ["0", "16G", "512M", "50%", "100%", "infinity"] {
        assert!(accepts::<MemorySize>(size), "{size}");
    }
    for size in ["", "16Gi", "16GB", "G", "101%", "-1", "1.5G", " 1G", "∞"] {
        assert!(!accepts::<MemorySize>(size), "{size}");
    }
    for quantity in ["4", "500m", "8Gi", "1.5", "20M"] {
        assert!(accepts::<Quantity>(quantity), "{quantity}");
    }
    for quantity in ["", "Gi", "8GB", ".5", "1.", "1.2.3", "-1", "1e3", "8 Gi"] {
        assert!(!accepts::<Quantity>(quantity), "{quantity}");
    }
}

#[test]
fn a_login_is_the_same_person_by_its_local_part() {
    assert_eq!(Login::new("bob.roe@example.org").unwrap().local_part(), "bob.roe");
    assert_eq!(Login::new("bob.roe").unwrap().local_part(), "bob.roe");
    for login in ["@example.org", "bob=root", "bob:x", "bob,x", "bob#x", "b/../x", ".bob"] {
        assert!(!accepts::<Login>(login), "{login}");
    }
}

#[test]
fn a_ref_is_what_git_accepts_and_shows_as_it_is() {
    for name in ["main", "topic/a", "v1.0", "a-b_c+d", "ä", "HEAD"] {
        assert!(accepts::<RefName>(name), "{name}");
    }
    for name in [
        "", "@", "-x", "a..b", "/a", "a/", "a//b", ".a", "a/.b", "a.lock", "a.", "a b", "a\n", "a~1", "a^",
        "a:b", "a?", "a*", "a[", "a\\b", "a@{1}", "../x", "a\u{1b}",
    ] {
        assert!(!accepts::<RefName>(name), "{name}");
    }
    assert!(accepts::<ObjectId>(&"0a".repeat(20)));
    for id in ["", "0A", &"0A".repeat(20), &"0g".repeat(20), &"0".repeat(39), &"0".repeat(41)] {
        assert!(!accepts::<ObjectId>(id), "{id}");
    }
}
