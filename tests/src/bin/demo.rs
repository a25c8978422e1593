//! `./dev demo`: the main job on a throwaway machine, told step by step. `./dev demo stop` removes it.

use std::process::ExitCode;

use machine_tests::{Forge, Machine, Suite, sweep};

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        None => show(),
        Some("stop") => sweep(true),
        Some(_) => {
            eprintln!("./dev demo [stop]");
            return ExitCode::from(64);
        }
    }
    ExitCode::SUCCESS
}

fn show() {
    sweep(true);
    println!("==> booting a Debian 13 with the package just built, and a git forge beside it");
    let forge = Forge::kept("demo-forge");
    let machine = Machine::kept(Suite::Trixie, "demo");
    // A demo that does not show what it says has failed.
    let told_with = |expected: i32, command: &str| {
        println!("\nroot@demo:~# {command}");
        let output = machine.sh(command);
        print!("{}{}", output.stdout, output.stderr);
        assert_eq!(output.status, expected, "this is not how `{command}` should end");
    };
    let told = |command: &str| told_with(0, command);
    told("systemctl status rosterd --no-pager --lines=0");
    machine.sh("groupadd docker; groupadd code-shared").ok();
    let config = machine.read_file("/etc/rosterd/config.toml");
    machine.write_file(
        "/etc/rosterd/config.toml",
        // The example's people are on this host, each of them.
        format!("host = \"devvm\"\n{config}\n# The demo's own repositories.\n{}", forge.config()),
    );
    println!("\n==> roster.example.yaml becomes /etc/rosterd/roster.yaml; saving it is all an admin does");
    machine.write_file("/etc/rosterd/roster.yaml", include_str!("../../../roster.example.yaml"));
    told("rosterctl wait");
    told("rosterctl status");
    told("getent passwd alice bob carol dave; ls -ld /home/*; cat /etc/ttyd-user-map");
    told(
        "runuser -u carol -- sh -c 'cd ~/code && ls && git -C infra status --short --branch && for f in infra/secrets/*; do echo \"$f begins with: $(head -c 9 \"$f\" | tr -d \"\\0\")\"; done'",
    );
    println!("\n==> a draft with one more person, first looked at and then saved");
    let more = "  erin: {authentik_user: erin, k8s_user: erin, tier: power-user, code_layout: workspace, repos: [recipes]}\n";
    let draft = format!("{}{more}", include_str!("../../../roster.example.yaml"));
    machine.write_file("/root/draft.yaml", draft.replace("tier: power-user, code", "teir: power-user, code"));
    told_with(1, "rosterctl validate /root/draft.yaml");
    machine.write_file("/root/draft.yaml", &draft);
    told(
        "rosterctl validate /root/draft.yaml && cp /root/draft.yaml /etc/rosterd/roster.yaml && (rosterctl plan || true); rosterctl wait; rosterctl show last",
    );
    told("rosterctl reconcile; rosterctl history");
    told("journalctl -u rosterd -o cat --no-pager ROSTERD_USER=erin");
    println!(
        "\n==> look around: ./dev shell (or ./dev shell rosterctl status); edit /etc/rosterd/roster.yaml inside and run \
         rosterctl wait. ./dev demo stop removes it all."
    );
}
