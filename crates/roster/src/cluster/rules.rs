//! What each kind of grant allows. No rule here names secrets, nor a wildcard that would hold them.

use serde_json::{Value, json};

/// What shows how things run, without anything that runs in them.
const WORKLOADS: [&str; 4] = ["daemonsets", "deployments", "replicasets", "statefulsets"];

/// Reading beside one's own namespaces.
pub(super) fn read_only() -> Value {
    let read = ["get", "list", "watch"];
    json!([
        {
            "apiGroups": [""],
            "resources": ["configmaps", "events", "namespaces", "nodes", "pods", "services"],
            "verbs": read,
        },
        {"apiGroups": ["apps"], "resources": WORKLOADS, "verbs": read},
        {"apiGroups": ["batch"], "resources": ["cronjobs", "jobs"], "verbs": read},
    ])
}

/// Reading widely. `pods/exec` would be a shell, `serviceaccounts/token` an identity: neither is here.
pub(super) fn power_user() -> Value {
    let read = ["get", "list", "watch"];
    json!([
        {
            "apiGroups": [""],
            "resources": [
                "configmaps", "endpoints", "events", "limitranges", "namespaces", "nodes", "persistentvolumeclaims",
                "persistentvolumes", "pods", "pods/log", "replicationcontrollers", "resourcequotas",
                "serviceaccounts", "services",
            ],
            "verbs": read,
        },
        {"apiGroups": ["apps"], "resources": WORKLOADS, "verbs": read},
        {"apiGroups": ["autoscaling"], "resources": ["horizontalpodautoscalers"], "verbs": read},
        {"apiGroups": ["batch"], "resources": ["cronjobs", "jobs"], "verbs": read},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": read},
        {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": read},
        {"apiGroups": ["metrics.k8s.io"], "resources": ["nodes", "pods"], "verbs": read},
        {"apiGroups": ["networking.k8s.io"], "resources": ["ingresses", "networkpolicies"], "verbs": read},
        {"apiGroups": ["policy"], "resources": ["poddisruptionbudgets"], "verbs": read},
        {
            "apiGroups": ["rbac.authorization.k8s.io"],
            "resources": ["clusterrolebindings", "clusterroles", "rolebindings", "roles"],
            "verbs": read,
        },
        {"apiGroups": ["storage.k8s.io"], "resources": ["storageclasses"], "verbs": read},
    ])
}

/// What a pipeline needs to bring out a new version in one namespace.
pub(super) fn deployer() -> Value {
    json!([
        {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["get", "list", "patch", "update"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_grant_of_ours_reads_secrets_or_starts_a_shell() {
        for rules in [read_only(), power_user(), deployer()] {
            for rule in rules.as_array().unwrap() {
                let listed =
                    |key: &str| rule[key].as_array().unwrap().iter().map(|item| item.as_str().unwrap());
                assert!(
                    listed("resources")
                        .chain(listed("verbs"))
                        .chain(listed("apiGroups"))
                        .all(|item| item != "*")
                );
                for resource in listed("resources") {
                    for forbidden in ["secret", "exec", "attach", "portforward", "proxy", "token"] {
                        assert!(!resource.contains(forbidden), "{resource}");
                    }
                }
            }
        }
        for rules in [read_only(), power_user()] {
            let verbs = rules.as_array().unwrap().iter().flat_map(|rule| rule["verbs"].as_array().unwrap());
            assert!(
                verbs.clone().count() > 3
                    && verbs.into_iter().all(|verb| verb != "create" && verb != "patch")
            );
        }
    }
}
