//! A Vault or OpenBao that `ROSTERD_TEST_VAULT_ADDR` names, with a token of root's in `ROSTERD_TEST_VAULT_TOKEN`: what the tests
//! show of the stand-in, they then show of it. It is for tests alone, because each test empties it first. The worker may
//! do there what docs/identity.md says that it needs, and nothing else.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Condvar, Mutex};
use std::thread::{self, ThreadId};

use serde_json::{Value, json};

#[derive(Debug, Clone)]
pub(crate) struct RealVault {
    /// `127.0.0.1:8200`
    host: String,
    token: String,
    /// The one that the worker has.
    narrow: String,
}

/// The policy of the worker.
const POLICY: &str = "what-the-docs-say";

impl RealVault {
    /// The one that is named.
    pub(crate) fn named() -> Option<RealVault> {
        let address = std::env::var("ROSTERD_TEST_VAULT_ADDR").ok().filter(|address| !address.is_empty())?;
        let token = std::env::var("ROSTERD_TEST_VAULT_TOKEN").expect("ROSTERD_TEST_VAULT_TOKEN");
        let host = address.trim_end_matches('/').strip_prefix("http://");
        let host = host.expect("ROSTERD_TEST_VAULT_ADDR begins with http://, as a server for tests has it");
        Some(RealVault { host: host.to_owned(), token, narrow: String::new() })
    }

    /// Leaves what a new server has, and the mounts that the tests use.
    pub(crate) fn empty(&mut self) {
        for kind in ["oidc", "kubernetes", "approle"] {
            self.call("DELETE", &format!("sys/auth/{kind}"), &Value::Null);
            self.ok("POST", &format!("sys/auth/{kind}"), &json!({"type": kind}));
        }
        for (mount, made) in [
            ("transit", json!({"type": "transit"})),
            ("secret", json!({"type": "kv", "options": {"version": "2"}})),
        ] {
            self.call("DELETE", &format!("sys/mounts/{mount}"), &Value::Null);
            self.ok("POST", &format!("sys/mounts/{mount}"), &made);
        }
        for id in self.list("identity/entity/id") {
            self.ok("DELETE", &format!("identity/entity/id/{id}"), &Value::Null);
        }
        for name in self.policies() {
            self.ok("DELETE", &format!("sys/policies/acl/{name}"), &Value::Null);
        }
        // A new engine of KV version 2 is not ready at once.
        while self.call("POST", "secret/data/ready", &json!({"data": {}})).0 >= 400 {
            thread::sleep(std::time::Duration::from_millis(50));
        }
        self.ok("DELETE", "secret/metadata/ready", &Value::Null);
        let docs = include_str!("../../../../docs/identity.md");
        let policy = docs.split_once("```hcl\n").and_then(|(_, rest)| rest.split_once("```")).unwrap().0;
        self.ok("POST", &format!("sys/policies/acl/{POLICY}"), &json!({"policy": policy}));
        self.narrow = self.hand_out(3600);
    }

    /// A token of the worker's that lives for so long.
    pub(crate) fn hand_out(&self, seconds: u64) -> String {
        let asked = json!({"policies": [POLICY], "ttl": format!("{seconds}s"), "renewable": true});
        let (code, said) = self.call("POST", "auth/token/create", &asked);
        assert!(code < 300, "{said}");
        said["auth"]["client_token"].as_str().unwrap().to_owned()
    }

    /// Lets the worker in by the role and the secret that the stand-in knows.
    pub(crate) fn let_in_by_approle(&self) {
        let role = "auth/approle/role/rosterd";
        self.ok("POST", role, &json!({"token_policies": [POLICY], "token_ttl": "1h"}));
        self.ok("POST", &format!("{role}/role-id"), &json!({"role_id": "the-role"}));
        self.ok("POST", &format!("{role}/custom-secret-id"), &json!({"secret_id": "hunter2-secret"}));
    }

    /// Those that somebody made.
    pub(crate) fn policies(&self) -> Vec<String> {
        let mut names = self.list("sys/policies/acl");
        names.retain(|name| !["default", "root", POLICY].contains(&name.as_str()));
        names
    }

    /// What the people's mount is called inside.
    pub(crate) fn accessor(&self) -> String {
        self.ok("GET", "sys/auth", &Value::Null)["oidc/"]["accessor"].as_str().unwrap().to_owned()
    }

    pub(crate) fn list(&self, path: &str) -> Vec<String> {
        let (_, said) = self.call("GET", &format!("{path}?list=true"), &Value::Null);
        let keys = said["data"]["keys"].as_array().cloned().unwrap_or_default();
        keys.iter().map(|key| key.as_str().unwrap().to_owned()).collect()
    }

    /// What is said to somebody who may do everything.
    pub(crate) fn ok(&self, method: &str, path: &str, body: &Value) -> Value {
        let (code, said) = self.call(method, path, body);
        assert!(code < 300, "{method} {path}: {code} {said}");
        said["data"].clone()
    }

    pub(crate) fn call(&self, method: &str, path: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(method, &format!("/v1/{path}"), &[("x-vault-token", &self.token)], body.as_bytes())
    }

    /// Passes on what was asked of us; `ours` is the token that stands for the real one.
    pub(crate) fn pass_on(
        &self,
        method: &str,
        target: &str,
        token: Option<&str>,
        ours: &str,
        body: &[u8],
    ) -> (u16, Value) {
        let token = token.map(|token| if token == ours { self.narrow.as_str() } else { token });
        let headers: Vec<(&str, &str)> = token.map(|token| ("x-vault-token", token)).into_iter().collect();
        self.send(method, target, &headers, body)
    }

    fn send(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> (u16, Value) {
        let mut stream = TcpStream::connect(&self.host).expect("the server of ROSTERD_TEST_VAULT_ADDR");
        // In version 1.0 an answer ends with its connection and has no chunks.
        let mut head = format!("{method} {target} HTTP/1.0\r\ncontent-length: {}\r\n", body.len());
        headers.iter().for_each(|(key, value)| head.push_str(&format!("{key}: {value}\r\n")));
        stream.write_all(format!("{head}x-vault-request: true\r\n\r\n").as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let code = head.split(' ').nth(1).unwrap().parse().unwrap();
        (code, serde_json::from_str(body).unwrap_or(Value::Null))
    }
}

/// There is one server for all tests: whoever has the turn has it until the last stand-in of that thread is gone.
#[derive(Debug)]
pub(crate) struct Turn(());

static HELD: (Mutex<Option<(ThreadId, usize)>>, Condvar) = (Mutex::new(None), Condvar::new());

impl Turn {
    pub(crate) fn take() -> Turn {
        let me = thread::current().id();
        let held = HELD.0.lock().unwrap();
        let mut held = HELD.1.wait_while(held, |held| held.is_some_and(|(who, _)| who != me)).unwrap();
        *held = Some((me, held.map_or(1, |(_, count)| count + 1)));
        Turn(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut held = HELD.0.lock().unwrap();
        *held = held.and_then(|(who, count)| (count > 1).then_some((who, count - 1)));
        HELD.1.notify_all();
    }
}
