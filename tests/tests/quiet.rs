//! Invariant 9, seen by strace: a run that has nothing to do writes nothing outside the ledger and runs no program but
//! our own workers.

use machine_tests::{Forge, Machine, Suite, on_each_debian};

on_each_debian!(a_run_with_nothing_to_do_writes_nothing_and_runs_no_program);

fn a_run_with_nothing_to_do_writes_nothing_and_runs_no_program(suite: Suite) {
    let forge = Forge::start();
    let machine = Machine::with_rosterd(suite);
    machine.write_file("/etc/rosterd/config.toml", forge.config());
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
    let lines: Vec<_> = traced.lines().filter(|line| line.contains("(")).collect();
    assert!(lines.iter().any(|line| line.contains("</etc>, \"passwd\"")), "strace saw no run:\n{traced}");
    let executed: Vec<_> = lines.iter().filter(|line| line.contains("execve(")).collect();
    assert_eq!(executed.len(), 4, "one worker for each of two homes and of two remotes: {executed:#?}");
    assert!(
        executed.iter().all(|line| {
            let ours = ["[\"rosterd-worker\"]", "[\"rosterd-look\"]"];
            line.contains("\"/proc/self/fd/") && ours.iter().any(|name| line.contains(name))
        }),
        "{executed:#?}"
    );
    let written: Vec<_> = lines
        .iter()
        .filter(|line| {
            let opens = line.contains("open(") || line.contains("openat(");
            let for_writing = ["O_WRONLY", "O_RDWR", "O_CREAT"].iter().any(|flag| line.contains(flag));
            !line.contains("execve(") && (!opens || for_writing)
        })
        // Its beginning is a line of its own.
        .filter(|line| !line.contains(" resumed>"))
        // A call that failed has written nothing.
        .filter(|line| !line.contains(") = -1 E"))
        .filter(|line| !line.contains("\"/var/lib/rosterd/") && !line.contains("\"/dev/null\""))
        .collect();
    assert!(written.is_empty(), "{written:#?}");
}
