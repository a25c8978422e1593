//! `rosterctl access`.

use jiff::Timestamp;
use roster::access::{Access, Grant};

use crate::page::{Look, Page, Style, count};

/// What a person can reach: each thing with what gives it, and what differs marked.
pub(crate) fn access(access: &Access, look: Look) -> String {
    let mut page = Page::new(look);
    let since =
        |word: &str, time: Timestamp| format!("not in the roster, {word} since {}", time.strftime("%F %TZ"));
    let tier = match (access.tier, access.removed, access.cut) {
        (Some(tier), ..) => format!("tier {tier}"),
        (None, Some(time), _) => since("removed", time),
        (None, None, Some(time)) => since("cut", time),
        (None, None, None) => "not in the roster".to_owned(),
    };
    let has_left = access.removed.or(access.cut).is_some();
    page.open(&format!("{}, ", access.user), Style::Strong, &format!("{tier}."));
    for place in &access.places {
        page.gap();
        page.para(Style::Strong, &place.name);
        for grant in &place.grants {
            let (lead, style) = match grant {
                Grant { why: None, .. } => ("  - ", Style::Warn),
                Grant { found: Some(false), .. } => ("  + ", Style::Warn),
                Grant { found: None, .. } => ("    ", Style::Plain),
                _ => ("  = ", Style::Good),
            };
            let why = match (&grant.why, grant.found) {
                (None, _) => "it is there, and the roster does not give it".to_owned(),
                (Some(why), Some(false)) => format!("{why}; it is not there"),
                (Some(why), _) => why.clone(),
            };
            page.hang(lead, style, &format!("{} ({why})", grant.what), Style::Plain);
        }
        if place.grants.is_empty() && place.unknown.is_empty() {
            page.hang("    ", Style::Plain, "nothing", Style::Faint);
        }
        for unknown in &place.unknown {
            page.hang("  ! ", Style::Bad, &format!("not known: {unknown}"), Style::Plain);
        }
        if has_left && !place.unknown.is_empty() {
            let text = format!(
                "what {} had there may be left; `rosterctl status` says when it is tried",
                access.user
            );
            page.hang("    ", Style::Plain, &text, Style::Plain);
        }
    }
    page.gap();
    let differs = access.places.iter().flat_map(|place| &place.grants).filter(|grant| differs(grant)).count();
    let unknown = access.places.iter().map(|place| place.unknown.len()).sum::<usize>();
    page.para(
        Style::Strong,
        &match (differs, unknown) {
            (0, 0) => "All is as the roster says.".to_owned(),
            (0, _) => "Not everything could be looked at.".to_owned(),
            (differs, _) => {
                let things = count(differs, "thing differs", "things differ");
                format!(
                    "{things} from the roster; what `rosterctl plan` and `plan --provider` do not name stays as it is."
                )
            }
        },
    );
    page.finish()
}

/// Whether everything is known and as the roster says.
pub(crate) fn is_as_wanted(access: &Access) -> bool {
    access.places.iter().all(|place| place.unknown.is_empty() && !place.grants.iter().any(differs))
}

fn differs(grant: &Grant) -> bool {
    grant.why.is_none() || grant.found == Some(false)
}

#[cfg(test)]
mod tests {
    use roster::access::Place;
    use roster::model::Tier;
    use roster::name::OsUser;

    use super::super::samples::LOOK;
    use super::*;

    fn grant(what: &str, why: Option<&str>, found: Option<bool>) -> Grant {
        Grant { what: what.into(), why: why.map(str::to_owned), found }
    }

    #[test]
    fn what_is_given_stands_beside_what_is_found() {
        let machine = vec![
            grant("account carol", Some("in the roster, tier namespace-owner"), Some(true)),
            grant("group docker", None, Some(true)),
            grant("t3-serve@carol.service at port 3774", Some("service t3"), Some(true)),
        ];
        let cluster = vec![
            grant("Namespace carol-dev", Some("tier namespace-owner"), Some(true)),
            grant("RoleBinding carol-dev/carol-admin: admin", Some("tier namespace-owner"), Some(false)),
        ];
        let mut person = Access {
            user: OsUser::new("carol").unwrap(),
            tier: Some(Tier::NamespaceOwner),
            cut: None,
            removed: None,
            places: vec![
                Place { name: "machine".into(), grants: machine, unknown: Vec::new() },
                Place { name: "kubernetes".into(), grants: cluster, unknown: Vec::new() },
                Place::unknown("vault", "Vault is not in service"),
            ],
        };
        assert!(!is_as_wanted(&person));
        insta::assert_snapshot!(access(&person, LOOK), @"
        carol, tier namespace-owner.

        machine
          = account carol (in the roster, tier namespace-owner)
          - group docker (it is there, and the roster does not give it)
          = t3-serve@carol.service at port 3774 (service t3)

        kubernetes
          = Namespace carol-dev (tier namespace-owner)
          + RoleBinding carol-dev/carol-admin: admin (tier namespace-owner; it is not
            there)

        vault
          ! not known: Vault is not in service

        2 things differ from the roster; what `rosterctl plan` and `plan --provider` do
        not name stays as it is.
        ");
        person.places.truncate(1);
        person.places[0].grants.remove(1);
        assert!(is_as_wanted(&person));
        insta::assert_snapshot!(access(&person, LOOK).lines().last().unwrap(), @"All is as the roster says.");
        person.tier = None;
        person.cut = Some("2026-11-20T10:00:00Z".parse().unwrap());
        person.places[0].grants = vec![grant("account carol", Some("cut since then"), Some(true))];
        assert!(is_as_wanted(&person));
        insta::assert_snapshot!(access(&person, LOOK), @"
        carol, not in the roster, cut since 2026-11-20 10:00:00Z.

        machine
          = account carol (cut since then)

        All is as the roster says.
        ");
        person.removed = Some("2026-11-21T10:00:00Z".parse().unwrap());
        person.places[0].grants.clear();
        person.places.push(Place::unknown("kubernetes", "everything: the cluster gives no answer"));
        assert!(!is_as_wanted(&person));
        insta::assert_snapshot!(access(&person, LOOK), @"
        carol, not in the roster, removed since 2026-11-21 10:00:00Z.

        machine
            nothing

        kubernetes
          ! not known: everything: the cluster gives no answer
            what carol had there may be left; `rosterctl status` says when it is tried

        Not everything could be looked at.
        ");
    }
}
