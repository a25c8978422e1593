//! Which conversation a pane holds. Pure.
//!
//! A claim is, surest first: the stamp that the agent's own hook left on the session; the id in the arguments of the
//! pane's claude; the one transcript touched since that claude started which bears the session's name; the only
//! transcript touched since then. A conversation belongs to one pane: the surer claim keeps it, and the other pane is
//! saved without one. A guess never takes the place of a claim that was lost, so nobody gets someone else's history.

use std::collections::BTreeSet;

use crate::model::{ConversationId, SessionName};

/// What is known of a pane in which claude runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Evidence {
    /// The session of the pane.
    pub(crate) session: SessionName,
    /// Whether it is the active pane of the session's active window.
    pub(crate) active: bool,
    /// The session's stamp, already checked.
    pub(crate) stamp: Option<ConversationId>,
    /// The id in the arguments of its claude.
    pub(crate) argument: Option<ConversationId>,
    /// The transcripts touched since its claude started, the newest first. Looked for only when there is neither of
    /// the above.
    pub(crate) touched: Vec<Touched>,
}

/// A transcript that may be a pane's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Touched {
    pub(crate) id: ConversationId,
    /// The name that it records for itself.
    pub(crate) name: Option<String>,
}

/// How sure a claim is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Certainty {
    Stamp,
    Argument,
    Name,
    OnlyOne,
}

/// The conversation of each pane, in the order given.
pub(crate) fn attribute(panes: &[Option<Evidence>]) -> Vec<Option<ConversationId>> {
    let mut claims: Vec<(Certainty, u8, usize, &ConversationId)> = panes
        .iter()
        .enumerate()
        .filter_map(|(pane, evidence)| Some((pane, evidence.as_ref()?)))
        .flat_map(|(pane, evidence)| {
            claims(evidence)
                .into_iter()
                .map(move |(certainty, id)| (certainty, order(evidence, id), pane, id))
        })
        .collect();
    claims.sort_by_key(|(certainty, order, pane, _)| (*certainty, *order, *pane));
    let mut owner = vec![None; panes.len()];
    let mut owned = BTreeSet::new();
    for (_, _, pane, id) in claims {
        if let Some(place @ None) = owner.get_mut(pane)
            && owned.insert(id)
        {
            *place = Some(id.clone());
        }
    }
    owner
}

/// The claims of one pane. Guesses are made only where nothing names the conversation.
fn claims(evidence: &Evidence) -> Vec<(Certainty, &ConversationId)> {
    let named = [(Certainty::Stamp, &evidence.stamp), (Certainty::Argument, &evidence.argument)];
    let named: Vec<_> =
        named.into_iter().filter_map(|(certainty, id)| Some((certainty, id.as_ref()?))).collect();
    if !named.is_empty() {
        return named;
    }
    let mine = |touched: &&Touched| touched.name.as_deref() == Some(evidence.session.as_str());
    match (evidence.touched.iter().find(mine), evidence.touched.as_slice()) {
        (Some(touched), _) => vec![(Certainty::Name, &touched.id)],
        (None, [only]) => vec![(Certainty::OnlyOne, &only.id)],
        _ => Vec::new(),
    }
}

/// A stamp is the session's, and several panes of it may run claude: the one that was started with that very id comes
/// first, then one whose arguments name none, then the active one.
fn order(evidence: &Evidence, id: &ConversationId) -> u8 {
    match &evidence.argument {
        Some(argument) if argument == id => 0,
        None if evidence.active => 1,
        None => 2,
        Some(_) if evidence.active => 3,
        Some(_) => 4,
    }
}

/// The conversation that the arguments of a claude name: `--session-id` or `--resume` with a UUID. A resume that forks
/// goes on under another id.
pub(crate) fn named_in(arguments: &[Vec<u8>]) -> Option<ConversationId> {
    let mut session = None;
    let mut resumed = None;
    let mut forks = false;
    let mut arguments = arguments.iter().map(|argument| String::from_utf8_lossy(argument)).peekable();
    while let Some(argument) = arguments.next() {
        let (key, value) = match argument.split_once('=') {
            Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
            None => (argument.into_owned(), None),
        };
        let place = match key.as_str() {
            "--session-id" => &mut session,
            "--resume" | "-r" => &mut resumed,
            "--fork-session" => {
                forks = true;
                continue;
            }
            _ => continue,
        };
        let value = value.or_else(|| arguments.peek().map(|next| next.clone().into_owned()));
        if let Some(id) = value.as_deref().and_then(ConversationId::new) {
            *place = Some(id);
        }
    }
    session.or(if forks { None } else { resumed })
}

/// The name of the folder in which the conversations of a folder lie: `/` and `.` become `-`.
pub(crate) fn slug(folder: &[u8]) -> Vec<u8> {
    folder.iter().map(|byte| if matches!(byte, b'/' | b'.') { b'-' } else { *byte }).collect()
}

/// The name that a transcript records for itself, in the part of it given: the last one counts.
pub(crate) fn recorded_name(part: &[u8]) -> Option<String> {
    part.split(|byte| *byte == b'\n').rev().find_map(|line| {
        let said = |key: &[u8]| line.windows(key.len()).any(|window| window == key);
        if !said(b"\"customTitle\"") && !said(b"\"agentName\"") {
            return None;
        }
        let value: serde_json::Value = serde_json::from_slice(line).ok()?;
        ["customTitle", "agentName"].iter().find_map(|key| Some(value.get(*key)?.as_str()?.to_owned()))
    })
}

/// The folder that a transcript says it was started in, in the part of it given: the first one counts.
pub(crate) fn recorded_folder(part: &[u8]) -> Option<String> {
    part.split(|byte| *byte == b'\n').find_map(|line| {
        let value: serde_json::Value = serde_json::from_slice(line).ok()?;
        Some(value.get("cwd")?.as_str()?.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(number: u32) -> ConversationId {
        ConversationId::new(&format!("00000000-0000-4000-8000-{number:012}")).unwrap()
    }

    fn pane(session: &str) -> Evidence {
        Evidence {
            session: SessionName::new(session).unwrap(),
            active: true,
            stamp: None,
            argument: None,
            touched: vec![],
        }
    }

    fn touched(number: u32, name: Option<&str>) -> Touched {
        Touched { id: id(number), name: name.map(str::to_owned) }
    }

    fn attributed(panes: Vec<Evidence>) -> Vec<Option<u32>> {
        let panes: Vec<_> = panes.into_iter().map(Some).collect();
        attribute(&panes)
            .into_iter()
            .map(|owner| owner.map(|id| id.as_str()[24..].parse().unwrap()))
            .collect()
    }

    #[test]
    fn the_stamp_beats_the_arguments() {
        // After a /clear, the arguments still name the conversation that was left.
        assert_eq!(
            attributed(vec![Evidence { stamp: Some(id(2)), argument: Some(id(1)), ..pane("a") }]),
            [Some(2)]
        );
    }

    #[test]
    fn the_surer_claim_keeps_the_conversation_and_the_other_gets_none() {
        let guess = Evidence { touched: vec![touched(1, None)], ..pane("a") };
        let sure = Evidence { argument: Some(id(1)), ..pane("b") };
        assert_eq!(attributed(vec![guess.clone(), sure]), [None, Some(1)]);
        let named = Evidence { touched: vec![touched(1, Some("b"))], ..pane("b") };
        assert_eq!(attributed(vec![guess, named]), [None, Some(1)]);
    }

    #[test]
    fn a_name_tells_sessions_in_one_folder_apart() {
        let both = vec![touched(1, Some("a")), touched(2, Some("b"))];
        let of = |name| Evidence { touched: both.clone(), ..pane(name) };
        assert_eq!(attributed(vec![of("b"), of("a"), of("c")]), [Some(2), Some(1), None]);
    }

    #[test]
    fn without_names_only_a_single_candidate_counts() {
        let two = Evidence { touched: vec![touched(1, None), touched(2, None)], ..pane("a") };
        assert_eq!(attributed(vec![two.clone(), Evidence { ..two }]), [None, None]);
        let one = Evidence { touched: vec![touched(1, None)], ..pane("a") };
        assert_eq!(attributed(vec![one.clone(), one]), [Some(1), None]);
    }

    #[test]
    fn a_sessions_stamp_goes_to_one_of_its_panes_and_the_others_keep_their_own() {
        let stamped = |argument: Option<u32>, active| Evidence {
            stamp: Some(id(9)),
            argument: argument.map(id),
            active,
            ..pane("a")
        };
        assert_eq!(attributed(vec![stamped(Some(1), true), stamped(Some(9), false)]), [Some(1), Some(9)]);
        assert_eq!(attributed(vec![stamped(Some(1), true), stamped(None, false)]), [Some(1), Some(9)]);
        assert_eq!(attributed(vec![stamped(Some(1), false), stamped(Some(2), true)]), [Some(1), Some(9)]);
    }

    #[test]
    fn arguments_name_a_conversation_in_every_form() {
        let named = |arguments: &[&str]| {
            named_in(&arguments.iter().map(|a| a.as_bytes().to_vec()).collect::<Vec<_>>())
                .map(|id| id.as_str()[24..].parse::<u32>().unwrap())
        };
        let (one, two) = (id(1).to_string(), id(2).to_string());
        assert_eq!(named(&["claude", "--session-id", &one]), Some(1));
        assert_eq!(named(&["claude", "--name", "x", "--resume", &one]), Some(1));
        assert_eq!(named(&["claude", "-r", &one]), Some(1));
        assert_eq!(named(&["claude", &format!("--resume={one}")]), Some(1));
        assert_eq!(named(&["claude", "--resume", &one, "--fork-session"]), None);
        assert_eq!(named(&["claude", "--resume", &one, "--fork-session", "--session-id", &two]), Some(2));
        for none in
            [&["claude"][..], &["claude", "--resume"], &["claude", "--resume", "a title"], &["claude", &one]]
        {
            assert_eq!(named(none), None, "{none:?}");
        }
    }

    #[test]
    fn a_transcript_says_its_name_and_folder() {
        let text = br#"{"type":"summary"}
{"type":"agent-name","agentName":"first"}
{"cwd":"/srv/a.b","message":"customTitle is \"customTitle\":\"no\""}
{"type":"custom-title","customTitle":"second"}
{"cwd":"/elsewhere"}
{"torn"#;
        assert_eq!(recorded_name(text).as_deref(), Some("second"));
        assert_eq!(recorded_folder(text).as_deref(), Some("/srv/a.b"));
        assert_eq!(slug(b"/srv/a.b"), b"-srv-a-b");
    }

    proptest! {
        #[test]
        fn a_conversation_never_has_two_panes(
            panes in proptest::collection::vec(
                proptest::option::of((any::<bool>(), proptest::option::of(0..4u32), proptest::option::of(0..4u32),
                    proptest::collection::vec((0..4u32, proptest::option::of(0..3usize)), 0..3), 0..3usize)),
                0..8,
            )
        ) {
            let names = ["a", "b", "c"];
            let panes: Vec<_> = panes.into_iter().map(|given| given.map(|(active, stamp, argument, seen, name)| Evidence {
                active,
                stamp: stamp.map(id),
                argument: argument.map(id),
                touched: seen.into_iter().map(|(n, name)| touched(n, name.map(|at| names[at]))).collect(),
                ..pane(names[name])
            })).collect();
            let owners = attribute(&panes);
            let all: Vec<_> = owners.iter().flatten().collect();
            let distinct: BTreeSet<_> = all.iter().collect();
            prop_assert_eq!(all.len(), distinct.len());
            for (pane, owner) in panes.iter().zip(&owners) {
                prop_assert!(owner.is_none() || pane.is_some());
            }
        }
    }
}
