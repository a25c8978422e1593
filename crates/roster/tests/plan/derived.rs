//! What is derived, without a machine.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use roster::config::{Config, PushRemote};
use roster::derive::derive;
use roster::desired::{Ports, UnknownPorts};
use roster::name::{OsUser, RemoteName, ServiceName, Shell};
use serde_json::json;

use crate::machine::{Machine, roster, shown, user};

fn ports(text: serde_json::Value) -> Ports {
    serde_json::from_value(text).unwrap()
}

#[test]
fn the_shell_is_the_persons_or_the_first_installed_one() {
    let people = roster(json!({"alice": {"shell": "/usr/bin/fish"}, "bob": {}}));
    let mut config = Config::default();
    let bash = Shell::new("/bin/bash").unwrap();
    let zsh = Shell::new("/bin/zsh").unwrap();
    let shells = |config: &Config, installed: &[&Shell]| {
        let installed: BTreeSet<Shell> = installed.iter().map(|shell| (*shell).clone()).collect();
        let desired = derive(&people, config, &Ports::new(), &UnknownPorts::new(), &installed).unwrap();
        desired.accounts.values().map(|account| account.shell.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(shells(&config, &[&zsh, &bash]), ["/usr/bin/fish", "/bin/zsh"]);
    assert_eq!(shells(&config, &[&bash]), ["/usr/bin/fish", "/bin/bash"]);
    assert_eq!(shells(&config, &[]), ["/usr/bin/fish", "/bin/bash"]);
    config.accounts.shells.clear();
    assert_eq!(shells(&config, &[&zsh]), ["/usr/bin/fish", "/bin/bash"]);
}

#[test]
fn clones_lie_as_the_layout_says() {
    let people = roster(json!({
        "single": {},
        "space": {"code_layout": "workspace", "repos": ["tripit", "x.y"], "email": "space@example.org"},
    }));
    let mut config = Config::default();
    let clones = |config: &Config| {
        let desired = derive(&people, config, &Ports::new(), &UnknownPorts::new(), &BTreeSet::new()).unwrap();
        let content = |name| desired.accounts[&user(name)].home_content.clone();
        serde_json::to_string_pretty(&[content("single"), content("space")]).unwrap()
    };
    insta::assert_snapshot!(clones(&config).replace([' ', '\n'], ""), @r#"[{"workspace":false,"clones":[]},{"workspace":true,"clones":[]}]"#);
    config.code.infra = Some("https://git.example.org/infra.git".into());
    config.code.repositories = Some("https://git.example.org/team/{name}.git".into());
    config.code.push_remote = Some(PushRemote {
        name: RemoteName::new("forgejo").unwrap(),
        url: "https://forge.example.org/team/infra.git".into(),
    });
    insta::assert_snapshot!(clones(&config), @r#"
    [
      {
        "workspace": false,
        "clones": [
          {
            "path": "code",
            "url": "https://git.example.org/infra.git",
            "locked": true
          }
        ],
        "wiring": {
          "name": "single",
          "store_credentials": true,
          "push": {
            "name": "forgejo",
            "url": "https://forge.example.org/team/infra.git"
          }
        }
      },
      {
        "workspace": true,
        "clones": [
          {
            "path": "code/infra",
            "url": "https://git.example.org/infra.git",
            "locked": true
          },
          {
            "path": "code/tripit",
            "url": "https://git.example.org/team/tripit.git",
            "locked": false
          },
          {
            "path": "code/x.y",
            "url": "https://git.example.org/team/x.y.git",
            "locked": false
          }
        ],
        "wiring": {
          "name": "space",
          "email": "space@example.org",
          "store_credentials": true,
          "push": {
            "name": "forgejo",
            "url": "https://forge.example.org/team/infra.git"
          }
        }
      }
    ]
    "#);
}

#[test]
fn groups_are_those_of_tier_and_person_each_once() {
    let people = roster(json!({"alice": {"tier": "admin", "groups": ["video", "docker"]}}));
    let desired =
        derive(&people, &Config::default(), &Ports::new(), &UnknownPorts::new(), &BTreeSet::new()).unwrap();
    let groups: Vec<_> = desired.accounts[&user("alice")].groups.iter().map(ToString::to_string).collect();
    assert_eq!(groups, ["code-shared", "docker", "sudo", "video"]);
}

#[test]
fn the_user_map_is_ordered_by_port_and_people_who_left_are_in_no_map() {
    let people = roster(json!({"alice": {}, "bob": {"authentik_user": "bob@example.org"}}));
    let before = ports(json!({"t3": {"alice": 3775, "bob": 3774, "gone": 3773}}));
    let desired =
        derive(&people, &Config::default(), &before, &UnknownPorts::new(), &BTreeSet::new()).unwrap();
    let lines: Vec<_> = desired.ttyd_user_map.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(lines, ["bob@example.org=bob", "alice=alice"]);
    let logins: Vec<_> = desired.dispatch.keys().map(ToString::to_string).collect();
    assert_eq!(logins, ["alice", "bob@example.org"]);
    assert_eq!(
        serde_json::to_value(&desired.ports).unwrap(),
        json!({"playwright": {"alice": 8931, "bob": 8932}, "t3": {"alice": 3775, "bob": 3774, "gone": 3773}})
    );
}

#[test]
fn without_services_the_user_map_is_ordered_by_name_and_nothing_is_dispatched() {
    let mut config = Config::default();
    config.service.clear();
    let desired = derive(
        &roster(json!({"bob": {}, "alice": {}})),
        &config,
        &Ports::new(),
        &UnknownPorts::new(),
        &BTreeSet::new(),
    )
    .unwrap();
    assert!(desired.ttyd_user_map.ends_with("alice=alice\nbob=bob\n"));
    assert_eq!(desired.dispatch_json(), "{}\n");
}

#[test]
fn a_service_without_a_free_port_leaves_the_others_theirs_invariant_4() {
    let mut machine = Machine::fresh();
    machine.config.service[0].base_port = Some(65_535);
    let people = roster(json!({"alice": {}, "bob": {}}));
    insta::assert_snapshot!(shown(&machine.run(&people).plan), @"
    alice: create account uid 1000, home /home/alice, shell /bin/zsh
    bob: create account uid 1001, home /home/bob, shell /bin/zsh
    machine: write /etc/ttyd-user-map, mode 0644
    machine: write /etc/ttyd-admins, mode 0644
    machine: write /etc/t3-serve/dispatch.json, mode 0644
    alice: set PLAYWRIGHT_PORT=8931 in /etc/playwright-mcp/alice.env
    alice: set T3_PORT=65535 in /etc/t3-serve/alice.env
    bob: set PLAYWRIGHT_PORT=8932 in /etc/playwright-mcp/bob.env
    ! bob: no port is left for its service `t3`: all from 65535 up are given out, and those of people who left stay theirs; give the service a lower base_port in /etc/rosterd/config.toml; ports that were given out do not move
    ");
    let again = machine.run(&people);
    assert!(again.plan.steps.is_empty());
    assert!(!again.desired.dispatch_json().contains("bob"));
}

#[test]
fn a_port_given_twice_is_told() {
    let people = roster(json!({"alice": {}, "bob": {}}));
    let twice = ports(json!({"t3": {"alice": 4000}, "playwright": {"bob": 4000}}));
    let error =
        derive(&people, &Config::default(), &twice, &UnknownPorts::new(), &BTreeSet::new()).unwrap_err();
    insta::assert_snapshot!(error, @"port 4000 is given out twice: for `playwright` of bob and for `t3` of alice; correct one of them");
}

const NAMES: [&str; 8] = ["al", "bo", "cy", "di", "ed", "fay", "gus", "hal"];

proptest! {
    #[test]
    fn ports_never_move_and_have_one_use(
        rosters in prop::collection::vec(prop::sample::subsequence(&NAMES, 0..=8), 1..8),
        bases in (1024u16..1030, 1024u16..1030),
    ) {
        let mut config = Config::default();
        (config.service[0].base_port, config.service[1].base_port) = (Some(bases.0), Some(bases.1));
        let mut ports = Ports::new();
        for names in rosters {
            let people: serde_json::Map<_, _> = names.iter().map(|name| ((*name).to_owned(), json!({}))).collect();
            let people = roster(people.into());
            let desired = derive(&people, &config, &ports, &UnknownPorts::new(), &BTreeSet::new()).unwrap();
            prop_assert_eq!(&derive(&people, &config, &ports, &UnknownPorts::new(), &BTreeSet::new()).unwrap(), &desired);
            prop_assert_eq!(&derive(&people, &config, &desired.ports, &UnknownPorts::new(), &BTreeSet::new()).unwrap(), &desired);
            let uses: BTreeMap<u16, (&ServiceName, &OsUser)> =
                desired.ports.iter().flat_map(|(s, users)| users.iter().map(move |(u, p)| (*p, (s, u)))).collect();
            prop_assert_eq!(uses.len(), desired.ports.values().map(BTreeMap::len).sum::<usize>());
            for (service, users) in &ports {
                for (user, port) in users {
                    prop_assert_eq!(desired.ports[service].get(user), Some(port));
                }
            }
            prop_assert!(people.users.keys().all(|user| desired.ports.values().all(|of| of.contains_key(user))));
            ports = desired.ports;
        }
    }
}
