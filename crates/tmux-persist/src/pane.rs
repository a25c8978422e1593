//! What a restored pane begins with: `rosterctl tmux pane …`, started by the person's own tmux server. It goes to the
//! folder, says what there is to say, and becomes the person's shell, with a program in it first.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::shell;

/// How long a pane waits for its own scope. On a machine without such scopes it is cut short.
const SCOPE_PATIENCE: Duration = Duration::from_secs(2);

/// What a pane is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PaneStart {
    /// Where to go; the home when it is gone.
    pub folder: PathBuf,
    /// The text that the pane showed.
    pub scrollback: Option<PathBuf>,
    /// The conversation to resume, with the session's name and the program that does it.
    pub resume: Option<Resume>,
    /// The conversation that is gone.
    pub gone: Option<String>,
    /// The conversation whose folder is gone, and that folder.
    pub folder_gone: Option<(String, PathBuf)>,
    /// The program to run.
    pub run: Vec<OsString>,
}

/// A conversation to resume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resume {
    /// Which one.
    pub id: String,
    /// What it is to be called.
    pub name: String,
    /// The program.
    pub claude: String,
}

/// Becomes the shell; returns only when that cannot be started.
pub fn pane(start: &PaneStart) -> io::Error {
    wait_for_scope();
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let folders =
        std::iter::once(start.folder.clone()).chain(home).chain(std::iter::once(PathBuf::from("/")));
    for folder in folders {
        if std::env::set_current_dir(folder).is_ok() {
            break;
        }
    }
    tell(start);
    let shell = login_shell();
    let asks = asks_new_people(&shell);
    Command::new(&shell).args(arguments(&shell, asks, program(start))).exec()
}

/// With which arguments the shell runs a program and goes on, or begins.
///
/// Without any file of the person's own, zsh would ask for one before all else, and hide what was told or keep the program
/// from running. In its privileged mode (`-p`) it reads what it reads for everybody, and does not ask. Where a person's files
/// are is known only then: `/etc/zsh/zshenv` may say.
fn arguments(shell: &OsStr, asks: bool, program: Option<OsString>) -> Vec<OsString> {
    let becomes = [b"exec ", &shell::quoted(shell.as_bytes())[..]].concat();
    // An interactive login shell runs it, so that it finds what the person would find by typing.
    let text = |program: &OsStr, how: &[u8]| [program.as_bytes(), b"; ", &becomes, how].concat();
    let words = |words: &[&str]| words.iter().map(OsString::from).collect::<Vec<_>>();
    let mut all = words(if asks { &["-l", "-p", "-i", "-c"] } else { &["-l", "-i", "-c"] });
    let (own, none) = match &program {
        None if !asks => return words(&["-l"]),
        None => (b" -l".to_vec(), [&becomes[..], b" -l -p"].concat()),
        Some(program) => {
            let with_own = text(program, b" -l");
            if !asks {
                all.push(OsString::from_vec(with_own));
                return all;
            }
            ([b" -l -i -c ", &shell::quoted(&with_own)[..]].concat(), text(program, b" -l -p"))
        }
    };
    all.push(OsString::from_vec(
        [
            b"for f in .zshenv .zprofile .zshrc .zlogin; do [ ! -e \"${ZDOTDIR:-$HOME}/$f\" ] || ",
            &becomes[..],
            &own,
            b"; done; ",
            &none,
        ]
        .concat(),
    ));
    all
}

/// Whether the shell is a zsh that asks whoever has none of its files for a configuration, as far as can be seen.
fn asks_new_people(shell: &OsStr) -> bool {
    let zsh = Path::new(shell).file_name().is_some_and(|name| name == "zsh");
    let folder =
        std::env::var_os("ZDOTDIR").filter(|dir| !dir.is_empty()).or_else(|| std::env::var_os("HOME"));
    let files = [".zshenv", ".zprofile", ".zshrc", ".zlogin"];
    zsh && folder.is_some_and(|folder| !files.iter().any(|file| Path::new(&folder).join(file).exists()))
}

fn tell(start: &PaneStart) {
    // Nobody may be reading; the shell is what counts.
    let mut out = io::stdout().lock();
    if let Some(path) = &start.scrollback
        && let Ok(text) = fs::read(path)
    {
        let _ = out.write_all(&text);
    }
    if let Some(id) = &start.gone {
        let _ =
            writeln!(out, "The conversation {id} that was here is gone: its transcript no longer exists.");
    }
    if let Some((id, folder)) = &start.folder_gone {
        let folder = folder.to_string_lossy().escape_debug().to_string();
        let _ = writeln!(
            out,
            "The conversation {id} that was here resumes only in its folder, which is gone: {folder}\n\
             Once that is back, resume it there: claude --resume {id}"
        );
    }
    let _ = out.flush();
}

fn program(start: &PaneStart) -> Option<OsString> {
    let words =
        |words: &[&[u8]]| words.iter().map(|word| shell::quoted(word)).collect::<Vec<_>>().join(&b' ');
    if let Some(Resume { id, name, claude }) = &start.resume {
        let after = format!("This is a shell; the conversation resumes with: claude --resume {id}");
        let resume = words(&[claude, "--resume", id, "--name", name].map(str::as_bytes));
        let tell = words(&["echo", &after].map(str::as_bytes));
        return Some(OsString::from_vec([&resume, &b"; echo; "[..], &tell].concat()));
    }
    let run: Vec<&[u8]> = start.run.iter().map(|word| word.as_bytes()).collect();
    (!run.is_empty()).then(|| OsString::from_vec(words(&run)))
}

/// The shell that tmux gives its panes, if it takes the usual options.
fn login_shell() -> OsString {
    const KNOWN: [&str; 9] = ["bash", "zsh", "sh", "fish", "dash", "ksh", "ksh93", "mksh", "ash"];
    std::env::var_os("SHELL")
        .filter(|shell| {
            let name = Path::new(shell).file_name().and_then(|name| name.to_str());
            Path::new(shell).is_absolute() && name.is_some_and(|name| KNOWN.contains(&name))
        })
        .unwrap_or_else(|| "/bin/sh".into())
}

/// tmux asks systemd to put a new pane into a scope of its own and does not wait for it. What forks before stays in the
/// server's unit, where the pane's memory limit does not hold. So this waits, before anything is forked, where tmux
/// does so at all: from 3.4 on, with the person's own manager running.
fn wait_for_scope() {
    if !makes_scopes() {
        return;
    }
    let until = Instant::now() + SCOPE_PATIENCE;
    while !in_scope() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn makes_scopes() -> bool {
    let version = std::env::var("TERM_PROGRAM_VERSION").unwrap_or_default();
    // tmux asks over the person's bus, which is there when Debian's dbus-user-session is.
    let bus = std::env::var_os("XDG_RUNTIME_DIR").map(|dir| PathBuf::from(dir).join("bus"));
    recent(&version) && bus.is_some_and(|socket| socket.exists())
}

/// Whether this is tmux 3.4 or later.
fn recent(version: &str) -> bool {
    let mut numbers =
        version.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (3, 4)
}

fn in_scope() -> bool {
    fs::read_to_string("/proc/self/cgroup").is_ok_and(|text| text.contains("/tmux-spawn-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_quoted_for_any_shell() {
        let run =
            PaneStart { run: ["vim", "it's a.txt", "$x"].map(OsString::from).into(), ..PaneStart::default() };
        assert_eq!(program(&run).unwrap(), r"vim 'it'\''s a.txt' '$x'");
        // Not even by fish, to which a backslash means something within quotes.
        let run = PaneStart { run: ["vim", r"x\';id;#"].map(OsString::from).into(), ..PaneStart::default() };
        assert_eq!(program(&run).unwrap(), r"vim 'x'\\''\'';id;#'");
        let resume = Resume { id: "ID".into(), name: "web".into(), claude: "/opt/my claude".into() };
        let resume = PaneStart { resume: Some(resume), ..PaneStart::default() };
        insta::assert_snapshot!(
            program(&resume).unwrap().to_str().unwrap(),
            @"'/opt/my claude' --resume ID --name web; echo; echo 'This is a shell; the conversation resumes with: claude --resume ID'"
        );
        assert_eq!(program(&PaneStart::default()), None);
    }

    #[test]
    fn a_zsh_does_not_ask_before_it_runs_a_program() {
        let told = |asks, program: Option<&str>| {
            arguments(OsStr::new("/bin/zsh"), asks, program.map(OsString::from)).join(OsStr::new(" | "))
        };
        assert_eq!(told(false, None), "-l");
        assert_eq!(told(false, Some("vim")), "-l | -i | -c | vim; exec /bin/zsh -l");
        let own = r#"for f in .zshenv .zprofile .zshrc .zlogin; do [ ! -e "${ZDOTDIR:-$HOME}/$f" ] || exec /bin/zsh -l"#;
        assert_eq!(
            told(true, None).to_str().unwrap(),
            format!("-l | -p | -i | -c | {own}; done; exec /bin/zsh -l -p")
        );
        let runs = format!(
            "-l | -p | -i | -c | {own} -i -c 'vim; exec /bin/zsh -l'; done; vim; exec /bin/zsh -l -p"
        );
        assert_eq!(told(true, Some("vim")).to_str().unwrap(), runs);
    }

    #[test]
    fn a_zsh_finds_the_files_of_its_person_where_they_are() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(".zprofile"), "MINE=\"it's mine\"").unwrap();
        fs::write(dir.path().join(".zshrc"), "MINE=\"$MINE, as by typing\"").unwrap();
        let ran = |program: Option<&str>, files: &Path| {
            let arguments = arguments(OsStr::new("zsh"), true, program.map(OsString::from));
            let mut zsh = Command::new("zsh");
            zsh.args(arguments).env("HOME", "/nonexistent").env("ZDOTDIR", files);
            let mut zsh = zsh
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::null())
                .spawn()
                .ok()?;
            zsh.stdin
                .take()
                .unwrap()
                .write_all(b"print -r -- \"stays $MINE $options[privileged]\"\n")
                .unwrap();
            let output = String::from_utf8(zsh.wait_with_output().unwrap().stdout).unwrap();
            let told = output.lines().filter(|line| line.starts_with("ran ") || line.starts_with("stays "));
            Some(told.collect::<Vec<_>>().join("\n"))
        };
        // Not every machine has it.
        let program = r#"echo "ran 'it' $MINE""#;
        let Some(own) = ran(Some(program), dir.path()) else { return };
        assert_eq!(own, "ran 'it' it's mine, as by typing\nstays it's mine off");
        let none = ran(Some(program), Path::new("/nonexistent")).unwrap();
        assert_eq!(none, "ran 'it' \nstays  on");
        assert_eq!(ran(None, dir.path()).unwrap(), "stays it's mine off");
        assert_eq!(ran(None, Path::new("/nonexistent")).unwrap(), "stays  on");
    }

    #[test]
    fn scopes_are_waited_for_from_3_4_on() {
        for (version, is) in
            [("3.2a", false), ("3.3a", false), ("3.4", true), ("3.5a", true), ("4.0", true), ("", false)]
        {
            assert_eq!(recent(version), is, "{version}");
        }
    }
}
