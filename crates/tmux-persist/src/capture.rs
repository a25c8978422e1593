//! Looking at a server: one call of tmux for all panes, then `/proc` of each pane's own processes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::attribution::{Evidence, attribute, named_in};
use crate::client::{ClientError, PATIENCE, Server};
use crate::job::{LEFT_OUT, one_line};
use crate::layout::Layout;
use crate::model::{Conversation, ConversationId, Folder, Pane, Session, SessionName, Window};
use crate::plan::{Live, LivePane};
use crate::processes::{self, Claude, Foreground};
use crate::transcripts::Transcripts;

/// What is asked of tmux for each pane, in this order.
const FIELDS: [&str; 20] = [
    "session_name",
    "window_index",
    "pane_index",
    "pane_id",
    "pane_pid",
    "pane_active",
    "pane_dead",
    "window_active",
    "window_zoomed_flag",
    "automatic-rename",
    "window_layout",
    "window_name",
    "pane_title",
    "host",
    "session_path",
    "@claude_transcript",
    "session_group",
    "pane_start_command",
    "pid",
    "start_time",
];

/// The most panes of one person that are looked at.
const MAX_PANES: usize = 5000;

/// Which programs and which keys of the environment are saved.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) commands: &'a [String],
    pub(crate) environment: &'a [String],
}

/// What is live: the sessions as a snapshot holds them, and the panes as a restore must know them.
#[derive(Debug, Default)]
pub(crate) struct Capture {
    pub(crate) sessions: Vec<Session>,
    pub(crate) live: Live,
    /// The names of sessions that are not saved because of their names.
    pub(crate) left_out: Vec<String>,
}

/// Looks at a server. Without one there are no sessions.
pub(crate) fn capture(server: &Server, home: &Path, wanted: Wanted<'_>) -> Result<Capture, ClientError> {
    if !server.is_there()? {
        return Ok(Capture::default());
    }
    // Names and paths hold what their owner likes; what separates them is not to be guessed.
    let mark = mark().map_err(ClientError::Start)?;
    let format: String = FIELDS.iter().map(|field| format!("#{{{field}}}{mark}")).collect();
    let said = server.call(&["list-panes", "-a", "-F", &format], b"", PATIENCE)?;
    if !said.success {
        // It ended between the two questions.
        if !server.is_there()? {
            return Ok(Capture::default());
        }
        // With `exit-empty off`, a server goes on without any session, and then has no panes to list.
        let sessions = server.call(&["list-sessions", "-F", "#{session_name}"], b"", PATIENCE)?;
        if sessions.success && sessions.output.is_empty() {
            return Ok(Capture::default());
        }
        return Err(ClientError::Failed { said: reason(&said.errors) });
    }
    let transcripts = Transcripts::new(home);
    let panes = read(&said.output, &mark);
    let found: Vec<Found> = panes.into_iter().map(|pane| Found::look(pane, &transcripts, wanted)).collect();
    let left_out = left_out(&said.output, &mark);
    Ok(Capture { left_out, ..assemble(found, &transcripts, home) })
}

/// Why tmux failed. Of a server that is ended or hung up on it says nothing.
pub(crate) fn reason(said: &str) -> String {
    if said.is_empty() { "it ended without saying why".into() } else { said.to_owned() }
}

/// How many panes' texts are asked for in one call, so that their answer stays within its bound.
fn at_once(kib: u32) -> usize {
    usize::try_from(2048 / kib.max(1)).unwrap_or(1).clamp(1, 64)
}

/// The name of the file with a pane's text.
pub(crate) fn screen_name(session: &SessionName, window: u32, position: usize) -> String {
    format!("{session}.{window}.{position}")
}

/// The colours of a text's last line end with it.
const RESET: &[u8] = b"\x1b[0m\n";

/// Hands on the text that each pane shows, with what scrolled out of it, of at most `kib` KiB each: name by name, so that
/// never all of them are held at once.
pub(crate) fn screens<E: From<ClientError>>(
    server: &Server,
    live: &Live,
    kib: u32,
    mut keep: impl FnMut(&str, &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mark = mark().map_err(ClientError::Start)?;
    let most = usize::try_from(kib).unwrap_or(usize::MAX).saturating_mul(1024);
    let panes: Vec<(&SessionName, &LivePane)> =
        live.sessions.iter().flat_map(|(name, panes)| panes.iter().map(move |pane| (name, pane))).collect();
    for some in panes.chunks(at_once(kib)) {
        // As many lines as there are when most are short.
        for ((name, pane), text) in some.iter().zip(texts(server, some, most / 16, &mark)?) {
            let Some(text) = text else { continue };
            let mut kept = last_lines(&text, most.saturating_sub(RESET.len())).to_vec();
            kept.extend(RESET);
            keep(&screen_name(name, pane.window, pane.position), &kept)?;
        }
    }
    Ok(())
}

/// The text of each pane with so many lines of what scrolled out of it; none for a pane that cannot be had.
fn texts(
    server: &Server,
    panes: &[(&SessionName, &LivePane)],
    lines: usize,
    mark: &str,
) -> Result<Vec<Option<Vec<u8>>>, ClientError> {
    let from = format!("-{lines}");
    let mut call = Vec::new();
    for (_, pane) in panes {
        call.extend(["capture-pane", "-p", "-e", "-S", &from, "-t", &pane.id, ";"]);
        call.extend(["display-message", "-p", mark, ";"]);
    }
    let too_much = match server.call(&call, b"", PATIENCE) {
        Ok(said) if said.success => {
            let texts = split(&said.output, mark.as_bytes());
            return Ok(texts
                .into_iter()
                .map(|text| Some(text.strip_prefix(b"\n").unwrap_or(text).to_vec()))
                .collect());
        }
        Ok(_) => false,
        Err(ClientError::TooMuch { .. }) => true,
        Err(error) => return Err(error),
    };
    // One of them has ended meanwhile or shows far more than is wanted, and the others can be had without it.
    match panes {
        [] => Ok(Vec::new()),
        [_] if too_much && lines > 0 => texts(server, panes, lines / 4, mark),
        [_] => Ok(vec![None]),
        _ => {
            let (some, others) = panes.split_at(panes.len() / 2);
            let mut all = texts(server, some, lines, mark)?;
            all.extend(texts(server, others, lines, mark)?);
            Ok(all)
        }
    }
}

/// The last lines of a text that fit into so many bytes, without the empty ones at its end.
fn last_lines(text: &[u8], most: usize) -> &[u8] {
    let end = text.iter().rposition(|byte| *byte != b'\n').map_or(0, |at| at + 1);
    let text = text.get(..end).unwrap_or_default();
    let Some(cut) = text.len().checked_sub(most).filter(|cut| *cut > 0) else { return text };
    // Within a line, it may be within a character or a colour.
    let from = cut.saturating_sub(1);
    let next = text.get(from..).and_then(|rest| rest.iter().position(|byte| *byte == b'\n'));
    next.and_then(|at| text.get(from + at + 1..)).unwrap_or_default()
}

pub(crate) fn mark() -> std::io::Result<String> {
    let uuid = std::fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    Ok(format!("<{}>", uuid.trim()))
}

/// One pane as tmux tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    session: SessionName,
    window: u32,
    pane: u32,
    id: String,
    pid: Option<u32>,
    active: bool,
    window_active: bool,
    zoomed: bool,
    automatic: bool,
    layout: Option<Layout>,
    window_name: String,
    title: Option<String>,
    folder: Option<Folder>,
    stamp: Vec<u8>,
    /// What sessions that show the same windows have in common.
    group: Option<String>,
    /// What it was started to resume, if a restore made it.
    resumes: Option<ConversationId>,
    /// Which server it is of.
    server: String,
}

/// Reads the answer. Panes of warm spares, and what is no pane, are left out.
fn read(output: &[u8], mark: &str) -> Vec<Told> {
    let fields = split(output, mark.as_bytes());
    // After the last mark of a row comes the line break before the next.
    fields.chunks_exact(FIELDS.len()).take(MAX_PANES).filter_map(told).collect()
}

/// The names that are no name of somebody's work, the first of them.
fn left_out(output: &[u8], mark: &str) -> Vec<String> {
    let fields = split(output, mark.as_bytes());
    let rows = fields.chunks_exact(FIELDS.len()).take(MAX_PANES);
    let names = rows.filter_map(|row| Some(session_name(row.first()?)));
    let others: BTreeSet<String> = names.filter(|name| SessionName::new(name).is_none()).collect();
    others.iter().take(LEFT_OUT).map(|name| one_line(name)).collect()
}

fn session_name(field: &[u8]) -> String {
    String::from_utf8_lossy(field).trim_start_matches(['\r', '\n']).to_owned()
}

/// The conversation that a pane was told to resume, by the command that tmux started in it; see [`crate::script`].
fn resumed_by(command: &str) -> Option<ConversationId> {
    let mut words = command.rsplit(' ');
    let (id, resume, _, name) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let ours = resume == "--resume" && name == "--name" && command.contains(" --claude ");
    ConversationId::new(id).filter(|_| ours)
}

fn told(fields: &[&[u8]]) -> Option<Told> {
    let text = |at: usize| Some(String::from_utf8_lossy(fields.get(at)?).into_owned());
    let number = |at: usize| text(at)?.parse::<u32>().ok();
    let flag = |at: usize| text(at).is_some_and(|text| text == "1");
    let title = text(12)?;
    let id = text(3)?;
    let well =
        id.strip_prefix('%').is_some_and(|id| !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit()));
    well.then_some(())?;
    Some(Told {
        session: SessionName::new(&session_name(fields.first()?))?,
        window: number(1)?,
        pane: number(2)?,
        id,
        pid: number(4).filter(|pid| *pid > 0 && !flag(6)),
        active: flag(5),
        window_active: flag(7),
        zoomed: flag(8),
        automatic: flag(9),
        layout: text(10).and_then(|layout| Layout::from_tmux(&layout)),
        window_name: text(11)?,
        title: (!title.is_empty() && Some(&title) != text(13).as_ref()).then_some(title),
        // One that tmux could not be given again is none.
        folder: fields
            .get(14)
            .and_then(|folder| std::str::from_utf8(folder).ok())
            .filter(|folder| !folder.chars().any(char::is_control))
            .and_then(Folder::new),
        stamp: fields.get(15)?.to_vec(),
        group: text(16).filter(|group| !group.is_empty()),
        resumes: text(17).and_then(|command| resumed_by(&command)),
        server: format!("{} {}", number(18)?, text(19)?.parse::<u64>().ok()?),
    })
}

pub(crate) fn split<'a>(output: &'a [u8], mark: &[u8]) -> Vec<&'a [u8]> {
    let mut fields = Vec::new();
    let mut rest = output;
    while let Some(at) = rest.windows(mark.len()).position(|window| window == mark) {
        fields.push(rest.get(..at).unwrap_or_default());
        rest = rest.get(at + mark.len()..).unwrap_or_default();
    }
    fields
}

/// One pane with what runs in it.
#[derive(Debug)]
struct Found {
    told: Told,
    foreground: Option<Foreground>,
    claude: Option<Claude>,
    /// Whether a restore has made it and its claude is on its way.
    comes: bool,
    evidence: Option<Evidence>,
    command: Vec<String>,
    environment: BTreeMap<String, String>,
}

impl Found {
    fn look(told: Told, transcripts: &Transcripts, wanted: Wanted<'_>) -> Found {
        let foreground = told.pid.and_then(processes::foreground);
        let claude = told.pid.and_then(processes::claude);
        // Between a restore and its claude are a wait for the pane's scope and all that the person's shell begins with.
        let comes = told.resumes.as_ref().filter(|id| {
            claude.is_none() && told.pid.is_some_and(|pid| processes::is_on_its_way(pid, id.as_str()))
        });
        let coming = comes.map(|id| Evidence {
            session: told.session.clone(),
            active: told.active && told.window_active,
            stamp: None,
            argument: Some(id.clone()),
            touched: Vec::new(),
        });
        let evidence = claude.as_ref().map(|claude| {
            let stamp = transcripts.stamped(&told.stamp);
            let argument = named_in(&claude.arguments);
            let guess = stamp.is_none() && argument.is_none();
            let shown = foreground.as_ref().and_then(|shown| shown.folder.as_ref());
            let folder = [shown, claude.folder.as_ref()].into_iter().flatten().find(|f| transcripts.has(f));
            let touched = folder.filter(|_| guess).map(|folder| transcripts.touched(folder, claude.started));
            Evidence {
                session: told.session.clone(),
                active: told.active && told.window_active,
                stamp,
                argument,
                touched: touched.unwrap_or_default(),
            }
        });
        let command = match (&claude, &foreground) {
            (None, Some(foreground)) => listed(foreground, wanted.commands),
            _ => Vec::new(),
        };
        let environment = told.pid.map(|pid| processes::environment(pid, wanted.environment));
        let environment = environment.unwrap_or_default().into_iter().collect();
        let (comes, evidence) = (coming.is_some(), evidence.or(coming));
        Found { told, foreground, claude, comes, evidence, command, environment }
    }
}

/// The command line of a program that is listed by its name.
fn listed(foreground: &Foreground, commands: &[String]) -> Vec<String> {
    let texts: Option<Vec<String>> =
        foreground.arguments.iter().map(|argument| String::from_utf8(argument.clone()).ok()).collect();
    let Some(texts) = texts else { return Vec::new() };
    let name = texts.first().map(String::as_str).unwrap_or_default();
    let name = name.rsplit('/').next().unwrap_or_default();
    let total: usize = texts.iter().map(String::len).sum();
    let fits = total <= 4096 && commands.iter().any(|wanted| wanted == name) && foreground.ours;
    if fits { texts } else { Vec::new() }
}

fn assemble(mut found: Vec<Found>, transcripts: &Transcripts, home: &Path) -> Capture {
    // In the order of names, so that which pane comes first is the same at each capture.
    found.sort_by(|a, b| {
        (&a.told.session, a.told.window, a.told.pane).cmp(&(&b.told.session, b.told.window, b.told.pane))
    });
    let evidence: Vec<Option<Evidence>> = found.iter().map(|found| found.evidence.clone()).collect();
    let owners = attribute(&evidence);
    let home = Folder::new(home);
    let mut sessions: BTreeMap<SessionName, Session> = BTreeMap::new();
    let mut live = Live::default();
    let mut groups: BTreeMap<String, SessionName> = BTreeMap::new();
    for (found, conversation) in found.into_iter().zip(owners) {
        let Found { told, foreground, claude, comes, command, environment, .. } = found;
        let folder = foreground.as_ref().and_then(|shown| shown.folder.clone());
        let Some(folder) = folder.or_else(|| told.folder.clone()).or_else(|| home.clone()) else { continue };
        live.server.get_or_insert(told.server);
        let session = sessions.entry(told.session.clone()).or_insert_with(|| Session {
            name: told.session.clone(),
            folder: told.folder.clone().filter(|folder| Some(folder) != home.as_ref()),
            environment: environment.clone(),
            shares: None,
            current: None,
            windows: Vec::new(),
        });
        if let Some(group) = &told.group {
            // The first of a group has the windows.
            let first = groups.entry(group.clone()).or_insert_with(|| told.session.clone());
            if *first != told.session {
                session.shares = Some(first.clone());
                session.current = session.current.or(told.window_active.then_some(told.window));
                live.sessions.entry(told.session).or_default();
                continue;
            }
        }
        let known = session.windows.iter().position(|window| window.index == Some(told.window));
        let at = known.unwrap_or_else(|| {
            session.windows.push(Window {
                index: Some(told.window),
                name: (!told.automatic).then(|| told.window_name.clone()),
                layout: told.layout.clone(),
                zoomed: told.zoomed,
                active: told.window_active,
                panes: Vec::new(),
            });
            session.windows.len() - 1
        });
        let Some(window) = session.windows.get_mut(at) else { continue };
        live.sessions.entry(told.session).or_default().push(LivePane {
            id: told.id,
            window: told.window,
            pane: told.pane,
            position: window.panes.len(),
            active: told.active && told.window_active,
            pid: told.pid,
            prompt: None,
            doubtful: false,
            claude: claude.is_some() || comes,
            conversation: conversation.clone(),
        });
        let conversation = conversation.map(|id| {
            let started_in = claude.and_then(|claude| claude.folder).unwrap_or_else(|| folder.clone());
            let folder = transcripts.resumes_in(&id, &started_in).unwrap_or(started_in);
            Conversation { id, folder }
        });
        window.panes.push(Pane { folder, title: told.title, active: told.active, conversation, command });
    }
    Capture { sessions: sessions.into_values().collect(), live, left_out: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(fields: &[&str]) -> String {
        fields.iter().map(|field| format!("{field}<m>")).collect::<String>() + "\n"
    }

    #[test]
    fn hostile_names_do_not_shift_a_field() {
        let layout = "b260,80x24,0,0,3";
        let plain = |name: &str, title: &str, stamp: &str| {
            row(&[
                name, "1", "0", "%3", "77", "1", "0", "1", "0", "1", layout, "w", title, "host", "/srv",
                stamp, "", "", "7", "100",
            ])
        };
        let text = plain("a", "t\tb\nb<x>", "/x\n\ty")
            + &plain("warm spare", "t", "")
            + &plain("b", "host", "")
            + "\0\u{fffd}garbage without an end";
        let told = read(text.as_bytes(), "<m>");
        let names: Vec<_> = told.iter().map(|told| told.session.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(left_out(text.as_bytes(), "<m>"), ["warm spare"]);
        assert_eq!(told[0].title.as_deref(), Some("t\tb\nb<x>"));
        assert_eq!(told[0].stamp, b"/x\n\ty");
        assert_eq!(told[1].title, None, "tmux's own title is the host's name");
        let lies = row(&[
            "a", "x", "0", "%3", "77", "1", "0", "1", "0", "1", layout, "w", "", "host", "/srv", "", "", "",
            "7", "100",
        ]);
        assert!(read(lies.as_bytes(), "<m>").is_empty());
    }

    #[test]
    fn what_a_restore_has_started_is_known_by_its_command() {
        let id = "00000000-0000-4000-8000-00000000000a";
        let ours = format!(
            "/usr/bin/rosterctl tmux pane --folder \"/a b\" --claude claude --name web --resume {id}"
        );
        assert_eq!(resumed_by(&ours), ConversationId::new(id));
        for other in [
            String::new(),
            format!("claude --name web --resume {id}"),
            format!("{ours}x"),
            format!("{ours} x"),
            ours.replace("--resume", "--gone"),
        ] {
            assert_eq!(resumed_by(&other), None, "{other}");
        }
    }

    #[test]
    fn of_a_long_text_the_last_whole_lines_are_kept() {
        for (text, most, wanted) in [
            ("", 5, ""),
            ("a\nb\n\n\n", 5, "a\nb"),
            ("ab\ncd\nef\n", 5, "cd\nef"),
            ("ab\ncd\nef\n", 6, "cd\nef"),
            ("ab\ncd\nef\n", 8, "ab\ncd\nef"),
            ("ab\ncdefgh\n", 5, ""),
        ] {
            assert_eq!(last_lines(text.as_bytes(), most), wanted.as_bytes(), "{text:?} {most}");
        }
    }

    #[test]
    fn only_listed_programs_are_saved() {
        let shown = |arguments: &[&str], ours| Foreground {
            arguments: arguments.iter().map(|a| a.as_bytes().to_vec()).collect(),
            folder: None,
            ours,
        };
        let commands = ["vim".to_owned()];
        assert_eq!(listed(&shown(&["/usr/bin/vim", "a b"], true), &commands), ["/usr/bin/vim", "a b"]);
        assert!(listed(&shown(&["vim"], false), &commands).is_empty());
        assert!(listed(&shown(&["vim.basic"], true), &commands).is_empty());
        assert!(listed(&shown(&["sudo", "vim"], true), &commands).is_empty());
    }
}
