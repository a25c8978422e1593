//! The rules of `[vault]`.

use crate::diagnostic::quoted;
use crate::parse::config::number;
use crate::parse::kubernetes::{label, text};
use crate::parse::reader::{Fields, Found, Reader};
use crate::provider::is_in_the_clear;
use crate::vault::{AliasName, LoginMethod, Vault};

/// Everything but the paths of files.
pub(super) fn read(reader: &mut Reader, fields: &mut Fields<'_>, into: &mut Vault) {
    let place = |text: &str| {
        text.len() <= 64
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    let namespace = |text: &str| text.len() <= 128 && text.split('/').all(place);
    let address = |text: &str| {
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        !is_in_the_clear(text)
            && rest.is_some_and(|rest| {
                !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b".:-[]_".contains(&b))
            })
    };
    let wanted =
        "an address such as `https://vault.example.org:8200`, by TLS, so that no token travels in the clear";
    optional(reader, fields, "address", wanted, address, &mut into.address);
    optional(reader, fields, "namespace", "a namespace, such as `team`", namespace, &mut into.namespace);
    text(reader, fields, "instance", "a label's value, such as `team-a`", label, &mut into.instance);
    for (key, field) in [
        ("people_mount", &mut into.people_mount),
        ("kv_mount", &mut into.kv_mount),
        ("workstations", &mut into.workstations),
        ("creds_mount", &mut into.creds_mount),
        ("pipelines_mount", &mut into.pipelines_mount),
    ] {
        text(reader, fields, key, "the name of a mount or folder, such as `oidc`", place, field);
    }
    optional(reader, fields, "transit_mount", "the name of a mount", place, &mut into.transit_mount);
    if let Some(field) = fields.take("k8s_users") {
        into.k8s_users = reader.name(field.node);
    }
    if let Some(field) = fields.take("publish")
        && let Some(publish) = reader.boolean(field.node)
    {
        into.publish = publish;
        if publish && into.k8s_users.is_none() {
            let found = Found::new(field.key_span.clone(), "there is no list to publish to");
            reader.tell(found.help("add `k8s_users = \"secret/platform#k8s_users\"`"));
        }
    }
    if let Some(field) = fields.take("pipelines") {
        into.pipelines = reader.name(field.node);
    }
    let aliases = [("login", AliasName::Login), ("email", AliasName::Email)];
    if let Some(alias) = fields.take("alias").and_then(|field| reader.choice(field.node, "alias", &aliases)) {
        into.alias = alias;
    }
    if let Some(revoke) = fields.take("revoke_on_cut").and_then(|field| reader.boolean(field.node)) {
        into.revoke_on_cut = revoke;
    }
    number(reader, fields, "max_deletes", (0, 100_000), &mut into.max_deletes);
    number(reader, fields, "parallel", (1, 64), &mut into.parallel);
    number(reader, fields, "deadline_s", (5, 3600), &mut into.deadline_s);
}

/// `[vault.login]` but its file.
pub(super) fn read_login(reader: &mut Reader, fields: &mut Fields<'_>, into: &mut Vault) {
    let word = |text: &str| {
        text.len() <= 128
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    let methods = LoginMethod::ALL.map(|method| (method.as_str(), method));
    let field = fields.take("method");
    let chosen = field.as_ref().and_then(|field| reader.choice(field.node, "method", &methods));
    if let Some(method) = chosen {
        into.login.method = method;
    }
    optional(reader, fields, "role", "the name or id of a role", word, &mut into.login.role);
    optional(reader, fields, "mount", "the name of a mount", word, &mut into.login.mount);
    if let Some(field) = field
        && into.login.method != LoginMethod::Token
        && into.login.role.is_none()
    {
        let found = Found::new(field.node.span.clone(), "this way to log in needs a role");
        reader.tell(found.help("add `role = \"…\"`: the role's name, or with `approle` its id"));
    }
}

fn optional(
    reader: &mut Reader,
    fields: &mut Fields<'_>,
    key: &'static str,
    wanted: &str,
    valid: impl Fn(&str) -> bool,
    into: &mut Option<String>,
) {
    let Some(field) = fields.take(key) else { return };
    match reader.text(field.node) {
        Some(text) if valid(text) => *into = Some(text.to_owned()),
        Some(text) => {
            let message = format!("{} is not {wanted}", quoted(text));
            reader.tell(Found::new(field.node.span.clone(), message));
        }
        None => {}
    }
}
