//! What is announced to people who do not read the journal: who joined, left and was removed, what is held, and what has
//! been degraded for long. Each once. Pure: what was announced and what is still to be sent is data of the ledger.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::ledger::{Degraded, Ledger, WaitingCause};
use crate::plan::{Action, Subject};
use crate::provider::Provider;
use crate::report::{Run, StepResult};

/// More than anybody reads. When a server is gone for so long, the oldest are dropped.
const MOST_QUEUED: usize = 200;

/// How long a subject is degraded before that is announced.
const LONG: SignedDuration = SignedDuration::from_hours(24);

/// What was announced, and what is still to be sent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcements {
    /// To be sent, the oldest first.
    pub queue: Vec<Announcement>,
    /// The number of the next one.
    pub next: u64,
    /// Whose long degradation was announced, until they recover.
    pub degraded: BTreeSet<Subject>,
    /// The same at each provider.
    #[serde(default)]
    pub providers: BTreeSet<(Provider, Subject)>,
    /// The fingerprint of the roster whose being held was announced.
    pub held: Option<String>,
}

/// Something to announce.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// Counts up, for ever.
    pub number: u64,
    /// When it happened.
    pub at: Timestamp,
    /// One sentence.
    pub text: String,
}

impl Announcements {
    /// Queues a sentence.
    pub fn add(&mut self, at: Timestamp, text: impl Into<String>) {
        self.queue.push(Announcement { number: self.next, at, text: text.into() });
        self.next += 1;
        let too_many = self.queue.len().saturating_sub(MOST_QUEUED);
        self.queue.drain(..too_many);
    }
}

/// Queues what a run has brought. Nothing is queued twice for the same thing, however often it is looked at.
pub fn after_run(ledger: &mut Ledger, run: &Run, now: Timestamp) {
    let Ledger { announcements, waiting, .. } = ledger;
    for record in run.steps.iter().filter(|record| record.result == StepResult::Done) {
        let Subject::User(user) = &record.step.subject else { continue };
        match &record.step.action {
            Action::CreateAccount(_) => announcements.add(now, format!("{user} joined: the account is made")),
            Action::Return => announcements.add(now, format!("{user} is back: access is given back")),
            Action::Cut => {
                announcements.add(now, format!("{user} left and is cut; account and files stay"));
            }
            _ => {}
        }
    }
    match waiting {
        Some(waiting) => {
            if let WaitingCause::Held { cuts, why, confirmed: false } = &waiting.cause
                && announcements.held.as_ref() != Some(&waiting.fingerprint)
            {
                announcements.held = Some(waiting.fingerprint.clone());
                let names: Vec<_> = cuts.iter().take(10).map(|user| user.as_str()).collect();
                let more = if cuts.len() > names.len() { ", …" } else { "" };
                let text = format!(
                    "a roster is held: {why} ({}{more}); `rosterctl confirm` lets it proceed",
                    names.join(", ")
                );
                announcements.add(now, text);
            }
        }
        None => announcements.held = None,
    }
    long_troubles(ledger, now);
}

/// Queues whose trouble has lasted for long, and whose long trouble is over. Providers have runs of their own.
pub fn long_troubles(ledger: &mut Ledger, now: Timestamp) {
    let Ledger { announcements, degraded, providers, .. } = ledger;
    let is_long = |state: &Degraded| now.duration_since(state.since) >= LONG;
    let why = |state: &Degraded| {
        state.problems.first().map_or_else(String::new, |found| format!(": {}: {}", found.what, found.why))
    };
    for (subject, state) in degraded.iter().filter(|(_, state)| is_long(state)) {
        if announcements.degraded.insert(subject.clone()) {
            announcements.add(now, format!("{subject} is degraded for more than a day{}", why(state)));
        }
    }
    for (provider, state) in providers.iter() {
        for (subject, state) in state.degraded.iter().filter(|(_, state)| is_long(state)) {
            if announcements.providers.insert((*provider, subject.clone())) {
                let whose = whose(*provider, subject);
                announcements.add(now, format!("{whose} is degraded for more than a day{}", why(state)));
            }
        }
    }
    let recovered: Vec<_> =
        announcements.degraded.iter().filter(|subject| !degraded.contains_key(subject)).cloned().collect();
    for subject in recovered {
        announcements.degraded.remove(&subject);
        announcements.add(now, format!("{subject} has recovered"));
    }
    let is_over = |(provider, subject): &&(Provider, Subject)| {
        !providers.get(provider).is_some_and(|state| state.degraded.contains_key(subject))
    };
    let recovered: Vec<_> = announcements.providers.iter().filter(is_over).cloned().collect();
    for (provider, subject) in recovered {
        announcements.add(now, format!("{} has recovered", whose(provider, &subject)));
        announcements.providers.remove(&(provider, subject));
    }
}

/// A subject of a provider's run.
fn whose(provider: Provider, subject: &Subject) -> String {
    match subject {
        Subject::Machine => provider.to_string(),
        Subject::User(user) => format!("{user} in {provider}"),
    }
}

/// The body of the request, as Slack and those compatible with it read it. What a person wrote stays text: no link, no
/// mention.
pub fn body(host: &str, announcement: &Announcement) -> String {
    let escaped = announcement.text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    serde_json::json!({ "text": format!("[{host}] {escaped}") }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Waiting;
    use crate::name::OsUser;
    use crate::plan::{Problem, Step};
    use crate::provider::ProviderState;
    use crate::report::{Outcome, StepRecord, Trigger};

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + hours * 3600).unwrap()
    }

    fn alice() -> Subject {
        Subject::User(OsUser::new("alice").unwrap())
    }

    fn run(steps: &[(Action, StepResult)]) -> Run {
        let record = |(action, result): &(Action, StepResult)| StepRecord {
            step: Step {
                subject: alice(),
                action: action.clone(),
                reason: String::new(),
                inverse: None,
                needs: Vec::new(),
            },
            result: result.clone(),
            took_ms: 0,
        };
        Run {
            id: "r".into(),
            trigger: Trigger::Change,
            generation: 1,
            commit: None,
            started: at(0),
            took_ms: 0,
            outcome: Outcome::Converged,
            waiting: None,
            steps: steps.iter().map(record).collect(),
            problems: Vec::new(),
            notices: Vec::new(),
            unfinished: BTreeSet::new(),
        }
    }

    fn texts(ledger: &mut Ledger) -> Vec<String> {
        ledger.announcements.queue.drain(..).map(|one| one.text).collect()
    }

    #[test]
    fn who_leaves_and_returns_is_announced_when_it_was_done() {
        let mut ledger = Ledger::default();
        let failed = StepResult::Failed { why: String::new(), next: String::new() };
        after_run(&mut ledger, &run(&[(Action::Cut, failed)]), at(0));
        assert_eq!(texts(&mut ledger), Vec::<String>::new());
        after_run(&mut ledger, &run(&[(Action::Cut, StepResult::Done)]), at(0));
        after_run(&mut ledger, &run(&[]), at(1));
        after_run(&mut ledger, &run(&[(Action::Return, StepResult::Done)]), at(2));
        assert_eq!(
            texts(&mut ledger),
            ["alice left and is cut; account and files stay", "alice is back: access is given back"]
        );
    }

    #[test]
    fn a_held_roster_is_announced_once_and_another_one_again() {
        let mut ledger = Ledger::default();
        let hold = |ledger: &mut Ledger, fingerprint: &str| {
            let cuts = vec![OsUser::new("alice").unwrap()];
            let cause = WaitingCause::Held { cuts, why: crate::guard::Objection::Emptied, confirmed: false };
            ledger.waiting = Some(Waiting { since: at(0), cause, fingerprint: fingerprint.into() });
            after_run(ledger, &run(&[]), at(0));
        };
        hold(&mut ledger, "one");
        hold(&mut ledger, "one");
        assert_eq!(texts(&mut ledger).len(), 1);
        hold(&mut ledger, "two");
        assert_eq!(
            texts(&mut ledger),
            [
                "a roster is held: the roster is empty, everybody would be cut (alice); `rosterctl confirm` lets it proceed"
            ]
        );
        ledger.waiting = None;
        after_run(&mut ledger, &run(&[]), at(0));
        hold(&mut ledger, "two");
        assert_eq!(texts(&mut ledger).len(), 1);
    }

    #[test]
    fn only_long_degradation_is_announced_once_and_its_end_only_then() {
        let mut ledger = Ledger::default();
        let problem = Problem {
            subject: alice(),
            what: "no home".into(),
            why: "<!channel> & co".into(),
            next: String::new(),
        };
        let degraded = Degraded { since: at(0), failures: 1, next_try: at(0), problems: vec![problem] };
        ledger.degraded.insert(alice(), degraded.clone());
        after_run(&mut ledger, &run(&[]), at(23));
        ledger.degraded.clear();
        after_run(&mut ledger, &run(&[]), at(23));
        assert_eq!(texts(&mut ledger), Vec::<String>::new());
        ledger.degraded.insert(alice(), degraded);
        after_run(&mut ledger, &run(&[]), at(24));
        after_run(&mut ledger, &run(&[]), at(48));
        let sent = body("devvm", &ledger.announcements.queue[0]);
        assert_eq!(
            sent,
            r#"{"text":"[devvm] alice is degraded for more than a day: no home: &lt;!channel&gt; &amp; co"}"#
        );
        assert_eq!(texts(&mut ledger).len(), 1);
        ledger.degraded.clear();
        after_run(&mut ledger, &run(&[]), at(49));
        after_run(&mut ledger, &run(&[]), at(50));
        assert_eq!(texts(&mut ledger), ["alice has recovered"]);
    }

    #[test]
    fn what_is_degraded_at_a_provider_for_long_is_announced_with_its_name() {
        let mut ledger = Ledger::default();
        let degraded = Degraded { since: at(0), failures: 1, next_try: at(0), problems: Vec::new() };
        let troubles = [(Subject::Machine, degraded.clone()), (alice(), degraded)];
        let state = ProviderState { degraded: troubles.into(), ..ProviderState::default() };
        ledger.providers.insert(Provider::Vault, state);
        long_troubles(&mut ledger, at(23));
        assert_eq!(texts(&mut ledger), Vec::<String>::new());
        long_troubles(&mut ledger, at(24));
        long_troubles(&mut ledger, at(25));
        assert_eq!(
            texts(&mut ledger),
            ["vault is degraded for more than a day", "alice in vault is degraded for more than a day"]
        );
        // Also when the provider is no longer configured.
        ledger.providers.clear();
        long_troubles(&mut ledger, at(26));
        long_troubles(&mut ledger, at(27));
        assert_eq!(texts(&mut ledger), ["vault has recovered", "alice in vault has recovered"]);
    }

    #[test]
    fn a_server_that_is_gone_for_long_costs_the_oldest() {
        let mut all = Announcements::default();
        (0..500).for_each(|number| all.add(at(0), number.to_string()));
        assert_eq!(all.queue.len(), MOST_QUEUED);
        assert_eq!((all.queue[0].number, all.next), (300, 500));
    }
}
