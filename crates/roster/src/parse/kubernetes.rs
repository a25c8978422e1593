//! The rules of `[kubernetes]`.

use crate::cluster::Kubernetes;
use crate::diagnostic::quoted;
use crate::parse::reader::{Fields, Found, Reader};

/// Everything but `kubeconfig`, which is a path.
pub(super) fn read(reader: &mut Reader, fields: &mut Fields<'_>, into: &mut Kubernetes) {
    let role = |text: &str| text.len() <= 128 && word(text, "._:-");
    let issuer = |text: &str| text.len() <= 253 && word(text, ".-") && text == text.to_ascii_lowercase();
    let prefix = |text: &str| {
        text.len() <= 64 && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:/#@-".contains(&b))
    };
    text(reader, fields, "instance", "a label's value, such as `team-a`", label, &mut into.instance);
    text(reader, fields, "user_prefix", "a prefix such as `oidc:`", prefix, &mut into.user_prefix);
    text(
        reader,
        fields,
        "power_user_role",
        "a role's name, such as `oidc-power-user-readonly`",
        role,
        &mut into.power_user_role,
    );
    let mut name = String::new();
    text(reader, fields, "cluster_issuer", "an issuer's name, such as `letsencrypt`", issuer, &mut name);
    if !name.is_empty() {
        into.cluster_issuer = Some(name);
    }
    if let Some(field) = fields.take("portal") {
        into.portal = reader.name(field.node);
    }
    if let Some(field) = fields.take("lease") {
        into.lease = reader.name(field.node);
    }
    if let Some(field) = fields.take("tls_secret") {
        into.tls_secret = reader.name(field.node);
    }
    if let Some(revoke) = fields.take("revoke_on_cut").and_then(|field| reader.boolean(field.node)) {
        into.revoke_on_cut = revoke;
    }
    super::config::number(reader, fields, "max_deletes", (0, 100_000), &mut into.max_deletes);
    super::config::number(reader, fields, "parallel", (1, 64), &mut into.parallel);
    super::config::number(reader, fields, "deadline_s", (5, 3600), &mut into.deadline_s);
}

/// The value of a label.
pub(super) fn label(text: &str) -> bool {
    text.len() <= 63 && word(text, "._-")
}

fn word(text: &str, extra: &str) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    ends(text.chars().next())
        && ends(text.chars().next_back())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || extra.as_bytes().contains(&b))
}

pub(super) fn text(
    reader: &mut Reader,
    fields: &mut Fields<'_>,
    key: &'static str,
    wanted: &str,
    valid: impl Fn(&str) -> bool,
    into: &mut String,
) {
    let Some(field) = fields.take(key) else { return };
    match reader.text(field.node) {
        Some(text) if valid(text) => into.replace_range(.., text),
        Some(text) => {
            let message = format!("{} is not {wanted}", quoted(text));
            reader.tell(Found::new(field.node.span.clone(), message));
        }
        None => {}
    }
}
