//! Units of people: a pretended systemd takes the steps of plans, and the rules hold for every roster on it.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::select;
use roster::config::Config;
use roster::derive::{adopt_ports, derive};
use roster::ledger::{Ledger, Reload};
use roster::model::Roster;
use roster::name::{OsUser, UnitName};
use roster::observed::{Activity, PortHolder, UnitFile, UnitState, UnitsObserved};
use roster::plan::{self, Action, Plan, UnitsPlan};
use serde_json::{Value, json};

use crate::machine::{Machine, roster, shown, user};

const NAMES: [&str; 4] = ["al", "bo", "cy", "di"];

const CONFIG: &str = r#"
[[service]]
name = "t3"
base_port = 3773
env_file = "/etc/t3-serve/{user}.env"
port_key = "T3_PORT"
units = ["t3@{user}.service"]

[[service]]
name = "always"
units = ["always@{user}.service", "always@{user}.timer"]
tiers = ["admin", "power-user"]
stop_when_parked = false

[[service]]
name = "auth"
units = ["auth@{user}.timer"]
stop_without_claude_auth = true
"#;

fn config(text: &str) -> Config {
    roster::parse::config("config.toml", text.as_bytes())
        .unwrap_or_else(|all| panic!("{}", all.render(false)))
}

fn unit(name: &str) -> UnitName {
    name.parse().unwrap()
}

/// A systemd as plain data, and the ledger beside it.
#[derive(Debug, Clone, PartialEq)]
struct Systemd {
    config: Config,
    ledger: Ledger,
    units: BTreeMap<UnitName, UnitState>,
    holders: BTreeMap<u16, PortHolder>,
    /// Every unit that was started or stopped, in order.
    touched: Vec<(UnitName, &'static str)>,
}

impl Systemd {
    fn new() -> Systemd {
        Systemd {
            config: config(CONFIG),
            ledger: Ledger::default(),
            units: BTreeMap::new(),
            holders: BTreeMap::new(),
            touched: Vec::new(),
        }
    }

    fn plan(&self, people: &Roster) -> (UnitsPlan, roster::desired::Ports) {
        let machine = Machine { config: self.config.clone(), ..Machine::fresh() };
        let host = machine.observe(people);
        let mut ports = self.ledger.ports.clone();
        let (unknown, _) = adopt_ports(&mut ports, people, &self.config, &host);
        let desired = derive(people, &self.config, &ports, &unknown, &host.shells).unwrap();
        let watched = plan::units_to_watch(&desired, &self.ledger);
        let state = |unit: &UnitName| self.units.get(unit).cloned().unwrap_or_else(UnitState::stopped);
        let observed = UnitsObserved {
            units: watched.keys().map(|unit| (unit.clone(), state(unit))).collect(),
            installable: BTreeMap::new(),
            holders: self.holders.clone(),
        };
        (plan::units(&desired, &self.ledger, &observed), desired.ports)
    }

    /// A run, as the daemon does it.
    fn run(&mut self, people: &Roster) -> UnitsPlan {
        let (planned, ports) = self.plan(people);
        self.ledger.ports = ports;
        self.ledger.units = planned.owned.clone();
        for step in planned.stop.steps.iter().chain(&planned.start.steps) {
            match &step.action {
                Action::StopUnit { unit } => {
                    self.units.insert(unit.clone(), UnitState::stopped());
                    self.touched.push((unit.clone(), "stop"));
                }
                Action::EnableUnit { unit } => {
                    self.units.entry(unit.clone()).or_insert_with(UnitState::stopped).enabled = true;
                }
                Action::StartUnit { unit } => {
                    let state = self.units.entry(unit.clone()).or_insert_with(UnitState::stopped);
                    assert_ne!(state.activity, Activity::Active, "{unit} runs and was started again");
                    state.activity = Activity::Active;
                    self.touched.push((unit.clone(), "start"));
                }
                other => panic!("no step of units: {other:?}"),
            }
            plan::is_done(&mut self.ledger.units, step);
        }
        planned
    }

    fn runs(&self, name: &str) -> bool {
        self.units.get(&unit(name)).is_some_and(|state| state.activity == Activity::Active && state.enabled)
    }
}

fn both(planned: &UnitsPlan) -> String {
    let mut all = planned.stop.clone();
    all.append(planned.start.clone());
    shown(&all)
}

fn any_roster() -> impl Strategy<Value = Roster> {
    let tier = select(vec!["admin", "power-user", "namespace-owner"]);
    let person = (tier, any::<bool>(), any::<bool>()).prop_map(
        |(tier, parked, claude_auth)| json!({"tier": tier, "parked": parked, "claude_auth": claude_auth}),
    );
    prop::collection::btree_map(select(&NAMES[..]), person, 0..=NAMES.len()).prop_map(|people| {
        let people: serde_json::Map<String, Value> =
            people.into_iter().map(|(name, person)| (name.to_owned(), person)).collect();
        roster(people.into())
    })
}

/// Units of an earlier life in any state, among them some that are nobody's business.
fn any_systemd() -> impl Strategy<Value = Systemd> {
    let templates =
        vec!["t3@{}.service", "always@{}.timer", "auth@{}.timer", "own@{}.service", "t3@x{}.service"];
    let name = (select(templates), select(&NAMES[..])).prop_map(|(unit, user)| unit.replace("{}", user));
    let activity =
        select(vec![Activity::Active, Activity::Inactive, Activity::Failed("it ended with status 1".into())]);
    let state = (activity, any::<bool>()).prop_map(|(activity, enabled)| UnitState {
        activity,
        enabled,
        file: UnitFile::Loaded,
    });
    prop::collection::btree_map(name, state, 0..8).prop_map(|units| {
        let mut systemd = Systemd::new();
        systemd.units = units.into_iter().map(|(name, state)| (unit(&name), state)).collect();
        systemd
    })
}

proptest! {
    #[test]
    fn after_a_run_nothing_is_left_to_do_invariant_9(systemd in any_systemd(), people in any_roster()) {
        let mut systemd = systemd;
        systemd.run(&people);
        let after = systemd.clone();
        let again = systemd.run(&people);
        prop_assert_eq!(both(&again), "");
        prop_assert_eq!(systemd, after);
        prop_assert_eq!(plan::reload_due(again.stop.steps.iter().chain(&again.start.steps)), Reload::None);
    }

    #[test]
    fn what_was_not_ours_is_never_touched(
        systemd in any_systemd(),
        rosters in prop::collection::vec(any_roster(), 1..5),
    ) {
        let mut systemd = systemd;
        let configured = ["t3@", "always@", "auth@"];
        let mut listed: BTreeSet<OsUser> = BTreeSet::new();
        let before = systemd.units.clone();
        for people in rosters {
            systemd.touched.clear();
            let running = systemd.units.clone();
            systemd.run(&people);
            listed.extend(people.users.keys().cloned());
            for (unit, what) in &systemd.touched {
                prop_assert!(configured.iter().any(|prefix| unit.as_str().starts_with(prefix)), "{} {}", what, unit);
                prop_assert!(listed.contains(&user(unit.instance())), "{} {}", what, unit);
            }
            // What is wanted and runs goes on running.
            for (user, person) in people.users.iter().filter(|(_, person)| !person.parked) {
                let name = unit(&format!("t3@{user}.service"));
                let ran = running.get(&name).is_some_and(|state| state.activity == Activity::Active);
                prop_assert!(!ran || !systemd.touched.iter().any(|(touched, _)| *touched == name), "{}", person.tier);
            }
        }
        for (name, state) in before {
            if !listed.contains(&user(name.instance())) || name.as_str().starts_with("own@") {
                prop_assert_eq!(&systemd.units[&name], &state);
            }
        }
    }

    #[test]
    fn parking_and_back_is_as_before_with_the_same_ports(people in any_roster()) {
        let mut systemd = Systemd::new();
        systemd.run(&people);
        let before = systemd.clone();
        let mut parked = people.clone();
        parked.users.values_mut().for_each(|person| person.parked = true);
        systemd.run(&parked);
        for user in people.users.keys() {
            let runs = systemd.runs(&format!("t3@{user}.service"));
            prop_assert!(!runs);
        }
        systemd.run(&people);
        prop_assert_eq!(&systemd.units, &before.units);
        prop_assert_eq!(&systemd.ledger, &before.ledger);
    }

    #[test]
    fn whoever_left_has_no_unit_left_and_a_kill_in_between_forgets_none_invariant_5(
        people in any_roster(),
        steps in 0usize..6,
    ) {
        let mut systemd = Systemd::new();
        systemd.run(&people);
        // Killed after some steps of the run that retires all: the ledger was written before them.
        let (planned, _) = systemd.plan(&Roster::default());
        systemd.ledger.units = planned.owned;
        for step in planned.stop.steps.iter().take(steps) {
            if let Action::StopUnit { unit } = &step.action {
                systemd.units.insert(unit.clone(), UnitState::stopped());
            }
        }
        systemd.run(&Roster::default());
        prop_assert!(systemd.units.values().all(|state| *state == UnitState::stopped()));
        prop_assert!(systemd.ledger.units.is_empty(), "{:?}", systemd.ledger.units);
    }
}

#[test]
fn a_first_run_enables_and_starts_and_a_cut_stops_once_invariant_6() {
    let mut systemd = Systemd::new();
    let people = roster(json!({"al": {}, "bo": {"tier": "namespace-owner", "claude_auth": false}}));
    let first = systemd.run(&people);
    insta::assert_snapshot!(both(&first), @"
    al: enable t3@al.service
    al: start t3@al.service
    al: enable always@al.service
    al: start always@al.service
    al: enable always@al.timer
    al: start always@al.timer
    al: enable auth@al.timer
    al: start auth@al.timer
    bo: enable t3@bo.service
    bo: start t3@bo.service
    ");
    assert_eq!(plan::reload_due(&first.start.steps), Reload::System);
    let one = roster(json!({"bo": {"tier": "namespace-owner"}}));
    insta::assert_snapshot!(both(&systemd.run(&one)), @"
    al: stop and disable always@al.service
    al: stop and disable always@al.timer
    al: stop and disable auth@al.timer
    al: stop and disable t3@al.service
    bo: enable auth@bo.timer
    bo: start auth@bo.timer
    ");
    // An edge: what an admin starts afterwards is the admin's.
    systemd.units.get_mut(&unit("t3@al.service")).unwrap().activity = Activity::Active;
    assert_eq!(both(&systemd.run(&one)), "");
}

#[test]
fn what_keeps_a_unit_from_running_is_told() {
    let mut systemd = Systemd::new();
    let state = |file, activity| UnitState { file, activity, enabled: true };
    systemd.units.extend([
        (unit("t3@al.service"), state(UnitFile::Missing, Activity::Inactive)),
        (
            unit("t3@bo.service"),
            state(UnitFile::Broken("Unit has a bad unit file setting.".into()), Activity::Inactive),
        ),
        (unit("t3@cy.service"), state(UnitFile::Masked, Activity::Inactive)),
        (
            unit("t3@di.service"),
            state(UnitFile::Loaded, Activity::Restarting("it ended with status 1".into())),
        ),
        (unit("t3@ed.service"), state(UnitFile::Loaded, Activity::Failed("it ended with status 1".into()))),
    ]);
    let squatter = |unit: Option<&str>, process: Option<(u32, String)>| PortHolder {
        user: "mallory".into(),
        process,
        unit: unit.map(str::to_owned),
    };
    // 3778 is fay's, 3779 gus's, 3780 hal's.
    systemd.holders.insert(3778, squatter(Some("old@fay.service"), Some((4711, "node".into()))));
    systemd.holders.insert(3779, squatter(Some("session-3.scope"), Some((4712, "python3".into()))));
    systemd.holders.insert(3780, squatter(None, None));
    systemd.config.service.truncate(1);
    let people = roster(json!({
        "al": {}, "bo": {}, "cy": {}, "di": {}, "ed": {}, "fay": {}, "gus": {}, "hal": {},
    }));
    insta::assert_snapshot!(both(&systemd.plan(&people).0), @"
    ed: start t3@ed.service
    fay: enable t3@fay.service
    gus: enable t3@gus.service
    hal: enable t3@hal.service
    ! al: t3@al.service does not exist: systemd knows no t3@.service; install it, for example as /etc/systemd/system/t3@.service, or take it out of config.toml
    ! bo: t3@bo.service cannot be loaded: Unit has a bad unit file setting.; correct its file (`systemctl cat t3@bo.service`, `systemd-analyze verify t3@bo.service`)
    ! cy: t3@cy.service is masked: somebody forbade it; `systemctl unmask t3@cy.service`, or take it out of config.toml; for one person, set `parked: true`
    ! di: t3@di.service does not stay up, systemd starts it again and again: it ended with status 1; `journalctl -u t3@di.service -n 50` says why; what it runs must be mended
    ! ed: t3@ed.service had failed: it ended with status 1; `journalctl -u t3@ed.service -n 50` says why; rosterd starts it again, less and less often
    ! fay: port 3778 of `t3` is taken: process 4711 (node) of mallory in old@fay.service listens on it, not t3@fay.service; end that: `systemctl disable --now old@fay.service`; the port stays fay's, and t3@fay.service starts when it is free
    ! gus: port 3779 of `t3` is taken: process 4712 (python3) of mallory in session-3.scope listens on it, not t3@gus.service; end that: `kill 4712`; the port stays gus's, and t3@gus.service starts when it is free
    ! hal: port 3780 of `t3` is taken: a process of mallory listens on it, not t3@hal.service; end that: `ss -ltnp 'sport = :3780'` finds it; the port stays hal's, and t3@hal.service starts when it is free
    ");
}

#[test]
fn a_unit_whose_predecessor_holds_the_port_waits_for_nobody() {
    let mut systemd = Systemd::new();
    let people = roster(json!({"al": {}}));
    systemd.config.service.truncate(1);
    systemd.run(&people);
    systemd.config = config(&CONFIG.replace("t3@{user}", "new@{user}"));
    systemd.config.service.truncate(1);
    let holder =
        PortHolder { user: "al".into(), process: Some((7, "t3".into())), unit: Some("t3@al.service".into()) };
    systemd.holders.insert(3773, holder);
    insta::assert_snapshot!(both(&systemd.run(&people)), @"
    al: stop and disable t3@al.service
    al: enable new@al.service
    al: start new@al.service
    ");
    assert!(systemd.runs("new@al.service") && !systemd.runs("t3@al.service"));
}

#[test]
fn a_renamed_service_keeps_everybodys_port() {
    let people = roster(json!({"al": {}, "bo": {}}));
    let mut machine = Machine { config: config(CONFIG), ..Machine::fresh() };
    machine.run(&people);
    let ports =
        |machine: &Machine, service: &str| machine.ledger.ports.get(&service.parse().unwrap()).cloned();
    let before = ports(&machine, "t3");
    machine.config = config(&CONFIG.replace("\"t3\"", "\"web\""));
    let run = machine.run(&people);
    assert_eq!(
        shown(&run.plan).lines().filter(|line| line.contains("T3_PORT")).count(),
        0,
        "{}",
        shown(&run.plan)
    );
    assert_eq!(ports(&machine, "web"), before);
    assert_eq!(ports(&machine, "t3"), Some(BTreeMap::new()));
}

#[test]
fn a_template_that_cannot_be_enabled_is_told_once_and_started() {
    let people = roster(json!({"al": {}, "bo": {}}));
    let mut systemd = Systemd::new();
    systemd.config.service.truncate(1);
    let (_, ports) = systemd.plan(&people);
    let desired = derive(&people, &systemd.config, &ports, &BTreeSet::new(), &BTreeSet::new()).unwrap();
    let observed = UnitsObserved {
        units: plan::units_to_watch(&desired, &systemd.ledger)
            .into_keys()
            .map(|unit| (unit, UnitState::stopped()))
            .collect(),
        installable: BTreeMap::from([("t3@.service".to_owned(), false)]),
        holders: BTreeMap::new(),
    };
    insta::assert_snapshot!(both(&plan::units(&desired, &systemd.ledger, &observed)), @"
    al: start t3@al.service
    bo: start t3@bo.service
    - machine: t3@.service has no [Install] section, so its units cannot be enabled: rosterd starts them, boot does not; add one with `WantedBy=multi-user.target`
    ");
}

#[test]
fn units_that_were_not_looked_at_stay_ours_invariant_8() {
    let people = roster(json!({"al": {}}));
    let mut systemd = Systemd::new();
    systemd.run(&people);
    let desired = derive(
        &Roster::default(),
        &systemd.config,
        &systemd.ledger.ports,
        &BTreeSet::new(),
        &BTreeSet::new(),
    )
    .unwrap();
    let planned = plan::units(&desired, &systemd.ledger, &UnitsObserved::default());
    assert_eq!(planned.owned, systemd.ledger.units);
    assert_eq!((planned.stop, planned.start), (Plan::default(), Plan::default()));
}

#[test]
fn a_ledger_of_before_there_were_units_loads() {
    let mut value = serde_json::to_value(Ledger::default()).unwrap();
    let fields = value.as_object_mut().unwrap();
    assert!(fields.remove("units").is_some() && fields.remove("reload").is_some());
    assert_eq!(serde_json::from_value::<Ledger>(value).unwrap(), Ledger::default());
}
