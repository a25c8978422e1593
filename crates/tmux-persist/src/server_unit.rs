//! A tmux server in a unit of its own in the person's slice: it outlives whoever started it, our own upgrade and the
//! end of the person's last login, and has none of our confinement.

use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use tokio::process::Command;

use crate::people::Person;

/// The script of a restore runs meanwhile.
const STARTING: Duration = Duration::from_secs(60);

/// How long a manager that is on its way may take. Without it the sessions come back all the same, their panes without
/// scopes.
const MANAGER: Duration = Duration::from_secs(20);

/// What the unit is like.
const PROPERTIES: [&str; 8] = [
    // As when a person types it: the first tmux starts the server, which goes into the background, and runs the script.
    "Type=forking",
    // One session that cannot be made does not end the others.
    "SuccessExitStatus=1",
    "TimeoutStartSec=60",
    // The kernel may end one process for its memory; the others go on.
    "OOMPolicy=continue",
    // The slice limits the person, not this.
    "TasksMax=infinity",
    // Interactive shells ignore SIGTERM.
    "SendSIGHUP=yes",
    "TimeoutStopSec=15",
    // At a shutdown the sessions are saved first.
    "Before=rosterd-tmux-shutdown.service",
];

/// Starts a server that runs `script`, and waits until that is done.
pub(crate) async fn start(person: &Person, socket: &str, script: &Path) -> Result<(), String> {
    let lingers = Path::new("/var/lib/systemd/linger").join(&person.user).exists();
    if lingers {
        wait_for_manager(person).await;
    }
    // A server that ended may have left processes in its unit, so each has a name of its own.
    let unit = format!("rosterd-tmux-{}-{}", person.user, jiff::Timestamp::now().as_millisecond());
    let mut command = Command::new("systemd-run");
    // With `--quiet` it would not say why a unit failed either.
    command.args(["--collect", "--no-ask-password"]);
    command.arg(format!("--unit={unit}.service"));
    command.arg(format!("--description=tmux server of {}", person.user));
    command.arg(format!("--slice=user-{}.slice", person.uid));
    command.args([format!("--uid={}", person.user), format!("--gid={}", person.gid)]);
    command.arg(format!("--property=WorkingDirectory=-{}", person.home.display()));
    command.args(PROPERTIES.iter().map(|property| format!("--property={property}")));
    command.arg(format!("--setenv=LANG={}", language()));
    // By this tmux finds the person's manager and puts each pane into a scope of that one's. A manager that ends with the
    // last login would take all panes along.
    let runtime = format!("/run/user/{}", person.uid);
    if lingers && Path::new(&runtime).is_dir() {
        command.arg(format!("--setenv=XDG_RUNTIME_DIR={runtime}"));
    }
    command.args(["--", "tmux", "-u", "-L", socket, "start-server", ";", "source-file"]).arg(script);
    command.env_clear().env("PATH", "/usr/bin:/bin:/usr/sbin:/sbin").stdin(std::process::Stdio::null());
    command.kill_on_drop(true);
    let output = tokio::time::timeout(STARTING + Duration::from_secs(5), command.output()).await;
    match output {
        Err(_) => Err(format!("{unit} did not start within {} s", STARTING.as_secs())),
        Ok(Err(error)) => Err(format!("systemd-run: {error}")),
        Ok(Ok(output)) if output.status.success() => Ok(()),
        Ok(Ok(output)) => Err(why(&unit, output.status, &output.stderr)),
    }
}

fn why(unit: &str, status: ExitStatus, said: &[u8]) -> String {
    let said = String::from_utf8_lossy(said);
    match said.trim() {
        "" => format!("{unit} did not start, and systemd-run ended with {status} without a word"),
        said => format!("{unit}: {}", said.chars().take(500).collect::<String>()),
    }
}

/// The server looks once where the person's manager is, and a pane asks it for a scope as it starts. At a boot, that of
/// somebody who lingers may be slower than the restore.
async fn wait_for_manager(person: &Person) {
    let mut command = Command::new("systemctl");
    command.args(["--quiet", "--no-ask-password", "start"]).arg(format!("user@{}.service", person.uid));
    command.env_clear().env("PATH", "/usr/bin:/bin").stdin(std::process::Stdio::null());
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).kill_on_drop(true);
    // One that cannot start has told the journal.
    let _ = tokio::time::timeout(MANAGER, command.status()).await;
}

/// What a login would have: the machine's language.
fn language() -> String {
    let files = ["/etc/locale.conf", "/etc/default/locale"];
    let texts = files.iter().filter_map(|file| std::fs::read_to_string(file).ok());
    texts.into_iter().find_map(|text| language_in(&text)).unwrap_or_else(|| "C.UTF-8".into())
}

fn language_in(text: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.trim().strip_prefix("LANG="))?.trim_matches(['"', '\'']);
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.@-".contains(c);
    (!value.is_empty() && value.chars().all(plain)).then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_that_does_not_start_has_a_reason() {
        use std::os::unix::process::ExitStatusExt;
        let told = |raw, said: &str| why("x.service", ExitStatus::from_raw(raw), said.as_bytes());
        assert_eq!(told(256, "Job failed.\n"), "x.service: Job failed.");
        let silent = "x.service did not start, and systemd-run ended with";
        assert_eq!(told(256, " \n"), format!("{silent} exit status: 1 without a word"));
        assert_eq!(told(9, ""), format!("{silent} signal: 9 (SIGKILL) without a word"));
    }

    #[test]
    fn the_machines_language_is_found() {
        assert_eq!(language_in("# x\nLANG=\"de_DE.UTF-8\"\n").as_deref(), Some("de_DE.UTF-8"));
        assert_eq!(language_in("LANG=a b"), None);
        assert_eq!(language_in("LC_ALL=C"), None);
    }
}
