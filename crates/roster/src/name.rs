//! Validated names. A value of one of these types can be written to a generated file, joined to a path or
//! passed as an argument without further checks; nothing else from the roster may.

use std::borrow::Cow;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Why a text is not a valid name. Its `Display` is a sentence fragment that follows the text itself,
/// such as "may not begin with `-`".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NameError(pub Cow<'static, str>);

macro_rules! names {
    ($( $(#[doc = $doc:literal])* $name:ident: $check:path, pattern $pattern:literal; )*) => { $(
        $(#[doc = $doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks `text` and takes it over.
            pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
                let text = text.into();
                $check(&text)?;
                Ok(Self(text))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl std::str::FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({
                    "description": concat!($($doc),*).trim(),
                    "type": "string",
                    "pattern": $pattern,
                })
            }
        }
    )* };
}

names! {
    /// A Unix account's name: what Debian's `useradd` accepts, at most 32 bytes, and no account of the base system.
    OsUser: check_os_user, pattern r"^[a-z_][a-z0-9_-]{0,31}$";
    /// A Unix group's name.
    GroupName: check_group, pattern r"^[a-z_][a-z0-9_-]{0,31}$";
    /// A login at the identity provider, with or without a domain. Holds no white space and none of `=:#,/\`.
    Login: check_login, pattern r"^[A-Za-z0-9_][A-Za-z0-9._@+-]*$";
    /// A name in the cluster's `k8s_users` map.
    KubeUser: check_login, pattern r"^[A-Za-z0-9_][A-Za-z0-9._@+-]*$";
    /// An e-mail address, as the OIDC claim carries it.
    Email: check_email, pattern r"^[^\s@]+@[^\s@]+$";
    /// A Kubernetes namespace: a DNS label that is not one of the cluster's own.
    Namespace: check_namespace, pattern r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$";
    /// The name of a repository below the site's base URL.
    RepoName: check_repo, pattern r"^[A-Za-z0-9][A-Za-z0-9._-]*$";
    /// The name of a git remote besides `origin`.
    RemoteName: check_remote, pattern r"^[A-Za-z0-9][A-Za-z0-9._-]*$";
    /// A DNS name.
    Domain: check_domain, pattern r"^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?$";
    /// An absolute path of a login shell.
    Shell: check_shell, pattern r"^/[A-Za-z0-9._/+-]+$";
    /// The name of a per-user service, such as `t3`.
    ServiceName: check_service, pattern r"^[a-z0-9][a-z0-9-]{0,31}$";
    /// A unit of a person, such as `t3-serve@alice.service`: an instance of a template.
    UnitName: check_unit, pattern r"^[A-Za-z0-9][A-Za-z0-9:_.-]*@[a-z_][a-z0-9_-]{0,31}\.(service|timer|socket|path)$";
    /// A template unit with `{user}` in the place of the instance, such as `t3-serve@{user}.service`.
    UnitTemplate: check_unit_template, pattern r"^[A-Za-z0-9][A-Za-z0-9:_.-]*@\{user\}\.(service|timer|socket|path)$";
    /// A Kubernetes quantity, such as `4`, `500m` or `8Gi`.
    Quantity: check_quantity, pattern r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$";
    /// An amount of memory as systemd spells it, such as `16G`, `50%` or `infinity`.
    MemorySize: check_memory_size, pattern r"^([0-9]+[KMGT]?|[0-9]+%|infinity)$";
    /// A public ssh key on one line, as in `authorized_keys` but without options.
    SshKey: check_ssh_key, pattern r"^(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521)|sk-ssh-ed25519@openssh\.com|sk-ecdsa-sha2-nistp256@openssh\.com) [A-Za-z0-9+/]{64,}={0,2}( .*)?$";
    /// The name of a git branch or tag, without `refs/heads/` or `refs/tags/`.
    RefName: check_ref, pattern r"^[^\x00-\x20~^:?*\[\\\x7f]+$";
    /// The identifier of a git object: forty hexadecimal digits.
    ObjectId: check_object_id, pattern r"^[0-9a-f]{40}$";
    /// The name of a program, without a folder.
    ProgramName: check_program, pattern r"^[A-Za-z0-9_][A-Za-z0-9._+-]{0,63}$";
    /// A program: a name that is looked for, or an absolute path.
    ProgramPath: check_program_path, pattern r"^([A-Za-z0-9_][A-Za-z0-9._+-]{0,63}|/[A-Za-z0-9._/+-]+)$";
    /// The name of an environment variable.
    VariableName: check_variable, pattern r"^[A-Za-z_][A-Za-z0-9_]{0,63}$";
    /// The name of a machine, with or without its domain.
    HostName: check_host_name, pattern r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$";
    /// A host's name, or a glob of names with `*` and `?`.
    HostGlob: check_host_glob, pattern r"^[A-Za-z0-9*?]([A-Za-z0-9.*?-]*[A-Za-z0-9*?])?$";
}

impl Login {
    /// The part before `@`: two logins with the same local part are the same person.
    pub fn local_part(&self) -> &str {
        self.0.split('@').next().unwrap_or(&self.0)
    }
}

impl UnitTemplate {
    /// The unit of one person.
    pub fn of(&self, user: &OsUser) -> UnitName {
        UnitName(self.0.replace("{user}", user.as_str()))
    }
}

impl UnitName {
    /// The account's name.
    pub fn instance(&self) -> &str {
        let rest = self.0.split_once('@').map_or("", |(_, rest)| rest);
        rest.rsplit_once('.').map_or("", |(instance, _)| instance)
    }

    /// The name of the template's file, such as `t3-serve@.service`.
    pub fn template(&self) -> String {
        let (prefix, rest) = self.0.split_once('@').unwrap_or((&self.0, ""));
        let kind = rest.rsplit_once('.').map_or("", |(_, kind)| kind);
        format!("{prefix}@.{kind}")
    }
}

impl Shell {
    /// The shell that every Debian has.
    pub fn bash() -> Shell {
        Shell("/bin/bash".into())
    }
}

impl ProgramPath {
    /// Claude Code, wherever the person has it.
    pub fn claude() -> ProgramPath {
        ProgramPath("claude".into())
    }
}

fn refuse<T>(why: impl Into<Cow<'static, str>>) -> Result<T, NameError> {
    Err(NameError(why.into()))
}

/// Accounts and groups that Debian's base system owns, whatever their ids; from base-passwd and systemd.
const SYSTEM_NAMES: &[&str] = &[
    "root",
    "daemon",
    "bin",
    "sys",
    "sync",
    "games",
    "man",
    "lp",
    "mail",
    "news",
    "uucp",
    "proxy",
    "www-data",
    "backup",
    "list",
    "irc",
    "_apt",
    "nobody",
    "nogroup",
    "messagebus",
    "sshd",
    "rosterd",
    "polkitd",
    "tss",
    "systemd-network",
    "systemd-resolve",
    "systemd-timesync",
    "systemd-journal",
    "systemd-coredump",
    "systemd-oom",
];

fn check_unix_name(text: &str) -> Result<(), NameError> {
    let mut bytes = text.bytes();
    match bytes.next() {
        None => return refuse("may not be empty"),
        Some(b'-') => return refuse("may not begin with `-`"),
        Some(b'a'..=b'z' | b'_') => {}
        Some(_) => return refuse("must begin with a lower-case letter or `_`"),
    }
    if !bytes.all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-')) {
        return refuse("may hold only a-z, 0-9, `_` and `-`");
    }
    if text.len() > 32 {
        return refuse(format!("is {} bytes long, at most 32 are possible", text.len()));
    }
    Ok(())
}

fn check_os_user(text: &str) -> Result<(), NameError> {
    check_unix_name(text)?;
    if SYSTEM_NAMES.contains(&text) {
        return refuse("is an account of the system itself");
    }
    Ok(())
}

fn check_program(text: &str) -> Result<(), NameError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._+-".contains(&b);
    match text.bytes().next() {
        None => return refuse("may not be empty"),
        Some(first) if !(first.is_ascii_alphanumeric() || first == b'_') => {
            return refuse("must begin with a letter, a digit or `_`");
        }
        Some(_) => {}
    }
    if text.len() > 64 || !text.bytes().all(plain) {
        return refuse("is not the name of a program: at most 64 letters, digits, `.`, `_`, `+` and `-`");
    }
    Ok(())
}

fn check_program_path(text: &str) -> Result<(), NameError> {
    if !text.starts_with('/') {
        return check_program(text);
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._+-/".contains(&b);
    if text.len() > 1024 || text.len() == 1 || !text.bytes().all(plain) {
        return refuse("is not the path of a program: letters, digits, `.`, `_`, `+`, `-` and `/`");
    }
    Ok(())
}

fn check_variable(text: &str) -> Result<(), NameError> {
    let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    if !first || text.len() > 64 || !text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
        return refuse("is not the name of a variable: letters, digits and `_`");
    }
    Ok(())
}

fn check_group(text: &str) -> Result<(), NameError> {
    check_unix_name(text)
}

fn check_login(text: &str) -> Result<(), NameError> {
    match text.chars().next() {
        None => return refuse("may not be empty"),
        Some('-') => return refuse("may not begin with `-`"),
        Some(c) if !(c.is_ascii_alphanumeric() || c == '_') => {
            return refuse("must begin with a letter, a digit or `_`");
        }
        Some(_) => {}
    }
    if text.len() > 150 {
        return refuse("is longer than 150 bytes");
    }
    match text.chars().find(|c| !(c.is_ascii_alphanumeric() || "._@+-".contains(*c))) {
        Some(c) => refuse(format!("holds {c:?}, which would break the files made from it")),
        None => Ok(()),
    }
}

fn check_email(text: &str) -> Result<(), NameError> {
    let Some((local, domain)) = text.split_once('@') else {
        return refuse("is not an e-mail address: no `@`");
    };
    if local.is_empty() || domain.is_empty() || domain.contains('@') {
        return refuse("is not an e-mail address");
    }
    if text.len() > 254
        || text.chars().any(|c| c.is_whitespace() || c.is_control() || "\"'`:,;<>\\".contains(c))
    {
        return refuse("is not an e-mail address: it holds white space or a character that needs quoting");
    }
    Ok(())
}

fn check_label(text: &str) -> Result<(), NameError> {
    if text.is_empty() || text.len() > 63 {
        return refuse("must be 1 to 63 characters long");
    }
    if text.starts_with('-') || text.ends_with('-') {
        return refuse("may not begin or end with `-`");
    }
    if !text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-')) {
        return refuse("may hold only a-z, 0-9 and `-`");
    }
    Ok(())
}

fn check_namespace(text: &str) -> Result<(), NameError> {
    check_label(text)?;
    if text == "default" || text.starts_with("kube-") {
        return refuse("is a namespace of the cluster itself");
    }
    Ok(())
}

fn check_repo(text: &str) -> Result<(), NameError> {
    match text.bytes().next() {
        None => return refuse("may not be empty"),
        Some(b) if !b.is_ascii_alphanumeric() => return refuse("must begin with a letter or a digit"),
        Some(_) => {}
    }
    if text.len() > 100 {
        return refuse("is longer than 100 bytes");
    }
    if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
        return refuse("may hold only letters, digits, `.`, `_` and `-`");
    }
    Ok(())
}

fn check_remote(text: &str) -> Result<(), NameError> {
    check_repo(text)?;
    if text == "origin" {
        return refuse("is the remote that a clone was made from");
    }
    // What git allows in no name of a ref: `refs/remotes/<name>/…` is made of it.
    if text.contains("..") || text.ends_with('.') || text.ends_with(".lock") {
        return refuse("may not hold `..` nor end with `.` or `.lock`");
    }
    Ok(())
}

fn check_domain(text: &str) -> Result<(), NameError> {
    if text.len() > 253 || !text.contains('.') {
        return refuse("is not a DNS name with at least two labels");
    }
    text.split('.').try_for_each(check_label)
}

fn check_shell(text: &str) -> Result<(), NameError> {
    if !text.starts_with('/') {
        return refuse("must be an absolute path");
    }
    if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._/+-".contains(&b)) {
        return refuse("may hold only letters, digits and `._/+-`");
    }
    if text.len() > 200 || text.ends_with('/') || text.split('/').any(|part| part == "..") {
        return refuse("is not the path of a program");
    }
    Ok(())
}

fn check_service(text: &str) -> Result<(), NameError> {
    check_label(text)?;
    if text.len() > 32 {
        return refuse("is longer than 32 bytes");
    }
    Ok(())
}

/// The kinds of units that are started and stop by themselves; a mount or a slice is nobody's service.
const UNIT_KINDS: &[&str] = &["service", "timer", "socket", "path"];

fn check_unit_of(text: &str, instance: impl Fn(&str) -> Result<(), NameError>) -> Result<(), NameError> {
    let Some((name, _)) = text.rsplit_once('.').filter(|(_, kind)| UNIT_KINDS.contains(kind)) else {
        return refuse("does not end with `.service`, `.timer`, `.socket` or `.path`");
    };
    let Some((prefix, of)) = name.split_once('@') else {
        return refuse("is no template unit: it has no `@{user}`, such as `t3-serve@{user}.service`");
    };
    if text.len() > 200 {
        return refuse("is longer than 200 bytes");
    }
    if !prefix.starts_with(|c: char| c.is_ascii_alphanumeric())
        || !prefix.bytes().all(|b| b.is_ascii_alphanumeric() || b":_.-".contains(&b))
    {
        return refuse(
            "may hold only letters, digits and `:_.-` before its `@`, and begins with a letter or a digit",
        );
    }
    instance(of)
}

fn check_unit(text: &str) -> Result<(), NameError> {
    check_unit_of(text, check_unix_name)
}

fn check_unit_template(text: &str) -> Result<(), NameError> {
    check_unit_of(text, |instance| match instance {
        "{user}" => Ok(()),
        _ => refuse("must have `{user}` behind its `@`, for the account's name"),
    })
}

fn check_quantity(text: &str) -> Result<(), NameError> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let suffix = &text[digits.len()..];
    let number = !digits.is_empty()
        && digits.split('.').count() <= 2
        && digits.split('.').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
    let known = ["", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    if number && known.contains(&suffix) && text.len() <= 32 {
        Ok(())
    } else {
        refuse("is not a quantity such as `4`, `500m` or `8Gi`")
    }
}

fn check_memory_size(text: &str) -> Result<(), NameError> {
    if text == "infinity" {
        return Ok(());
    }
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let number = !digits.is_empty() && digits.len() <= 15 && digits.bytes().all(|b| b.is_ascii_digit());
    match &text[digits.len()..] {
        "" | "K" | "M" | "G" | "T" if number => Ok(()),
        "%" if number && digits.parse::<u32>().is_ok_and(|percent| percent <= 100) => Ok(()),
        _ => refuse("is not a size as systemd spells it, such as `16G`, `512M`, `50%` or `infinity`"),
    }
}

/// The key types of OpenSSH that a login may rely on; `ssh-dss` is long refused by sshd itself.
const SSH_KEY_TYPES: &[&str] = &[
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

fn check_ssh_key(text: &str) -> Result<(), NameError> {
    if text.contains("PRIVATE KEY") {
        return refuse("is a private key; the roster takes only public ones, and this one is now burnt");
    }
    if text.chars().any(char::is_control) || text.len() > 16_384 {
        return refuse("is not one line of text");
    }
    let mut parts = text.splitn(3, ' ');
    let (kind, body) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    if !SSH_KEY_TYPES.contains(&kind) {
        return refuse("does not begin with the type of an ssh key, such as `ssh-ed25519`");
    }
    let data = body.trim_end_matches('=');
    let base64 = data.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+' || b == b'/');
    // Every key begins with the length of its type's name, a number below 2^24: three zero bytes.
    if body.len() % 4 != 0
        || body.len() - data.len() > 2
        || data.len() < 64
        || !base64
        || !data.starts_with("AAAA")
    {
        return refuse("is not a whole ssh key: what follows the type is cut short or garbled");
    }
    Ok(())
}

fn check_host_name(text: &str) -> Result<(), NameError> {
    if text.is_empty() || text.len() > 253 {
        return refuse("is not the name of a host");
    }
    if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
        return refuse("may hold only letters, digits, `.`, `_` and `-`");
    }
    if text.starts_with(['-', '.', '_']) || text.ends_with(['-', '.', '_']) {
        return refuse("may not begin or end with `-`, `.` or `_`");
    }
    Ok(())
}

fn check_host_glob(text: &str) -> Result<(), NameError> {
    if text.is_empty() || text.len() > 253 {
        return refuse("is not the name of a host");
    }
    if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b".*?-".contains(&b)) {
        return refuse("may hold only letters, digits, `.`, `-`, `*` and `?`");
    }
    if text.starts_with(['-', '.']) || text.ends_with(['-', '.']) {
        return refuse("may not begin or end with `-` or `.`");
    }
    Ok(())
}

/// As `git check-ref-format` says; also nothing that would be shown as something else.
fn check_ref(text: &str) -> Result<(), NameError> {
    let harmful = |c: char| c.is_control() || c.is_whitespace() || "~^:?*[\\".contains(c);
    let bad_part = |part: &str| part.is_empty() || part.starts_with('.') || part.ends_with(".lock");
    let bad_whole = text.len() > 240 || text == "@" || text.starts_with('-') || text.ends_with('.');
    if bad_whole || text.contains("..") || text.contains("@{") {
        return refuse("is no name of a branch or tag");
    }
    if text.chars().any(harmful) || text.split('/').any(bad_part) {
        return refuse("is no name of a branch or tag");
    }
    Ok(())
}

fn check_object_id(text: &str) -> Result<(), NameError> {
    let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    match text.len() == 40 && text.bytes().all(digit) {
        true => Ok(()),
        false => refuse("is no identifier of a git object"),
    }
}
