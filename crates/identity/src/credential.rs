//! What opens a provider. Read in the daemon, because the worker can open no file; held in types that cannot be printed,
//! and passed on through a pipe only.

use std::path::{Path, PathBuf};

use kube::config::Kubeconfig;
use roster::vault::Vault;
use serde_json::{Value, json};

use crate::protocol::Access;

/// What opens a provider.
#[derive(Debug, Clone)]
pub struct Credential {
    pub(crate) access: Access,
}

/// Why there is no credential.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// A file cannot be read.
    #[error("{0}")]
    Read(String),
    /// It is no kubeconfig.
    #[error("{} is no kubeconfig", path.display())]
    NoKubeconfig {
        /// The file.
        path: PathBuf,
    },
    /// It is no text of one line.
    #[error("{} does not hold one line of text", path.display())]
    NoText {
        /// The file.
        path: PathBuf,
    },
    /// It asks for something that is not done here.
    #[error("{} {what}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// What.
        what: &'static str,
    },
}

impl Credential {
    /// From a kubeconfig, whose files are read as well, by `read`: the worker can open none of them.
    pub fn kubeconfig(
        path: &Path,
        mut read: impl FnMut(&Path) -> Result<Vec<u8>, String>,
    ) -> Result<Credential, CredentialError> {
        // What the parser complains of may quote the text, and that is secret.
        let no_kubeconfig = || CredentialError::NoKubeconfig { path: path.into() };
        let refuse = |what| CredentialError::Refused { path: path.into(), what };
        let mut text_of = |name: &Path| -> Result<String, CredentialError> {
            let bytes = read(name).map_err(CredentialError::Read)?;
            String::from_utf8(bytes).map_err(|_| no_kubeconfig())
        };
        let text = text_of(path)?;
        let mut config = Kubeconfig::from_yaml(&text).map_err(|_| no_kubeconfig())?;
        let folder = path.parent().unwrap_or(Path::new("/"));
        let mut inline = |name: &mut Option<String>| -> Result<Option<String>, CredentialError> {
            name.take().map(|name| text_of(&folder.join(name))).transpose()
        };
        for cluster in config.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
            if cluster.insecure_skip_tls_verify == Some(true) {
                return Err(refuse("says `insecure-skip-tls-verify`; give the cluster's CA instead"));
            }
            if cluster.proxy_url.is_some() {
                return Err(refuse("names a proxy, which is not supported"));
            }
            if let Some(pem) = inline(&mut cluster.certificate_authority)? {
                cluster.certificate_authority_data = Some(base64(&pem));
            }
        }
        for user in config.auth_infos.iter_mut().filter_map(|named| named.auth_info.as_mut()) {
            if user.exec.is_some() || user.auth_provider.is_some() {
                return Err(refuse(
                    "logs in by a program; give a token or a certificate, for a service account",
                ));
            }
            if let Some(token) = inline(&mut user.token_file)? {
                user.token = Some(token.trim().to_owned().into());
            }
            if let Some(pem) = inline(&mut user.client_certificate)? {
                user.client_certificate_data = Some(base64(&pem));
            }
            if let Some(pem) = inline(&mut user.client_key)? {
                user.client_key_data = Some(base64(&pem).into());
            }
        }
        let whole = serde_json::to_string(&config).map_err(|_| no_kubeconfig())?;
        Ok(Credential { access: Access::Kubernetes { kubeconfig: whole.into() } })
    }

    /// From the folder of a service account as a pod has it, for the API server at `address`.
    pub fn service_account(
        folder: &Path,
        address: &str,
        mut read: impl FnMut(&Path) -> Result<Vec<u8>, String>,
    ) -> Result<Credential, CredentialError> {
        let mut text_of = |name: &str| -> Result<String, CredentialError> {
            let path = folder.join(name);
            let bytes = read(&path).map_err(CredentialError::Read)?;
            String::from_utf8(bytes).map_err(|_| CredentialError::NoText { path })
        };
        let token = one_line(&text_of("token")?, &folder.join("token"))?;
        let cluster = json!({"server": address, "certificate-authority-data": base64(&text_of("ca.crt")?)});
        let whole = kubeconfig("pod", &cluster, &json!({"token": token}));
        Ok(Credential { access: Access::Kubernetes { kubeconfig: whole.to_string().into() } })
    }

    /// From the files that `[vault]` names.
    pub fn vault(
        config: &Vault,
        mut read: impl FnMut(&Path) -> Result<Vec<u8>, String>,
    ) -> Result<Credential, CredentialError> {
        let mut text_of = |path: &Path| -> Result<String, CredentialError> {
            let bytes = read(path).map_err(CredentialError::Read)?;
            String::from_utf8(bytes).map_err(|_| CredentialError::NoText { path: path.into() })
        };
        let login = &config.login;
        let secret = one_line(&text_of(&login.file)?, &login.file)?;
        let mut cluster = json!({"server": config.address});
        if let Some(path) = &config.ca {
            cluster["certificate-authority-data"] = base64(&text_of(path)?).into();
        }
        let kubeconfig = kubeconfig("vault", &cluster, &json!({}));
        Ok(Credential {
            access: Access::Vault {
                kubeconfig: kubeconfig.to_string().into(),
                namespace: config.namespace.clone(),
                method: login.method,
                mount: login.mount.clone().unwrap_or_else(|| login.method.as_str().to_owned()),
                role: login.role.clone(),
                secret: secret.into(),
            },
        })
    }
}

/// A secret without what surrounds it.
fn one_line(text: &str, path: &Path) -> Result<String, CredentialError> {
    let secret = text.trim();
    if secret.is_empty() || !secret.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(CredentialError::NoText { path: path.into() });
    }
    Ok(secret.to_owned())
}

fn kubeconfig(name: &str, cluster: &Value, user: &Value) -> Value {
    json!({
        "current-context": name,
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "clusters": [{"name": name, "cluster": cluster}],
        "users": [{"name": name, "user": user}],
    })
}

fn base64(text: &str) -> String {
    // Kubernetes' own type for bytes in JSON.
    let bytes = k8s_openapi::ByteString(text.as_bytes().to_vec());
    match serde_json::to_value(bytes) {
        Ok(serde_json::Value::String(text)) => text,
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    const CONFIG: &str = "
apiVersion: v1
kind: Config
current-context: c
contexts: [{name: c, context: {cluster: k, user: u}}]
clusters: [{name: k, cluster: {server: 'https://127.0.0.1:6443', certificate-authority: ca.pem}}]
users: [{name: u, user: {tokenFile: /run/token}}]
";

    fn with(text: &str) -> Result<Credential, CredentialError> {
        let text = text.to_owned();
        Credential::kubeconfig(Path::new("/etc/rosterd/kubeconfig"), move |path| {
            match path.to_str().unwrap() {
                "/etc/rosterd/kubeconfig" => Ok(text.clone().into_bytes()),
                "/etc/rosterd/ca.pem" => Ok(b"PEM".to_vec()),
                "/run/token" => Ok(b"hunter2\n".to_vec()),
                other => Err(format!("there is no {other}")),
            }
        })
    }

    #[test]
    fn files_that_it_names_are_read_into_it() {
        let credential = with(CONFIG).unwrap();
        let Access::Kubernetes { kubeconfig } = &credential.access else { panic!() };
        let text = kubeconfig.expose_secret();
        assert!(text.contains("\"token\":\"hunter2\"") && text.contains("UEVN"), "{text}");
        assert!(!text.contains("/run/token"));
    }

    /// The one that people get starts a program to log in; here nothing is started.
    #[test]
    fn the_shipped_kubeconfig_of_people_parses_and_is_no_credential_of_the_daemon() {
        let shipped = include_str!("../../../packaging/kubeconfig.yaml");
        let config = Kubeconfig::from_yaml(shipped).unwrap();
        let exec = config.auth_infos[0].auth_info.as_ref().unwrap().exec.as_ref().unwrap();
        let args = exec.args.as_ref().unwrap();
        assert_eq!(args[..2], ["oidc-login", "get-token"]);
        for scope in ["email", "profile", "groups"] {
            assert!(args.contains(&format!("--oidc-extra-scope={scope}")), "{args:?}");
        }
        assert!(matches!(with(shipped), Err(CredentialError::Refused { .. })), "{:?}", with(shipped));
    }

    #[test]
    fn what_is_secret_is_never_shown_invariant_7() {
        assert!(!format!("{:?}", with(CONFIG).unwrap()).contains("hunter2"));
        for text in ["users: [hunter2", "users: [{name: hunter2, user: {token: [hunter2]}}]"] {
            let error = with(text).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        }
    }

    #[test]
    fn a_vault_is_opened_by_the_files_of_its_table_and_shows_none_of_them_invariant_7() {
        let config = Vault {
            address: Some("https://127.0.0.1:8200".into()),
            ca: Some("/ca.pem".into()),
            ..Vault::default()
        };
        let read = |secret: &'static str| {
            Credential::vault(&config, move |path| match path.to_str().unwrap() {
                "/ca.pem" => Ok(b"PEM".to_vec()),
                "/etc/rosterd/vault-token" => Ok(secret.as_bytes().to_vec()),
                other => Err(format!("there is no {other}")),
            })
        };
        let credential = read("hunter2\n").unwrap();
        let Access::Vault { kubeconfig, secret, .. } = &credential.access else { panic!() };
        assert!(kubeconfig.expose_secret().contains("UEVN"));
        assert_eq!(secret.expose_secret(), "hunter2");
        assert!(!format!("{credential:?}").contains("hunter2"));
        for wrong in ["", "\n", "hunter2\nhunter3", "hunter2\u{e9}"] {
            let error = read(wrong).unwrap_err();
            assert!(matches!(error, CredentialError::NoText { .. }) && !error.to_string().contains("hunter"));
        }
    }

    #[test]
    fn a_pod_has_its_credential_in_a_folder_and_its_token_is_shown_to_nobody_invariant_7() {
        let read = |secret: &'static str| {
            Credential::service_account(Path::new("/sa"), "https://10.0.0.1:443", move |path| {
                match path.to_str().unwrap() {
                    "/sa/ca.crt" => Ok(b"PEM".to_vec()),
                    "/sa/token" => Ok(secret.into()),
                    other => Err(format!("there is no {other}")),
                }
            })
        };
        let credential = read("hunter2\n").unwrap();
        let Access::Kubernetes { kubeconfig } = &credential.access else { panic!() };
        let parsed: Kubeconfig = serde_json::from_str(kubeconfig.expose_secret()).unwrap();
        let cluster = parsed.clusters[0].cluster.as_ref().unwrap();
        assert_eq!(cluster.server.as_deref(), Some("https://10.0.0.1:443"));
        assert_eq!(cluster.certificate_authority_data.as_deref(), Some("UEVN"));
        assert!(kubeconfig.expose_secret().contains(r#""token":"hunter2""#));
        assert!(!format!("{credential:?}").contains("hunter2"));
        assert!(matches!(read("hunter2\nhunter3"), Err(CredentialError::NoText { .. })));
    }

    #[test]
    fn what_would_not_verify_or_would_run_a_program_is_refused() {
        let insecure = CONFIG.replace("certificate-authority: ca.pem", "insecure-skip-tls-verify: true");
        let exec = CONFIG.replace("tokenFile: /run/token", "exec: {command: aws, apiVersion: v1}");
        for text in [insecure, exec] {
            assert!(matches!(with(&text), Err(CredentialError::Refused { .. })), "{text}");
        }
        assert!(matches!(with(&CONFIG.replace("/run/token", "gone")), Err(CredentialError::Read(_))));
    }
}
