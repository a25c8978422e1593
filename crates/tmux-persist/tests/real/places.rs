//! Panes that change their places: a conversation goes on in the very pane that it was in, or beside.

use tmux_persist::{Action, Answer, Job, Outcome};

use crate::prompts::{id, live};
use crate::{Place, eventually};

impl Place {
    /// A session of two panes with a shell in each, and a saved conversation that has ended in the first; the panes' names.
    fn talked(&self) -> [String; 2] {
        self.start(&live("work", &["bash", "--norc"], &[], "$"));
        self.tmux(&["split-window", "-d", "-t", "=work:", "-e", "PS1=\\u$ ", "--", "bash", "--norc"]);
        self.settled("=work:0.1");
        let panes = self.tmux(&["list-panes", "-t", "=work:", "-F", "#{pane_id}"]);
        let (first, second) = panes.split_once('\n').unwrap();
        self.transcript(&self.home(), &id(1), "");
        self.say(first, &format!("{} --session-id {}", self.claude().display(), id(1)));
        eventually("the conversation is saved", || {
            self.saved("state").contains("\"conversation\"").then_some(())
        });
        self.tmux(&["send-keys", "-t", first, "C-c"]);
        self.settled(first);
        [first, second].map(str::to_owned)
    }

    fn say(&self, pane: &str, line: &str) {
        self.tmux(&["send-keys", "-t", pane, "-l", line]);
        self.tmux(&["send-keys", "-t", pane, "Enter"]);
    }

    fn comes_to(&self, wanted: Action) {
        eventually("it is known", || (self.actions(&self.with_claude())["work"] == wanted).then_some(()));
        match self.ask(&self.with_claude(), Job::Restore).unwrap() {
            Answer::Restored(restored) => {
                let outcome = if wanted == Action::InPlace { Outcome::Resumed } else { Outcome::Made };
                assert_eq!(restored.sessions[0].1, outcome, "{:?}", restored.sessions);
            }
            other => panic!("{other:?}"),
        }
    }

    fn has_resumed(&self, pane: &str) -> bool {
        self.tmux(&["capture-pane", "-p", "-J", "-t", pane]).contains("--resume")
    }
}

#[test]
fn a_pane_that_was_swapped_is_the_one_that_is_typed_into() {
    let place = Place::new();
    let [first, second] = place.talked();
    place.tmux(&["swap-pane", "-d", "-s", &first, "-t", &second]);
    assert_eq!(place.tmux(&["list-panes", "-t", "=work:", "-F", "#{pane_id}"]), format!("{second}\n{first}"));
    place.comes_to(Action::InPlace);
    assert!(place.has_resumed(&first) && !place.has_resumed(&second));
}

#[test]
fn a_pane_that_came_in_the_place_of_another_is_not_typed_into() {
    let place = Place::new();
    let [first, second] = place.talked();
    place.tmux(&["kill-pane", "-t", &first]);
    place.tmux(&["split-window", "-d", "-t", "=work:", "-e", "PS1=\\u$ ", "--", "bash", "--norc"]);
    place.settled("=work:0.1");
    place.comes_to(Action::Suffixed);
    let panes = place.tmux(&["list-panes", "-t", "=work:", "-F", "#{pane_id}"]);
    assert!(panes.starts_with(&format!("{second}\n")), "{panes}");
    assert!(panes.lines().all(|pane| !place.has_resumed(pane)));
}

#[test]
fn a_pane_with_another_shell_in_it_is_the_same_pane() {
    let place = Place::new();
    let [first, second] = place.talked();
    let again = ["respawn-pane", "-k", "-e", "PS1=\\u$ ", "-t", &first, "--", "bash", "--norc"];
    place.tmux(&again);
    place.settled(&first);
    place.comes_to(Action::InPlace);
    assert!(place.has_resumed(&first) && !place.has_resumed(&second));
}

#[test]
fn on_another_server_a_pane_of_two_is_not_guessed() {
    let place = Place::new();
    place.talked();
    place.kill_server();
    place.start(&live("work", &["bash", "--norc"], &[], "$"));
    place.tmux(&["split-window", "-d", "-t", "=work:", "-e", "PS1=\\u$ ", "--", "bash", "--norc"]);
    place.settled("=work:0.1");
    // Nor by what somebody writes there.
    let forged = format!(r#"[{{"server":"1 1","panes":{{"{}":"%0"}}}}]"#, id(1));
    for told in ["{", &forged] {
        std::fs::write(place.store("state").join("panes"), told).unwrap();
        assert_eq!(place.actions(&place.with_claude())["work"], Action::Suffixed, "{told}");
    }
    place.comes_to(Action::Suffixed);
}
