//! tmux 3.2 to 3.5, of which no machine has all: whatever is said to a server is in the words of 3.2, which all of them
//! understand alike. (3.3 to 3.5 took none of them away; 3.1 lacks `new-session -e` and `session_path`.)

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

/// The commands that may be used, each with its options as 3.2 has them; those with a `:` take a value.
const COMMANDS: [(&str, &str); 17] = [
    ("capture-pane", "aCeJNPpqb:E:S:t:"),
    ("display-message", "aINpvc:d:t:F:"),
    ("if-shell", "bFt:"),
    ("list-panes", "asF:f:t:"),
    ("list-sessions", "F:f:"),
    ("move-window", "abdkrs:t:"),
    ("new-session", "AdDEPXc:e:f:F:n:s:t:x:y:"),
    ("new-window", "abdkPSc:e:F:n:t:"),
    ("resize-pane", "DLMRTUZt:x:y:"),
    ("select-layout", "Enopt:"),
    ("select-pane", "DdeLlMmRUZT:t:"),
    ("select-window", "lnpTt:"),
    ("send-keys", "FHlMRXN:t:"),
    ("set-option", "aFgopqsuUwt:"),
    ("source-file", "Fnqv"),
    ("split-window", "bdfhIPvZc:e:F:l:p:t:"),
    ("start-server", ""),
];

/// Runs the other tests with a tmux that writes down what is said to it.
#[test]
fn only_words_of_3_2_are_used() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    fs::create_dir(&log).unwrap();
    let real = Command::new("sh").args(["-c", "command -v tmux"]).output().unwrap().stdout;
    let real = String::from_utf8(real).unwrap();
    let script = format!(
        "#!/bin/sh\nd=$(mktemp -d {log}/XXXXXXXX)\nprintf '%s\\0' \"$@\" >$d/arguments\n\
         case $* in *'source-file -') tee $d/script | exec {real} \"$@\" ;; esac\nexec {real} \"$@\"\n",
        log = log.display(),
        real = real.trim(),
    );
    fs::write(dir.path().join("tmux"), script).unwrap();
    fs::set_permissions(dir.path().join("tmux"), fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["sessions::", "prompts::", "lines::what", "places::", "trees::"])
        .env("PATH", path)
        .env("PROPTEST_CASES", "8")
        .env("PROPTEST_RNG_SEED", "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));

    let mut said = Said::default();
    for call in fs::read_dir(&log).unwrap() {
        let call = call.unwrap().path();
        let arguments = fs::read(call.join("arguments")).unwrap();
        let arguments = String::from_utf8_lossy(&arguments);
        let arguments: Vec<&str> = arguments.split_terminator('\0').collect();
        // The tests themself say -f, and say nothing else that counts here.
        if let ["-u", "-L", _, first, ..] = arguments[..]
            && first != "-f"
        {
            said.commands(arguments[3..].iter().map(|word| (*word).to_owned()));
            let script = fs::read(call.join("script")).unwrap_or_default();
            said.script(&String::from_utf8(script).unwrap());
        }
    }
    let used: Vec<String> = said.used.into_iter().collect();
    insta::assert_snapshot!(used.join("\n"), @"
    capture-pane -S
    capture-pane -e
    capture-pane -p
    capture-pane -t
    display-message -p
    display-message -t
    if-shell -F
    if-shell -t
    list-panes -F
    list-panes -a
    move-window -s
    move-window -t
    new-session -c
    new-session -d
    new-session -e
    new-session -n
    new-session -s
    new-session -t
    new-session -x
    new-session -y
    new-window -c
    new-window -n
    new-window -t
    resize-pane -Z
    resize-pane -t
    select-layout -t
    select-pane -T
    select-pane -t
    select-window -t
    send-keys -l
    send-keys -t
    set-option -t
    set-option -w
    split-window -c
    split-window -t
    ");
    let formats: Vec<String> = said.formats.into_iter().collect();
    insta::assert_snapshot!(formats.join("\n"), @"
    @claude_transcript
    automatic-rename
    cursor_x
    cursor_y
    history_size
    host
    pane_active
    pane_current_command
    pane_dead
    pane_id
    pane_in_mode
    pane_index
    pane_input_off
    pane_pid
    pane_start_command
    pane_synchronized
    pane_title
    pane_width
    pid
    session_group
    session_name
    session_path
    start_time
    window_active
    window_index
    window_layout
    window_name
    window_zoomed_flag
    ");
}

/// What was said to servers.
#[derive(Default)]
struct Said {
    used: BTreeSet<String>,
    formats: BTreeSet<String>,
}

impl Said {
    /// Lines in tmux's own language, as far as this crate writes it.
    fn script(&mut self, script: &str) {
        for line in script.lines() {
            self.commands(words(line).into_iter());
        }
    }

    fn commands(&mut self, words: impl Iterator<Item = String>) {
        let words: Vec<String> = words.collect();
        for command in words.split(|word| word == ";").filter(|command| !command.is_empty()) {
            self.command(command);
        }
    }

    fn command(&mut self, command: &[String]) {
        let name = command[0].as_str();
        let known = COMMANDS.iter().find(|(known, _)| *known == name);
        let options = known.unwrap_or_else(|| panic!("not among the commands: {command:?}")).1;
        let mut rest = command[1..].iter();
        while let Some(word) = rest.as_slice().first().filter(|word| word.len() > 1 && word.starts_with('-'))
        {
            rest.next();
            if word == "--" {
                break;
            }
            let option = &word[1..];
            assert!(option.len() == 1 && options.contains(option), "{name} -{option} is not in 3.2");
            let takes_value = options.contains(&format!("{option}:"));
            if takes_value {
                let value = rest.next().unwrap();
                self.formats_in(value, name.starts_with("list-"));
            }
            self.used.insert(format!("{name} -{option}"));
        }
        if name == "if-shell" {
            let rest = rest.as_slice();
            self.formats_in(&rest[0], true);
            rest[1..].iter().for_each(|nested| self.script(nested));
        }
    }

    /// The variables of a format of our own; in what a person called something, `##` stands before.
    fn formats_in(&mut self, text: &str, ours: bool) {
        for part in text.split("#{").skip(1).filter(|_| ours) {
            let name = part.trim_start_matches(['!', '=', '|', ':']).split(['}', ',', '#']).next().unwrap();
            if !name.is_empty() {
                self.formats.insert(name.to_owned());
            }
        }
    }
}

/// The words of a line: bare ones, and quoted ones with octal numbers for what is not plain.
fn words(line: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut rest = line.chars().peekable();
    while let Some(first) = rest.next() {
        if first == ' ' {
            continue;
        }
        let mut bytes = Vec::new();
        if first != '"' {
            bytes.push(u8::try_from(first).unwrap());
        }
        while let Some(next) = rest.next() {
            match next {
                '"' if first == '"' => break,
                ' ' if first != '"' => break,
                '\\' => {
                    let digits: String = rest.by_ref().take(3).collect();
                    bytes.push(u8::from_str_radix(&digits, 8).unwrap());
                }
                plain => bytes.push(u8::try_from(plain).unwrap()),
            }
        }
        words.push(String::from_utf8_lossy(&bytes).into_owned());
    }
    words
}
