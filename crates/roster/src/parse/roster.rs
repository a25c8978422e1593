//! The rules of the roster.

use std::collections::BTreeMap;

use crate::diagnostic::quoted;
use crate::model::{CodeLayout, Forgejo, Limits, Person, Push, Quota, Roster, Tier};
use crate::name::{
    Domain, Email, KubeUser, Login, MemorySize, Namespace, OsUser, Quantity, RepoName, SshKey,
};
use crate::parse::node::{Node, Span, Value};
use crate::parse::reader::{Field, Fields, Found, Reader};

/// What Debian's login.defs gives to people; below are the system's accounts, above systemd's and the
/// subordinate ranges.
const UIDS: (u32, u32) = (1000, 60_000);

pub(super) fn read(reader: &mut Reader, root: &Node<'_>) -> Roster {
    let mut roster = Roster::default();
    if matches!(root.value, Value::Null) {
        return roster;
    }
    let Some(mut fields) = reader.fields(root, "the roster", &(0..0)) else { return roster };
    if let Some(users) = fields.take("users") {
        roster.users = read_users(reader, users.node);
    }
    fields.finish(reader);
    roster
}

fn read_users(reader: &mut Reader, node: &Node<'_>) -> BTreeMap<OsUser, Person> {
    let mut users = BTreeMap::new();
    let mut taken = Taken::default();
    let entries = match &node.value {
        Value::Mapping(entries) => reader.unique(entries),
        Value::Refused => return users,
        _ => {
            let found = Found::new(node.span.clone(), "`users` must hold people by their accounts");
            reader.tell(found.help("write `users:` and below it, indented, `alice: {…}` for each"));
            return users;
        }
    };
    // What is no person and follows a name with nothing behind it is that person's, too far to the left.
    let is_a_field = |field: &Field<'_>| {
        matches!(field.node.value, Value::Text(_) | Value::Bool(_) | Value::Number(_) | Value::Sequence(_))
    };
    let mut entries = entries.into_iter().peekable();
    while let Some(Field { key, key_span, node }) = entries.next() {
        if matches!(node.value, Value::Null)
            && let Some(first) = entries.next_if(is_a_field)
        {
            while entries.next_if(is_a_field).is_some() {}
            let found = Found::new(
                first.key_span.clone(),
                format!("the fields of user {} begin at the column of their name", quoted(key)),
            );
            let help = "indent them by two spaces more than the name";
            reader.tell(found.also(key_span, "the name").help(help));
            continue;
        }
        let os_user = reader.checked::<OsUser>(key, key_span);
        let person = read_person(reader, &mut taken, key, key_span, node);
        if let (Some(os_user), Some(person)) = (os_user, person) {
            users.insert(os_user, person);
        }
    }
    users
}

/// What only one person may have, with who has it.
#[derive(Debug, Default)]
struct Taken(BTreeMap<(&'static str, String), (Span, String)>);

impl Taken {
    /// Claims a value for `os_user`; `field` says what it is to them, such as "the `uid`".
    fn claim(
        &mut self,
        reader: &mut Reader,
        field: &'static str,
        compared: &str,
        span: &Span,
        os_user: &str,
    ) {
        let holder = self
            .0
            .entry((field, compared.to_ascii_lowercase()))
            .or_insert_with(|| (span.clone(), os_user.to_owned()));
        if holder.0 != *span {
            let message = format!("{} is already {field} of user {}", quoted(compared), quoted(&holder.1));
            reader.tell(Found::new(span.clone(), message).also(&holder.0, "given here"));
        }
    }
}

/// A mistake of one field leaves its default in the person: a roster with any diagnostic is never used.
fn read_person(
    reader: &mut Reader,
    taken: &mut Taken,
    os_user: &str,
    place: &Span,
    node: &Node<'_>,
) -> Option<Person> {
    let what = format!("user {}", quoted(os_user));
    if matches!(node.value, Value::Null) {
        let found = Found::new(place.clone(), format!("{what} has no fields"));
        reader.tell(found.help("give at least `authentik_user`, `k8s_user` and `tier`"));
        return None;
    }
    let mut fields = reader.fields(node, &what, place)?;

    let authentik_user = fields
        .require("authentik_user", "add `authentik_user: …`, the login at the identity provider")
        .and_then(|field| {
            let login = reader.name::<Login>(field.node)?;
            taken.claim(reader, "the `authentik_user`", login.local_part(), &field.node.span, os_user);
            Some(login)
        });
    let k8s_user = fields
        .require("k8s_user", "add `k8s_user: …`, the name in the cluster's `k8s_users` map")
        .and_then(|field| {
            let name = reader.name::<KubeUser>(field.node)?;
            taken.claim(reader, "the `k8s_user`", name.as_str(), &field.node.span, os_user);
            Some(name)
        });
    let email = fields.take("email").and_then(|field| {
        let email = reader.name::<Email>(field.node)?;
        taken.claim(reader, "the `email`", email.as_str(), &field.node.span, os_user);
        Some(email)
    });
    let tier = read_tier(reader, &mut fields, os_user);
    let (code_layout, repos) = read_code(reader, &mut fields);
    let domains = fields.take("domains").map_or_else(Vec::new, |field| {
        reader.names_with("domains", field.node, |reader, domain: &Domain, span| {
            taken.claim(reader, "one of the `domains`", domain.as_str(), span, os_user);
        })
    });
    let quota = fields.take("quota").map(|field| read_quota(reader, &field, os_user));
    let parked = fields.take("parked").and_then(|field| reader.boolean(field.node));
    let claude_auth = fields.take("claude_auth").and_then(|field| reader.boolean(field.node));
    let forgejo = fields.take("forgejo").and_then(|field| read_forgejo(reader, taken, &field, os_user));
    let shell = fields.take("shell").and_then(|field| reader.name(field.node));
    let uid = fields.take("uid").and_then(|field| {
        let uid = reader.number(field.node, UIDS.0, UIDS.1)?;
        taken.claim(reader, "the `uid`", &uid.to_string(), &field.node.span, os_user);
        Some(uid)
    });
    let groups = fields.take("groups").map_or_else(Vec::new, |field| reader.names("groups", field.node));
    let ssh_keys = fields.take("ssh_keys").map_or_else(Vec::new, |field| read_ssh_keys(reader, field.node));
    let limits = fields
        .take("limits")
        .map(|field| read_limits(reader, &field, &format!("the limits of user {}", quoted(os_user))));
    let hosts = fields.take("hosts").map_or_else(Vec::new, |field| reader.names("hosts", field.node));
    fields.finish(reader);

    let (tier, namespaces) = tier?;
    Some(Person {
        authentik_user: authentik_user?,
        k8s_user: k8s_user?,
        email,
        tier,
        namespaces,
        code_layout,
        repos,
        domains,
        quota,
        parked: parked.unwrap_or(false),
        claude_auth: claude_auth.unwrap_or(true),
        forgejo,
        shell,
        uid,
        groups,
        ssh_keys,
        limits,
        hosts,
    })
}

/// The tier and the namespaces, which depend on it. Two people may own a namespace together.
fn read_tier(reader: &mut Reader, fields: &mut Fields<'_>, os_user: &str) -> Option<(Tier, Vec<Namespace>)> {
    let tier_field =
        fields.require("tier", "add `tier: …`, one of `namespace-owner`, `power-user` and `admin`");
    let tier = tier_field
        .and_then(|field| reader.choice(field.node, "tier", &Tier::ALL.map(|tier| (tier.as_str(), tier))));
    let field = fields.take("namespaces");
    let namespaces = field.map(|field| reader.names::<Namespace>("namespaces", field.node));
    let (tier_field, tier) = (tier_field?, tier?);

    let empty = match field.map(|field| &field.node.value) {
        None => true,
        Some(Value::Sequence(items)) => items.is_empty(),
        // Not a list: told already.
        Some(_) => false,
    };
    if tier == Tier::NamespaceOwner && empty {
        let span = field.map_or(&tier_field.node.span, |field| field.key_span);
        let found = Found::new(
            span.clone(),
            format!("user {} is a namespace-owner without `namespaces`", quoted(os_user)),
        );
        let example = Namespace::new(os_user).map_or_else(|_| "name".to_owned(), |name| name.to_string());
        reader.tell(found.help(format!("add `namespaces: [{example}]`")));
    }
    if let Some(field) = field.filter(|_| tier != Tier::NamespaceOwner && !empty) {
        let message = format!("only a namespace-owner has `namespaces`, user {} is {tier}", quoted(os_user));
        let found = Found::new(field.key_span.clone(), message).also(&tier_field.node.span, "the tier");
        reader.tell(found.help("remove `namespaces`, or make the tier `namespace-owner`"));
    }
    Some((tier, namespaces.unwrap_or_default()))
}

fn read_code(reader: &mut Reader, fields: &mut Fields<'_>) -> (CodeLayout, Vec<RepoName>) {
    let layouts = [("single", CodeLayout::Single), ("workspace", CodeLayout::Workspace)];
    let layout_field = fields.take("code_layout");
    let layout = layout_field.map(|field| reader.choice(field.node, "code layout", &layouts));
    let Some(field) = fields.take("repos") else {
        return (layout.flatten().unwrap_or_default(), Vec::new());
    };
    let repos: Vec<RepoName> = reader.names_with("repos", field.node, |reader, repo: &RepoName, span| {
        if repo.as_str() == "infra" {
            let found = Found::new(span.clone(), "`infra` may not be listed: everybody has it");
            reader.tell(found.help("remove it from `repos`"));
        }
    });
    // A layout that could not be read may have been meant as `workspace`.
    let layout = layout.unwrap_or(Some(CodeLayout::Single));
    if layout == Some(CodeLayout::Single) && !repos.is_empty() {
        let mut found = Found::new(field.key_span.clone(), "`repos` needs the workspace layout");
        if let Some(layout) = layout_field {
            found = found.also(&layout.node.span, "the layout");
        }
        reader.tell(found.help("add `code_layout: workspace`, or remove `repos`"));
    }
    (layout.unwrap_or_default(), repos)
}

pub(super) fn read_quota(reader: &mut Reader, field: &Field<'_>, os_user: &str) -> Quota {
    let what = format!("the quota of user {}", quoted(os_user));
    let Some(mut fields) = reader.fields(field.node, &what, field.key_span) else { return Quota::default() };
    let mut quantity = |reader: &mut Reader, key, spelling: Option<&'static str>| -> Option<Quantity> {
        let plain = fields.take(key);
        let spelled = spelling.and_then(|spelling| fields.take(spelling));
        if let (Some(plain), Some(spelled)) = (plain, spelled) {
            let message = format!("`{}` and `{key}` are the same limit", spelled.key);
            let found = Found::new(spelled.key_span.clone(), message);
            reader.tell(found.also(plain.key_span, "given here").help("keep one of them"));
        }
        reader.number_or_name(plain.or(spelled)?.node)
    };
    let quota = Quota {
        cpu: quantity(reader, "cpu", Some("cpu_requests")),
        memory: quantity(reader, "memory", Some("memory_requests")),
        memory_limits: quantity(reader, "memory_limits", None),
        storage: quantity(reader, "storage", None),
        pods: quantity(reader, "pods", None),
    };
    if let Some(pods) = &quota.pods
        && pods.as_str().parse::<u32>().is_err()
        && let Some(field) = fields.take("pods")
    {
        let message = format!("{} is not a number of pods", quoted(pods.as_str()));
        reader.tell(Found::new(field.node.span.clone(), message).help("write a whole number, such as `20`"));
    }
    fields.finish(reader);
    quota
}

fn read_forgejo(reader: &mut Reader, taken: &mut Taken, field: &Field<'_>, os_user: &str) -> Option<Forgejo> {
    let what = format!("`forgejo` of user {}", quoted(os_user));
    let mut fields = reader.fields(field.node, &what, field.key_span)?;
    let user = fields.require("user", "add `user: …`, the login at the forge").and_then(|field| {
        let login = reader.name::<Login>(field.node)?;
        taken.claim(reader, "the forge login", login.as_str(), &field.node.span, os_user);
        Some(login)
    });
    let pushes = [("none", Push::None), ("collaborator", Push::Collaborator), ("whitelist", Push::Whitelist)];
    let push = fields.take("push").and_then(|field| reader.choice(field.node, "push right", &pushes));
    fields.finish(reader);
    Some(Forgejo { user: user?, push: push.unwrap_or_default() })
}

/// As [`Reader::names`], but no key is repeated in a message: it is long, and it may be the private one.
fn read_ssh_keys(reader: &mut Reader, node: &Node<'_>) -> Vec<SshKey> {
    let mut keys = BTreeMap::<SshKey, &Span>::new();
    let mut ordered = Vec::new();
    for item in reader.items("ssh_keys", node) {
        let Some(text) = reader.text(item) else { continue };
        match SshKey::new(text.trim_end()) {
            Err(error) => {
                let found = Found::new(item.span.clone(), format!("this {error}"));
                reader.tell(if text.contains("PRIVATE KEY") { found.secret() } else { found });
            }
            Ok(key) => match keys.get(&key) {
                Some(first) => {
                    let found = Found::new(item.span.clone(), "this key is listed twice in `ssh_keys`");
                    reader.tell(found.also(first, "first listed here").help("remove one of them"));
                }
                None => {
                    keys.insert(key.clone(), &item.span);
                    ordered.push(key);
                }
            },
        }
    }
    ordered
}

pub(super) fn read_limits(reader: &mut Reader, field: &Field<'_>, what: &str) -> Limits {
    let Some(mut fields) = reader.fields(field.node, what, field.key_span) else { return Limits::default() };
    let memory_max = fields.take("memory_max").and_then(|field| read_memory_max(reader, &field));
    let limits = Limits {
        memory_max,
        memory_swap_max: fields.take("memory_swap_max").and_then(|field| reader.number_or_name(field.node)),
        cpu_weight: fields.take("cpu_weight").and_then(|field| reader.number(field.node, 1, 10_000)),
        io_weight: fields.take("io_weight").and_then(|field| reader.number(field.node, 1, 10_000)),
        // A login shell with a tmux and one agent already has a dozen tasks; the most is the kernel's.
        tasks_max: fields.take("tasks_max").and_then(|field| reader.number(field.node, 32, 4_194_304)),
    };
    fields.finish(reader);
    limits
}

/// A bound that leaves room for a login.
pub(super) fn read_memory_max(reader: &mut Reader, field: &Field<'_>) -> Option<MemorySize> {
    let size = reader.number_or_name::<MemorySize>(field.node)?;
    if too_small(size.as_str()) {
        let message = format!("with `memory_max` {} nobody can log in", quoted(size.as_str()));
        reader.tell(Found::new(field.node.span.clone(), message).help("give at least 64M"));
    }
    Some(size)
}

/// Below 64 MiB, or 0 %.
fn too_small(size: &str) -> bool {
    let digits = size.trim_end_matches(|c: char| !c.is_ascii_digit());
    let Ok(number) = digits.parse::<u64>() else { return false };
    let shift = match &size[digits.len()..] {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return number == 0,
    };
    number.saturating_mul(1 << shift) < 64 << 20
}
