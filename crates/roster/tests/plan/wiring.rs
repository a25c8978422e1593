//! Plans of what git is told.

use roster::config::PushRemote;
use roster::desired::{CloneDesired, HomeDesired};
use roster::name::RemoteName;
use roster::observed::{HomeObserved, Place};
use roster::plan::{Action, HomeAction, home, locks};
use roster::wiring::{
    CloneConfig, CredentialsFile, Driver, Filter, PersonConfig, Wire, WiringDesired, WiringObserved,
};

use crate::machine::{shown, user};

const INFRA: &str = "https://git.example.org/infra.git";
const FORGE: &str = "https://forge.example.org/infra.git";

fn wanted() -> HomeDesired {
    let push = PushRemote { name: RemoteName::new("forgejo").unwrap(), url: FORGE.into() };
    HomeDesired {
        workspace: false,
        clones: vec![CloneDesired { path: "code".into(), url: INFRA.into(), locked: true }],
        wiring: WiringDesired {
            name: Some("alice".into()),
            email: Some("alice@example.org".into()),
            store_credentials: true,
            push: Some(push),
        },
        ..HomeDesired::default()
    }
}

fn wired_person() -> PersonConfig {
    PersonConfig {
        file: ".gitconfig".into(),
        closed: None,
        set: ["user.name", "user.email", "credential.helper"].map(str::to_owned).to_vec(),
        stores: true,
        credentials: CredentialsFile::Present { mode: 0o600 },
    }
}

fn wired_clone() -> CloneConfig {
    CloneConfig {
        closed: None,
        push_url: Some(FORGE.into()),
        default_branch: Some("main".into()),
        follows: Some(("forgejo".into(), "refs/heads/main".into())),
        filters: [(Driver::default_key(), Filter::Ours)].into(),
        is_open: false,
    }
}

fn tell(person: PersonConfig, clone: CloneConfig) -> String {
    let mut observed = HomeObserved {
        code: Place::Clone { origin: Some(INFRA.into()), locked: true },
        ..HomeObserved::default()
    };
    observed.wiring.person = Some(person);
    observed.wiring.clones.insert("code".into(), clone);
    shown(&home(&user("alice"), &wanted(), &observed))
}

#[test]
fn a_home_that_is_wired_needs_nothing_invariant_9() {
    assert_eq!(tell(wired_person(), wired_clone()), "");
}

#[test]
fn a_new_home_is_wired_after_its_clone() {
    let plan = home(&user("alice"), &wanted(), &HomeObserved::of_a_new_home(&wanted()));
    insta::assert_snapshot!(shown(&plan), @"
    alice: clone https://git.example.org/infra.git to ~/code, locked
    alice: set user.name=alice user.email=alice@example.org credential.helper=store in ~/.gitconfig
    alice: make ~/.git-credentials, mode 0600
    alice: add the remote forgejo (https://forge.example.org/infra.git) to ~/code and let its default branch follow it
    ");
    assert_eq!(plan.steps[2].needs, [1]);
    assert_eq!(plan.steps[3].needs, [0]);
    assert!(
        plan.steps[3].action
            == Action::Home(HomeAction::Wire(Wire::PushRemote {
                clone: "code".into(),
                remote: wanted().wiring.push.unwrap(),
                branch: roster::wiring::Follower::Default,
            }))
    );
}

#[test]
fn a_persons_own_values_win_invariant_1() {
    let seen = |set: &[&str], stores| PersonConfig {
        set: set.iter().map(|key| (*key).to_owned()).collect(),
        stores,
        credentials: CredentialsFile::Absent,
        ..wired_person()
    };
    let all = [
        tell(seen(&["user.email"], false), wired_clone()),
        // Another helper: its person's logins are nobody else's business.
        tell(seen(&["user.name", "user.email", "credential.helper"], false), wired_clone()),
        tell(seen(&["user.name", "user.email", "credential.helper"], true), wired_clone()),
        tell(
            PersonConfig { closed: Some("it is a symlink".into()), ..seen(&["user.name"], false) },
            wired_clone(),
        ),
        tell(PersonConfig { closed: Some("it is a symlink".into()), ..wired_person() }, wired_clone()),
    ];
    insta::assert_snapshot!(all.join("--\n"), @"
    alice: set user.name=alice credential.helper=store in ~/.gitconfig
    alice: make ~/.git-credentials, mode 0600
    --
    --
    alice: make ~/.git-credentials, mode 0600
    --
    - alice: ~/.gitconfig is left alone: it is a symlink; not set: user.email, credential.helper
    --
    ");
}

#[test]
fn logins_that_others_may_read_are_closed_invariant_7() {
    let seen = |credentials| PersonConfig { credentials, ..wired_person() };
    let all = [
        tell(seen(CredentialsFile::Present { mode: 0o644 }), wired_clone()),
        tell(seen(CredentialsFile::Present { mode: 0o400 }), wired_clone()),
        tell(seen(CredentialsFile::Other("a symlink".into())), wired_clone()),
    ];
    insta::assert_snapshot!(all.join("--\n"), @"
    alice: set the mode of ~/.git-credentials from 0644 to 0600
    --
    --
    - alice: ~/.git-credentials is a symlink; it is left alone
    ");
}

#[test]
fn the_push_remote_is_added_and_followed_unless_the_person_has_decided() {
    let without = |follows: Option<(&str, &str)>| CloneConfig {
        push_url: None,
        follows: follows.map(|(remote, merge)| (remote.into(), merge.into())),
        ..wired_clone()
    };
    let all = [
        tell(wired_person(), without(Some(("origin", "refs/heads/main")))),
        tell(wired_person(), without(None)),
        tell(wired_person(), without(Some(("mine", "refs/heads/main")))),
        tell(wired_person(), without(Some(("origin", "refs/heads/release")))),
        tell(wired_person(), CloneConfig { default_branch: None, ..without(None) }),
        tell(wired_person(), CloneConfig { closed: Some("it is a symlink".into()), ..without(None) }),
        tell(wired_person(), CloneConfig { push_url: Some("https://elsewhere/x".into()), ..wired_clone() }),
        tell(
            wired_person(),
            CloneConfig { follows: Some(("origin".into(), "refs/heads/main".into())), ..wired_clone() },
        ),
    ];
    insta::assert_snapshot!(all.join("--\n"), @"
    alice: add the remote forgejo (https://forge.example.org/infra.git) to ~/code and let main follow forgejo/main
    --
    alice: add the remote forgejo (https://forge.example.org/infra.git) to ~/code and let main follow forgejo/main
    --
    alice: add the remote forgejo (https://forge.example.org/infra.git) to ~/code
    --
    alice: add the remote forgejo (https://forge.example.org/infra.git) to ~/code
    --
    alice: add the remote forgejo (https://forge.example.org/infra.git) to ~/code
    --
    - alice: ~/code/.git/config is left alone: it is a symlink
    --
    - alice: the remote forgejo of ~/code is https://elsewhere/x, not https://forge.example.org/infra.git; it is left alone. To change it: git -C ~/code remote set-url forgejo https://forge.example.org/infra.git
    --
    - alice: main of ~/code follows origin/main, not forgejo/main; it is left alone. To change it: git -C ~/code branch -u forgejo/main main
    ");
}

#[test]
fn a_weak_filter_is_replaced_and_a_persons_own_is_not_whatever_the_key() {
    let driver = |name| Driver::new(name).unwrap();
    let with = |filter| CloneConfig { filters: [(driver("git-crypt"), filter)].into(), ..wired_clone() };
    let named =
        [("git-crypt", Filter::Ours), ("git-crypt-prod", Filter::Absent), ("git-crypt-dev", Filter::Weak)];
    let named = named.map(|(name, filter)| (driver(name), filter));
    let opened = [(driver("git-crypt"), Filter::Ours), (driver("git-crypt-prod"), Filter::Unlocked)];
    let globally = PersonConfig {
        set: [&wired_person().set[..], &["filter.git-crypt.clean".to_owned()]].concat(),
        ..wired_person()
    };
    let all = [
        tell(wired_person(), with(Filter::Weak)),
        tell(wired_person(), with(Filter::Absent)),
        tell(globally, with(Filter::Absent)),
        tell(wired_person(), with(Filter::Unlocked)),
        tell(wired_person(), with(Filter::Own)),
        tell(wired_person(), CloneConfig { filters: named.into(), ..wired_clone() }),
        tell(wired_person(), CloneConfig { filters: opened.into(), ..wired_clone() }),
    ];
    insta::assert_snapshot!(all.join("--\n"), @"
    alice: let ~/code refuse plain text in encrypted files
    --
    alice: let ~/code refuse plain text in encrypted files
    --
    --
    --
    --
    alice: let ~/code refuse plain text in encrypted files (git-crypt-dev)
    alice: let ~/code refuse plain text in encrypted files (git-crypt-prod)
    --
    ");
}

/// What `rosterctl freshen` does, which knows no roster.
#[test]
fn what_is_locked_is_kept_so_and_nothing_else_is_wired() {
    let with = |filter| CloneConfig {
        filters: [(Driver::default_key(), filter)].into(),
        push_url: None,
        ..wired_clone()
    };
    let locks = |config, locked| {
        let desired = roster::plan::refresh::as_found(&[("code".into(), INFRA.into(), locked)]);
        let clones = [("code".to_owned(), config)].into();
        let person = Some(PersonConfig { set: vec![], ..wired_person() });
        let seen = WiringObserved { person, clones, interrupted: vec![] };
        shown(&locks(&user("alice"), &desired, &seen))
    };
    let all = [
        locks(with(Filter::Weak), true),
        locks(with(Filter::Absent), true),
        locks(CloneConfig { closed: Some("it is a symlink".into()), ..with(Filter::Weak) }, true),
        locks(with(Filter::Ours), true),
        locks(with(Filter::Unlocked), true),
        locks(with(Filter::Own), true),
        locks(with(Filter::Weak), false),
    ];
    insta::assert_snapshot!(all.join("--\n"), @"
    alice: let ~/code refuse plain text in encrypted files
    --
    alice: let ~/code refuse plain text in encrypted files
    --
    - alice: ~/code/.git/config is left alone: it is a symlink
    --
    --
    --
    --
    ");
}

#[test]
fn a_clone_of_something_else_is_not_wired_invariant_1() {
    let mut observed = HomeObserved {
        code: Place::Clone { origin: Some("https://git.example.org/mine.git".into()), locked: false },
        ..HomeObserved::default()
    };
    observed.wiring.person = Some(wired_person());
    observed.wiring.clones.insert("code".into(), CloneConfig { push_url: None, ..wired_clone() });
    insta::assert_snapshot!(shown(&home(&user("alice"), &wanted(), &observed)), @"- alice: ~/code is a clone of https://git.example.org/mine.git, not of https://git.example.org/infra.git; it is left alone. If that is the same repository at its new address: git -C ~/code remote set-url origin https://git.example.org/infra.git; if not, move ~/code away, and https://git.example.org/infra.git is cloned there");
}

#[test]
fn what_moves_is_wired_in_its_new_place() {
    let mut desired = wanted();
    desired.workspace = true;
    desired.clones[0].path = "code/infra".into();
    let mut observed = HomeObserved {
        code: Place::Clone { origin: Some(INFRA.into()), locked: true },
        clones: [("code/infra".to_owned(), Place::Absent)].into(),
        ..HomeObserved::default()
    };
    let candidate =
        roster::moves::Candidate { tracked: roster::moves::Tracked::No, obstacles: vec![], remarks: vec![] };
    observed.moves.candidates.insert("code".into(), candidate);
    observed.wiring.person = Some(wired_person());
    observed.wiring.interrupted = vec![".gitconfig".into()];
    let filters = [(Driver::default_key(), Filter::Weak)].into();
    let weak = CloneConfig { push_url: None, filters, ..wired_clone() };
    observed.wiring.clones.insert("code".into(), weak);
    let plan = home(&user("alice"), &desired, &observed);
    insta::assert_snapshot!(shown(&plan), @"
    alice: move the clone ~/code to ~/code/infra
    alice: remove what an interrupted change of ~/.gitconfig left
    alice: let ~/code/infra refuse plain text in encrypted files
    alice: add the remote forgejo (https://forge.example.org/infra.git) to ~/code/infra
    ");
    assert!(plan.steps[2..].iter().all(|step| step.needs == [0]));
}
