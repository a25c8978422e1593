//! The worker as a process, and the Lease by which several hosts agree.

use std::fs;
use std::path::PathBuf;

use crate::support::*;

#[tokio::test]
async fn of_two_hosts_that_take_the_lease_at_once_one_has_it() {
    let server = Cluster::start();
    server.prepare("rosterd");
    let place = format!("{}/{}", server.own("rosterd"), server.own("hosts")).parse().unwrap();
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    let (mut one, mut other) =
        (worker(&server, &server.token(), limits()).await, worker(&server, &server.token(), limits()).await);
    assert_eq!(one.lease(&place).await.unwrap().unwrap(), None);
    assert!(one.take_lease(&place, None, "one", now).await.unwrap().unwrap());
    assert!(!other.take_lease(&place, None, "other", now).await.unwrap().unwrap());
    let seen = other.lease(&place).await.unwrap().unwrap();
    let held = seen.clone().unwrap();
    assert_eq!((held.holder.as_str(), held.renewed), ("one", now));
    // It is over; both see that, and both take it.
    assert!(other.take_lease(&place, seen.clone(), "other", now).await.unwrap().unwrap());
    assert!(!one.take_lease(&place, seen, "one", now).await.unwrap().unwrap());
    assert_eq!(server.holder("rosterd/hosts").unwrap(), "other");
    server.forbid("leases");
    let refused = one.lease(&place).await.unwrap().unwrap_err();
    assert!(refused.next.contains("get leases"), "{refused:?}");
    one.finish().await;
    other.finish().await;
}

pub(crate) fn child_of_ours(uid: u32) -> PathBuf {
    let mine = std::process::id();
    let process = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path()).find(|path| {
        let status = fs::read_to_string(path.join("status")).unwrap_or_default();
        status.contains(&format!("\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\n"))
            && status.contains(&format!("\nPPid:\t{mine}\n"))
    });
    process.expect("a child of ours with that uid")
}

#[tokio::test]
async fn a_worker_is_the_system_user_and_shows_its_credential_to_nobody_invariant_3_invariant_7() {
    let server = Cluster::start();
    let worker = worker(&server, &server.token(), limits()).await;
    let process = child_of_ours(977);
    let status = fs::read_to_string(process.join("status")).unwrap();
    for line in ["Gid:\t977\t977\t977\t977", "Groups:\t ", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"] {
        assert!(status.contains(&format!("\n{line}\n")), "{line} is not in {status}");
    }
    for file in ["cmdline", "environ"] {
        let text = fs::read(process.join(file)).unwrap();
        assert!(!String::from_utf8_lossy(&text).contains(&server.token()), "{file}");
    }
    worker.finish().await;
}
