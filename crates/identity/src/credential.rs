//! What opens a provider. Read in the daemon, because the worker can open no file; held in types that cannot be printed,
//! and passed on through a pipe only.

use std::path::{Path, PathBuf};

use kube::config::{AuthInfo, Kubeconfig};
use roster::provider::is_in_the_clear;
use roster::vault::Vault;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::protocol::Access;

/// What opens a provider.
#[derive(Debug, Clone)]
pub struct Credential {
    pub(crate) access: Access,
}

/// Why there is no credential: by which key of the config, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{key}: {wrong}")]
pub struct CredentialError {
    /// `` `kubeconfig` of [kubernetes] ``
    key: &'static str,
    wrong: Wrong,
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
enum Wrong {
    #[error("{0}")]
    Read(String),
    #[error("{} is no kubeconfig", .0.display())]
    NoKubeconfig(PathBuf),
    #[error("{} does not hold one line of text", .0.display())]
    NoText(PathBuf),
    #[error("{} holds something else than certificates (PEM)", .0.display())]
    NoCertificates(PathBuf),
    #[error("{} {what}", path.display())]
    Refused { path: PathBuf, what: &'static str },
}

impl CredentialError {
    /// What an admin can do.
    pub fn next(&self) -> String {
        let what = match &self.wrong {
            Wrong::Read(_) => "make the file, or name the right one",
            Wrong::NoKubeconfig(_) | Wrong::Refused { .. } => {
                "write a kubeconfig with a service account's token there"
            }
            Wrong::NoText(_) => "write the secret there, and nothing else",
            Wrong::NoCertificates(_) => "write the CA's certificate there, as PEM",
        };
        format!("{what}; /usr/share/doc/rosterd/docs/identity.md has each step. It is read anew for each run")
    }
}

const KUBECONFIG: &str = "`kubeconfig` of [kubernetes]";
const VAULT_LOGIN: &str = "`file` of [vault.login]";
const VAULT_CA: &str = "`ca` of [vault]";

impl Credential {
    /// From a kubeconfig, whose files are read as well, by `read`: the worker can open none of them.
    pub fn kubeconfig(
        path: &Path,
        mut read: impl FnMut(&Path) -> Result<Vec<u8>, String>,
    ) -> Result<Credential, CredentialError> {
        // What the parser complains of may quote the text, and that is secret.
        let error = |wrong| CredentialError { key: KUBECONFIG, wrong };
        let no_kubeconfig = || error(Wrong::NoKubeconfig(path.into()));
        let refuse = |what| error(Wrong::Refused { path: path.into(), what });
        let mut text_of = |name: &Path| -> Result<String, CredentialError> {
            let bytes = read(name).map_err(|why| error(Wrong::Read(why)))?;
            let no_text = |_| if name == path { no_kubeconfig() } else { error(Wrong::NoText(name.into())) };
            String::from_utf8(bytes).map_err(no_text)
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
            if cluster.server.as_deref().is_some_and(is_in_the_clear) {
                return Err(refuse(
                    "names a `server` without TLS; what opens the cluster would travel in the clear",
                ));
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
        let context =
            config.contexts.iter().find(|named| Some(&named.name) == config.current_context.as_ref());
        let user = context.and_then(|named| named.context.as_ref()?.user.as_ref());
        let shows_nothing = |info: &AuthInfo| {
            let token = info.token.as_ref().is_some_and(|token| !token.expose_secret().trim().is_empty());
            !token && info.client_certificate_data.is_none() && info.password.is_none()
        };
        let mut users = config.auth_infos.iter().filter(|named| Some(&named.name) == user);
        if user.is_none() || users.any(|named| named.auth_info.as_ref().is_none_or(shows_nothing)) {
            return Err(refuse(
                "holds neither a token nor a certificate for the user of its current context",
            ));
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
        let (token, ca) = (folder.join("token"), folder.join("ca.crt"));
        let token = one_line(KUBECONFIG, &token, &mut read)?;
        let ca = certificates(KUBECONFIG, &ca, &mut read)?;
        let cluster = json!({"server": address, "certificate-authority-data": base64(&ca)});
        let whole = kubeconfig("pod", &cluster, &json!({"token": token}));
        Ok(Credential { access: Access::Kubernetes { kubeconfig: whole.to_string().into() } })
    }

    /// From the files that `[vault]` names.
    pub fn vault(
        config: &Vault,
        mut read: impl FnMut(&Path) -> Result<Vec<u8>, String>,
    ) -> Result<Credential, CredentialError> {
        let login = &config.login;
        let secret = one_line(VAULT_LOGIN, &login.file, &mut read)?;
        let mut cluster = json!({"server": config.address});
        if let Some(path) = &config.ca {
            cluster["certificate-authority-data"] = base64(&certificates(VAULT_CA, path, &mut read)?).into();
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
fn one_line(
    key: &'static str,
    path: &Path,
    read: &mut impl FnMut(&Path) -> Result<Vec<u8>, String>,
) -> Result<String, CredentialError> {
    let error = |wrong| CredentialError { key, wrong };
    let bytes = read(path).map_err(|why| error(Wrong::Read(why)))?;
    let secret = bytes.trim_ascii();
    match str::from_utf8(secret) {
        Ok(secret) if !secret.is_empty() && secret.bytes().all(|b| b.is_ascii_graphic()) => {
            Ok(secret.to_owned())
        }
        _ => Err(error(Wrong::NoText(path.into()))),
    }
}

/// Whose signature is trusted. What is in it, the TLS library reads.
fn certificates(
    key: &'static str,
    path: &Path,
    read: &mut impl FnMut(&Path) -> Result<Vec<u8>, String>,
) -> Result<String, CredentialError> {
    let error = |wrong| CredentialError { key, wrong };
    let bytes = read(path).map_err(|why| error(Wrong::Read(why)))?;
    match String::from_utf8(bytes) {
        Ok(text) if text.contains("-----BEGIN") => Ok(text),
        _ => Err(error(Wrong::NoCertificates(path.into()))),
    }
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

    const PEM: &str = "-----BEGIN CERTIFICATE-----";
    /// The same in a kubeconfig.
    const CODED: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0t";

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
                "/etc/rosterd/ca.pem" => Ok(PEM.into()),
                "/run/token" => Ok(b"hunter2\n".to_vec()),
                other => Err(format!("there is no {other}")),
            }
        })
    }

    fn wrong(tried: Result<Credential, CredentialError>) -> Wrong {
        tried.unwrap_err().wrong
    }

    /// What an admin reads beside the provider's name.
    #[test]
    fn what_is_wrong_names_the_key_of_the_config_the_file_and_what_to_do() {
        let vault = Vault { ca: Some("/ca.pem".into()), ..Vault::default() };
        let opened = |token: &'static str, ca: &'static str| {
            Credential::vault(&vault, |path| match (path.ends_with("ca.pem"), token) {
                (true, _) => Ok(ca.into()),
                (false, "") => Err(format!("there is no {}", path.display())),
                (false, token) => Ok(token.into()),
            })
        };
        let in_a_pod = Credential::service_account(Path::new("/sa"), "https://10.0.0.1", |path| {
            Err(format!("there is no {}", path.display()))
        });
        let all = [
            with("no: [kubeconfig"),
            with(&CONFIG.replace("ca.pem", "gone.pem")),
            with(&CONFIG.replace("certificate-authority: ca.pem", "insecure-skip-tls-verify: true")),
            // As a script writes it whose Secret has no token yet.
            with(&CONFIG.replace("tokenFile: /run/token", "token: \"\"")),
            with(&CONFIG.replace("https://127.0.0.1", "http://k8s.example.org")),
            in_a_pod,
            opened("", PEM),
            opened("hunter2 hunter3", PEM),
            opened("hunter2", "hunter2"),
        ];
        let told: Vec<String> = all
            .into_iter()
            .map(|tried| tried.unwrap_err())
            .map(|error| format!("{error}\n  next: {}", error.next()))
            .collect();
        insta::assert_snapshot!(told.join("\n"), @"
        `kubeconfig` of [kubernetes]: /etc/rosterd/kubeconfig is no kubeconfig
          next: write a kubeconfig with a service account's token there; /usr/share/doc/rosterd/docs/identity.md has each step. It is read anew for each run
        `kubeconfig` of [kubernetes]: there is no /etc/rosterd/gone.pem
          next: make the file, or name the right one; /usr/share/doc/rosterd/docs/identity.md has each step. It is read anew for each run
        `kubeconfig` of [kubernetes]: /etc/rosterd/kubeconfig says `insecure-skip-tls-verify`; give the cluster's CA instead
          next: write a kubeconfig with a service account's token there; /usr/share/doc/rosterd/docs/identity.md has each step. It is read anew for each run
        `kubeconfig` of [kubernetes]: /etc/rosterd/kubeconfig holds neither a token nor a certificate for the user of its current context
          next: write a kubeconfig with a service account's token there; /usr/share/doc/rosterd/docs/identity.md has each step. It is read anew for each run
        `kubeconfig` of [kubernetes]: /etc/rosterd/kubeconfig names a `server` without TLS; what opens the cluster would travel in the clear
          next: write a kubeconfig with a service account's token there; /usr/share/doc/rosterd/docs/identity.md has each step. It is read anew for each run
        `kubeconfig` of [kubernetes]: there is no /sa/token
          next: make the file, or name the right one; /usr/share/doc/rosterd/docs/identity.md has each step. It is read anew for each run
        `file` of [vault.login]: there is no /etc/rosterd/vault-token
          next: make the file, or name the right one; /usr/share/doc/rosterd/docs/identity.md has each step. It is read anew for each run
        `file` of [vault.login]: /etc/rosterd/vault-token does not hold one line of text
          next: write the secret there, and nothing else; /usr/share/doc/rosterd/docs/identity.md has each step. It is read anew for each run
        `ca` of [vault]: /ca.pem holds something else than certificates (PEM)
          next: write the CA's certificate there, as PEM; /usr/share/doc/rosterd/docs/identity.md has each step. It is read anew for each run
        ");
    }

    #[test]
    fn files_that_it_names_are_read_into_it() {
        let credential = with(CONFIG).unwrap();
        let Access::Kubernetes { kubeconfig } = &credential.access else { panic!() };
        let text = kubeconfig.expose_secret();
        assert!(text.contains("\"token\":\"hunter2\"") && text.contains(CODED), "{text}");
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
        assert!(matches!(wrong(with(shipped)), Wrong::Refused { .. }), "{:?}", with(shipped));
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
                "/ca.pem" => Ok(PEM.into()),
                "/etc/rosterd/vault-token" => Ok(secret.as_bytes().to_vec()),
                other => Err(format!("there is no {other}")),
            })
        };
        let credential = read("hunter2\n").unwrap();
        let Access::Vault { kubeconfig, secret, .. } = &credential.access else { panic!() };
        assert!(kubeconfig.expose_secret().contains(CODED));
        assert_eq!(secret.expose_secret(), "hunter2");
        assert!(!format!("{credential:?}").contains("hunter2"));
        for wrong in ["", "\n", "hunter2\nhunter3", "hunter2\u{e9}"] {
            let error = read(wrong).unwrap_err();
            assert!(matches!(error.wrong, Wrong::NoText(_)) && !error.to_string().contains("hunter"));
        }
    }

    #[test]
    fn a_pod_has_its_credential_in_a_folder_and_its_token_is_shown_to_nobody_invariant_7() {
        let read = |secret: &'static str| {
            Credential::service_account(Path::new("/sa"), "https://10.0.0.1:443", move |path| {
                match path.to_str().unwrap() {
                    "/sa/ca.crt" => Ok(PEM.into()),
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
        assert_eq!(cluster.certificate_authority_data.as_deref(), Some(CODED));
        assert!(kubeconfig.expose_secret().contains(r#""token":"hunter2""#));
        assert!(!format!("{credential:?}").contains("hunter2"));
        assert!(matches!(wrong(read("hunter2\nhunter3")), Wrong::NoText(_)));
    }

    #[test]
    fn what_would_not_verify_or_would_run_a_program_is_refused() {
        let insecure = CONFIG.replace("certificate-authority: ca.pem", "insecure-skip-tls-verify: true");
        let exec = CONFIG.replace("tokenFile: /run/token", "exec: {command: aws, apiVersion: v1}");
        for text in [insecure, exec] {
            assert!(matches!(wrong(with(&text)), Wrong::Refused { .. }), "{text}");
        }
        assert!(matches!(wrong(with(&CONFIG.replace("/run/token", "gone"))), Wrong::Read(_)));
    }
}
