//! A server that the kernel ends for its memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use machine_tests::{Machine, Suite, on_each_debian};

use crate::{ctl, id, machine, tmux};

on_each_debian!(a_server_that_the_kernel_kills_for_its_memory_comes_back);

/// A cgroup of the host with a limit. Where the host has cgroup v1, a machine's systemd has no memory controller, so
/// `MemoryMax=` in it bounds nothing; what the kernel does to whoever is over a limit is the same.
struct Bounded(PathBuf);

impl Bounded {
    fn new(name: &str, bytes: u64) -> Bounded {
        let top = Path::new("/sys/fs/cgroup");
        for (hierarchy, limit) in
            [(top.join("memory"), "memory.limit_in_bytes"), (top.to_path_buf(), "memory.max")]
        {
            let place = hierarchy.join(name);
            if hierarchy.join("cgroup.procs").exists()
                && fs::create_dir_all(&place).is_ok()
                && place.join(limit).exists()
            {
                fs::write(place.join(limit), bytes.to_string()).unwrap();
                return Bounded(place);
            }
        }
        panic!("this host can bound no memory: neither cgroup v1 nor v2 has a memory controller at its top");
    }

    /// A shell script as a person of the machine, within the bound, with all that it leaves running.
    fn sh_as(&self, machine: &Machine, user: &str, script: &str) {
        let inner = machine.command(&["runuser", "--login", user, "--command", script]);
        let status = Command::new("sh")
            .args(["-euc", r#"echo $$ >"$1/cgroup.procs"; shift; exec "$@""#, "sh"])
            .arg(&self.0)
            .arg(inner.get_program())
            .args(inner.get_args())
            .status();
        assert!(status.unwrap().success(), "{script}");
    }

    /// How often the kernel killed in it.
    fn kills(&self) -> u64 {
        ["memory.oom_control", "memory.events"]
            .iter()
            .filter_map(|file| fs::read_to_string(self.0.join(file)).ok())
            .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
            .find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok())
            .unwrap()
    }
}

impl Drop for Bounded {
    fn drop(&mut self) {
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        eprintln!("cannot remove {}", self.0.display());
    }
}

fn a_server_that_the_kernel_kills_for_its_memory_comes_back(suite: Suite) {
    // Dropped after the machine, whose processes are in it.
    let bounded = Bounded::new(&format!("rosterd-test-memory-{suite}-{}", std::process::id()), 96 << 20);
    let machine = machine(suite);
    let conversation = id(1);
    bounded.sh_as(
        &machine,
        "ann",
        &format!(
            "mkdir -p ~/p; tmux new-session -d -s work -c ~/p claude --session-id {conversation}; \
             tmux split-window -t =work: -c ~/p; tmux set-option -g history-limit 2000000000; \
             tmux new-session -d -s flood -c ~/p"
        ),
    );
    machine.eventually("the conversation is saved", Duration::from_secs(20), |machine| {
        ctl(machine, "save --user ann").ok();
        ctl(machine, "snapshot --user ann --tsv").ok().contains(&conversation).then_some(())
    });
    let snapshots = || ctl(&machine, "snapshots --user ann --tsv").ok();
    let before = snapshots();
    let server = tmux(&machine, "ann", "tmux display-message -p '#{pid}'").trim().to_owned();

    // What a person does: a program prints without end, and the server keeps all of it.
    tmux(&machine, "ann", "tmux send-keys -t =flood: \"yes $(seq -s ' ' 200)\" Enter");
    machine.eventually("the kernel has killed the server", Duration::from_secs(120), |machine| {
        (!machine.exists(&format!("/proc/{server}"))).then_some(())
    });
    assert!(bounded.kills() >= 1);
    machine.eventually("all that was in it is gone", Duration::from_secs(20), |machine| {
        (machine.sh("pgrep -u ann").status == 1).then_some(())
    });

    // Its socket is left, and there is nothing to save: what was saved stays.
    machine.sh("test -S /tmp/tmux-$(id -u ann)/default").ok();
    assert_eq!(ctl(&machine, "save --user ann --tsv").ok(), "ann\tnone\t-\t-\n");
    assert_eq!(snapshots(), before);
    assert_eq!(
        ctl(&machine, "restore --user ann --tsv").ok(),
        "ann\tflood\tmade\tflood\t-\nann\twork\tmade\twork\t-\n"
    );
    let line = format!("/home/ann/p|--resume {conversation} --name work");
    machine.eventually("the conversation goes on", Duration::from_secs(20), |machine| {
        machine.read_file("/home/ann/claude.log").lines().any(|said| said == line).then_some(())
    });
    // Nothing differs, so nothing is written.
    machine.eventually("it is as before", Duration::from_secs(20), |machine| {
        let saved = ctl(machine, "save --user ann --tsv").ok();
        (saved == "ann\tunchanged\t-\t-\n").then_some(())
    });
    // A claude that is killed alone is resumed where it was.
    machine.sh("pkill -KILL -u ann claude").ok();
    machine.eventually("its pane shows a shell", Duration::from_secs(20), |machine| {
        ctl(machine, "snapshot --user ann --tsv").ok().contains("\tlive_no_claude\tin_place\t").then_some(())
    });
    assert!(ctl(&machine, "restore --user ann --tsv").ok().contains("ann\twork\tresumed\twork\t-\n"));
}
