//! tmux commands for what a plan says. Pure; it decides nothing.
//!
//! A session is one line, that is one group of commands: when its first one fails because the name was taken meanwhile,
//! tmux leaves out the rest, so that nothing is ever done to a session that somebody else has just made. Panes are
//! named relative to the active one, as only the server knows their numbers.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::model::{Folder, Pane, Session, SessionName, Window};
use crate::plan::{Doing, Resolved, Start, Typed};
use crate::shell;
use crate::waiting::Prompt;

/// Columns and rows of a session that nobody looks at and whose layout is not known.
const SIZE: (u32, u32) = (200, 50);

/// The programs that panes begin with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Programs {
    /// The command line of our own program for a pane, without what it is told there.
    pub(crate) pane: Vec<String>,
    /// Claude.
    pub(crate) claude: String,
}

/// The script for these rows. Empty when there is nothing to do.
pub(crate) fn script(rows: &[Resolved], home: &Folder, programs: &Programs) -> Vec<u8> {
    let mut script = Vec::new();
    for Resolved { row, doing } in rows {
        match doing {
            Doing::Make { session, starts, screens } => {
                let starts: Vec<_> = starts.iter().zip(screens).collect();
                make(&mut script, &row.target, session, &starts, home, programs);
            }
            Doing::Type(typed) => {
                for one in typed {
                    type_into(&mut script, &row.target, one, &programs.claude);
                }
            }
            Doing::Nothing => {}
        }
    }
    script
}

fn make(
    script: &mut Vec<u8>,
    target: &SessionName,
    session: &Session,
    starts: &[(&Start, &Option<PathBuf>)],
    home: &Folder,
    programs: &Programs,
) {
    let mut line = Line::default();
    if let Some(shared) = &session.shares {
        line.command(&["new-session", "-d", "-s", target.as_str(), "-t", &format!("={shared}")]);
        for_session(&mut line, session, home);
        if let Some(index) = session.current {
            line.command(&["select-window", "-t", &format!("={target}:{index}")]);
        }
        line.end(script);
        return;
    }
    let mut starts = starts.iter();
    for (number, window) in session.windows.iter().enumerate() {
        for (position, pane) in window.panes.iter().enumerate() {
            let Some((start, screen)) = starts.next() else { return };
            let screen = screen.as_deref();
            match (number, position) {
                (0, 0) => {
                    let (width, height) = window.layout.as_ref().map_or(SIZE, |layout| layout.size());
                    line.command(&["new-session", "-d", "-s", target.as_str()]);
                    line.words(&["-x", &width.to_string(), "-y", &height.to_string()]);
                    let folder = for_session(&mut line, session, home);
                    name_window(&mut line, window);
                    begin(&mut line, (start, screen), target, programs, Some(folder));
                    renumber(&mut line, target, window);
                }
                (_, 0) => {
                    let index = window.index.map_or_else(String::new, |index| index.to_string());
                    line.command(&["new-window", "-t", &format!("={target}:{index}")]);
                    name_window(&mut line, window);
                    begin(&mut line, (start, screen), target, programs, None);
                }
                _ => {
                    // Splitting the same pane again and again runs out of room; spread out, they all fit.
                    line.command(&["select-layout", "-t", &format!("={target}:"), "tiled"]);
                    line.command(&["split-window", "-t", &format!("={target}:")]);
                    begin(&mut line, (start, screen), target, programs, None);
                }
            }
            title(&mut line, target, pane);
        }
        finish_window(&mut line, target, window);
    }
    let active = session.windows.iter().position(|window| window.active);
    if let (Some(active), last @ 1..) = (active, session.windows.len().saturating_sub(1)) {
        // The last window is the current one.
        if let back @ 1.. = last.saturating_sub(active) {
            line.command(&["select-window", "-t", &format!("={target}:-{back}")]);
        }
    }
    line.end(script);
}

/// What is the session's own: its environment, and the folder of its new windows.
fn for_session<'a>(line: &mut Line, session: &'a Session, home: &'a Folder) -> &'a Folder {
    for (key, value) in &session.environment {
        line.words(&["-e", &format!("{key}={value}")]);
    }
    let folder = session.folder.as_ref().filter(|folder| as_argument(folder).is_some()).unwrap_or(home);
    line.words(&["-c"]);
    line.format(&as_argument(folder).unwrap_or_else(|| "/".into()));
    folder
}

fn name_window(line: &mut Line, window: &Window) {
    if let Some(name) = &window.name {
        line.words(&["-n"]);
        line.format(name);
    }
}

/// The first window is where the server's `base-index` puts it.
fn renumber(line: &mut Line, target: &SessionName, window: &Window) {
    let Some(index) = window.index else { return };
    let (session, place) = (format!("={target}:"), format!("={target}:{index}"));
    let differs = format!("#{{!=:#{{window_index}},{index}}}");
    line.command(&["if-shell", "-F", "-t", &session, &differs]);
    line.word(
        format!("move-window -s {} -t {}", quoted(session.as_bytes()), quoted(place.as_bytes())).as_bytes(),
    );
}

/// With a window's panes made and the last one active.
fn finish_window(line: &mut Line, target: &SessionName, window: &Window) {
    let at = format!("={target}:");
    if window.name.is_none() {
        line.command(&["if-shell", "-F", "-t", &at, "#{automatic-rename}", ""]);
        line.word(format!("set-option -w -t {} automatic-rename on", quoted(at.as_bytes())).as_bytes());
    }
    if let Some(layout) = window.layout.as_ref().filter(|layout| layout.panes() == window.panes.len()) {
        line.command(&["select-layout", "-t", &at, &layout.to_tmux()]);
    }
    let active = window.panes.iter().position(|pane| pane.active);
    let last = window.panes.len().saturating_sub(1);
    if let Some(back @ 1..) = active.map(|active| last.saturating_sub(active)) {
        line.command(&["select-pane", "-t", &format!("={target}:.-{back}")]);
    }
    if window.zoomed && last > 0 {
        line.command(&["resize-pane", "-Z", "-t", &at]);
    }
}

fn title(line: &mut Line, target: &SessionName, pane: &Pane) {
    if let Some(title) = &pane.title {
        line.command(&["select-pane", "-t", &format!("={target}:"), "-T"]);
        line.format(title);
    }
}

/// What a pane begins with. A plain shell in a plain folder is tmux's own business; for the rest there is our program,
/// which needs no shell to understand its arguments.
/// `given` is the folder of a new session, which is for all of its windows.
fn begin(
    line: &mut Line,
    (start, screen): (&Start, Option<&Path>),
    target: &SessionName,
    programs: &Programs,
    given: Option<&Folder>,
) {
    let (folder, rest): (&Folder, Vec<&str>) = match start {
        Start::Shell { folder } => match (given, as_argument(folder)) {
            _ if screen.is_some() => (folder, vec![]),
            (Some(given), Some(_)) if given == folder => return,
            (None, Some(folder)) => {
                line.words(&["-c"]);
                line.format(&folder);
                return;
            }
            _ => (folder, vec![]),
        },
        Start::Run { folder, command } => {
            (folder, std::iter::once("--").chain(command.iter().map(String::as_str)).collect())
        }
        Start::Resume { folder, id } => {
            (folder, vec!["--claude", &programs.claude, "--name", target.as_str(), "--resume", id.as_str()])
        }
        Start::Gone { folder, id } => (folder, vec!["--gone", id.as_str()]),
        Start::FolderGone { folder, id, .. } => (folder, vec!["--folder-gone", id.as_str()]),
    };
    line.words(&["--"]);
    for part in &programs.pane {
        line.words(&[part]);
    }
    line.words(&["--folder"]);
    line.word(folder.bytes());
    if let Some(screen) = screen {
        line.words(&["--scrollback"]);
        line.word(screen.as_os_str().as_bytes());
    }
    if let Start::FolderGone { wants, .. } = start {
        line.words(&["--wants"]);
        line.word(wants.bytes());
    }
    line.words(&rest);
}

/// Types the resume into a pane in which a shell waits with nothing on its line, if nothing has happened there since.
fn type_into(script: &mut Vec<u8>, target: &SessionName, typed: &Typed, claude: &str) {
    let Some(empty) = typed.pane.prompt.as_ref().and_then(Prompt::still_empty) else { return };
    let at = format!("={target}:{}.{}", typed.pane.window, typed.pane.pane);
    let at = quoted(at.as_bytes());
    let mut text = b"cd ".to_vec();
    text.extend(shell::quoted(typed.folder.bytes()));
    text.extend(b" && ");
    text.extend(shell::quoted(claude.as_bytes()));
    text.extend(format!(" --resume {} --name {target}", typed.id).as_bytes());
    let send = [
        format!("send-keys -t {at} -l {}", quoted(&text)),
        format!("send-keys -t {at} Enter"),
        // Whoever asked sees by this that it was done.
        format!("display-message -p {}", quoted(escaped(&typed_mark(&typed.pane.id)).as_bytes())),
    ];
    when(script, &at, &empty, &send.join(" ; "));
}

/// Presses these keys in the pane of that id, if the condition holds in that moment. Whoever asked sees by the mark that it
/// was done.
pub(crate) fn press(script: &mut Vec<u8>, pane: &str, condition: &str, keys: &str) {
    let at = quoted(pane.as_bytes());
    let told = format!("display-message -p {}", quoted(escaped(&pressed_mark(pane)).as_bytes()));
    when(script, &at, condition, &format!("send-keys -t {at} {keys} ; {told}"));
}

fn when(script: &mut Vec<u8>, at: &str, condition: &str, commands: &str) {
    let mut line = Line::default();
    line.command(&["if-shell", "-F", "-t"]);
    line.0.push(b' ');
    line.0.extend(at.as_bytes());
    line.words(&[condition, commands]);
    line.end(script);
}

/// What a server says once something was typed into the pane of that id.
pub(crate) fn typed_mark(pane: &str) -> String {
    // As a number: `%` begins a time.
    format!("typed into {}", pane.trim_start_matches('%'))
}

/// The same once keys were pressed in it.
pub(crate) fn pressed_mark(pane: &str) -> String {
    format!("pressed in {}", pane.trim_start_matches('%'))
}

/// A path as an argument that tmux expands; none where it would not come out as it went in.
fn as_argument(folder: &Folder) -> Option<String> {
    let text = std::str::from_utf8(folder.bytes()).ok()?;
    (!text.chars().any(char::is_control)).then(|| text.to_owned())
}

/// A line of tmux commands in the making.
#[derive(Default)]
struct Line(Vec<u8>);

impl Line {
    fn command(&mut self, words: &[&str]) {
        if !self.0.is_empty() {
            self.0.extend(b" ;");
        }
        self.words(words);
    }

    fn words(&mut self, words: &[&str]) {
        for word in words {
            self.word(word.as_bytes());
        }
    }

    fn word(&mut self, word: &[u8]) {
        if !self.0.is_empty() {
            self.0.push(b' ');
        }
        self.0.extend(quoted(word).as_bytes());
    }

    /// A word that tmux takes for a format and expands.
    fn format(&mut self, text: &str) {
        self.word(escaped(text).as_bytes());
    }

    fn end(self, script: &mut Vec<u8>) {
        script.extend(self.0);
        script.push(b'\n');
    }
}

/// A word as tmux's own language quotes it. Whatever is not plain is written as its octal number, so that nothing in it
/// can mean anything.
fn quoted(word: &[u8]) -> String {
    let bare = |byte: &u8| byte.is_ascii_alphanumeric() || b"/_-.:=@+".contains(byte);
    if !word.is_empty() && word.iter().all(bare) {
        return String::from_utf8_lossy(word).into_owned();
    }
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/_-.,:=@+!?<>()[]{}*&|^ ".contains(byte);
    let mut text = String::with_capacity(word.len() + 2);
    text.push('"');
    for byte in word {
        if plain(byte) {
            text.push(char::from(*byte));
        } else {
            text.push_str(&format!("\\{byte:03o}"));
        }
    }
    text.push('"');
    text
}

/// A text that an expansion of formats and of times gives back as it is. `#[` begins a style, which an expansion leaves
/// alone, however many `#` stand before it.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('#') {
        let (before, from) = rest.split_at(at);
        escaped.push_str(before);
        let after = from.trim_start_matches('#');
        let count = from.len() - after.len();
        escaped.push_str(&"#".repeat(if after.starts_with('[') { count } else { 2 * count }));
        rest = after;
    }
    escaped.push_str(rest);
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::from_tsv;
    use crate::layout::Layout;
    use crate::model::{ConversationId, Moment};
    use crate::plan::{Facts, Live, LivePane, resolve};
    use crate::series::Tombstones;

    const X: &str = "00000000-0000-4000-8000-00000000000a";

    fn folder(text: &str) -> Folder {
        Folder::new(text).unwrap()
    }

    fn programs() -> Programs {
        Programs { pane: vec!["PANE".into()], claude: "claude".into() }
    }

    fn facts() -> Facts {
        Facts {
            home: folder("/home/ann"),
            transcripts: [(ConversationId::new(X).unwrap(), folder("/srv/it's"))].into(),
            folders: ["/home/ann", "/srv/a b", "/srv/it's"].map(folder).into(),
            seen_in: Default::default(),
        }
    }

    fn written(rows: &[Resolved]) -> String {
        String::from_utf8(script(rows, &folder("/home/ann"), &programs())).unwrap()
    }

    #[test]
    fn a_session_is_one_line() {
        let mut snapshot =
            from_tsv(Moment(0), format!("web\t/srv/a b\t{X}").as_bytes(), &folder("/home/ann"));
        let window = &mut snapshot.sessions[0].windows[0];
        let plain = Pane { conversation: None, active: false, ..window.panes[0].clone() };
        window.panes.push(plain.clone());
        window.index = Some(3);
        window.zoomed = true;
        window.layout = Layout::from_cells("80x24,0,0{40x24,0,0,39x24,41,0}");
        window.name = Some("#(id) \"x\";".into());
        let mut second = window.clone();
        (second.index, second.name, second.active, second.zoomed) = (Some(5), None, false, false);
        second.layout = None;
        second.panes = vec![Pane { title: Some("ti$tle".into()), active: true, ..plain }];
        snapshot.sessions[0].windows.push(second);
        let rows = resolve(&snapshot, &Live::default(), &facts(), &Tombstones::default());
        let text = written(&rows).replace(" ;", " ;\n ");
        insta::assert_snapshot!(text, @r#"
        new-session -d -s web -x 80 -y 24 -c /home/ann -n "\043\043(id) \042x\042\073" -- PANE --folder "/srv/it\047s" --claude claude --name web --resume 00000000-0000-4000-8000-00000000000a ;
          if-shell -F -t =web: "\043{!=:\043{window_index},3}" "move-window -s =web: -t =web:3" ;
          select-layout -t =web: tiled ;
          split-window -t =web: -c "/srv/a b" ;
          select-layout -t =web: "347e,80x24,0,0{40x24,0,0,39x24,41,0}" ;
          select-pane -t =web:.-1 ;
          resize-pane -Z -t =web: ;
          new-window -t =web:5 -c "/srv/a b" ;
          select-pane -t =web: -T "ti\044tle" ;
          if-shell -F -t =web: "\043{automatic-rename}" "" "set-option -w -t =web: automatic-rename on" ;
          select-window -t =web:-1
        "#);
    }

    #[test]
    fn typing_names_its_pane_exactly() {
        let snapshot = from_tsv(Moment(0), format!("web\t/srv/a b\t{X}").as_bytes(), &folder("/home/ann"));
        let pane = LivePane {
            id: "%7".into(),
            window: 1,
            pane: 2,
            position: 0,
            active: true,
            pid: None,
            prompt: Prompt::empty("1 %7 2 80 0 0 0 bash 0 3 0"),
            doubtful: false,
            claude: false,
            conversation: None,
        };
        let live = Live { server: None, sessions: [(snapshot.sessions[0].name.clone(), vec![pane])].into() };
        let rows = resolve(&snapshot, &live, &facts(), &Tombstones::default());
        insta::assert_snapshot!(written(&rows), @r#"if-shell -F -t =web:1.2 "\043{==:\043{pid} \043{pane_id} \043{pane_pid} \043{pane_width} \043{pane_in_mode} \043{pane_synchronized} \043{pane_input_off} \043{pane_current_command} \043{history_size} \043{cursor_x} \043{cursor_y},1 \0457 2 80 0 0 0 bash 0 3 0}" "send-keys -t =web:1.2 -l \042cd \134047/srv/it\134047\134134\134047\134047s\134047 && claude --resume 00000000-0000-4000-8000-00000000000a --name web\042 \073 send-keys -t =web:1.2 Enter \073 display-message -p \042typed into 7\042""#);
    }

    #[test]
    fn formats_are_given_back_as_they_were() {
        for (text, wanted) in [
            ("a", "a"),
            ("#(id)", "##(id)"),
            ("##{x}", "####{x}"),
            ("#[fg=red]x", "#[fg=red]x"),
            ("##[x", "##[x"),
            ("a#", "a##"),
        ] {
            assert_eq!(escaped(text), wanted);
        }
    }
}
