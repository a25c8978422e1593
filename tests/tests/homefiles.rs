//! Files of homes and of the machine, on real ones: everybody gets what the configuration lists, nobody loses what is
//! their own, and what stands in the way is told once.

use std::time::Duration;

use machine_tests::{Forge, Machine, Suite, on_each_debian};
use serde_json::Value;

on_each_debian!(
    homes_are_filled_and_what_people_have_stays_invariant_1,
    a_source_that_is_half_written_changes_nothing_and_recovers_by_itself,
    hostile_places_hurt_nobody_and_are_told_once_invariant_3,
    ten_writers_and_rosterd_lose_no_key,
    the_launcher_starts_one_conversation_and_keeps_the_pane,
    who_can_read_what_is_told_with_the_line_that_mends_it,
);

const SOON: Duration = Duration::from_secs(60);

/// What a site begins with, and an entry of its own.
const CONFIG: &str = r##"
[[file]]
path = "~/start-claude.sh"
kind = "copy"
source = "/srv/start-claude.sh"
mode = "0755"
[[file]]
path = "~/.claude/skills"
kind = "link"
target = "/srv/claude/skills"
[[file]]
path = "~/.claude/rules/10-shared.md"
kind = "copy"
source = "/srv/claude/rules/10-shared.md"
[[file]]
path = "~/.claude/rules/99-personal.md"
kind = "once"
content = "# Rules of {{os_user}}\n"
[[file]]
path = "~/.codex/AGENTS.md"
kind = "copy"
source = "/etc/rosterd/managed-settings.json"
source_key = "/claudeMd"
header = "<!-- kept by rosterd -->"
[[file]]
path = "~/.claude.json"
kind = "json"
[file.keys]
"/hasCompletedOnboarding" = true
"/mcpServers/playwright" = {type = "http", url = "http://localhost:{{port.playwright}}/mcp"}
[[file]]
path = "~/.kube/config"
kind = "once"
source = "/etc/rosterd/kubeconfig.people"
mode = "0600"
[[file]]
path = "~/.zshrc"
kind = "block"
content = "export SITE=yes"
[[file]]
path = "~/.site/welcome"
kind = "once"
content = "{{os_user}} at {{home}}\n"
tiers = ["admin"]
[[file]]
path = "/etc/profile.d/site.sh"
kind = "copy"
content = "export SITE=yes\n"
[[file]]
path = "/etc/zsh/zprofile"
kind = "block"
content = "emulate sh -c '. /etc/profile.d/site.sh'"
[[file]]
path = "/etc/skel/start-claude.sh"
kind = "copy"
source = "/srv/start-claude.sh"
mode = "0755"
[claude]
managed_settings_source = "/etc/rosterd/managed-settings.json"
"##;

fn roster(names: &[&str]) -> String {
    let person = |name: &&str| {
        let tier = if *name == "boss" { "admin" } else { "power-user" };
        format!("  {name}: {{authentik_user: {name}, k8s_user: {name}, tier: {tier}}}\n")
    };
    format!("users:\n{}", names.iter().map(person).collect::<String>())
}

fn machine(suite: Suite) -> Machine {
    let machine = Machine::with_rosterd(suite);
    machine
        .sh("mkdir -p /srv/claude/skills /srv/claude/rules; echo skill >/srv/claude/skills/SKILL.md
             echo shared >/srv/claude/rules/10-shared.md; cp /usr/share/rosterd/start-claude.sh /srv/
             cp /usr/share/rosterd/kubeconfig.yaml /etc/rosterd/kubeconfig.people
             printf '{\"claudeMd\": \"be kind\", \"x\": 1}' >/etc/rosterd/managed-settings.json
             mkdir -p /etc/zsh; echo '# Debian' >/etc/zsh/zprofile")
        .ok();
    machine
}

/// Every file of a home with its content, owner, mode, inode and time.
fn home(machine: &Machine, user: &str) -> String {
    machine
        .sh(&format!(
            "cd /home/{user}; find . -printf '%p %y %m %U %i %T@ %l\\n' | sort; find . -type f -exec sha256sum {{}} + | sort"
        ))
        .ok()
}

fn homes_are_filled_and_what_people_have_stays_invariant_1(suite: Suite) {
    let machine = machine(suite);
    // Somebody who was there before, with files of their own in nearly every place.
    machine.sh("useradd -m -s /bin/bash old; useradd -m -s /bin/bash bare").ok();
    machine
        .sh_as(
            "old",
            "mkdir -p .claude/skills/mine .claude/rules .codex .kube; echo mine >.claude/skills/mine/SKILL.md
             echo 'my own rules' >.claude/rules/99-personal.md; echo 'my own agents' >.codex/AGENTS.md
             echo 'my own cluster' >.kube/config; chmod 600 .kube/config
             printf '{\\n\\t\"z\": 1,\\n\\t\"mcpServers\": {\"playwright\": {\"command\": \"mine\"}}\\n}' >.claude.json
             echo 'alias mine=true' >.zshrc; echo 'an older launcher' >start-claude.sh",
        )
        .ok();
    machine.write_file("/etc/rosterd/config.toml", CONFIG);
    machine.write_file("/etc/rosterd/roster.yaml", roster(&["old", "bare", "new", "boss"]));
    machine.run(&["rosterctl", "wait", "--timeout", "100"]).ok();

    // A new home and an old one without files: all of it, in the right hands.
    for user in ["new", "bare"] {
        let port = machine.sh(&format!("sed -n 's/PLAYWRIGHT_PORT=//p' /etc/playwright-mcp/{user}.env")).ok();
        let json: Value =
            serde_json::from_str(&machine.read_file(&format!("/home/{user}/.claude.json"))).unwrap();
        assert_eq!(json["hasCompletedOnboarding"], true);
        let url = format!("http://localhost:{}/mcp", port.trim());
        assert_eq!(json["mcpServers"]["playwright"]["url"], url.as_str());
        let modes = machine
            .sh(&format!(
                "cd /home/{user}; stat -c '%a %U %n' start-claude.sh .claude.json .kube .kube/config .claude .zshrc"
            ))
            .ok();
        let expected = [
            ("755", "start-claude.sh"),
            ("600", ".claude.json"),
            ("700", ".kube"),
            ("600", ".kube/config"),
            ("700", ".claude"),
            ("644", ".zshrc"),
        ];
        let expected: String = expected.map(|(mode, name)| format!("{mode} {user} {name}\n")).concat();
        assert_eq!(modes, expected);
        // As the person themself sees it.
        let seen = machine
            .sh_as(user, "cat .claude/skills/SKILL.md .claude/rules/10-shared.md .claude/rules/99-personal.md .codex/AGENTS.md")
            .ok();
        assert_eq!(seen, format!("skill\nshared\n# Rules of {user}\n<!-- kept by rosterd -->\nbe kind\n"));
        assert!(!machine.exists(&format!("/home/{user}/.site")));
    }
    // A site's own entry, without code.
    assert_eq!(machine.read_file("/home/boss/.site/welcome"), "boss at /home/boss\n");
    assert_eq!(machine.sh_as("boss", "bash -lc 'echo $SITE'").ok(), "yes\n");
    let zprofile = machine.read_file("/etc/zsh/zprofile");
    assert!(zprofile.starts_with("# Debian\n# >>> rosterd") && zprofile.contains("emulate sh"), "{zprofile}");
    assert_eq!(machine.sh("stat -c %a /etc/skel/start-claude.sh").ok(), "755\n");

    // The one who was there: their own stays, keys are added, the launcher is the new one and theirs is beside it.
    let old = |path: &str| machine.read_file(&format!("/home/old/{path}"));
    assert_eq!(old(".claude/rules/99-personal.md"), "my own rules\n");
    assert_eq!(old(".codex/AGENTS.md"), "my own agents\n");
    assert_eq!(old(".kube/config"), "my own cluster\n");
    assert!(
        machine.sh("test -d /home/old/.claude/skills/mine && ! test -L /home/old/.claude/skills").status == 0
    );
    assert_eq!(
        old(".claude.json"),
        "{\n\t\"z\": 1,\n\t\"mcpServers\": {\"playwright\": {\"command\": \"mine\"}},\n\t\"hasCompletedOnboarding\": true\n}"
    );
    assert!(old(".zshrc").starts_with("alias mine=true\n# >>> rosterd"));
    assert_eq!(old("start-claude.sh.rosterd-before"), "an older launcher\n");

    // Ten more runs: not a byte, not a time.
    let users = ["old", "bare", "new", "boss"];
    let before = users.map(|user| home(&machine, user));
    for _ in 0..10 {
        let run = machine.run(&["rosterctl", "reconcile", "--json"]).ok();
        assert!(!run.contains("\"state\":\"done\""), "{run}");
    }
    assert_eq!(users.map(|user| home(&machine, user)), before);

    // The launcher changes for everybody, within the moment.
    machine.sh("sed '2i # changed' /srv/start-claude.sh >/srv/new && mv /srv/new /srv/start-claude.sh").ok();
    machine.eventually("the new launcher in every home", SOON, |machine| {
        let script =
            "for u in old bare new boss; do cmp /srv/start-claude.sh /home/$u/start-claude.sh || exit 1; done
                      cmp /srv/start-claude.sh /etc/skel/start-claude.sh";
        (machine.sh(script).status == 0).then_some(())
    });
    assert_eq!(machine.sh("stat -c '%a %U' /home/old/start-claude.sh").ok(), "755 old\n");

    // Theirs is still beside it: what rosterd wrote itself took no place of it.
    assert_eq!(machine.read_file("/home/old/start-claude.sh.rosterd-before"), "an older launcher\n");
    assert_eq!(machine.sh("ls /home/*/start-claude.sh.rosterd-before*").ok().lines().count(), 1);

    // Whose each file is, and which kind.
    let status = machine.run(&["rosterctl", "status", "old"]).ok();
    for line in [
        "~/start-claude.sh copy rosterd up to date",
        "~/.claude/skills link person their own folder",
        "~/.codex/AGENTS.md copy person their own, without the header of a copy",
        "~/.claude.json json both 2 of 2 keys there",
        "~/.kube/config once person there",
        "~/.zshrc block both its block is up to date",
    ] {
        let has = status.lines().any(|shown| shown.split_whitespace().eq(line.split_whitespace()));
        assert!(has, "{line}:\n{status}");
    }
    let status = machine.run(&["rosterctl", "status"]).ok();
    let words: Vec<&str> = status.split_whitespace().collect();
    assert!(words.join(" ").contains("/etc/profile.d/site.sh copy rosterd up to date"), "{status}");
    let plan = machine.run(&["rosterctl", "plan", "--user", "old"]).ok();
    assert!(plan.contains("~/.claude/skills") && plan.contains("No change"), "{plan}");
    let plan = machine.run(&["rosterctl", "plan", "--json"]).json();
    let files = |user: &str| plan["seen"][user]["files"].as_array().map_or(0, Vec::len);
    assert_eq!(users.map(files), [8, 8, 8, 9], "{plan}");

    // On the machine, what somebody else wrote is not replaced.
    machine.sh("echo mine >/etc/profile.d/site.sh").ok();
    let run = machine.run(&["rosterctl", "reconcile"]).exits(3);
    assert!(run.stdout.contains("/etc/profile.d/site.sh is not replaced"), "{run}");
    assert_eq!(machine.read_file("/etc/profile.d/site.sh"), "mine\n");
    machine.sh("mv /etc/profile.d/site.sh /root/").ok();
    machine.run(&["rosterctl", "reconcile"]).ok();
    assert_eq!(machine.read_file("/etc/profile.d/site.sh"), "export SITE=yes\n");
}

fn a_source_that_is_half_written_changes_nothing_and_recovers_by_itself(suite: Suite) {
    let machine = machine(suite);
    machine.write_file("/etc/rosterd/config.toml", CONFIG);
    machine.write_file("/etc/rosterd/roster.yaml", roster(&["ann"]));
    machine.run(&["rosterctl", "wait", "--timeout", "100"]).ok();
    let machine_state = |machine: &Machine| {
        let status = machine.run(&["rosterctl", "status", "--json"]).json();
        status["subjects"]["(machine)"]["state"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(machine_state(&machine), "converged");
    let mirror = "/home/ann/.codex/AGENTS.md";
    for half in ["{\"claudeMd\": \"be ki", "", "{\"claudeMd\": 7}", "{\"other\": \"key\"}"] {
        // As an editor does that writes in place.
        machine.sh(&format!("printf '%s' '{half}' >/etc/rosterd/managed-settings.json")).ok();
        machine.eventually("the machine is degraded", SOON, |machine| {
            (machine_state(machine) == "degraded").then_some(())
        });
        assert_eq!(machine.read_file(mirror), "<!-- kept by rosterd -->\nbe kind\n", "{half}");
        let status = machine.run(&["rosterctl", "status"]).exits(3).stdout;
        assert!(status.contains("~/.codex/AGENTS.md is not kept up to date"), "{status}");
        let text = if half.is_empty() { "be brave" } else { "be kind" };
        machine.write_file("/etc/rosterd/managed-settings.json", format!("{{\"claudeMd\": \"{text}\"}}"));
        machine.eventually("all is well again", SOON, |machine| {
            (machine_state(machine) == "converged").then_some(())
        });
        assert_eq!(machine.read_file(mirror), format!("<!-- kept by rosterd -->\n{text}\n"));
        if half.is_empty() {
            machine.write_file("/etc/rosterd/managed-settings.json", "{\"claudeMd\": \"be kind\"}");
            machine.eventually("the text of before", SOON, |machine| {
                machine.read_file(mirror).ends_with("be kind\n").then_some(())
            });
        }
    }
}

/// For each person, what is put in the places, as root in their home.
const TRAPS: &[(&str, &str)] = &[
    ("links", "for f in $FILES; do ln -sf /etc/canary $f; done"),
    ("fifos", "for f in $FILES; do mkfifo -m 666 $f; done"),
    ("hards", "for f in $FILES; do ln -f /etc/canary $f; done"),
    ("folders", "for f in $FILES; do mkdir $f; done"),
    ("roots", "for f in $FILES; do echo x >$f; chmod 666 $f; done"),
    (
        "dirlink",
        "rm -rf .claude .codex .kube; ln -s /etc/open .claude; ln -s /etc/open .codex; ln -s /home/fay .kube",
    ),
    ("beside", "for f in $FILES; do ln -s /etc/canary $(dirname $f)/.rosterd-new.$(basename $f); done"),
    (
        "before",
        "echo x >start-claude.sh; chown before: start-claude.sh; ln -s /etc/canary start-claude.sh.rosterd-before; ln -s /etc/canary .claude.json.lock",
    ),
];

fn hostile_places_hurt_nobody_and_are_told_once_invariant_3(suite: Suite) {
    let machine = machine(suite);
    machine.sh("echo canary >/etc/canary; chmod 666 /etc/canary; mkdir -m 1777 /etc/open").ok();
    // Everybody could: only rosterd's own care keeps a worker out.
    machine.sh("sysctl -q fs.protected_hardlinks=0 fs.protected_symlinks=0 || true").ok();
    machine.sh("useradd -m fay; chmod 777 /home/fay").ok();
    let files = "start-claude.sh .claude/skills .claude/rules/99-personal.md .codex/AGENTS.md .claude.json .kube/config .zshrc";
    for (name, script) in TRAPS {
        machine
            .sh(&format!(
                "useradd -m -s /bin/bash {name}; cd /home/{name}; FILES='{files}'; mkdir -p .claude/rules .codex .kube
                 chown -R {name}: .; {script}; find . -user root ! -links +1 ! -name '[a-z]*.md' -type l -exec chown -h {name}: {{}} +
                 find . -user root ! -type f ! -links +1 -exec chown -h {name}: {{}} +"
            ))
            .ok();
    }
    let outside =
        "find /home/fay /etc/canary /etc/open -printf '%p %i %m %U %s %T@ %C@\\n' | sort; cat /etc/canary";
    let before = machine.sh(outside).ok();
    machine.write_file("/etc/rosterd/config.toml", CONFIG);
    let names: Vec<&str> = TRAPS.iter().map(|(name, _)| *name).chain(["good"]).collect();
    machine.write_file("/etc/rosterd/roster.yaml", roster(&names));
    let _ = machine.run(&["rosterctl", "wait", "--timeout", "200"]);
    let first = machine.journal(&["SYSLOG_IDENTIFIER=rosterd"]);
    let told = |records: &[machine_tests::Record]| {
        records.iter().filter(|record| record.message().contains("is left alone")).count()
    };
    assert!(told(&first) > 15, "{:#?}", first.iter().map(machine_tests::Record::message).collect::<Vec<_>>());
    for _ in 0..2 {
        let _ = machine.run(&["rosterctl", "reconcile"]);
    }
    assert_eq!(told(&machine.journal(&["SYSLOG_IDENTIFIER=rosterd"])), told(&first), "told again");
    assert_eq!(machine.sh(outside).ok(), before);
    let status = machine.run(&["rosterctl", "status", "--json"]).json();
    assert_eq!(status["subjects"]["good"]["state"], "converged", "{status}");
    // What lies beside in the way is ours to replace, and a link there is not followed.
    assert_eq!(status["subjects"]["beside"]["state"], "converged", "{status}");
    assert!(machine.read_file("/home/beside/.claude.json").contains("hasCompletedOnboarding"));
    assert_eq!(machine.read_file("/home/before/start-claude.sh.rosterd-before-2"), "x\n");
}

/// Counts in a key of its own, as agents write their file: under their lock, beside, and renamed.
const WRITER: &str = r#"
my ($me, $file) = @ARGV;
for my $round (1 .. 300) {
    until (mkdir "$file.lock") { select undef, undef, undef, 0.001 }
    open my $in, '<', $file or die; my $text = join '', <$in>; close $in;
    $text =~ s/"$me": (\d+)/'"' . $me . '": ' . ($1 + 1)/e or die "no $me in $text";
    open my $out, '>', "$file.$me" or die; print $out $text; close $out;
    rename "$file.$me", $file or die;
    rmdir "$file.lock";
    select undef, undef, undef, rand 0.02;
}
"#;

fn ten_writers_and_rosterd_lose_no_key(suite: Suite) {
    let machine = machine(suite);
    machine.write_file("/etc/rosterd/roster.yaml", roster(&["ann"]));
    machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
    machine.write_file("/srv/writer.pl", WRITER);
    let counters: Vec<String> = (0..10).map(|number| format!("\"w{number}\": 0")).collect();
    machine.write_file("/srv/start.json", format!("{{\n  {}\n}}\n", counters.join(",\n  ")));
    machine
        .sh_as(
            "ann",
            "cp /srv/start.json .claude.json
             for n in 0 1 2 3 4 5 6 7 8 9; do setsid perl /srv/writer.pl w$n .claude.json >/dev/null 2>>writers.err & done",
        )
        .ok();
    // A new key with each version of the configuration, as long as they write.
    let mut versions = 0;
    while machine.sh("pgrep -u ann perl").status == 0 {
        versions += 1;
        let keys: Vec<String> =
            (0..versions).map(|number| format!("\"/ours/k{number}\" = {number}")).collect();
        let entry =
            format!("[[file]]\npath = \"~/.claude.json\"\nkind = \"json\"\nkeys = {{{}}}\n", keys.join(", "));
        machine.write_file("/etc/rosterd/config.toml", entry);
        machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
    }
    println!("{suite}: {versions} versions among 3000 rewrites");
    assert!(versions > 2, "{versions}");
    assert_eq!(machine.read_file("/home/ann/writers.err"), "");
    let end: Value = serde_json::from_str(&machine.read_file("/home/ann/.claude.json")).unwrap();
    for number in 0..10 {
        assert_eq!(end[format!("w{number}")], 300, "{end}");
    }
    assert_eq!(end["ours"].as_object().map(serde_json::Map::len), Some(versions), "{end}");
}

/// Says how it was started, and does what a file in the home says.
const CLAUDE: &str = "#!/bin/sh\necho \"$PWD|$*\" >>\"$HOME/claude.log\"\n\
                      case $(cat \"$HOME/do\" 2>/dev/null) in\ncrash) exit 7 ;;\nend) exit 0 ;;\nesac\n\
                      while :; do sleep 1000; done\n";

fn the_launcher_starts_one_conversation_and_keeps_the_pane(suite: Suite) {
    let machine = machine(suite);
    machine.write_file("/usr/local/bin/claude", CLAUDE);
    machine.sh("chmod 755 /usr/local/bin/claude").ok();
    machine.write_file("/etc/rosterd/config.toml", CONFIG);
    machine.write_file("/etc/rosterd/roster.yaml", roster(&["ann"]));
    machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
    machine
        .sh_as("ann", "mkdir code; tmux -f /dev/null start-server; tmux set -g exit-empty off || true")
        .ok();
    let start = |session: &str| {
        machine
            .sh_as(
                "ann",
                &format!("tmux -f /dev/null new-session -d -s '{session}' -x 100 -y 30 ~/start-claude.sh"),
            )
            .ok()
    };
    let logged = |count: usize| -> Vec<String> {
        machine.eventually("claude was started", SOON, |machine| {
            let log = machine.sh("cat /home/ann/claude.log 2>/dev/null || true").stdout;
            let lines: Vec<String> = log.lines().map(str::to_owned).collect();
            (lines.len() >= count).then_some(lines)
        })
    };
    let screen = |session: &str, what: &str| {
        machine.eventually(what, SOON, |machine| {
            let shown = machine.sh_as("ann", &format!("tmux capture-pane -p -t '={session}:'")).stdout;
            shown.contains(what).then_some(shown)
        })
    };
    let is_uuid = |text: &str| text.len() == 36 && text.chars().all(|c| c.is_ascii_hexdigit() || c == '-');

    // A pinned conversation, with the session's name, where the clones are.
    start("work");
    let line = logged(1).remove(0);
    let rest = line.strip_prefix("/home/ann/code|--session-id ").unwrap_or_else(|| panic!("{line}"));
    let (id, name) = rest.split_once(' ').unwrap_or_else(|| panic!("{line}"));
    assert!(is_uuid(id) && name == "--name work", "{line}");
    // It is what a snapshot of the session finds.
    machine.run(&["rosterctl", "tmux", "save"]).ok();
    let saved = machine.sh("cat /var/lib/tmux-persist/users/ann/newest").ok();
    assert!(saved.contains(id), "{saved}");
    // A spare is no name; a conversation that is named is left so.
    machine.sh_as("ann", "tmux -f /dev/null new-session -d -s 'a spare' ~/start-claude.sh").ok();
    assert!(!logged(2)[1].contains("--name"), "{:?}", logged(2));
    machine.sh_as("ann", "tmux -f /dev/null new-session -d -s again '~/start-claude.sh --resume abc'").ok();
    assert_eq!(logged(3)[2], "/home/ann/code|--resume abc");

    // A crash keeps the pane, says how to go on, and leaves a shell that works.
    machine.sh_as("ann", "echo crash >do").ok();
    start("crash");
    let shown = screen("crash", "claude ended with status 7.");
    assert!(shown.contains("claude --resume"), "{shown}");
    machine.sh_as("ann", "tmux send-keys -t '=crash:' 'echo alive-$((6*7))' Enter").ok();
    screen("crash", "alive-42");
    // An end is an end.
    machine.sh_as("ann", "echo end >do").ok();
    start("end");
    machine.eventually("the session is over", SOON, |machine| {
        (machine.sh_as("ann", "tmux has-session -t '=end'").status != 0).then_some(())
    });

    // The same for somebody whose zsh has no file yet, which begins with a dialogue.
    machine.sh_as("ann", "echo crash >do; mv .zshrc zshrc").ok();
    machine
        .sh_as(
            "ann",
            "tmux -f /dev/null new-session -d -s fresh -x 100 -y 30 'SHELL=/bin/zsh ~/start-claude.sh'",
        )
        .ok();
    let shown = screen("fresh", "claude ended with status 7.");
    machine.sh_as("ann", "tmux send-keys -t '=fresh:' 'echo alive-$((6*7))' Enter; mv zshrc .zshrc").ok();
    let shown = shown + &screen("fresh", "alive-42");
    assert!(!shown.contains("zsh-newuser-install") && shown.contains("claude ended"), "{shown}");

    // Without a claude: a shell, and why.
    machine.sh("mv /usr/local/bin/claude /root/claude").ok();
    start("none");
    screen("none", "There is no claude on this machine");
    machine.sh_as("ann", "tmux send-keys -t '=none:' 'echo alive-$((6*7))' Enter").ok();
    screen("none", "alive-42");
    // A freshen that hangs for ever is given up; without a rosterctl nothing is missed.
    machine.sh("mv /root/claude /usr/local/bin/claude; rm /home/ann/do").ok();
    machine.write_file(
        "/usr/local/bin/rosterctl",
        "#!/bin/sh\necho \"$*\" >>$HOME/freshen.log\nexec sleep 100000\n",
    );
    machine.sh("chmod 755 /usr/local/bin/rosterctl").ok();
    let before = logged(3).len();
    start("hangs");
    assert!(logged(before + 1)[before].ends_with("--name hangs"));
    assert_eq!(machine.read_file("/home/ann/freshen.log"), "freshen\n");
    machine.sh("rm /usr/local/bin/rosterctl; mv /usr/bin/rosterctl /root/").ok();
    start("bare");
    assert!(logged(before + 2)[before + 1].ends_with("--name bare"));
}

fn who_can_read_what_is_told_with_the_line_that_mends_it(suite: Suite) {
    let forge = Forge::start();
    let machine = machine(suite);
    let links = "[[file]]\npath = \"~/.claude/skills\"\nkind = \"link\"\ntarget = \"/srv/claude/skills\"\n\
                 [[file]]\npath = \"~/.claude/rules\"\nkind = \"link\"\ntarget = \"/home/boss/base/rules\"\n\
                 [[file]]\npath = \"~/.kube/config\"\nkind = \"once\"\nsource = \"/etc/rosterd/kubeconfig.people\"\nmode = \"0600\"\n";
    machine.write_file("/etc/rosterd/config.toml", format!("{}{links}", forge.config()));
    machine.write_file("/etc/rosterd/roster.yaml", roster(&["boss", "ann"]));
    machine.run(&["rosterctl", "wait", "--timeout", "100"]).ok();
    let access = |machine: &Machine| -> Vec<(String, String)> {
        machine.run(&["rosterctl", "reconcile"]).ok();
        let told = machine.run(&["rosterctl", "doctor", "--json"]).json();
        let checks = told["checks"].as_array().unwrap().iter();
        let of = checks.filter(|check| check["check"] == "access" && check["light"] != "green");
        let text = |check: &Value, key: &str| check[key].as_str().unwrap_or_default().to_owned();
        of.map(|check| (text(check, "found"), text(check, "next"))).collect()
    };
    // A home of mode 0700 is closed to those whose links lead into it.
    let found = access(&machine);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].1, "chmod o+x /home/boss");

    machine
        .sh("chmod 751 /home/boss; chmod 700 /srv/claude; chmod 644 /home/ann/.kube/config
             runuser -l boss -c 'mkdir -p base/rules; chmod 700 base
             git -C code config filter.git-crypt.smudge \"\\\"git-crypt\\\" smudge\"
             git -C code config filter.git-crypt.clean \"\\\"git-crypt\\\" clean\"'")
        .ok();
    let mut found = access(&machine);
    found.sort();
    let fixes: Vec<&str> = found.iter().map(|(_, fix)| fix.as_str()).collect();
    let expected = [
        "chmod o+x /srv/claude",
        "chmod 0600 ~ann/.kube/config",
        "chmod o+x ~boss/base",
        "chmod o-rwx ~boss/code",
    ];
    let (mut fixes, mut expected) = (fixes, expected.to_vec());
    fixes.sort_unstable();
    expected.sort_unstable();
    assert_eq!(fixes, expected, "{found:?}");
    let status = machine.run(&["rosterctl", "status"]).ok();
    for fix in &expected {
        assert!(status.split_whitespace().collect::<Vec<_>>().join(" ").contains(fix), "{fix}: {status}");
    }
    // Each line mends what it says, and then nothing is left.
    for fix in expected {
        machine.run(&["bash", "-c", fix]).ok();
    }
    assert_eq!(access(&machine), []);
    // The daemon's last answer of each remote, and of one that is gone.
    let told = machine.run(&["rosterctl", "doctor"]).ok();
    assert!(told.contains(&format!("{} answered", forge.url("infra"))), "{told}");
}
