//! In which pane each conversation was seen last. Pure. A place in a window says little: panes are swapped, closed and split.
//! tmux's own name of a pane is its own as long as the server lives, whatever becomes of the window.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::model::ConversationId;
use crate::plan::Live;

/// Of so many conversations on a server, those whose pane has ended are kept too: nothing is typed into another one in its
/// place.
const MOST: usize = 5000;

/// So many servers are kept, the ones that were seen last: those of a few sockets.
const SERVERS: usize = 4;

/// What was seen, the server that was seen last at the end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Places(Vec<Seen>);

/// What was seen on one server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    /// Which server: its process and when that started.
    server: String,
    panes: BTreeMap<ConversationId, String>,
}

impl Places {
    /// With what is there now.
    pub(crate) fn with(mut self, live: &Live) -> Places {
        let Some(server) = &live.server else { return self };
        let known = self.0.iter().position(|seen| seen.server == *server).map(|at| self.0.remove(at));
        let mut seen = known.unwrap_or_else(|| Seen { server: server.clone(), panes: BTreeMap::new() });
        let panes = || live.sessions.values().flatten();
        if seen.panes.len() >= MOST {
            let there: BTreeSet<&String> = panes().map(|pane| &pane.id).collect();
            seen.panes.retain(|_, pane| there.contains(pane));
        }
        seen.panes.extend(panes().filter_map(|pane| Some((pane.conversation.clone()?, pane.id.clone()))));
        self.0.push(seen);
        let surplus = self.0.len().saturating_sub(SERVERS);
        self.0.drain(..surplus);
        self
    }

    /// The pane of each conversation that was seen on this server.
    pub(crate) fn on(self, server: Option<&String>) -> BTreeMap<ConversationId, String> {
        let seen = self.0.into_iter().find(|seen| Some(&seen.server) == server);
        seen.map(|seen| seen.panes).unwrap_or_default()
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
            doubtful: false,
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
    }

    #[test]
    fn the_server_of_another_socket_takes_nothing_away() {
        let seen = Places::default().with(&live("7 100", &[(1, "%1")])).with(&live("8 200", &[(3, "%1")]));
        let on = |seen: &Places, server: &str| seen.clone().on(Some(&server.to_owned()));
        assert_eq!(on(&seen, "7 100"), [(id(1), "%1".to_owned())].into());
        assert_eq!(on(&seen, "8 200"), [(id(3), "%1".to_owned())].into());
        // Of many, those that were seen last.
        let servers = (0..9).map(|number| format!("9 {number}"));
        let seen = servers.fold(seen, |seen, server| {
            seen.with(&live(&server, &[(5, "%5")])).with(&live("7 100", &[(2, "%2")]))
        });
        assert_eq!(seen.0.len(), SERVERS);
        assert_eq!(on(&seen, "7 100").len(), 2);
        assert_eq!((on(&seen, "8 200").len(), on(&seen, "9 0").len(), on(&seen, "9 8").len()), (0, 0, 1));
    }

    #[test]
    fn what_has_ended_is_forgotten_only_when_it_is_much() {
        let mut seen = Places::default();
        for number in 0..MOST {
            seen = seen.with(&live("7 100", &[(number, "%1")]));
        }
        assert_eq!(seen.0[0].panes.len(), MOST);
        seen.0[0].panes.insert(id(0), "%0".into());
        let seen = seen.with(&live("7 100", &[(MOST, "%1")])).0.remove(0);
        assert_eq!((seen.panes.len(), seen.panes.get(&id(0))), (MOST, None));
    }
}
