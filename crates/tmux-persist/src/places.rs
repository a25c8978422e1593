//! In which pane each conversation was seen last. Pure. A place in a window says little: panes are swapped, closed and split.
//! tmux's own name of a pane is its own as long as the server lives, whatever becomes of the window.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::model::ConversationId;
use crate::plan::Live;

/// Of so many conversations, those whose pane has ended are kept too: nothing is typed into another one in its place.
const MOST: usize = 5000;

/// What was seen on one server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Places {
    /// Which server: its process and when that started.
    server: String,
    panes: BTreeMap<ConversationId, String>,
}

impl Places {
    /// With what is there now. Of another server nothing is known any more.
    pub(crate) fn with(mut self, live: &Live) -> Places {
        let Some(server) = &live.server else { return self };
        if self.server != *server {
            self = Places { server: server.clone(), panes: BTreeMap::new() };
        }
        let panes = || live.sessions.values().flatten();
        if self.panes.len() >= MOST {
            let there: BTreeSet<&String> = panes().map(|pane| &pane.id).collect();
            self.panes.retain(|_, pane| there.contains(pane));
        }
        self.panes.extend(panes().filter_map(|pane| Some((pane.conversation.clone()?, pane.id.clone()))));
        self
    }

    /// The pane of each conversation that was seen on this server.
    pub(crate) fn on(self, server: Option<&String>) -> BTreeMap<ConversationId, String> {
        if server == Some(&self.server) { self.panes } else { BTreeMap::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::SessionName;
    use crate::plan::LivePane;

    fn id(number: usize) -> ConversationId {
        ConversationId::new(&format!("00000000-0000-4000-8000-{number:012}")).unwrap()
    }

    fn live(server: &str, panes: &[(usize, &str)]) -> Live {
        let pane = |(number, pane): &(usize, &str)| LivePane {
            id: (*pane).to_owned(),
            window: 0,
            pane: 0,
            position: 0,
            active: true,
            pid: None,
            prompt: None,
            claude: true,
            conversation: Some(id(*number)),
        };
        let sessions = [(SessionName::new("a").unwrap(), panes.iter().map(pane).collect())].into();
        Live { server: Some(server.to_owned()), sessions }
    }

    #[test]
    fn what_was_seen_counts_on_that_server_alone() {
        let seen = Places::default().with(&live("7 100", &[(1, "%1"), (2, "%2")]));
        let seen = seen.with(&live("7 100", &[(2, "%3")]));
        let panes: BTreeMap<_, _> = [(id(1), "%1".to_owned()), (id(2), "%3".to_owned())].into();
        assert_eq!(seen.clone().on(Some(&"7 100".to_owned())), panes);
        // The same process number at another time is another server.
        assert!(seen.clone().on(Some(&"7 101".to_owned())).is_empty() && seen.clone().on(None).is_empty());
        assert_eq!(seen.clone().with(&Live::default()), seen, "nothing is known of no server");
        let other = seen.with(&live("8 200", &[(3, "%1")]));
        assert_eq!(other.on(Some(&"8 200".to_owned())), [(id(3), "%1".to_owned())].into());
    }

    #[test]
    fn what_has_ended_is_forgotten_only_when_it_is_much() {
        let mut seen = Places::default();
        for number in 0..MOST {
            seen = seen.with(&live("7 100", &[(number, "%1")]));
        }
        assert_eq!(seen.panes.len(), MOST);
        seen.panes.insert(id(0), "%0".into());
        let seen = seen.with(&live("7 100", &[(MOST, "%1")]));
        assert_eq!((seen.panes.len(), seen.panes.get(&id(0))), (MOST, None));
    }
}
