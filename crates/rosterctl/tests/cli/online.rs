//! Commands that ask the daemon.

use serde_json::{Value, json};

use crate::daemon::{daemon, done, events, refusal, reply};
use crate::{Done, Place};

impl Place {
    fn ask(&self, args: &[&str]) -> Done {
        self.run(&[&["--socket", "control.sock"], args].concat())
    }
}

pub(crate) fn status(outcome: &str, waiting: Value) -> Value {
    json!({
        "generation": 12,
        "since": "2026-03-01T09:00:00Z",
        "activity": null,
        "waiting": waiting,
        "last_run": null,
        "outcome": outcome,
        "subjects": {
            "(machine)": { "state": "converged" },
            "alice": {
                "state": "degraded",
                "since": "2026-03-01T09:00:00Z",
                "failures": 2,
                "next_try": "2026-03-01T09:10:00Z",
                "problems": [{ "subject": "alice", "what": "no clone", "why": "the remote is down", "next": "wait" }],
            },
            "bob": { "state": "converged" },
        },
    })
}

pub(crate) fn held() -> Value {
    json!({
        "since": "2026-03-01T09:00:00Z",
        "cause": "held",
        "cuts": ["alice", "bob"],
        "why": {"objection": "too-many-cuts", "cuts": 2, "max_cuts": 1},
        "confirmed": false,
    })
}

fn run(outcome: &str, steps: Vec<Value>) -> Value {
    json!({
        "id": "20260301T115600Z-0001",
        "trigger": "request",
        "generation": 12,
        "started": "2026-03-01T11:56:00Z",
        "took_ms": 1412,
        "outcome": outcome,
        "steps": steps,
        "problems": [],
        "notices": [],
    })
}

pub(crate) fn ended(outcome: &str, steps: Vec<Value>) -> Value {
    let mut event = run(outcome, steps);
    event["event"] = "ended".into();
    event
}

fn step() -> Value {
    json!({ "subject": "alice", "action": { "kind": "add-to-group", "user": "alice", "group": "docker" }, "reason": "the tier has it" })
}

fn record() -> Value {
    let mut record = step();
    record["result"] = json!({ "state": "done" });
    record["took_ms"] = 7.into();
    record
}

pub(crate) fn step_event() -> Value {
    let mut event = record();
    event["event"] = "step".into();
    event
}

#[test]
fn status_exits_with_the_outcome() {
    for (outcome, code) in [("converged", 0), ("failed", 1), ("degraded", 3), ("held", 4)] {
        let place = Place::new();
        let _asked = daemon(&place, move |_| reply(json!({ "status": status(outcome, Value::Null) })));
        let text = place.ask(&["status"]).answer(code);
        assert!(text.starts_with(&format!("{outcome}: generation 12 in force for ")), "{text}");
        assert!(text.contains("! no clone: the remote is down"), "{text}");
        let json = place.ask(&["status", "--json"]).json(code);
        assert_eq!(json["subjects"]["alice"]["problems"][0]["why"], "the remote is down");
        assert_eq!(json["since"], "2026-03-01T09:00:00Z", "times are absolute for programs");
    }
}

#[test]
fn the_status_of_one_person_is_not_degraded_by_another() {
    let place = Place::new();
    let asked = daemon(&place, |_| reply(json!({ "status": status("degraded", Value::Null) })));
    let _text = place.ask(&["status", "bob"]).answer(0);
    let _text = place.ask(&["status", "alice"]).answer(3);
    assert_eq!(asked.lock().unwrap()[0], ("Status".into(), json!({ "user": "bob" })));
}

#[test]
fn plan_exits_2_when_there_are_changes_and_0_when_not() {
    let place = Place::new();
    let _asked = daemon(&place, |method| match method {
        "Plan" => reply(json!({ "plan": { "steps": [step()], "problems": [], "notices": [] } })),
        _ => reply(json!({ "status": status("converged", Value::Null) })),
    });
    insta::assert_snapshot!(place.ask(&["plan"]).answer(2), @r"
    alice
      + add to group docker (the tier has it)

    1 step for 1 person. Nothing was changed.
    ");
    let json = place.ask(&["plan", "--json"]).json(2);
    assert_eq!(json["steps"][0]["action"]["kind"], "add-to-group");
    assert_eq!(json["waiting"], Value::Null);

    let place = Place::new();
    let _asked = daemon(&place, |method| match method {
        "Plan" => reply(json!({ "plan": { "steps": [], "problems": [], "notices": [] } })),
        _ => reply(json!({ "status": status("converged", Value::Null) })),
    });
    insta::assert_snapshot!(place.ask(&["plan"]).answer(0), @"No change: all is as the roster says.");
}

#[test]
fn the_plan_of_a_provider_exits_2_when_there_are_changes_0_when_not_and_1_when_it_could_not_look() {
    let unread = json!({
        "subject": "(machine)", "what": "the cluster cannot be read, so nothing is done there", "why": "nobody answers",
        "next": "look whether it is up",
    });
    for (steps, problems, code) in [
        (vec![], vec![], 0),
        (vec![step()], vec![], 2),
        // What can be done is what is asked about; the rest is told beside it.
        (vec![step()], vec![unread.clone()], 2),
        (vec![], vec![unread.clone()], 1),
    ] {
        let place = Place::new();
        let plan = json!({ "steps": steps, "problems": problems, "notices": [] });
        let asked = daemon(&place, move |_| reply(json!({ "plan": plan.clone() })));
        let text = place.ask(&["plan", "--provider", "kubernetes", "--user", "alice"]).answer(code);
        assert_eq!(text.contains("nobody answers"), !problems.is_empty(), "{text}");
        assert_eq!(text.contains("No change: all is as"), code == 0, "{text}");
        let _json = place.ask(&["plan", "--provider", "kubernetes", "--json"]).json(code);
        let asked = asked.lock().unwrap();
        assert_eq!(asked[0], ("PlanProvider".into(), json!({ "provider": "kubernetes", "user": "alice" })));
    }
    // A provider that could not be looked at at all has no plan.
    let place = Place::new();
    let what =
        "there is no credential for vault: `file` of [vault.login]: there is no /etc/rosterd/vault-token";
    let _asked = daemon(&place, move |_| refusal("Failed", json!({ "what": what })));
    let text = place.ask(&["plan", "--provider", "vault"]).complaint(1);
    assert!(text.contains("`file` of [vault.login]"), "{text}");
}

#[test]
fn the_status_of_a_provider_says_when_there_was_no_run_and_what_may_be_left_there_invariant_8() {
    let place = Place::new();
    let mut all = status("converged", Value::Null);
    all["providers"] = json!({
        "kubernetes": { "running": false, "last_run": null, "degraded": {} },
        "vault": { "running": false, "last_run": null, "degraded": {}, "pending": ["carol"] },
    });
    let _asked = daemon(&place, move |_| reply(json!({ "status": all.clone() })));
    insta::assert_snapshot!(place.ask(&["status", "--provider", "kubernetes"]).answer(0), @"kubernetes, no run yet.");
    insta::assert_snapshot!(place.ask(&["status", "--provider", "vault"]).answer(0), @"
    vault, no run yet.
      may be left: carol left the roster; what they had here goes with the next run
                   that can take it
    ");
    let json = place.ask(&["status", "--provider", "vault", "--json"]).json(0);
    assert_eq!(json["pending"], json!(["carol"]));
    let none = Place::new();
    let _asked = daemon(&none, |_| reply(json!({ "status": status("converged", Value::Null) })));
    let text = none.ask(&["status", "--provider", "vault"]).complaint(1);
    assert!(text.contains("no vault is configured") && text.contains("`[vault]`"), "{text}");
}

/// An empty plan of a machine that waits for its first roster compares nothing with nothing.
#[test]
fn a_plan_without_a_roster_does_not_say_that_all_is_well() {
    let place = Place::new();
    let _asked = daemon(&place, |method| match method {
        "Plan" => reply(json!({ "plan": { "steps": [], "problems": [], "notices": [] } })),
        _ => {
            let mut none = status("converged", Value::Null);
            none["since"] = Value::Null;
            reply(json!({ "status": none }))
        }
    });
    let text = place.ask(&["plan"]).answer(0);
    assert_eq!(text.trim(), "No change: no roster is in force, so there is nothing to compare with.");
}

#[test]
fn who_was_probably_meant_is_said() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let place = Place::new();
    let refused = AtomicBool::new(false);
    let _asked = daemon(&place, move |method| match method {
        "Plan" => reply(json!({ "plan": { "steps": [], "problems": [], "notices": [] } })),
        _ if refused.swap(true, Ordering::Relaxed) => {
            reply(json!({ "status": status("converged", Value::Null) }))
        }
        _ => refusal("NoSuchUser", json!({ "user": "alcie" })),
    });
    for command in ["status", "plan"] {
        let args = if command == "plan" { vec!["plan", "--user", "alcie"] } else { vec!["status", "alcie"] };
        let text = place.ask(&args).complaint(1);
        assert!(text.contains("nobody named alcie") && text.contains("did you mean alice?"), "{text}");
    }
}

#[test]
fn a_plan_for_a_mistyped_name_is_an_error() {
    let place = Place::new();
    let _asked = daemon(&place, |method| match method {
        "Plan" => reply(json!({ "plan": { "steps": [], "problems": [], "notices": [] } })),
        _ => reply(json!({ "status": status("converged", Value::Null) })),
    });
    let _text = place.ask(&["plan", "--user", "bob"]).answer(0);
    let text = place.ask(&["plan", "--user", "bop"]).complaint(1);
    assert!(text.contains("nobody named bop"), "{text}");
}

#[test]
fn a_plan_beside_an_invalid_roster_exits_1_and_says_so() {
    let place = Place::new();
    let waiting =
        json!({ "since": "2026-03-01T09:00:00Z", "cause": "invalid", "diagnostics": "error: a tab" });
    let _asked = daemon(&place, move |method| match method {
        "Plan" => reply(json!({ "plan": { "steps": [step()], "problems": [], "notices": [] } })),
        _ => reply(json!({ "status": status("failed", waiting.clone()) })),
    });
    let text = place.ask(&["plan"]).answer(1);
    assert!(text.contains("cannot be taken over") && text.contains("error: a tab"), "{text}");
}

#[test]
fn reconcile_shows_each_step_and_exits_with_the_outcome() {
    for (outcome, code) in [("converged", 0), ("failed", 1), ("degraded", 3), ("held", 4)] {
        let place = Place::new();
        let asked = daemon(&place, move |method| match method {
            "Status" => reply(
                json!({ "status": status(outcome, if outcome == "held" { held() } else { Value::Null }) }),
            ),
            _ => events(vec![
                json!({ "event": "phase", "text": "looking at the machine" }),
                step_event(),
                ended(outcome, vec![record()]),
            ]),
        });
        let text = place.ask(&["reconcile", "--user", "alice"]).answer(code);
        if outcome == "degraded" {
            insta::assert_snapshot!(text, @r"
            ok      alice: add to group docker, 7 ms
            degraded: 1 step done in 1.4 s; run 20260301T115600Z-0001, generation 12.
              next: `rosterctl status` shows who is affected and when it is tried again
            ");
        }
        assert_eq!(text.contains("rosterctl confirm"), outcome == "held", "{text}");
        let lines = place.ask(&["reconcile", "--json"]).answer(code);
        let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let kinds: Vec<_> = lines.iter().map(|line| line["event"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["phase", "step", "ended"]);
        assert_eq!(lines[2]["outcome"], outcome);
        assert_eq!(asked.lock().unwrap()[0], ("Reconcile".into(), json!({ "user": "alice" })));
    }
}

#[test]
fn wait_exits_as_reconcile_and_5_when_the_time_runs_out() {
    let place = Place::new();
    let asked = daemon(&place, |_| events(vec![ended("converged", vec![])]));
    let text = place.ask(&["wait", "--timeout", "2m"]).answer(0);
    insta::assert_snapshot!(text, @"converged: nothing to do in 1.4 s; run 20260301T115600Z-0001, generation 12.");
    assert_eq!(asked.lock().unwrap()[0], ("Wait".into(), json!({ "timeout_s": 120 })));

    let place = Place::new();
    let _asked = daemon(&place, |_| refusal("TimedOut", Value::Null));
    insta::assert_snapshot!(place.ask(&["wait", "--timeout", "1"]).complaint(5), @r"
    error: the roster on disk was not applied in time
      next: `rosterctl status` shows what it waits for
    ");
}

#[test]
fn wait_does_not_hang_with_a_daemon_that_does() {
    let place = Place::new();
    let _asked = daemon(&place, |_| {
        loop {
            std::thread::sleep(std::time::Duration::from_secs(60));
        }
    });
    let _text = place.ask(&["wait", "--timeout", "0"]).complaint(5);
}

#[test]
fn history_and_show_tell_past_runs() {
    let place = Place::new();
    let asked = daemon(&place, |method| match method {
        "History" => {
            let mut summary = run("converged", vec![]);
            for key in ["steps", "problems", "notices"] {
                summary.as_object_mut().unwrap().remove(key);
            }
            summary["done"] = 1.into();
            summary["failed"] = 0.into();
            reply(json!({ "runs": [summary] }))
        }
        _ => reply(json!({ "run": run("converged", vec![record()]) })),
    });
    let text = place.ask(&["history", "-n", "5"]).answer(0);
    assert!(text.contains("20260301T115600Z-0001") && text.contains("1.4 s"), "{text}");
    assert_eq!(place.ask(&["history", "--json"]).json(0)[0]["took_ms"], 1412);
    let text = place.ask(&["show", "last"]).answer(0);
    assert!(text.contains("ok      alice: add to group docker, 7 ms"), "{text}");
    assert_eq!(place.ask(&["show", "last", "--json"]).json(0)["steps"][0]["took_ms"], 7);
    assert_eq!(asked.lock().unwrap()[0], ("History".into(), json!({ "limit": 5 })));
    assert_eq!(asked.lock().unwrap()[2], ("Show".into(), json!({ "run": "last" })));
}

// Invariant 2: what a guard holds proceeds only when an admin has seen whom it cuts.
#[test]
fn confirm_shows_whom_it_cuts_and_names_them_to_the_daemon() {
    let place = Place::new();
    let asked = daemon(&place, |method| match method {
        "Confirm" => done(),
        _ => reply(json!({ "status": status("held", held()) })),
    });
    insta::assert_snapshot!(place.ask(&["confirm", "--yes"]).answer(0), @r"
    held: the roster on disk would cut 2 people, more than the 1 that [guard]
      max_cuts allows: alice, bob
      They lose access; accounts, files and ports stay, and all comes back with
      them.
    Confirmed. `rosterctl wait` shows the outcome.
    ");
    assert_eq!(asked.lock().unwrap()[1], ("Confirm".into(), json!({ "cuts": ["alice", "bob"] })));
    let done = place.ask(&["confirm", "--yes", "--json"]);
    assert_eq!(
        serde_json::from_str::<Value>(&done.stdout).unwrap(),
        json!({ "confirmed": true, "cuts": ["alice", "bob"] })
    );
    assert!(done.stderr.contains("alice, bob"), "{}", done.stderr);
}

#[test]
fn confirm_asks_for_a_terminal_or_yes() {
    let place = Place::new();
    let asked = daemon(&place, |_| reply(json!({ "status": status("held", held()) })));
    let done = place.run_with(&["--socket", "control.sock", "confirm"], "yes\n");
    assert_eq!(done.code, Some(1));
    insta::assert_snapshot!(done.stderr, @r"
    error: not confirmed, nobody is cut: there is no terminal to ask on
      next: say it with `rosterctl confirm --yes`
    ");
    assert!(asked.lock().unwrap().iter().all(|(method, _)| method == "Status"), "nothing was confirmed");
}

#[test]
fn confirm_with_nothing_held_is_no_error() {
    let place = Place::new();
    let _asked = daemon(&place, |_| reply(json!({ "status": status("converged", Value::Null) })));
    assert_eq!(place.ask(&["confirm"]).answer(0), "Nothing is held.\n");
}

#[test]
fn a_refusal_says_what_to_do() {
    let place = Place::new();
    let _asked = daemon(&place, |method| match method {
        "Reconcile" => refusal("PermissionDenied", json!({ "needs": "root" })),
        "Show" => refusal("NoSuchRun", json!({ "id": "x" })),
        "Status" => refusal("NoSuchUser", json!({ "user": "zed" })),
        _ => refusal("Failed", json!({ "what": "the ledger cannot be read" })),
    });
    let all = [
        place.ask(&["reconcile"]).complaint(1),
        place.ask(&["show", "x"]).complaint(1),
        place.ask(&["status", "zed"]).complaint(1),
        place.ask(&["history"]).complaint(1),
    ];
    insta::assert_snapshot!(all.concat(), @r"
    error: you may not do this: it needs root
      next: run it as root
    error: no run x is in the ledger
      next: `rosterctl history` lists the runs
    error: nobody named zed is in the roster in force
      next: `rosterctl status` lists everybody; who was just added is known after the next run
    error: the ledger cannot be read
    ");
}

#[test]
fn without_a_daemon_an_error_says_how_to_get_one() {
    let place = Place::new();
    insta::assert_snapshot!(place.ask(&["status"]).complaint(1), @r"
    error: cannot ask rosterd at control.sock: No such file or directory (os error 2)
      next: rosterd does not run: systemctl status rosterd.socket rosterd; start it with systemctl start rosterd
    ");
}

#[test]
fn a_daemon_that_goes_away_is_told() {
    let place = Place::new();
    let _asked = daemon(&place, |_| vec![]);
    insta::assert_snapshot!(place.ask(&["status"]).complaint(1), @r"
    error: rosterd went away before it had answered
      next: systemctl status rosterd; what was cut off is made up for when it starts again
    ");
    insta::assert_snapshot!(place.ask(&["reconcile"]).complaint(1), @r"
    error: rosterd went away before it had answered
      next: systemctl status rosterd; what was cut off is made up for when it starts again
    ");
}

#[test]
fn a_daemon_of_another_version_is_told() {
    let place = Place::new();
    let _asked = daemon(&place, |method| match method {
        "Status" => reply(json!({ "status": { "generation": "new" } })),
        _ => vec![json!({ "error": "org.varlink.service.MethodNotFound", "parameters": { "method": "x" } })],
    });
    insta::assert_snapshot!(place.ask(&["status"]).complaint(1), @r#"
    error: rosterd answers in a form that this rosterctl does not know: invalid type: string "new", expected u64
      next: see that both are of version 0.1.0: systemctl restart rosterd
    "#);
    insta::assert_snapshot!(place.ask(&["history"]).complaint(1), @r"
    error: rosterd answers in a form that this rosterctl does not know: Method not found: x
      next: see that both are of version 0.1.0: systemctl restart rosterd
    ");
}
