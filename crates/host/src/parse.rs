//! What the files of `/etc` say, as pure functions on their text.

use std::collections::{BTreeMap, BTreeSet};

use roster::observed::{GroupEntry, IdLimits, LoginState, PasswdEntry, SubordinateRange};

/// `/etc/passwd`. As for the C library, the first line of a name counts; lines that it would skip are skipped.
pub(crate) fn passwd(text: &str) -> BTreeMap<String, PasswdEntry> {
    let mut accounts = BTreeMap::new();
    for line in entries(text) {
        let fields: Vec<&str> = line.split(':').collect();
        if let [name, _, uid, gid, _, home, shell] = fields[..]
            && let (Ok(uid), Ok(gid)) = (uid.parse(), gid.parse())
        {
            let entry = PasswdEntry { uid, gid, home: home.into(), shell: shell.into() };
            accounts.entry(name.to_string()).or_insert(entry);
        }
    }
    accounts
}

/// `/etc/group`.
pub(crate) fn group(text: &str) -> BTreeMap<String, GroupEntry> {
    let mut groups = BTreeMap::new();
    for line in entries(text) {
        let fields: Vec<&str> = line.split(':').collect();
        if let [name, _, gid, members] = fields[..]
            && let Ok(gid) = gid.parse()
        {
            let members: BTreeSet<String> =
                members.split(',').filter(|member| !member.is_empty()).map(str::to_string).collect();
            groups.entry(name.to_string()).or_insert(GroupEntry { gid, members });
        }
    }
    groups
}

/// `/etc/shadow`, without any password.
pub(crate) fn shadow(text: &[u8]) -> BTreeMap<String, LoginState> {
    let mut logins = BTreeMap::new();
    for line in text.split(|byte| *byte == b'\n') {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b':').collect();
        if let [name, password, _, _, _, _, _, expires, _] = fields[..]
            && let Ok(name) = std::str::from_utf8(name)
        {
            let expires = std::str::from_utf8(expires).ok().and_then(|day| day.parse().ok());
            let locked = matches!(password.first(), Some(b'!' | b'*'));
            logins.entry(name.to_string()).or_insert(LoginState { locked, expires });
        }
    }
    logins
}

/// `/etc/subuid` or `/etc/subgid`.
pub(crate) fn subordinate(text: &str) -> Vec<SubordinateRange> {
    entries(text)
        .filter_map(|line| {
            let mut fields = line.split(':');
            let (owner, start, count) = (fields.next()?, fields.next()?, fields.next()?);
            Some(SubordinateRange {
                owner: owner.to_string(),
                start: start.parse().ok()?,
                count: count.trim_end().parse().ok()?,
            })
        })
        .collect()
}

/// Lines that name somebody: no comment, no NIS entry.
fn entries(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.is_empty() && !line.starts_with(['#', '+', '-', ' ', '\t', ':']))
}

/// `/etc/login.defs`.
#[derive(Debug, Default)]
pub(crate) struct LoginDefs(BTreeMap<String, String>);

impl LoginDefs {
    /// Reads it as shadow does: the last of several lines counts, quotes are dropped.
    pub(crate) fn new(text: &str) -> LoginDefs {
        let mut values = BTreeMap::new();
        for line in text.lines().map(str::trim).filter(|line| !line.starts_with('#')) {
            if let Some((key, value)) = line.split_once([' ', '\t']) {
                let value = value.trim_start_matches([' ', '\t', '"']).split('"').next().unwrap_or_default();
                values.insert(key.to_string(), value.trim_end().to_string());
            }
        }
        LoginDefs(values)
    }

    /// A number in C's spelling; nothing when absent or no number, as shadow then takes its default.
    pub(crate) fn number(&self, key: &str) -> Option<i64> {
        let text = self.0.get(key)?.as_str();
        let (sign, digits) = text.strip_prefix('-').map_or((1, text), |digits| (-1, digits));
        let number = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
            Some(hex) => i64::from_str_radix(hex, 16),
            None if digits.len() > 1 && digits.starts_with('0') => i64::from_str_radix(digits, 8),
            None => digits.parse(),
        };
        number.ok().map(|number| sign * number)
    }

    pub(crate) fn id_limits(&self) -> IdLimits {
        let default = IdLimits::default();
        let id =
            |key: &str, default: u32| self.number(key).and_then(|id| id.try_into().ok()).unwrap_or(default);
        IdLimits {
            uid_min: id("UID_MIN", default.uid_min),
            uid_max: id("UID_MAX", default.uid_max),
            gid_min: id("GID_MIN", default.gid_min),
            gid_max: id("GID_MAX", default.gid_max),
            sub_uid_min: id("SUB_UID_MIN", default.sub_uid_min),
            sub_uid_max: id("SUB_UID_MAX", default.sub_uid_max),
            sub_uid_count: id("SUB_UID_COUNT", default.sub_uid_count),
            sub_gid_min: id("SUB_GID_MIN", default.sub_gid_min),
            sub_gid_max: id("SUB_GID_MAX", default.sub_gid_max),
            sub_gid_count: id("SUB_GID_COUNT", default.sub_gid_count),
        }
    }
}

/// The sources of `passwd` in `nsswitch.conf` that may know accounts which are not in `/etc/passwd`. systemd's
/// own (its dynamic users, containers) are no directory.
pub(crate) fn directory_services(nsswitch: &str) -> Vec<String> {
    const LOCAL: [&str; 5] = ["files", "compat", "systemd", "mymachines", "myhostname"];
    let mut services = Vec::new();
    for line in nsswitch.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let Some((database, sources)) = line.split_once(':') else { continue };
        if database.trim() != "passwd" {
            continue;
        }
        let mut in_action = false;
        for word in sources.replace('[', " [ ").replace(']', " ] ").split_whitespace() {
            match word {
                "[" => in_action = true,
                "]" => in_action = false,
                _ if in_action || LOCAL.contains(&word) => {}
                _ => services.push(word.to_string()),
            }
        }
    }
    services
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_of_a_name_counts_and_nis_lines_are_nobody() {
        let accounts =
            passwd("a:x:1000:1001::/home/a:/bin/sh\na:x:0:0::/:/bin/sh\nbroken:x:1\n+::::::\n-b::::::\n");
        assert_eq!(accounts.len(), 1);
        assert_eq!(accounts["a"].uid, 1000);
        assert_eq!(accounts["a"].gid, 1001);
    }

    #[test]
    fn members_are_listed_each_once() {
        let groups = group("sudo:x:27:alice,bob,alice\nempty:x:28:\n");
        assert_eq!(groups["sudo"].members, BTreeSet::from(["alice".to_string(), "bob".to_string()]));
        assert!(groups["empty"].members.is_empty());
    }

    #[test]
    fn login_defs_are_read_as_shadow_reads_them() {
        let defs = LoginDefs::new(
            "# UID_MIN 1\n UID_MIN\t\t 2000\nUID_MIN 3000\nUMASK 022\nGID_MIN \"0x10\"\nUID_MAX many\n",
        );
        assert_eq!(defs.number("UID_MIN"), Some(3000));
        assert_eq!(defs.number("UMASK"), Some(0o22));
        assert_eq!(defs.number("GID_MIN"), Some(16));
        assert_eq!(defs.id_limits().uid_max, 60_000);
        assert_eq!(defs.id_limits().sub_uid_count, 65_536);
    }

    #[test]
    fn directories_are_told_from_local_sources() {
        let text = "# passwd: ldap\npasswd:  files [!UNAVAIL=return] systemd sss#x\ngroup: files ldap\n";
        assert_eq!(directory_services(text), ["sss"]);
        assert_eq!(directory_services("passwd: files systemd\n"), Vec::<String>::new());
    }

    #[test]
    fn subordinate_ranges_keep_their_order() {
        let ranges = subordinate("b:165536:65536\na:100000:65536\nbad:1\n");
        assert_eq!(ranges.iter().map(|range| range.owner.as_str()).collect::<Vec<_>>(), ["b", "a"]);
    }
}
