//! JSON Schemas of the two files, from the types, for editors and other programs.
//!
//! What the types cannot say is added here: the second spelling of a quota, and what depends on the tier and
//! on the layout. The rules between people (nobody shares a login) are beyond JSON Schema; [`crate::parse`] has them all.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde_json::{Value, json};

use crate::config::Config;
use crate::model::{Roster, Tier};

/// The schema of `roster.yaml`.
pub fn roster() -> Schema {
    let mut schema = generate::<Roster>("rosterd: roster.yaml");
    if let Some(quantity) = schema.pointer_mut("/$defs/Quantity").and_then(Value::as_object_mut) {
        // `pods: 20` is as good as `pods: "20"`.
        quantity.insert("type".into(), json!(["string", "integer"]));
        quantity.insert("minimum".into(), json!(0));
    }
    sizes_may_be_numbers(&mut schema);
    if let Some(quota) = schema.pointer_mut("/$defs/Quota").and_then(Value::as_object_mut) {
        for (key, spelling) in [("cpu", "cpu_requests"), ("memory", "memory_requests")] {
            let same = quota.get("properties").and_then(|properties| properties.get(key)).cloned();
            if let (Some(properties), Some(mut same)) = (quota.get_mut("properties"), same) {
                same["description"] = json!(format!("The Kubernetes spelling of `{key}`."));
                properties[spelling] = same;
            }
        }
        let both = |a: &str, b: &str| json!({ "not": { "required": [a, b] } });
        quota.insert("allOf".into(), json!([both("cpu", "cpu_requests"), both("memory", "memory_requests")]));
    }
    if let Some(person) = schema.pointer_mut("/$defs/Person").and_then(Value::as_object_mut) {
        let owner = json!({ "properties": { "tier": { "const": "namespace-owner" } }, "required": ["tier"] });
        let some = |list: &str| json!({ "required": [list], "properties": { list: { "type": "array", "minItems": 1 } } });
        let workspace = json!({
            "properties": { "code_layout": { "const": "workspace" } },
            "required": ["code_layout"],
        });
        person.insert(
            "allOf".into(),
            json!([
                { "if": owner, "then": some("namespaces"), "else": { "not": some("namespaces") } },
                { "if": some("repos"), "then": workspace },
            ]),
        );
        for list in ["namespaces", "repos", "domains", "groups", "ssh_keys", "hosts"] {
            if let Some(list) = person.get_mut("properties").and_then(|properties| properties.get_mut(list)) {
                list["uniqueItems"] = json!(true);
            }
        }
    }
    for holder in ["", "/$defs/Person", "/$defs/Forgejo"] {
        if let Some(holder) = schema.pointer_mut(holder) {
            allow_empty(holder);
        }
    }
    schema
}

/// `memory_swap_max: 0` is as good as `memory_swap_max: "0"`.
fn sizes_may_be_numbers(schema: &mut Schema) {
    if let Some(size) = schema.pointer_mut("/$defs/MemorySize").and_then(Value::as_object_mut) {
        size.insert("type".into(), json!(["string", "integer"]));
        size.insert("minimum".into(), json!(0));
    }
}

/// `repos:` with nothing behind it is the same as no `repos`, and so is every field that is not required.
fn allow_empty(holder: &mut Value) {
    let required = holder.get("required").cloned().unwrap_or_default();
    let required: Vec<&str> = required.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let Some(properties) = holder.get_mut("properties").and_then(Value::as_object_mut) else { return };
    for (name, property) in properties {
        let Some(property) = property.as_object_mut().filter(|_| !required.contains(&name.as_str())) else {
            continue;
        };
        if let Some(kind) = property.get("type").filter(|kind| kind.is_string()).cloned() {
            property.insert("type".into(), json!([kind, "null"]));
        } else if let Some(reference) = property.remove("$ref") {
            property.insert("anyOf".into(), json!([{ "$ref": reference }, { "type": "null" }]));
        }
    }
}

/// The schema of `config.toml`.
pub fn config() -> Schema {
    let mut schema = generate::<Config>("rosterd: config.toml");
    sizes_may_be_numbers(&mut schema);
    if let Some(tiers) = schema.pointer_mut("/properties/tiers").and_then(Value::as_object_mut)
        && let Some(policy) = tiers.insert("additionalProperties".into(), json!(false))
    {
        let properties = Tier::ALL.map(|tier| (tier.as_str().to_owned(), policy.clone()));
        tiers.insert("properties".into(), Value::Object(properties.into_iter().collect()));
    }
    schema
}

fn generate<T: JsonSchema>(title: &str) -> Schema {
    let mut schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>();
    schema.insert("title".into(), title.into());
    schema
}
