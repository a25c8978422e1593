//! Policies as text and as what they mean. Vault keeps a policy as the text that somebody wrote, so two are compared by
//! what they allow, and who keeps one stands in its first line.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::name::OsUser;
use crate::plan::Subject;

/// What a policy allows: capabilities by path.
pub type Rules = BTreeMap<String, BTreeSet<String>>;

const MARK: &str = "# rosterd: ";

/// Who keeps a policy, and for whom: its first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Which rosterd.
    pub instance: String,
    /// The account.
    pub user: OsUser,
    /// The name of the person's entity.
    pub entity: String,
    /// What the people's mount knows the person by, when that was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
}

impl Mark {
    /// The mark of a policy; nothing when it is not one of rosterd's.
    pub fn of(text: &str) -> Option<Mark> {
        serde_json::from_str(text.lines().next()?.strip_prefix(MARK)?).ok()
    }

    /// Whom it is about.
    pub fn subject(&self) -> Subject {
        Subject::User(self.user.clone())
    }
}

/// A policy as it is written.
pub(super) fn text(mark: &Mark, rules: &Rules) -> String {
    let mark = serde_json::to_string(mark).unwrap_or_default();
    let mut text = format!("{MARK}{mark}\n# Kept by rosterd: what is changed here is changed back.\n");
    for (path, capabilities) in rules {
        let listed: Vec<String> = capabilities.iter().map(|one| format!("\"{one}\"")).collect();
        text.push_str(&format!("\npath \"{path}\" {{\n  capabilities = [{}]\n}}\n", listed.join(", ")));
    }
    text
}

/// Whether two policies allow the same. One that cannot be read is like no other.
pub(crate) fn same(one: &str, other: &str) -> bool {
    one == other || meaning(one).zip(meaning(other)).is_some_and(|(one, other)| one == other)
}

/// What a policy says of a path: capabilities, and everything else.
type Said = (BTreeSet<String>, Map<String, Value>);

/// What a policy says, whatever its order, spelling and white space.
fn meaning(text: &str) -> Option<BTreeMap<String, Said>> {
    let whole: Value = serde_json::from_str(text).ok().or_else(|| hcl::from_str(text).ok())?;
    let whole = whole.as_object()?;
    if whole.keys().any(|key| key != "path") {
        return None;
    }
    let mut paths = BTreeMap::new();
    for (path, found) in whole.get("path").and_then(Value::as_object).into_iter().flatten() {
        // Blocks of the same path add up.
        let (capabilities, others): &mut Said =
            paths.entry(path.trim_start_matches('/').to_owned()).or_default();
        for block in found.as_array().map_or_else(|| std::slice::from_ref(found), Vec::as_slice) {
            for (key, value) in block.as_object()? {
                match key.as_str() {
                    "capabilities" => {
                        for one in value.as_array()? {
                            capabilities.insert(one.as_str()?.to_owned());
                        }
                    }
                    // The old way to say it.
                    "policy" => {
                        capabilities.extend(old(value.as_str()?)?.iter().map(|one| (*one).to_owned()))
                    }
                    _ => drop(others.insert(key.clone(), value.clone())),
                }
            }
        }
        // Beside a refusal nothing else counts.
        if capabilities.contains("deny") {
            capabilities.retain(|one| one == "deny");
        }
    }
    Some(paths)
}

fn old(policy: &str) -> Option<&'static [&'static str]> {
    match policy {
        "deny" => Some(&["deny"]),
        "read" => Some(&["read", "list"]),
        "write" => Some(&["create", "read", "update", "delete", "list"]),
        "sudo" => Some(&["create", "read", "update", "delete", "list", "sudo"]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = r#"
path "secret/data/carol-dev/*" {
  capabilities = ["create", "read"]
}
path "kubernetes/creds/carol-dev-deployer" {
  capabilities = ["update"]
}
"#;

    #[test]
    fn policies_are_compared_by_what_they_allow() {
        for other in [
            "path \"kubernetes/creds/carol-dev-deployer\" {capabilities=[\"update\"]}\n# a remark\n\
             path \"secret/data/carol-dev/*\" {\n capabilities = [ \"read\",\n\t\"create\", \"read\" ]\n}",
            "path \"secret/data/carol-dev/*\" {\n capabilities = [\"create\"]\n}\n\
             path \"/secret/data/carol-dev/*\" {\n capabilities = [\"read\"]\n}\n\
             /* and */ path \"kubernetes/creds/carol-dev-deployer\" {\n capabilities = [\"update\"]\n}",
            r#"{"path": {"kubernetes/creds/carol-dev-deployer": {"capabilities": ["update"]},
                "secret/data/carol-dev/*": {"capabilities": ["create", "read"]}}}"#,
        ] {
            assert!(same(OURS, other), "{other}");
        }
        for other in [
            "",
            &OURS.replace("\"update\"", "\"update\", \"read\""),
            &OURS.replace("carol-dev/*", "*"),
            &format!("{OURS}path \"sys/*\" {{\n  capabilities = [\"sudo\"]\n}}\n"),
            &OURS.replace("[\"update\"]", "[\"update\"]\n  min_wrapping_ttl = \"1s\""),
            &OURS.replace("[\"update\"]", "[\"update\", \"deny\"]"),
            "path \"secret/data/carol-dev/*\" {",
            "nonsense",
        ] {
            assert!(!same(OURS, other), "{other}");
        }
        assert!(same(
            "path \"a\" {\n policy = \"read\"\n}",
            "path \"a\" {\n capabilities = [\"list\", \"read\"]\n}"
        ));
    }

    #[test]
    fn a_policy_of_ours_says_so_and_reads_back_as_what_it_allows() {
        let mark = Mark {
            instance: "default".into(),
            user: OsUser::new("carol").unwrap(),
            entity: "carol".into(),
            alias: Some("carol@example.org".into()),
        };
        let rules: Rules = BTreeMap::from([("secret/data/carol/*".into(), BTreeSet::from(["read".into()]))]);
        let written = text(&mark, &rules);
        insta::assert_snapshot!(written, @r#"
        # rosterd: {"instance":"default","user":"carol","entity":"carol","alias":"carol@example.org"}
        # Kept by rosterd: what is changed here is changed back.

        path "secret/data/carol/*" {
          capabilities = ["read"]
        }
        "#);
        assert_eq!(Mark::of(&written), Some(mark));
        assert_eq!(meaning(&written).unwrap().len(), 1);
        for other in
            ["", "path \"a\" {}", "# rosterd", "# rosterd: {}", "\n# rosterd: {\"instance\":\"default\"}"]
        {
            assert_eq!(Mark::of(other), None, "{other}");
        }
    }
}
