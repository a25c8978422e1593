//! A roster that comes from git: reviewed, signed and private ones, and servers that fail or hang.

use std::time::Duration;

use machine_tests::{Forge, Machine, Suite, on_each_debian};
use serde_json::{Value, json};

on_each_debian!(
    a_roster_comes_from_git_with_its_commit_and_stays_when_that_fails_invariant_2,
    a_server_that_hangs_is_given_up_and_a_private_one_gets_its_credentials_invariant_7
);

fn person(name: &str, tier: &str) -> String {
    format!("  {name}: {{authentik_user: {name}, k8s_user: {name}, tier: {tier}}}\n")
}

fn a_roster_comes_from_git_with_its_commit_and_stays_when_that_fails_invariant_2(suite: Suite) {
    let mut forge = Forge::start();
    let machine = Machine::with_rosterd(suite);
    let people = |names: &[&str]| -> String {
        let all: String = names.iter().map(|name| person(name, "power-user")).collect();
        format!("# reviewed\nusers:\n{all}")
    };
    let url = forge.url("website");
    let config = |more: &str| {
        let text = format!(
            "[source]\ngit = \"{url}\"\nref = \"master\"\npath = \"roster.yaml\"\ninterval_s = 10\n{more}"
        );
        machine.write_file("/etc/rosterd/config.toml", text);
    };
    let status = || machine.run(&["rosterctl", "status", "--json"]).json();
    let until = |what: &str, is: &dyn Fn(&Value) -> bool| {
        machine.eventually(what, Duration::from_secs(60), |_| Some(status()).filter(|status| is(status)))
    };
    let is_here = |name: &'static str| move |status: &Value| status["subjects"][name]["state"] == "converged";
    forge.push("website", "roster.yaml", &people(&["ann", "bea"]));
    config("");
    let first = until("ann is here", &is_here("ann"));
    let commit = forge.head("website");
    assert_eq!(first["commit"], commit.as_str());
    assert!(machine.run(&["rosterctl", "status"]).ok().contains(&commit[..12]));
    let accepted = machine.journal(&["MESSAGE_ID=0c36f454c6f2483eb7e458385af15721"]);
    assert_eq!(accepted.last().unwrap().get("ROSTERD_COMMIT"), Some(commit.as_str()));
    // She is there before the run that made her has ended.
    machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
    assert_eq!(machine.run(&["rosterctl", "history", "--json"]).json()[0]["commit"], commit.as_str());
    assert_eq!(machine.sh("stat -c %U /var/cache/rosterd/source/*.git/HEAD").ok(), "rosterd\n");
    let out = machine
        .run(&["rosterctl", "user", "add", "eve", "authentik_user=eve", "k8s_user=eve", "tier=power-user"])
        .exits(1);
    assert!(out.stderr.contains("comes from"), "{out}");

    // An invalid roster is not taken over, and neither is one that nobody can fetch.
    forge.push("website", "roster.yaml", "users: {ann: {teir: admin}}\n");
    let waits = until("it waits", &|status| status["waiting"]["cause"] == "invalid");
    assert_eq!((&waits["commit"], &waits["subjects"]["ann"]["state"]), (&json!(commit), &json!("converged")));
    forge.push("website", "roster.yaml", &people(&["ann", "bea", "cid"]));
    until("cid is here", &is_here("cid"));
    forge.down();
    let failed = until("the failure is told", &|status| status["source"]["failed"].is_object());
    assert_eq!(failed["subjects"]["cid"]["state"], "converged");
    assert!(machine.run(&["rosterctl", "status"]).stdout.contains("not fetched for"));
    machine.run(&["rosterctl", "reconcile"]).ok();
    forge.push("website", "roster.yaml", &people(&["ann", "bea", "cid", "dan"]));
    forge.up();
    until("dan is here", &is_here("dan"));
    assert_eq!(machine.journal(&["MESSAGE_ID=d40b8e27f1a94c6e9a3d5c18b7e602f9"]).len(), 1, "told once");

    // Signed, by somebody who may.
    let new_key = |name: &str| {
        let key = forge.work("website").with_file_name(name).to_str().unwrap().to_owned();
        let made = std::process::Command::new("ssh-keygen")
            .args(["-q", "-t", "ed25519", "-N", "", "-f", &key])
            .status()
            .unwrap();
        assert!(made.success());
        (std::fs::read_to_string(format!("{key}.pub")).unwrap(), key)
    };
    let ((public, key), (_, others)) = (new_key("key"), new_key("others"));
    machine.write_file("/etc/rosterd/allowed_signers", format!("admin@example.org {public}"));
    config("allowed_signers = \"/etc/rosterd/allowed_signers\"\n");
    forge.push("website", "roster.yaml", &people(&["ann", "bea", "cid", "dan", "mal"]));
    until("it is refused", &|status| {
        status["source"]["failed"]["why"]
            .as_str()
            .is_some_and(|why| why.contains("is not signed by anybody who may"))
    });
    assert_eq!(status()["subjects"]["mal"], Value::Null);
    let signed_by = |key: &str, name: &'static str| {
        let roster = forge.work("website").join("roster.yaml");
        std::fs::write(roster, people(&["ann", "bea", "cid", "dan", name])).unwrap();
        let signing = format!("user.signingKey={key}");
        forge.git("website", &["-c", "gpg.format=ssh", "-c", &signing, "commit", "-qaS", "-m", "Signed"]);
        forge.git("website", &["push", "--quiet", "origin", "HEAD"]);
    };
    // By somebody whom nobody knows: well signed, and as little worth.
    let asked = || forge.requests("website").len();
    signed_by(&others, "eve");
    let (eves, before) = (forge.head("website"), asked());
    machine.eventually("it is fetched and refused", Duration::from_secs(60), |_| {
        (asked() > before + 4).then_some(())
    });
    let refused = status();
    let why = refused["source"]["failed"]["why"].as_str().unwrap();
    assert!(why.contains(&eves) && why.contains("is not signed by anybody who may"), "{why}");
    assert_eq!(refused["subjects"]["eve"], Value::Null);
    signed_by(&key, "sig");
    let signed = until("the signed one is taken", &is_here("sig"));
    assert_eq!(signed["commit"], forge.head("website").as_str());
    assert_eq!((&signed["subjects"]["mal"], &signed["subjects"]["eve"]), (&Value::Null, &Value::Null));

    // An earlier one that is as well signed gives nobody back what was taken from them since.
    let old = forge.head("website");
    signed_by(&key, "late");
    until("the next is taken", &|status| {
        status["subjects"]["sig"]["state"] == "cut" && is_here("late")(status)
    });
    forge.git("website", &["push", "--quiet", "--force", "origin", &format!("{old}:refs/heads/master")]);
    let refused = until("the earlier one is refused", &|status| {
        status["source"]["failed"]["why"].as_str().is_some_and(|why| why.contains("does not follow"))
    });
    assert_eq!(refused["subjects"]["sig"]["state"], "cut");
    assert_eq!(machine.sh("ls -A /var/cache/rosterd/source").ok(), "", "what is refused is kept");
    // Neither does one that was edited by hand since.
    machine.sh("sed -i 's/^# reviewed/# edited/' /etc/rosterd/roster.yaml; rosterctl wait --timeout 60").ok();
    assert_eq!(status()["commit"], Value::Null);
    // An admin who means it moves the roster away.
    machine.sh("mv /etc/rosterd/roster.yaml /root/").ok();
    let back = until("it is taken", &|status| {
        is_here("sig")(status) && status["subjects"]["late"]["state"] == "cut"
    });
    assert_eq!(back["commit"], old.as_str());
}

fn a_server_that_hangs_is_given_up_and_a_private_one_gets_its_credentials_invariant_7(suite: Suite) {
    let forge = Forge::start();
    let machine = Machine::with_rosterd(suite);
    let people = |names: &[&str]| -> String {
        let all: String = names.iter().map(|name| person(name, "power-user")).collect();
        format!("users:\n{all}")
    };
    let status = || machine.run(&["rosterctl", "status", "--json"]).json();
    let until = |what: &str, is: &dyn Fn(&Value) -> bool| {
        machine.eventually(what, Duration::from_secs(60), |_| Some(status()).filter(|status| is(status)))
    };
    let why = |status: &Value| status["source"]["failed"]["why"].as_str().unwrap_or_default().to_owned();
    let is_here = |name: &'static str| move |status: &Value| status["subjects"][name]["state"] == "converged";
    let config = |more: &str| {
        let url = forge.url("ledgerbook");
        let text = format!(
            "[source]\ngit = \"{url}\"\nref = \"{}\"\npath = \"roster.yaml\"\ninterval_s = 10\ndeadline_s = 5\n{more}",
            forge.git("ledgerbook", &["branch", "--show-current"]).trim()
        );
        machine.write_file("/etc/rosterd/config.toml", text);
    };
    forge.push("ledgerbook", "roster.yaml", &people(&["ann", "bea"]));

    // Without credentials, with wrong ones, and with those that open it.
    config("");
    until("it wants a login", &|status| !why(status).is_empty());
    assert_eq!(status()["subjects"]["ann"], Value::Null);
    machine.write_file("/etc/rosterd/git-credentials", forge.credentials().replace("t0ken", "wr0ng"));
    machine.sh("chmod 600 /etc/rosterd/git-credentials").ok();
    config("credentials_file = \"/etc/rosterd/git-credentials\"\n");
    until("they are refused", &|status| why(status).contains("Authentication failed"));
    machine.write_file("/etc/rosterd/git-credentials", forge.credentials());
    machine.sh("chmod 600 /etc/rosterd/git-credentials").ok();
    until("ann is here", &is_here("ann"));
    // They are kept nowhere else, and shown to nobody.
    let secret = "t0ken";
    assert_eq!(
        machine.sh(&format!("grep -rl {secret} /var/cache/rosterd /var/lib/rosterd /run || true")).ok(),
        ""
    );
    assert!(!machine.sh("journalctl --no-pager -o export").ok().contains(secret));
    assert!(!status().to_string().contains(secret));

    // A server that accepts and says nothing: given up after its time; what is in force stays, and runs go on.
    forge.push("ledgerbook", "roster.yaml", &people(&["ann", "bea", "cid"]));
    forge.hang("ledgerbook", true);
    let before = status();
    let failed = until("it is given up", &|status| why(status).contains("took longer than 5 s"));
    assert_eq!((&failed["commit"], &failed["source"]["commit"]), (&before["commit"], &before["commit"]));
    assert_eq!(failed["subjects"]["ann"]["state"], "converged");
    machine.eventually("the next fetch hangs", Duration::from_secs(60), |m| {
        (m.sh("pgrep -u rosterd -x git-remote-http").status == 0).then_some(())
    });
    machine.run(&["rosterctl", "reconcile"]).ok();
    // A daemon that is killed leaves nobody behind who fetches for ever, and knows what was in force.
    machine.run(&["systemctl", "kill", "-s", "KILL", "rosterd"]).ok();
    let again = machine.eventually("it is back", Duration::from_secs(60), |m| {
        let status = m.run(&["rosterctl", "status", "--json"]);
        (status.status == 0).then(|| status.json())
    });
    assert_eq!(
        (&again["commit"], &again["subjects"]["ann"]["state"]),
        (&before["commit"], &json!("converged"))
    );
    forge.hang("ledgerbook", false);
    until("cid is here", &is_here("cid"));
    assert_eq!(
        machine.journal(&["MESSAGE_ID=d40b8e27f1a94c6e9a3d5c18b7e602f9"]).len(),
        2,
        "once for each trouble"
    );
}
