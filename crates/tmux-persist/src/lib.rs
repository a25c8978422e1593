//! tmux sessions that survive a reboot, a killed server and a mistake.
//!
//! A person's sessions are captured every few minutes into a series of snapshots, and what is missing is made again
//! at the next boot or when the person asks: windows, panes, layouts, folders, and the conversation of each pane.
//!
//! | module | what it is | what it may touch |
//! | --- | --- | --- |
//! | [`model`], [`layout`] | what a snapshot holds | nothing: pure |
//! | [`format`] | snapshots as files | nothing: pure |
//! | [`attribution`] | which conversation a pane holds | nothing: pure |
//! | [`series`] | whether a capture is stored and restored from | nothing: pure |
//! | [`history`] | what all snapshots tell | nothing: pure |
//! | [`places`] | in which pane a conversation was seen last | nothing: pure |
//! | [`plan`], [`script`] | what a restore does, and the tmux commands for it | nothing: pure |
//! | [`shell`] | words that any shell gives back | nothing: pure |
//! | [`client`], [`capture`], [`waiting`], [`prompt`], [`processes`], [`transcripts`] | what is live | the person's server, `/proc`, `~/.claude` |
//! | [`store`] | the snapshots of one person | that person's folder |
//! | [`job`] | what can be asked, and what is answered | nothing: pure |
//! | [`work`] | all of it together for one person | the above, as that person |
//! | [`worker`], [`as_root`] | root's process that becomes a person, and root's own end of it | folders of the stores |
//! | [`server_unit`] | a server that lives on | systemd |
//! | [`pane`] | what a restored pane begins with | the pane |
//! | [`people`], [`earlier`] | who is known; the store of the earlier layout | the map; that store |
//!
//! Root never touches a home or a socket of anybody: whatever is done for a person is done by a process that is that
//! person for good, whether root asks or the person does.

mod as_root;
mod attribution;
mod capture;
mod client;
mod earlier;
mod format;
mod history;
mod job;
mod layout;
mod model;
mod pane;
mod people;
mod places;
mod plan;
mod processes;
mod prompt;
mod script;
mod series;
mod server_unit;
mod shell;
mod store;
mod transcripts;
mod waiting;
mod work;
mod worker;

use std::path::Path;

use serde::{Deserialize, Serialize};

pub use as_root::run_as;
pub use history::Past;
pub use job::{Answer, Forgotten, Job, Known, Listed, Outcome, Restored, Saved, Settings, View};
pub use model::{ConversationId, Folder, Moment, SessionName};
pub use pane::{PaneStart, Resume, pane};
pub use people::{PeopleError, Person, known};
pub use plan::{Action, Row, State};
pub use worker::worker;

/// Why a job was not done for a person, for whoever asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Why, on one line.
    #[serde(deserialize_with = "job::read_line")]
    pub why: String,
    /// What to do next, on one line.
    #[serde(deserialize_with = "job::read_line")]
    pub next: String,
}

impl Failure {
    fn of(error: &job::JobError) -> Failure {
        let mut why = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            why.push_str(&format!(": {error}"));
            cause = error.source();
        }
        Failure { why, next: error.next().into() }.bounded()
    }

    /// As a person reads it: short, and a line each, whatever a server or a program has said.
    fn bounded(self) -> Failure {
        Failure { why: job::one_line(&self.why), next: job::one_line(&self.next) }
    }
}

/// Does a job for the person who asks, in this process.
pub fn run_here(user: &str, home: &Path, settings: &Settings, job: &Job) -> Result<Answer, Failure> {
    let mut earlier = || earlier::Earlier::read(&settings.state, user).map_err(|error| error.to_string());
    let help = job::Help { start_server: None, earlier: &mut earlier };
    work::run(user, home, settings, job, help).map_err(|error| Failure::of(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_or_a_worker_says_is_one_line() {
        let forged = "no server\n\nerror: root: all is lost\n  next: run this\u{1b}[2J\r\u{2028}\u{202e}x";
        let failure = Failure { why: forged.into(), next: forged.into() };
        let shown = "no server; error: root: all is lost; next: run this\u{fffd}[2J\u{fffd}\u{fffd}\u{fffd}x";
        assert_eq!(failure.clone().bounded(), Failure { why: shown.into(), next: shown.into() });
        // As root reads what a worker reports, whatever that one did.
        let read: Failure = serde_json::from_str(&serde_json::to_string(&failure).unwrap()).unwrap();
        assert_eq!(read.why, shown);
        let text = serde_json::to_string(&Outcome::Failed(forged.into())).unwrap();
        assert_eq!(serde_json::from_str::<Outcome>(&text).unwrap(), Outcome::Failed(shown.into()));
        let long = Failure { why: "é\n".repeat(100_000), next: String::new() }.bounded();
        assert!(long.why.len() < 1100);
        let error = job::JobError::Store(store::StoreError::Unusable {
            path: "/x".into(),
            source: format::FormatError::Damaged("its checksum differs".into()),
        });
        assert_eq!(
            Failure::of(&error).why,
            "the snapshot /x cannot be used: it is damaged: its checksum differs"
        );
    }
}
