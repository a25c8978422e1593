//! Policies as text and as what they mean. Vault keeps a policy as the text that somebody wrote, so two are compared by
//! what they allow, and who keeps one stands in its first line.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::name::OsUser;
use crate::plan::Subject;
use crate::vault::json::Members;

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
pub(crate) fn text(mark: &Mark, rules: &Rules) -> String {
    let mark = serde_json::to_string(mark).unwrap_or_default();
    let mut text = format!("{MARK}{mark}\n# Kept by rosterd: what is changed here is changed back.\n");
    for (path, capabilities) in rules {
        let listed: Vec<String> = capabilities.iter().map(|one| format!("\"{one}\"")).collect();
        text.push_str(&format!("\npath \"{path}\" {{\n  capabilities = [{}]\n}}\n", listed.join(", ")));
    }
    text
}

/// Whether a policy allows this and nothing else. One that cannot be read does not.
pub(crate) fn allows(text: &str, rules: &Rules) -> bool {
    meaning(text).is_some_and(|found| found == *rules)
}

/// Whether two policies allow the same. One that cannot be read is like no other.
pub fn same_policy(one: &str, other: &str) -> bool {
    meaning(one).zip(meaning(other)).is_some_and(|(one, other)| one == other)
}

/// What a policy allows, whatever its order, spelling and white space. One that says anything else besides, or says
/// something twice in one place, has no meaning here: how Vault takes that is its own business.
fn meaning(text: &str) -> Option<Rules> {
    let blocks = match Members::of(text) {
        Some(whole) => blocks_of_json(&whole)?,
        None => blocks_of_hcl(text)?,
    };
    let mut rules = Rules::new();
    for (path, capabilities) in blocks {
        // Blocks of the same path add up. Of slashes that begin it, Vault leaves out one.
        let path = path.strip_prefix('/').map(str::to_owned).unwrap_or(path);
        rules.entry(path).or_default().extend(capabilities);
    }
    for capabilities in rules.values_mut() {
        // Beside a refusal nothing else counts.
        if capabilities.contains("deny") {
            capabilities.retain(|one| one == "deny");
        }
    }
    Some(rules)
}

/// A block of a policy: a path, and what it allows there.
type Block = (String, Vec<String>);

fn blocks_of_hcl(text: &str) -> Option<Vec<Block>> {
    let body = hcl::parse(text).ok()?;
    body.into_iter().map(|structure| block_of_hcl(structure.into_block()?)).collect()
}

fn block_of_hcl(block: hcl::Block) -> Option<Block> {
    let ([label], "path") = (&block.labels[..], block.identifier.as_str()) else { return None };
    let mut attributes = block.body.iter();
    let (Some(attribute), None) = (attributes.next().and_then(|one| one.as_attribute()), attributes.next())
    else {
        return None;
    };
    let text = |value: &hcl::Expression| match value {
        hcl::Expression::String(text) => Some(text.clone()),
        _ => None,
    };
    let capabilities = match (attribute.key.as_str(), &attribute.expr) {
        ("capabilities", hcl::Expression::Array(all)) => all.iter().map(text).collect::<Option<_>>()?,
        ("policy", value) => old(&text(value)?)?,
        _ => return None,
    };
    Some((label.as_str().to_owned(), capabilities))
}

fn blocks_of_json(whole: &Members) -> Option<Vec<Block>> {
    let [(path, paths)] = &whole.0[..] else { return None };
    let paths = Members::of(paths.get()).filter(|paths| path == "path" && !paths.has_twins())?;
    let block = |(path, said): (String, Box<RawValue>)| {
        let block = Members::of(said.get())?;
        let [(key, value)] = &block.0[..] else { return None };
        let capabilities = match key.as_str() {
            "capabilities" => serde_json::from_str(value.get()).ok()?,
            "policy" => old(&serde_json::from_str::<String>(value.get()).ok()?)?,
            _ => return None,
        };
        Some((path, capabilities))
    };
    paths.0.into_iter().map(block).collect()
}

/// The old way to say it.
fn old(policy: &str) -> Option<Vec<String>> {
    let all: &[&str] = match policy {
        "deny" => &["deny"],
        "read" => &["read", "list"],
        "write" => &["create", "read", "update", "delete", "list"],
        "sudo" => &["create", "read", "update", "delete", "list", "sudo"],
        _ => return None,
    };
    Some(all.iter().map(|one| (*one).to_owned()).collect())
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
        let rules = meaning(OURS).unwrap();
        let same = |other: &str| allows(other, &rules);
        let json = r#"{"path": {"secret/data/carol-dev/*": {"capabilities": ["create", "read"]},
            "kubernetes/creds/carol-dev-deployer": {"capabilities": ["update"]}}}"#;
        for other in [
            "path \"kubernetes/creds/carol-dev-deployer\" {capabilities=[\"update\"]}\n# a remark\n\
             path \"secret/data/carol-dev/*\" {\n capabilities = [ \"read\",\n\t\"create\", \"read\" ]\n}",
            "path \"secret/data/carol-dev/*\" {\n capabilities = [\"create\"]\n}\n\
             path \"/secret/data/carol-dev/*\" {\n capabilities = [\"read\"]\n}\n\
             /* and */ path \"kubernetes/creds/carol-dev-deployer\" {\n capabilities = [\"update\"]\n}",
            json,
        ] {
            assert!(same(other), "{other}");
        }
        for other in [
            "",
            &OURS.replace("\"update\"", "\"update\", \"read\""),
            &OURS.replace("carol-dev/*", "*"),
            &format!("{OURS}path \"sys/*\" {{\n  capabilities = [\"sudo\"]\n}}\n"),
            &OURS.replace("[\"update\"]", "[\"update\"]\n  min_wrapping_ttl = \"1s\""),
            &OURS.replace("[\"update\"]", "[\"update\", \"deny\"]"),
            &OURS.replace("secret/data", "//secret/data"),
            // Vault reads all that is there; a parser may keep the last.
            &format!("path = {{}}\n{OURS}"),
            &OURS.replace("[\"update\"]", "[\"update\"]\n  capabilities = [\"update\"]"),
            &json.replace("{\"path\"", "{\"path\": {\"*\": {\"capabilities\": [\"sudo\"]}}, \"path\""),
            &json.replace(
                "{\"secret",
                "{\"secret/data/carol-dev/*\": {\"capabilities\": [\"sudo\"]}, \"secret",
            ),
            &json.replace("{\"capabilities\"", "{\"capabilities\": [\"sudo\"], \"capabilities\""),
            "path \"secret/data/carol-dev/*\" {",
            "nonsense",
        ] {
            assert!(!same(other), "{other}");
        }
        let old = Rules::from([("a".into(), BTreeSet::from(["list".into(), "read".into()]))]);
        assert!(allows("path \"a\" {\n policy = \"read\"\n}", &old));
        assert!(allows("# nothing", &Rules::new()));
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
