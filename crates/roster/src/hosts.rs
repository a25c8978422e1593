//! The part of a roster that one machine applies: the people without `hosts`, and those whose `hosts` name it. All that
//! follows (guard, changes, plan) sees only that part, so a person who is taken off this machine leaves it as one
//! who is taken out of the roster does.

use crate::model::{Person, Roster};
use crate::name::{HostGlob, HostName};

/// The part of `roster` that `host` applies.
pub fn part(roster: &Roster, host: &HostName) -> Roster {
    let here = |(_, person): &(_, &Person)| person.hosts.is_empty() || names(&person.hosts, host);
    let users = roster.users.iter().filter(here);
    Roster { users: users.map(|(user, person)| (user.clone(), person.clone())).collect() }
}

/// Whether one of `globs` names `host`, by its whole name or by the part before the domain. A machine rarely knows
/// its domain, and a roster rarely names it.
fn names(globs: &[HostGlob], host: &HostName) -> bool {
    let whole = host.as_str().to_ascii_lowercase();
    let short = whole.split('.').next().unwrap_or_default();
    globs.iter().any(|glob| {
        let glob = glob.as_str().to_ascii_lowercase();
        fits(glob.as_bytes(), whole.as_bytes()) || fits(glob.as_bytes(), short.as_bytes())
    })
}

/// `*` is any text, `?` any one letter. Returns to the last `*` and never further back, so that no glob is slow.
fn fits(glob: &[u8], name: &[u8]) -> bool {
    let (mut g, mut n) = (0, 0);
    let mut star = None;
    while let Some(letter) = name.get(n) {
        match glob.get(g) {
            Some(b'*') => {
                star = Some((g, n));
                g += 1;
            }
            Some(wanted) if *wanted == b'?' || wanted == letter => (g, n) = (g + 1, n + 1),
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    (g, n) = (at + 1, from + 1);
                }
                None => return false,
            },
        }
    }
    glob.iter().skip(g).all(|letter| *letter == b'*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::Tier;
    use crate::sample::person;

    fn named(glob: &str, host: &str) -> bool {
        names(&[HostGlob::new(glob).unwrap()], &HostName::new(host).unwrap())
    }

    #[test]
    fn a_host_is_named_by_its_name_its_short_name_or_a_glob() {
        for (glob, host) in [
            ("devvm", "devvm"),
            ("DevVM", "devvm"),
            ("devvm", "devvm.example.org"),
            ("devvm.example.org", "devvm.example.org"),
            ("dev*", "devvm.example.org"),
            ("lab-?", "lab-7"),
            ("lab-*.example.org", "lab-12.example.org"),
            ("*", "anything.example.org"),
            ("*a*b*", "xxaxaxbxb"),
        ] {
            assert!(named(glob, host), "{glob} {host}");
        }
        for (glob, host) in [
            ("devvm", "devvm2"),
            ("devvm", "xdevvm"),
            ("example", "devvm.example.org"),
            ("devvm.example.org", "devvm"),
            ("devvm.example.org", "devvm.example.com"),
            ("lab-?", "lab"),
            ("lab-?", "lab-12"),
            ("lab-*.example.org", "lab-12.example.org.evil"),
        ] {
            assert!(!named(glob, host), "{glob} {host}");
        }
    }

    #[test]
    fn each_machine_has_its_part_and_people_without_hosts_are_everywhere() {
        let mut roster = Roster::default();
        for (name, hosts) in [("ann", vec![]), ("bea", vec!["one"]), ("cid", vec!["two", "lab-*"])] {
            let (user, mut person) = person(name, Tier::PowerUser);
            person.hosts = hosts.into_iter().map(|host| HostGlob::new(host).unwrap()).collect();
            roster.users.insert(user, person);
        }
        let here = |host: &str| {
            let part = part(&roster, &HostName::new(host).unwrap());
            part.users.keys().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(here("one"), "ann bea");
        assert_eq!(here("two.example.org"), "ann cid");
        assert_eq!(here("lab-3"), "ann cid");
        assert_eq!(here("other"), "ann");
    }

    /// What a glob means, at the cost of time: the definition that the quick one is held to.
    fn slowly(glob: &[u8], name: &[u8]) -> bool {
        match (glob.split_first(), name.split_first()) {
            (None, None) => true,
            (Some((b'*', glob)), _) if slowly(glob, name) => true,
            (Some((b'*', _)), Some((_, name))) => slowly(glob, name),
            (Some((b'?', glob)), Some((_, name))) => slowly(glob, name),
            (Some((wanted, glob)), Some((letter, name))) => wanted == letter && slowly(glob, name),
            _ => false,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2048, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_glob_means_what_its_definition_says(glob in "[ab?*]{0,8}", name in "[ab.]{0,10}") {
            prop_assert_eq!(fits(glob.as_bytes(), name.as_bytes()), slowly(glob.as_bytes(), name.as_bytes()));
        }
    }
}
