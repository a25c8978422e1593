//! What somebody who left has in a cluster, and whether it is known.

use roster::access::{self, Grant};
use roster::cluster::{self, Kind, Kubernetes};
use roster::k8s_users::MapState;
use roster::name::OsUser;
use roster::revocation::holders_in_the_cluster;
use serde_json::json;

use crate::pretend::{Pretend, person, roster};

fn carol() -> OsUser {
    OsUser::new("carol").unwrap()
}

/// What `rosterctl access carol` says of her, who left, and whether she is known to hold something.
fn reach(cluster: &Pretend, config: &Kubernetes) -> (String, Option<bool>) {
    let nobody = roster(json!({}));
    let desired = cluster::desired(&nobody, config, &MapState::None, [carol()].iter());
    let observed = cluster.observe(&desired);
    let place = access::in_the_cluster(&carol(), &nobody, &desired, &observed);
    let grant = |grant: &Grant| format!("{} ({})\n", grant.what, grant.why.as_deref().unwrap_or("not given"));
    let unknown = place.unknown.iter().map(|why| format!("unknown: {why}\n"));
    let holds = holders_in_the_cluster(&observed, &desired.instance).map(|all| all.contains(&carol()));
    (place.grants.iter().map(grant).chain(unknown).collect(), holds)
}

#[test]
fn what_somebody_who_left_still_has_is_shown_and_what_was_not_seen_is_not_taken_for_gone_invariant_8() {
    let config = Kubernetes::default();
    let people = roster(json!({"carol": person("carol", "namespace-owner", &["carol-dev"])}));
    let mut cluster = Pretend::default();
    let plan = cluster.plan(&people, &config, &[]);
    cluster.run(&plan, |_| false);
    let (told, holds) = reach(&cluster, &config);
    insta::assert_snapshot!(told, @"
    Namespace carol-dev (no namespace is deleted when its person leaves)
    ClusterRoleBinding carol-read-only: carol-read-only (not given)
    RoleBinding carol-dev/carol-admin: admin (not given)
    ");
    assert_eq!(holds, Some(true));
    let kept = Kubernetes { revoke_on_cut: false, ..config.clone() };
    insta::assert_snapshot!(reach(&cluster, &kept).0, @"
    Namespace carol-dev (no namespace is deleted when its person leaves)
    ClusterRoleBinding carol-read-only: carol-read-only (it stays until the account is removed: `revoke_on_cut = false`)
    RoleBinding carol-dev/carol-admin: admin (it stays until the account is removed: `revoke_on_cut = false`)
    ");

    // Brought back from a copy, it gives its right as well.
    let mut restored = cluster.clone();
    restored.objects.retain(|key, _| key.kind == Kind::RoleBinding);
    let key = restored.objects.keys().next().unwrap().clone();
    restored.restore(&key);
    let (told, holds) = reach(&restored, &config);
    assert_eq!(
        (told.as_str(), holds),
        ("RoleBinding carol-dev/carol-admin: admin (not given)\n", Some(true))
    );
    // Emptied, it gives none, however long it is there.
    let grant = restored.objects.get_mut(&key).unwrap();
    grant.terminating = true;
    grant.fields.retain(|path, _| !path.starts_with("/subjects"));
    assert_eq!(reach(&restored, &config), (String::new(), Some(false)));

    // One that may not list the grants.
    cluster.unreadable = Kind::ALL.into_iter().filter(|kind| kind.is_grant()).collect();
    let (told, holds) = reach(&cluster, &config);
    insta::assert_snapshot!(told, @"
    Namespace carol-dev (no namespace is deleted when its person leaves)
    unknown: ClusterRoleBindings and RoleBindings: forbidden
    ");
    assert_eq!(holds, None);
    cluster.unreadable.clear();

    let plan = cluster.plan(&roster(json!({})), &config, &[]);
    cluster.run(&plan, |_| false);
    let (told, holds) = reach(&cluster, &config);
    insta::assert_snapshot!(told, @"Namespace carol-dev (no namespace is deleted when its person leaves)");
    assert_eq!(holds, Some(false));

    // One that nobody can reach has one cause, told once.
    cluster.unreadable = Kind::ALL.into();
    insta::assert_snapshot!(reach(&cluster, &config).0, @"unknown: everything: forbidden");
}
