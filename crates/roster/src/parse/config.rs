//! The rules of the configuration; those of its paths are in [`super::paths`].

use std::collections::BTreeMap;

use crate::config::{Config, Membership, MembershipMode, PushRemote, Service};
use crate::diagnostic::quoted;
use crate::model::Tier;
use crate::name::{RemoteName, ServiceName, UnitTemplate};
use crate::parse::files;
use crate::parse::node::{Node, Span, Value};
use crate::parse::paths::{Paths, absolute, check_home_base};
use crate::parse::reader::{Field, Fields, Found, Reader};
use crate::parse::roster::{read_limits, read_memory_max};
use crate::provider::is_in_the_clear;

pub(super) fn read(reader: &mut Reader, root: &Node<'_>) -> Config {
    let mut config = Config::default();
    let Some(mut fields) = reader.fields(root, "the configuration", &(0..0)) else { return config };
    let mut paths = Paths::default();

    config.host = fields.take("host").and_then(|field| reader.name(field.node));
    table(reader, &mut fields, "roster", |reader, fields| {
        paths.file(reader, fields, "roster.path", &mut config.roster.path);
    });
    table(reader, &mut fields, "source", |reader, fields| {
        let source = &mut config.source;
        source.git = fields.take("git").and_then(|field| read_url(reader, &field, false));
        read_git_name(reader, fields, "ref", &mut source.r#ref);
        read_git_name(reader, fields, "path", &mut source.path);
        paths.optional(reader, fields, "source.allowed_signers", &mut source.allowed_signers);
        paths.optional(reader, fields, "source.credentials_file", &mut source.credentials_file);
        number(reader, fields, "interval_s", (10, 86_400), &mut source.interval_s);
        number(reader, fields, "deadline_s", (1, 3600), &mut source.deadline_s);
    });
    table(reader, &mut fields, "accounts", |reader, fields| {
        if let Some(field) = fields.take("home_base")
            && let Some(path) = absolute(reader, &field)
        {
            check_home_base(reader, &field, &path);
            config.accounts.home_base = path;
        }
        paths.file(reader, fields, "accounts.skel", &mut config.accounts.skel);
        if let Some(field) = fields.take("shells") {
            config.accounts.shells = reader.names("shells", field.node);
        }
    });
    if let Some(field) = fields.take("tiers") {
        read_tiers(reader, &field, &mut config);
    }
    table(reader, &mut fields, "maps", |reader, fields| {
        paths.file(reader, fields, "maps.ttyd_user_map", &mut config.maps.ttyd_user_map);
        paths.file(reader, fields, "maps.ttyd_admins", &mut config.maps.ttyd_admins);
        paths.file(reader, fields, "maps.dispatch", &mut config.maps.dispatch);
    });
    table(reader, &mut fields, "code", |reader, fields| {
        config.code.infra = fields.take("infra").and_then(|field| read_url(reader, &field, false));
        config.code.repositories =
            fields.take("repositories").and_then(|field| read_url(reader, &field, true));
        config.code.push_remote =
            fields.take("push_remote").and_then(|field| read_push_remote(reader, &field));
    });
    table(reader, &mut fields, "claude", |reader, fields| {
        paths.optional(
            reader,
            fields,
            "claude.managed_settings_source",
            &mut config.claude.managed_settings_source,
        );
        paths.file(reader, fields, "claude.managed_settings", &mut config.claude.managed_settings);
    });
    if let Some(field) = fields.take("service") {
        config.service = read_services(reader, &mut paths, &field);
    }
    let files = match fields.take("file") {
        Some(field) => files::read(reader, &mut paths, &field),
        None => Vec::new(),
    };
    files::judge(reader, &config, &files, &std::mem::take(&mut paths.templates));
    config.file = files.into_iter().map(|(entry, _)| entry).collect();
    table(reader, &mut fields, "panes", |reader, fields| {
        config.panes.memory_max = fields.take("memory_max").and_then(|field| read_memory_max(reader, &field));
    });
    table(reader, &mut fields, "cut", |reader, fields| {
        if let Some(value) = fields.take("end_sessions").and_then(|field| reader.boolean(field.node)) {
            config.cut.end_sessions = value;
        }
        if let Some(field) = fields.take("groups") {
            config.cut.groups = reader.names("cut.groups", field.node);
        }
    });
    table(reader, &mut fields, "removal", |reader, fields| {
        paths.file(reader, fields, "removal.archives", &mut config.removal.archives);
    });
    table(reader, &mut fields, "guard", |reader, fields| {
        number(reader, fields, "max_cuts", (0, 10_000), &mut config.guard.max_cuts);
    });
    table(reader, &mut fields, "tier_check", |reader, fields| {
        paths.optional(reader, fields, "tier_check.k8s_users", &mut config.tier_check.k8s_users);
    });
    if let Some(field) = fields.take("membership") {
        read_membership(reader, &mut paths, &field, &mut config.membership);
    }
    table(reader, &mut fields, "announce", |reader, fields| {
        paths.optional(reader, fields, "announce.webhook_file", &mut config.announce.webhook_file);
    });
    table(reader, &mut fields, "metrics", |reader, fields| {
        paths.optional(reader, fields, "metrics.textfile", &mut config.metrics.textfile);
    });
    table(reader, &mut fields, "kubernetes", |reader, fields| {
        paths.optional(reader, fields, "kubernetes.kubeconfig", &mut config.kubernetes.kubeconfig);
        super::kubernetes::read(reader, fields, &mut config.kubernetes);
    });
    table(reader, &mut fields, "vault", |reader, fields| {
        paths.optional(reader, fields, "vault.ca", &mut config.vault.ca);
        table(reader, fields, "login", |reader, fields| {
            paths.file(reader, fields, "vault.login.file", &mut config.vault.login.file);
            super::vault::read_login(reader, fields, &mut config.vault);
        });
        super::vault::read(reader, fields, &mut config.vault);
    });
    table(reader, &mut fields, "worker", |reader, fields| {
        number(reader, fields, "parallel", (1, 64), &mut config.worker.parallel);
        number(reader, fields, "deadline_s", (5, 86_400), &mut config.worker.deadline_s);
        number(reader, fields, "memory_mib", (64, 1 << 20), &mut config.worker.memory_mib);
        number(reader, fields, "max_clone_mib", (1, 1 << 20), &mut config.worker.max_clone_mib);
    });
    table(reader, &mut fields, "tmux", |reader, fields| {
        paths.file(reader, fields, "tmux.state", &mut config.tmux.state);
        if let Some(claude) = fields.take("claude").and_then(|field| reader.name(field.node)) {
            config.tmux.claude = claude;
        }
        if let Some(field) = fields.take("commands") {
            config.tmux.commands = reader.names("commands", field.node);
        }
        if let Some(field) = fields.take("environment") {
            config.tmux.environment = reader.names("environment", field.node);
        }
        number(reader, fields, "scrollback_kib", (0, 1024), &mut config.tmux.scrollback_kib);
    });
    fields.finish(reader);
    paths.judge(reader, &config);
    config
}

fn table<'n>(
    reader: &mut Reader,
    fields: &mut Fields<'n>,
    key: &'static str,
    read: impl FnOnce(&mut Reader, &mut Fields<'n>),
) {
    let Some(field) = fields.take(key) else { return };
    let Some(mut inner) = reader.fields(field.node, &format!("`[{key}]`"), field.key_span) else { return };
    read(reader, &mut inner);
    inner.finish(reader);
}

pub(super) fn number<T>(
    reader: &mut Reader,
    fields: &mut Fields<'_>,
    key: &'static str,
    range: (T, T),
    into: &mut T,
) where
    T: std::str::FromStr + PartialOrd + std::fmt::Display,
{
    if let Some(value) = fields.take(key).and_then(|field| reader.number(field.node, range.0, range.1)) {
        *into = value;
    }
}

/// A ref or a path in a repository: nothing that git could take for an option, a refspec or a way out.
fn read_git_name(reader: &mut Reader, fields: &mut Fields<'_>, key: &'static str, into: &mut String) {
    let Some(field) = fields.take(key) else { return };
    let Some(text) = reader.text(field.node) else { return };
    let first =
        text.chars().next().is_some_and(|c| c.is_ascii_alphanumeric() || key == "path" && "_.".contains(c));
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "._/-".contains(c));
    let steps = text
        .split('/')
        .all(|step| !step.is_empty() && step != "." && step != ".." && !step.ends_with(".lock"));
    if first && plain && steps && text.len() <= 200 && !text.contains("..") {
        *into = text.to_owned();
    } else {
        let what = format!("{} is not a plain {key} in a git repository", quoted(text));
        let found = Found::new(field.node.span.clone(), what);
        reader.tell(
            found.help("letters, digits, `.`, `_`, `-` and `/`, such as `main` or `machines/roster.yaml`"),
        );
    }
}

/// A tier that is not mentioned keeps what it has.
fn read_tiers(reader: &mut Reader, field: &Field<'_>, config: &mut Config) {
    let Some(mut fields) = reader.fields(field.node, "`[tiers]`", field.key_span) else { return };
    for tier in Tier::ALL {
        let Some(field) = fields.take(tier.as_str()) else { continue };
        let what = format!("`[tiers.{tier}]`");
        let Some(mut inner) = reader.fields(field.node, &what, field.key_span) else { continue };
        if let Some(groups) = inner.take("groups") {
            config.tiers.entry(tier).or_default().groups = reader.names("groups", groups.node);
        }
        if let Some(limits) = inner.take("limits") {
            let what = format!("`[tiers.{tier}.limits]`");
            config.tiers.entry(tier).or_default().limits = read_limits(reader, &limits, &what);
        }
        inner.finish(reader);
    }
    fields.finish(reader);
}

fn read_push_remote(reader: &mut Reader, field: &Field<'_>) -> Option<PushRemote> {
    let mut fields = reader.fields(field.node, "`[code.push_remote]`", field.key_span)?;
    let name = fields
        .require("name", "add one, such as `name = \"forgejo\"`")
        .and_then(|field| reader.name::<RemoteName>(field.node));
    let url = fields
        .require("url", "add one, such as `url = \"https://git.example.org/team/infra.git\"`")
        .and_then(|field| read_url(reader, &field, false));
    fields.finish(reader);
    Some(PushRemote { name: name?, url: url? })
}

fn read_membership(reader: &mut Reader, paths: &mut Paths, field: &Field<'_>, membership: &mut Membership) {
    let Some(mut fields) = reader.fields(field.node, "`[membership]`", field.key_span) else { return };
    let modes =
        [("off", MembershipMode::Off), ("report", MembershipMode::Report), ("apply", MembershipMode::Apply)];
    let mode = fields.take("mode").and_then(|field| reader.choice(field.node, "mode", &modes));
    membership.mode = mode.unwrap_or_default();
    let authentik = match mode {
        Some(MembershipMode::Report | MembershipMode::Apply) => {
            fields.require("authentik", "add `authentik = \"https://…\"`, the address of Authentik")
        }
        _ => fields.take("authentik"),
    };
    membership.authentik = authentik.and_then(|field| read_server(reader, &field));
    let group = match mode {
        Some(MembershipMode::Report | MembershipMode::Apply) => {
            fields.require("group", "add `group = \"…\"`, the name of the group")
        }
        _ => fields.take("group"),
    };
    membership.group = group.and_then(|field| {
        let name = reader.text(field.node)?;
        let good = !name.trim().is_empty() && name.len() <= 200 && !name.contains(char::is_control);
        if !good {
            let found =
                Found::new(field.node.span.clone(), format!("{} is not the name of a group", quoted(name)));
            reader.tell(found);
        }
        good.then(|| name.to_owned())
    });
    paths.optional(reader, &mut fields, "membership.token_file", &mut membership.token_file);
    if membership.token_file.is_none() && membership.mode != MembershipMode::Off {
        let found = Found::new(field.key_span.clone(), "`[membership]` has no `token_file`");
        reader.tell(found.help(
            "add `token_file = \"/etc/rosterd/authentik-token\"`, a file with the token and nothing else",
        ));
    }
    number(reader, &mut fields, "deadline_s", (1, 3600), &mut membership.deadline_s);
    fields.finish(reader);
}

/// The address of a server that gets a token: by TLS, or on this machine.
fn read_server(reader: &mut Reader, field: &Field<'_>) -> Option<String> {
    let text = reader.text(field.node)?;
    let rest = text.strip_prefix("https://").or(text.strip_prefix("http://"));
    let host = rest.and_then(|rest| rest.split('/').next()).unwrap_or_default();
    let odd = text.contains(['@', '?', '#']) || text.contains(|c: char| c.is_whitespace() || c.is_control());
    let problem = if host.is_empty() || odd {
        "is not the address of a server, such as `https://auth.example.org`"
    } else if is_in_the_clear(text) {
        "is not by TLS, and the token would travel in the clear"
    } else {
        return Some(text.to_owned());
    };
    reader.tell(Found::new(field.node.span.clone(), format!("{} {problem}", quoted(text))));
    None
}

fn read_services<'n>(reader: &mut Reader, paths: &mut Paths, field: &Field<'n>) -> Vec<Service> {
    let mut services = Vec::new();
    let items = match &field.node.value {
        Value::Sequence(items) => items,
        Value::Mapping(_) => {
            let found = Found::new(field.key_span.clone(), "`service` is a list of tables");
            reader.tell(found.help("write `[[service]]` with two brackets, once for each service"));
            return services;
        }
        _ => reader.items("service", field.node),
    };
    let mut names = BTreeMap::<String, &Span>::new();
    let mut ports = BTreeMap::<u16, (&Span, String)>::new();
    let mut templates = BTreeMap::<UnitTemplate, Span>::new();
    for item in items {
        let Some(mut fields) = reader.fields(item, "a `[[service]]`", &item.span) else { continue };
        let name = fields.require("name", "add one, such as `name = \"t3\"`").and_then(|field| {
            let name = reader.name::<ServiceName>(field.node)?;
            if let Some(first) = names.insert(name.to_string(), &field.node.span) {
                let found = Found::new(
                    field.node.span.clone(),
                    format!("a second service {}", quoted(name.as_str())),
                );
                reader.tell(found.also(first, "the first one"));
            }
            Some(name)
        });
        let called = name.as_ref().map_or_else(String::new, ToString::to_string);
        // A service has a port with all that belongs to it, or none.
        let has_port = ["base_port", "env_file", "port_key"].iter().any(|key| fields.has(key));
        let port_field = |fields: &mut Fields<'n>, key: &'static str, help: &str| match has_port {
            true => fields.require(key, help),
            false => fields.take(key),
        };
        let base_port =
            port_field(&mut fields, "base_port", "add `base_port = …`, the first of the ports, from 1024 up")
                .and_then(|field| {
                    let port = reader.number(field.node, 1024_u16, 65_000)?;
                    if let Some((first, other)) = ports.insert(port, (&field.node.span, called.clone())) {
                        let message = format!("{port} is also the base port of service {}", quoted(&other));
                        let found = Found::new(field.node.span.clone(), message).also(first, "given here");
                        reader.tell(found.help("leave room between them for one port a person"));
                    }
                    Some(port)
                });
        let port_key = port_field(&mut fields, "port_key", "add one, such as `port_key = \"PORT\"`")
            .and_then(|field| {
                let key = reader.text(field.node)?;
                if is_env_key(key) {
                    return Some(key.to_owned());
                }
                let found = Found::new(
                    field.node.span.clone(),
                    format!("{} is not the name of a variable", quoted(key)),
                );
                reader.tell(found.help("write capital letters, digits and `_`, such as `T3_PORT`"));
                None
            });
        let env_file =
            port_field(&mut fields, "env_file", "add one, such as `env_file = \"/etc/t3-serve/{user}.env\"`")
                .and_then(|field| read_env_file(reader, paths, &field, port_key.as_deref()));
        let units = fields.take("units").map_or_else(Vec::new, |field| {
            reader.names_with("units", field.node, |reader, unit: &UnitTemplate, span| {
                if let Some(first) = templates.insert(unit.clone(), span.clone()) {
                    let message = format!("{} belongs to another service already", quoted(unit.as_str()));
                    reader.tell(Found::new(span.clone(), message).also(&first, "given here"));
                }
            })
        });
        let tiers = read_tiers_of(reader, &mut fields);
        let mut flag = |reader: &mut Reader, key: &'static str, default| {
            fields.take(key).and_then(|field| reader.boolean(field.node)).unwrap_or(default)
        };
        let stop_when_parked = flag(reader, "stop_when_parked", true);
        let stop_without_claude_auth = flag(reader, "stop_without_claude_auth", false);
        fields.finish(reader);
        if let Some(name) = name {
            services.push(Service {
                name,
                base_port,
                env_file,
                port_key,
                units,
                tiers: tiers.unwrap_or_else(|| Tier::ALL.to_vec()),
                stop_when_parked,
                stop_without_claude_auth,
            });
        }
    }
    services
}

/// Whose a service or a file is.
pub(super) fn read_tiers_of(reader: &mut Reader, fields: &mut Fields<'_>) -> Option<Vec<Tier>> {
    let field = fields.take("tiers")?;
    let choices = Tier::ALL.map(|tier| (tier.as_str(), tier));
    let items = reader.items("tiers", field.node);
    Some(items.iter().filter_map(|item| reader.choice(item, "tier", &choices)).collect())
}

fn is_env_key(key: &str) -> bool {
    key.starts_with(|c: char| c.is_ascii_uppercase() || c == '_')
        && key.len() <= 64
        && key.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
}

fn read_env_file(
    reader: &mut Reader,
    paths: &mut Paths,
    field: &Field<'_>,
    port_key: Option<&str>,
) -> Option<String> {
    absolute(reader, field)?;
    let text = reader.text(field.node)?.to_owned();
    if text.matches("{user}").count() != 1 {
        let found =
            Found::new(field.node.span.clone(), "`env_file` must hold `{user}` once, for the account's name");
        reader.tell(found.help("such as `/etc/t3-serve/{user}.env`"));
        return None;
    }
    let key = (text.clone(), port_key.unwrap_or_default().to_owned());
    if let Some(first) = paths.env_files.insert(key, field.node.span.clone()) {
        let found =
            Found::new(field.node.span.clone(), "two services with one `env_file` and one `port_key`");
        reader.tell(found.also(&first, "the first one").help("each needs a file or a key of its own"));
    }
    Some(text)
}

/// A URL to clone from: `http`, `https` or `file`, without a user name or token in it, since clones keep their URL
/// and git prints it.
fn read_url(reader: &mut Reader, field: &Field<'_>, for_any: bool) -> Option<String> {
    const NAME: &str = "{name}";
    let text = reader.text(field.node)?;
    let found = |problem: &str| Found::new(field.node.span.clone(), format!("{} {problem}", quoted(text)));
    let refuse = |reader: &mut Reader, found: Found| {
        reader.tell(found);
        None
    };
    if let Some(rest) = text.strip_prefix("git@").or(text.strip_prefix("ssh://git@")) {
        let found = found("is an address for ssh, and repositories are cloned by https or http alone");
        let https = format!("https://{}", rest.replacen(':', "/", 1));
        return refuse(reader, found.help(format!("write {}", quoted(&https))));
    }
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if authority.contains('@') {
        let found = Found::new(field.node.span.clone(), "the URL holds a user name, a password or a token");
        return refuse(
            reader,
            found.secret().help("remove it: a person's credentials belong in their `~/.git-credentials`"),
        );
    }
    if text.contains(['?', '#']) {
        let found =
            Found::new(field.node.span.clone(), "the URL holds `?` or `#`, which no repository's URL needs");
        return refuse(reader, found.secret());
    }
    let Some((scheme, _)) = text.split_once("://") else {
        return refuse(reader, found("is not a URL").help("such as `https://git.example.org/infra.git`"));
    };
    if !matches!(scheme, "http" | "https") {
        return refuse(reader, found("must begin with `https://` or `http://`"));
    }
    if text.chars().any(|c| c.is_whitespace() || c.is_control() || "\"'`\\<>|^".contains(c)) {
        return refuse(reader, found("holds white space or a character that no URL has"));
    }
    if authority.is_empty() || path.is_empty() {
        return refuse(reader, found("names no host or no path"));
    }
    if path.split('/').any(|part| part == "..") {
        return refuse(reader, found("holds `..`"));
    }
    let names = path.matches(NAME).count();
    if for_any && (names != 1 || authority.contains('{')) {
        let help = "such as `https://git.example.org/team/{name}.git`";
        return refuse(
            reader,
            found("must hold `{name}` once in its path, for the repository's name").help(help),
        );
    }
    if text.replacen(NAME, "", usize::from(for_any)).contains(['{', '}']) {
        return refuse(reader, found("holds a `{` or `}` that stands for nothing"));
    }
    Some(text.to_owned())
}
