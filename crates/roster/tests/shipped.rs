//! What is shipped beside the program says what the program does: the example roster, the explained
//! configuration, the schemas, the reference pages.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use roster::config::Config;
use serde_json::Value;

fn shipped(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)).unwrap()
}

fn example() -> roster::model::Roster {
    let text = shipped("roster.example.yaml");
    roster::parse::roster("roster.example.yaml", text.as_bytes())
        .unwrap_or_else(|all| panic!("{}", all.render(false)))
}

fn config(text: &str) -> Config {
    roster::parse::config("config.toml", text.as_bytes())
        .unwrap_or_else(|all| panic!("{}", all.render(false)))
}

/// The file as plain data, read by somebody else's parser.
fn yaml(text: &str) -> Value {
    read(text).unwrap()
}

fn read(text: &str) -> Result<Value, serde_saphyr::Error> {
    serde_saphyr::from_str_with_options(text, serde_saphyr::options! { strict_booleans: true })
}

fn toml(text: &str) -> Value {
    serde_json::to_value(toml::from_str::<toml::Table>(text).unwrap()).unwrap()
}

fn schema(schema: schemars::Schema) -> Value {
    schema.to_value()
}

fn valid(schema: &Value, instance: &Value) -> bool {
    jsonschema::draft202012::new(schema).unwrap().is_valid(instance)
}

/// Every path of properties that a schema knows, such as `users.*.quota.cpu`.
fn properties(root: &Value, schema: &Value, path: &str, into: &mut BTreeSet<String>) {
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        properties(root, root.pointer(reference.trim_start_matches('#')).unwrap(), path, into);
    }
    for alternative in schema.get("anyOf").and_then(Value::as_array).into_iter().flatten() {
        properties(root, alternative, path, into);
    }
    if let Some(items) = schema.get("items") {
        properties(root, items, path, into);
    }
    for (key, name) in [("properties", true), ("patternProperties", false)] {
        for (property, inner) in schema.get(key).and_then(Value::as_object).into_iter().flatten() {
            let path = format!("{path}.{}", if name { property } else { "*" });
            into.insert(path.clone());
            properties(root, inner, &path, into);
        }
    }
}

/// Every path that a value uses; below `users` the names are `*`.
fn used(value: &Value, path: &str, into: &mut BTreeSet<String>) {
    match value {
        // What a site writes there is its own.
        Value::Object(_) if path == ".file.keys" => {}
        Value::Object(fields) => {
            for (key, value) in fields {
                let path = format!("{path}.{}", if path == ".users" { "*" } else { key });
                into.insert(path.clone());
                used(value, &path, into);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| used(item, path, into)),
        _ => {}
    }
}

#[test]
fn the_example_is_valid_and_names_its_schema() {
    assert_eq!(example().users.len(), 4);
    let first = "# yaml-language-server: $schema=/usr/share/rosterd/roster.schema.json\n";
    assert!(shipped("roster.example.yaml").starts_with(first));
}

#[test]
fn the_example_fits_the_schema_and_uses_every_property_of_it() {
    let schema = schema(roster::schema::roster());
    let instance = yaml(&shipped("roster.example.yaml"));
    if let Err(error) = jsonschema::draft202012::new(&schema).unwrap().validate(&instance) {
        panic!("{}: {error}", error.instance_path());
    }
    let (mut known, mut seen) = (BTreeSet::new(), BTreeSet::new());
    properties(&schema, &schema, "", &mut known);
    used(&instance, "", &mut seen);
    assert!(known.len() > 30, "{known:?}");
    assert_eq!(known, seen);
}

#[test]
fn the_schemas_say_which_draft_they_are() {
    for schema in [roster::schema::roster(), roster::schema::config()] {
        let schema = schema.to_value();
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
        assert!(jsonschema::meta::validate(&schema).is_ok());
        for (name, definition) in schema["$defs"].as_object().unwrap() {
            assert!(definition["description"].is_string(), "{name} has no description");
        }
    }
}

#[test]
fn parser_and_schema_agree_on_the_corpus() {
    let schema = schema(roster::schema::roster());
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    for entry in fs::read_dir(corpus.join("valid")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let Ok(instance) = read(&text) else { continue };
        // A bare comment is nothing at all to a schema.
        assert!(instance.is_null() || valid(&schema, &instance), "{}", path.display());
    }
    // What only the parser can know: equality of two people's fields, and the rules of a name beyond its letters.
    let beyond = [
        "bad_os_user",
        "bad_names",
        "bad_ssh_key",
        "bad_limits",
        "duplicate_authentik_user",
        "infra_in_repos",
        "shared_identities",
    ];
    let mut checked = 0;
    for entry in fs::read_dir(corpus.join("invalid")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let Ok(text) = fs::read_to_string(&path) else { continue };
        if beyond.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let Ok(instance) = read(&text) else { continue };
        if ["alias", "yaml_", "control", "merge_key", "nested"].iter().any(|word| name.contains(word)) {
            continue;
        }
        checked += 1;
        assert!(!valid(&schema, &instance), "{name} fits the schema");
    }
    assert!(checked > 15, "{checked}");
}

#[test]
fn parser_and_schema_agree_on_the_corpus_of_configurations() {
    let schema = schema(roster::schema::config());
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let read = |path: &Path| fs::read_to_string(path).unwrap().parse::<toml::Table>();
    for entry in fs::read_dir(corpus.join("valid-config")).unwrap() {
        let path = entry.unwrap().path();
        assert!(valid(&schema, &serde_json::to_value(read(&path).unwrap()).unwrap()), "{}", path.display());
    }
    let mut checked = 0;
    for entry in fs::read_dir(corpus.join("invalid-config")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let Ok(table) = read(&path) else { continue };
        // What a key, a folder or a file is to another, and which folders are the system's, only the parser knows.
        let only_the_parser = [
            "homes_in_",
            "paths_below",
            "one_file",
            "map_where",
            "files_that",
            "membership_incomplete",
            "secret_as_a_source",
            "source_in_the_folder",
        ];
        if only_the_parser.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        checked += 1;
        assert!(!valid(&schema, &serde_json::to_value(table).unwrap()), "{name} fits the schema");
    }
    assert!(checked > 8, "{checked}");
}

#[test]
fn the_schema_knows_what_depends_on_the_tier_and_the_layout() {
    let schema = schema(roster::schema::roster());
    let fits = |fields: &str| {
        let text = format!("users: {{carol: {{authentik_user: carol, k8s_user: carol, {fields}}}}}");
        let parsed = roster::parse::roster("roster.yaml", text.as_bytes()).is_ok();
        assert_eq!(valid(&schema, &yaml(&text)), parsed, "{fields}");
        parsed
    };
    assert!(fits("tier: namespace-owner, namespaces: [carol]"));
    assert!(!fits("tier: namespace-owner, namespaces: []"));
    assert!(!fits("tier: namespace-owner"));
    assert!(!fits("tier: admin, namespaces: [carol]"));
    assert!(fits("tier: admin, namespaces: []"));
    assert!(fits("tier: admin, code_layout: workspace, repos: [tripit]"));
    assert!(!fits("tier: admin, repos: [tripit]"));
    assert!(!fits("tier: admin, quota: {cpu: 1, cpu_requests: 1}"));
    assert!(fits("tier: admin, quota: {cpu_requests: 1, pods: \"20\"}"));
    assert!(!fits("tier: admin, quota: {cpu: -1}"));
}

#[test]
fn the_shipped_config_is_the_default_one() {
    assert_eq!(config(&shipped("packaging/config.toml")), Config::default());
}

/// The shipped configuration with every key in force.
fn uncommented() -> String {
    let text = shipped("packaging/config.toml");
    let line = |line: &str| match line.strip_prefix('#') {
        Some(rest) if !rest.is_empty() && !rest.starts_with(' ') => rest.to_owned(),
        _ => line.to_owned(),
    };
    text.lines().map(line).collect::<Vec<_>>().join("\n")
}

#[test]
fn the_shipped_config_shows_the_defaults() {
    let mut config = config(&uncommented());
    assert!(config.host.take().is_some());
    // The keys without a default are shown with an example, and the empty tiers are the same as none.
    assert!(config.panes.memory_max.take().is_some());
    for policy in config.tiers.values_mut() {
        assert!(std::mem::take(&mut policy.limits) != roster::model::Limits::default());
    }
    assert!(config.source.git.take().is_some());
    assert!(config.source.allowed_signers.take().is_some());
    assert!(config.source.credentials_file.take().is_some());
    assert!(config.announce.webhook_file.take().is_some());
    assert!(config.metrics.textfile.take().is_some());
    assert!(config.membership.authentik.take().is_some());
    assert!(config.membership.group.take().is_some());
    assert!(config.membership.token_file.take().is_some());
    assert!(config.code.infra.take().is_some());
    assert!(config.code.repositories.take().is_some());
    assert!(config.code.push_remote.take().is_some());
    assert!(config.claude.managed_settings_source.take().is_some());
    assert!(config.tier_check.k8s_users.take().is_some());
    assert!(std::mem::take(&mut config.file).len() > 10);
    assert!(config.kubernetes.kubeconfig.take().is_some());
    assert!(config.kubernetes.portal.take().is_some());
    assert!(config.kubernetes.cluster_issuer.take().is_some());
    assert!(config.kubernetes.lease.take().is_some());
    assert!(config.kubernetes.tls_secret.take().is_some());
    assert!(config.vault.address.take().is_some());
    assert!(config.vault.ca.take().is_some());
    assert!(config.vault.namespace.take().is_some());
    assert!(config.vault.login.role.take().is_some());
    assert!(config.vault.login.mount.take().is_some());
    assert!(config.vault.k8s_users.take().is_some());
    assert!(config.vault.pipelines.take().is_some());
    assert!(config.vault.transit_mount.take().is_some());
    config.tiers.retain(|_, policy| !policy.groups.is_empty());
    assert_eq!(config, Config::default());
}

#[test]
fn the_shipped_config_has_every_key_of_the_schema_and_fits_it() {
    let schema = schema(roster::schema::config());
    let instance = toml(&uncommented());
    if let Err(error) = jsonschema::draft202012::new(&schema).unwrap().validate(&instance) {
        panic!("{}: {error}", error.instance_path());
    }
    let (mut known, mut seen) = (BTreeSet::new(), BTreeSet::new());
    properties(&schema, &schema, "", &mut known);
    used(&instance, "", &mut seen);
    assert!(known.len() > 25, "{known:?}");
    assert_eq!(known, seen);
}

#[test]
fn the_reference_pages_have_every_field() {
    for (page, schema) in [
        ("docs/roster.md", schema(roster::schema::roster())),
        ("docs/config.md", schema(roster::schema::config())),
    ] {
        let text = shipped(page);
        let mut known = BTreeSet::new();
        properties(&schema, &schema, "", &mut known);
        for path in known {
            let field = path.rsplit('.').next().unwrap();
            let spelled = [format!("`{field}`"), format!("[{field}]"), format!(".{field}]")];
            let there = field == "*" || spelled.iter().any(|spelled| text.contains(spelled));
            assert!(there, "{page} does not speak of {path}");
        }
    }
}

#[test]
fn the_sample_in_the_reference_is_what_the_parser_prints() {
    let page = shipped("docs/roster.md");
    let block = |language: &str| {
        let (_, rest) = page.split_once("<!-- sample -->").unwrap();
        let (_, rest) = rest.split_once(&format!("```{language}\n")).unwrap();
        rest.split_once("```").unwrap().0.to_owned()
    };
    let printed = roster::parse::roster("roster.yaml", block("yaml").as_bytes()).unwrap_err().render(false);
    assert_eq!(block("text"), printed);
}
