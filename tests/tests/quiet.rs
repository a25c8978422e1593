//! Invariant 9, seen by strace: a run that has nothing to do writes nothing outside the ledger and runs no program but
//! our own workers.

use machine_tests::{Forge, Machine, Suite, on_each_debian};

on_each_debian!(a_run_with_nothing_to_do_writes_nothing_and_runs_no_program);

fn a_run_with_nothing_to_do_writes_nothing_and_runs_no_program(suite: Suite) {
    let forge = Forge::start();
    let machine = Machine::with_rosterd(suite);
    let files = "[[file]]\npath = \"~/copy\"\nkind = \"copy\"\nsource = \"/usr/share/rosterd/start-claude.sh\"\n\
                 [[file]]\npath = \"~/.a/link\"\nkind = \"link\"\ntarget = \"/usr/share/rosterd\"\n\
                 [[file]]\npath = \"~/.a.json\"\nkind = \"json\"\nkeys = {\"/a\" = 1}\n\
                 [[file]]\npath = \"~/.zshrc\"\nkind = \"block\"\ncontent = \"x\"\n\
                 [[file]]\npath = \"/etc/zsh/zprofile\"\nkind = \"block\"\ncontent = \"x\"\n";
    machine.write_file("/etc/rosterd/config.toml", format!("{}{files}", forge.config()));
    machine.write_file(
        "/etc/rosterd/roster.yaml",
        "users:
  ann: {authentik_user: ann, k8s_user: ann, tier: power-user}
  bea: {authentik_user: bea, k8s_user: bea, tier: power-user, code_layout: workspace, repos: [website]}
",
    );
    machine.run(&["rosterctl", "wait", "--timeout", "60"]).ok();
    machine.run(&["rosterctl", "reconcile"]).ok();
    let traced = machine
        .sh("strace -qq -y -f -o /root/trace -e trace=execve,open,openat,creat,mkdir,mkdirat,rename,renameat,renameat2,\
             link,linkat,symlink,symlinkat,unlink,unlinkat,chmod,fchmod,fchmodat,chown,fchown,fchownat,lchown,truncate \
             -p $(pidof rosterd) & sleep 1; rosterctl reconcile; sleep 0.5; kill $!; wait || true; cat /root/trace")
        .stdout;
    let whole = whole_calls(&traced);
    let lines: Vec<_> = whole.iter().map(String::as_str).filter(|line| line.contains("(")).collect();
    assert!(lines.iter().any(|line| line.contains("</etc>, \"passwd\"")), "strace saw no run:\n{traced}");
    let executed: Vec<_> = lines.iter().filter(|line| line.contains("execve(")).collect();
    let ours = |name: &str| {
        let name = format!(", [\"{name}\"], ");
        executed.iter().filter(|line| line.contains("\"/proc/self/fd/") && line.contains(&name)).count()
    };
    assert_eq!((executed.len(), ours("rosterd-look"), ours("rosterd-worker")), (4, 2, 2), "{executed:#?}");
    let written: Vec<_> = lines
        .iter()
        .filter(|line| {
            let opens = line.contains("open(") || line.contains("openat(");
            let for_writing = ["O_WRONLY", "O_RDWR", "O_CREAT"].iter().any(|flag| line.contains(flag));
            !line.contains("execve(") && (!opens || for_writing)
        })
        // A call that failed has written nothing.
        .filter(|line| !line.contains(") = -1 E"))
        .filter(|line| !line.contains("\"/var/lib/rosterd/") && !line.contains("\"/dev/null\""))
        .collect();
    assert!(written.is_empty(), "{written:#?}");
}

/// The calls of a trace, each in one line: of one that another process's came into, the beginning and the end are apart.
fn whole_calls(traced: &str) -> Vec<String> {
    let mut calls: Vec<String> = Vec::new();
    for line in traced.lines() {
        let pid = line.split_whitespace().next().unwrap_or_default();
        let begun = calls.iter().rposition(|call| {
            call.ends_with("<unfinished ...>") && call.split_whitespace().next() == Some(pid)
        });
        match (line.split_once(" resumed>"), begun) {
            (Some((_, end)), Some(begun)) => {
                let begin = calls[begun].trim_end_matches("<unfinished ...>").to_owned();
                calls[begun] = begin + end;
            }
            _ => calls.push(line.to_owned()),
        }
    }
    calls
}
