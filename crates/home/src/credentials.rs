//! The person's own logins, from `~/.git-credentials`: read only when a server asks for one, given only to the
//! server they are for, each tried once, and never asked for.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;

use git2::{Cred, CredentialType, Error, ErrorClass, ErrorCode};

use crate::tree;

const FILE: &str = ".git-credentials";
const MAX_FILE: u64 = 1 << 20;

/// A password or token. It has no `Debug` and no `Display`, so it cannot end up in a message.
struct Secret(String);

struct Login {
    user: String,
    secret: Secret,
}

/// Answers a server that asks who is there.
pub(crate) struct Credentials<'a> {
    home: &'a OwnedFd,
    url: &'a str,
    /// What is left to try; nothing before the first question.
    logins: Option<VecDeque<Login>>,
    /// For the message, when all is tried: what became of it.
    pub(crate) outcome: Option<String>,
}

impl<'a> Credentials<'a> {
    pub(crate) fn new(home: &'a OwnedFd, url: &'a str) -> Self {
        Credentials { home, url, logins: None, outcome: None }
    }

    /// The next login for the server at `asking`.
    pub(crate) fn next(&mut self, asking: &str, allowed: CredentialType) -> Result<Cred, Error> {
        let refuse = |what: &str| Err(Error::new(ErrorCode::Auth, ErrorClass::Http, what));
        if !allowed.contains(CredentialType::USER_PASS_PLAINTEXT) {
            self.outcome = Some("it takes no name and password".into());
            return refuse("no login");
        }
        // libgit2 names the server that asks, which after a redirect need not be the one we came for.
        let Some(server) = Server::of(self.url).filter(|server| Server::of(asking).as_ref() == Some(server))
        else {
            self.outcome = Some("it is not the server of the URL".into());
            return refuse("no login");
        };
        if self.logins.is_none() {
            self.outcome = Some(format!("~/{FILE} has none for it"));
            self.logins = Some(match tree::read(self.home, FILE, MAX_FILE) {
                Ok(content) => {
                    find(&String::from_utf8_lossy(&content.unwrap_or_default()), &server, path_of(self.url))
                }
                Err(why) => {
                    self.outcome = Some(format!("~/{FILE} is not read: {why}"));
                    VecDeque::new()
                }
            });
        }
        match self.logins.as_mut().and_then(VecDeque::pop_front) {
            Some(login) => {
                self.outcome = Some(format!("it refused what ~/{FILE} has for it"));
                Cred::userpass_plaintext(&login.user, &login.secret.0)
            }
            None => refuse("no login"),
        }
    }
}

/// Scheme, host and port: what a login is bound to.
#[derive(PartialEq, Eq)]
struct Server {
    scheme: String,
    host: String,
    port: u16,
}

impl Server {
    fn of(url: &str) -> Option<Server> {
        let (scheme, rest) = url.split_once("://")?;
        let scheme = scheme.to_ascii_lowercase();
        let standard = match scheme.as_str() {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        let authority = rest.split(['/', '?', '#']).next()?;
        let host = authority.rsplit('@').next()?;
        let (host, port) = match host.rsplit_once(':') {
            // The colons of an IPv6 address are within brackets.
            Some((name, port)) if !port.ends_with(']') => (name, port.parse().ok()?),
            _ => (host, standard),
        };
        (!host.is_empty()).then(|| Server { scheme, host: host.to_ascii_lowercase(), port })
    }
}

/// The host of a URL with its port, for a message.
pub(crate) fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or(rest);
    authority.rsplit('@').next().unwrap_or(authority)
}

fn path_of(url: &str) -> &str {
    url.split_once("://")
        .and_then(|(_, rest)| rest.split_once('/'))
        .map_or("", |(_, path)| path.trim_end_matches('/'))
}

/// The logins for a server, in the order of the file, those for exactly this repository first. As with git, a login
/// with a path serves the whole server.
fn find(file: &str, server: &Server, path: &str) -> VecDeque<Login> {
    let mut found = VecDeque::new();
    let mut exact = 0;
    for line in file.lines() {
        let Some((scheme, rest)) = line.split_once("://") else { continue };
        let (authority, its_path) = rest.split_once('/').unwrap_or((rest, ""));
        let Some((user_info, host)) = authority.rsplit_once('@') else { continue };
        let Some((user, secret)) = user_info.split_once(':') else { continue };
        if Server::of(&format!("{scheme}://{}", decode(host).unwrap_or_default())).as_ref() != Some(server) {
            continue;
        }
        let (Some(user), Some(secret)) = (decode(user), decode(secret)) else { continue };
        if user.is_empty() {
            continue;
        }
        let login = Login { user, secret: Secret(secret) };
        if !path.is_empty() && decode(its_path.trim_end_matches('/')).as_deref() == Some(path) {
            found.insert(exact, login);
            exact += 1;
        } else {
            found.push_back(login);
        }
    }
    found
}

/// Percent-decoding, as git does it. A login with a control character is none: it could add a header of its own.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let hex = |digit: &u8| (*digit as char).to_digit(16);
        match (first, after) {
            (b'%', [high, low, after @ ..]) if hex(high).is_some() && hex(low).is_some() => {
                bytes.push((hex(high)? * 16 + hex(low)?) as u8);
                rest = after;
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).ok().filter(|text| !text.chars().any(char::is_control))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logins(file: &str, url: &str) -> Vec<String> {
        let server = Server::of(url).unwrap();
        find(file, &server, path_of(url))
            .into_iter()
            .map(|login| format!("{} {}", login.user, login.secret.0))
            .collect()
    }

    #[test]
    fn reads_gits_own_format() {
        let file = "# a comment\nhttps://ana:t%6Fken%40@git.example\nhttps://no-password@git.example\nnonsense\n\
                    https://bot:b@git.example/team/x.git\nhttps://crlf:a%0d%0ab@git.example\n\
                    https://ana:other@git.example:8443\nhttp://ana:plain@git.example\n";
        assert_eq!(logins(file, "https://git.example/team/y.git"), ["ana token@", "bot b"]);
        assert_eq!(logins(file, "https://GIT.example:443/team/x.git"), ["bot b", "ana token@"]);
        assert_eq!(logins(file, "https://git.example:8443/x"), ["ana other"]);
        assert_eq!(logins(file, "http://git.example/x"), ["ana plain"]);
    }

    #[test]
    fn invariant_7_a_login_is_for_one_server_only() {
        let file = "https://ana:t@git.example\n";
        for url in [
            "https://git.example.evil.example/x",
            "https://evil.example/git.example",
            "https://evil.example/@git.example/x",
            "https://git.example:444/x",
            "http://git.example/x",
            "https://xgit.example/x",
        ] {
            assert_eq!(logins(file, url), [""; 0], "{url}");
        }
    }
}
