//! `rosterctl derive`.

use roster::config::Config;
use roster::desired::{Account, Desired, UnitWish};
use roster::name::OsUser;

use super::{list, tier};
use crate::page::{Look, Page, Style, count};

/// The desired state as a tree, the generated files below.
pub(crate) fn desired(desired: &Desired, config: &Config, look: Look) -> String {
    let mut page = Page::new(look);
    for (user, what) in &desired.accounts {
        account(&mut page, user, what, desired);
    }
    for (path, text) in [
        (&config.maps.ttyd_user_map, &desired.ttyd_user_map),
        (&config.maps.ttyd_admins, &desired.ttyd_admins),
    ] {
        page.gap();
        page.para(Style::Strong, &path.display().to_string());
        page.verbatim("  ", text);
    }
    page.gap();
    page.para(Style::Strong, &config.maps.dispatch.display().to_string());
    for (login, to) in &desired.dispatch {
        page.verbatim("  ", &format!("{login} -> {} port {}", to.os_user, to.port));
    }
    page.gap();
    page.para(Style::Strong, &format!("{}.", count(desired.accounts.len(), "account", "accounts")));
    page.finish()
}

fn account(page: &mut Page, user: &OsUser, account: &Account, desired: &Desired) {
    let (style, tier) = tier(account.tier);
    let parked = if account.parked { ", parked" } else { "" };
    page.hang(&format!("{user}  "), Style::Strong, &format!("{tier}{parked}"), style);
    let uid = account.uid.map(|uid| format!(", uid {uid}")).unwrap_or_default();
    let mut branches = vec![("account", format!("{}, {}{uid}", account.home.display(), account.shell))];
    if !account.groups.is_empty() {
        branches.push(("groups", list(&account.groups)));
    }
    let ports: Vec<_> = desired
        .ports
        .iter()
        .filter_map(|(service, ports)| ports.get(user).map(|port| format!("{service} {port}")))
        .collect();
    if !ports.is_empty() {
        branches.push(("ports", ports.join(", ")));
    }
    for wanted in &account.units {
        let stopped = match &wanted.wish {
            UnitWish::Running => String::new(),
            UnitWish::Stopped { why } => format!(" (stopped: {why})"),
        };
        branches.push(("unit", format!("{}{stopped}", wanted.unit)));
    }
    for clone in &account.home_content.clones {
        let locked = if clone.locked { " (locked)" } else { "" };
        branches.push(("clone", format!("~/{} from {}{locked}", clone.path, clone.url)));
    }
    let wiring = &account.home_content.wiring;
    let git = [("user.name", &wiring.name), ("user.email", &wiring.email)];
    let git = git.iter().filter_map(|(key, value)| value.as_ref().map(|value| format!("{key} {value}")));
    let git: Vec<_> = git.chain(wiring.store_credentials.then(|| "credential.helper store".into())).collect();
    if !git.is_empty() {
        branches.push(("git", format!("{}, each where it has no value", list(&git))));
    }
    if let (Some(push), Some(infra)) = (&wiring.push, account.home_content.infra()) {
        branches.push(("push", format!("~/{} to {} as {}", infra.path, push.url, push.name)));
    }
    for file in &account.home_content.files {
        branches.push(("file", format!("~/{} ({})", file.path, file.wanted.kind().as_str())));
    }
    if !account.namespaces.is_empty() {
        branches.push(("spaces", list(&account.namespaces)));
    }
    let last = branches.len() - 1;
    for (number, (name, text)) in branches.iter().enumerate() {
        let branch = match (page.look.marks, number == last) {
            (true, false) => "├─",
            (true, true) => "└─",
            (false, _) => "  ",
        };
        page.hang(&format!("{branch} {name:<8} "), Style::Faint, text, Style::Plain);
    }
}

#[cfg(test)]
mod tests {
    use roster::config::PushRemote;
    use roster::desired::{CloneDesired, Dispatch, HomeDesired, UnitDesired};
    use roster::model::{CodeLayout, Limits, Tier};
    use roster::wiring::WiringDesired;

    use super::super::samples::{LOOK, user};
    use super::*;

    fn sample() -> Desired {
        let account = Account {
            authentik_user: "alice@example.org".parse().unwrap(),
            k8s_user: "alice".parse().unwrap(),
            tier: Tier::NamespaceOwner,
            groups: vec!["docker".parse().unwrap()],
            shell: "/bin/zsh".parse().unwrap(),
            home: "/home/alice".into(),
            uid: Some(1005),
            code_layout: CodeLayout::Workspace,
            repos: vec![],
            namespaces: vec!["alice-dev".parse().unwrap()],
            parked: true,
            claude_auth: true,
            login_locked: true,
            shell_is_asked_for: false,
            units: vec![UnitDesired {
                unit: "t3-serve@alice.service".parse().unwrap(),
                service: "t3".parse().unwrap(),
                port: Some(3773),
                wish: UnitWish::Stopped { why: "`parked: true`".into() },
            }],
            limits: Limits::default(),
            home_content: HomeDesired {
                workspace: true,
                files: vec![],
                bases: vec![],
                clones: vec![CloneDesired {
                    path: "code/infra".into(),
                    url: "https://git.example.org/infra.git".into(),
                    locked: true,
                }],
                wiring: WiringDesired {
                    name: Some("alice".into()),
                    email: Some("alice@example.org".into()),
                    store_credentials: true,
                    push: Some(PushRemote {
                        name: "forgejo".parse().unwrap(),
                        url: "https://forge.example.org/infra.git".into(),
                    }),
                },
            },
        };
        Desired {
            accounts: [(user("alice"), account)].into(),
            ttyd_user_map: "# made by rosterd\nalice@example.org=alice\n".into(),
            ttyd_admins: "# made by rosterd\n".into(),
            dispatch: [(
                "alice@example.org".parse().unwrap(),
                Dispatch { os_user: user("alice"), port: 3773 },
            )]
            .into(),
            ports: [("t3".parse().unwrap(), [(user("alice"), 3773), (user("gone"), 3774)].into())].into(),
        }
    }

    #[test]
    fn what_is_desired_is_a_tree_and_the_files() {
        insta::assert_snapshot!(desired(&sample(), &Config::default(), LOOK), @r"
        alice  namespace-owner, parked
           account  /home/alice, /bin/zsh, uid 1005
           groups   docker
           ports    t3 3773
           unit     t3-serve@alice.service (stopped: `parked: true`)
           clone    ~/code/infra from https://git.example.org/infra.git (locked)
           git      user.name alice, user.email alice@example.org, credential.helper
                    store, each where it has no value
           push     ~/code/infra to https://forge.example.org/infra.git as forgejo
           spaces   alice-dev

        /etc/ttyd-user-map
          # made by rosterd
          alice@example.org=alice

        /etc/ttyd-admins
          # made by rosterd

        /etc/t3-serve/dispatch.json
          alice@example.org -> alice port 3773

        1 account.
        ");
    }

    #[test]
    fn a_terminal_gets_branches() {
        let text = desired(&sample(), &Config::default(), Look { marks: true, ..LOOK });
        assert!(text.contains("\n├─ groups") && text.contains("\n└─ spaces"), "{text}");
    }
}
