//! The command line as clap reads it. Help, man pages and completions are generated from these types.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use roster::edit::Assignment;
use roster::name::{HostName, OsUser};
use roster::provider::Provider;
use tmux_persist::{Moment, SessionName};

/// Where `rosterd.socket` listens.
pub(crate) const SOCKET: &str = "/run/rosterd/control.sock";
/// Where the package puts the configuration.
pub(crate) const CONFIG: &str = "/etc/rosterd/config.toml";

/// Keep a shared machine as its roster says
///
/// rosterd watches the roster and keeps accounts, homes, clones and generated files as it says. rosterctl asks
/// the daemon what it does and did, and checks a roster without it.
#[derive(Debug, Parser)]
#[command(name = "rosterctl", version, max_term_width = 100, disable_help_subcommand = true)]
#[command(after_long_help = "Exit codes:\n  \
    0    done, or as the roster says\n  \
    1    an error, or the roster is not valid\n  \
    2    plan, membership plan: there are changes to make\n  \
    3    degraded: some people are not as the roster says\n  \
    4    the guard holds the roster until `rosterctl confirm`\n  \
    5    wait: the time ran out\n  \
    64   the command line is wrong")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Print JSON for programs
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Ask the daemon at this socket [default: /run/rosterd/control.sock]
    #[arg(long, global = true, value_name = "PATH", value_hint = ValueHint::FilePath)]
    pub(crate) socket: Option<PathBuf>,
    /// Read the configuration from this file [default: /etc/rosterd/config.toml]
    ///
    /// Used by the commands that work without the daemon. When the default file does not exist, the
    /// built-in defaults hold; a file that is named here must exist.
    #[arg(long, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,
}

impl Global {
    /// The daemon's socket.
    pub(crate) fn daemon(&self) -> &Path {
        self.socket.as_deref().unwrap_or(Path::new(SOCKET))
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check a roster, and the configuration when there is one
    ///
    /// Prints every mistake at once, each with its place, the line itself and a suggestion. Needs no daemon.
    #[command(after_long_help = "Exit codes: 0 valid, 1 not.")]
    Validate {
        /// Check this roster, `-` for standard input, or only this configuration when its name ends in .toml
        /// [default: the roster that the configuration names]
        #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
        file: Option<PathBuf>,
        /// Count the people of this machine [default: this one, as the configuration names it]
        #[arg(long, value_name = "HOST")]
        host: Option<HostName>,
    },
    /// Show what should be on a machine, without looking at it
    ///
    /// Accounts, ports and the generated files that follow from roster and configuration alone. Needs no daemon.
    #[command(
        after_long_help = "Exit codes: 0 derived, 1 not: the roster is not valid, or a tier differs from the cluster's map."
    )]
    Derive {
        /// Read this roster, `-` for standard input [default: the one that the configuration names]
        #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
        file: Option<PathBuf>,
        /// Derive the part of this machine [default: this one, as the configuration names it]
        #[arg(long, value_name = "HOST")]
        host: Option<HostName>,
        /// Take the ports that people have from this JSON file: {service: {os_user: port}}
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        ports: Option<PathBuf>,
        /// Compare the tiers with this copy of the cluster's map: {k8s_user: {role: …}}
        #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        k8s_users: Option<PathBuf>,
    },
    /// Show what a reconcile would do, changing nothing
    #[command(after_long_help = "Exit codes: 0 no change, 2 changes, 1 error.")]
    Plan {
        /// Show what it would do if this draft were saved as the roster; `-` is standard input
        #[arg(value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "provider")]
        draft: Option<PathBuf>,
        /// Show the steps of this person only
        #[arg(long, value_name = "USER")]
        user: Option<OsUser>,
        /// Show what would be done there instead of on this machine
        #[arg(long, value_name = "PROVIDER")]
        provider: Option<Provider>,
    },
    /// Make everything as the roster says, now, and show each step
    ///
    /// With --json every event is one line: `phase`, `step`, and `ended` with the whole run.
    #[command(after_long_help = "Exit codes: 0 converged, 3 degraded, 4 held by the guard, 1 error.")]
    Reconcile {
        /// Reconcile this person only
        #[arg(long, value_name = "USER")]
        user: Option<OsUser>,
        /// Reconcile there instead of on this machine
        #[arg(long, value_name = "PROVIDER")]
        provider: Option<Provider>,
    },
    /// Wait until the roster on disk is applied
    #[command(
        after_long_help = "Exit codes: 0 converged, 3 degraded, 4 held by the guard, 1 error, 5 the time ran out."
    )]
    Wait {
        /// Give up after this time: seconds, or 30s, 5m, 1h [default: wait for ever]
        #[arg(long, value_name = "TIME", value_parser = parse_time)]
        timeout: Option<Duration>,
    },
    /// Show how everything is: generation, last run, and who is not as the roster says
    #[command(after_long_help = "Exit codes: 0 converged, 3 degraded, 4 held by the guard, 1 error.")]
    Status {
        /// Show this person only
        #[arg(value_name = "USER")]
        user: Option<OsUser>,
        /// Show how it is there instead of on this machine
        #[arg(long, value_name = "PROVIDER")]
        provider: Option<Provider>,
    },
    /// Show what a person can reach, and why
    ///
    /// Account, groups, services, and what they have in the cluster and in Vault: what the roster gives, beside what is
    /// found there now. Changes nothing.
    #[command(
        after_long_help = "Exit codes: 0 as the roster says, 3 something differs or is not known, 1 error."
    )]
    Access {
        /// Show this person
        #[arg(value_name = "USER")]
        user: OsUser,
    },
    /// List the past runs, the newest first
    #[command(after_long_help = "Exit codes: 0 done, 1 error.")]
    History {
        /// List at most this many
        #[arg(long, short = 'n', value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Show one past run with its steps and their durations
    #[command(after_long_help = "Exit codes: 0 done, 1 error.")]
    Show {
        /// Show the run with this identifier, as `history` lists it, or the newest with `last`
        #[arg(value_name = "RUN")]
        run: String,
    },
    /// Let a roster proceed that the guard holds, after showing whom it cuts
    ///
    /// Confirms only the people shown: when the roster has changed in between, nothing is confirmed.
    #[command(after_long_help = "Exit codes: 0 confirmed, or nothing is held; 1 not confirmed.")]
    Confirm {
        /// Confirm without asking, for scripts
        #[arg(long)]
        yes: bool,
    },
    /// Refresh your own clones, within ten seconds
    ///
    /// For programs that begin a session. Fetches what has moved, and moves the default branch forward where that loses
    /// nothing, as the hourly run does. Says on standard error what did not become fresh. Needs no daemon.
    #[command(after_long_help = "Exit code: 0, whatever happens.")]
    Freshen,
    /// Keep tmux sessions across reboots, killed servers and mistakes
    ///
    /// Root asks for any person of the web terminal's map, and everybody for themself. What is done for a person is done
    /// by a process that is that person. Needs no daemon.
    Tmux(Box<TmuxArgs>),
    /// Check rosterd and this machine, and say what to do about what is wrong
    ///
    /// Units, socket, clock, disks, roster, ledger, modes of files, and the programs that people work with. Asks each
    /// by itself, so it answers also when the daemon is dead. Changes nothing.
    #[command(after_long_help = "Exit codes: 0 nothing is red, 3 something is.")]
    Doctor,
    /// Change the roster: add, set, park, unpark, remove people
    ///
    /// Edits the roster's text. Only the lines of that person change; comments, order and layout stay. Nothing is
    /// written when the result would not be valid. The text before is kept beside it, as roster.yaml~. The daemon
    /// takes a change over when it sees it: `rosterctl wait` waits until then.
    #[command(subcommand_required = true, arg_required_else_help = true)]
    User {
        #[command(subcommand)]
        command: UserCommand,
    },
    /// Compare the identity provider's group with the roster
    ///
    /// The group says who is in the roster, the roster what they may do. A member without a row gets one as a
    /// namespace-owner; the row of somebody who left becomes a comment. Admins are never taken out, and what could be somebody else is left to a person. A group
    /// that cannot be read whole, or is empty, changes nothing.
    #[command(subcommand_required = true, arg_required_else_help = true)]
    Membership {
        #[command(subcommand)]
        command: MembershipCommand,
    },
    /// Archive and remove the account and home of somebody who was cut
    ///
    /// Shows what will go, archives the home, reads the archive back and compares it with the home, and only then removes
    /// both. Interrupted, the same command goes on. What they own elsewhere stays and is shown; ids and ports stay
    /// reserved. Refuses admins, and whatever could not be archived whole.
    #[command(after_long_help = "Exit codes: 0 removed, 1 not.")]
    Offboard {
        /// Remove this account
        #[arg(value_name = "USER")]
        user: OsUser,
        /// Remove without asking, for scripts: the name again
        #[arg(long, value_name = "USER")]
        yes: Option<String>,
        /// End what they still run, and remove also an account that rosterd did not make
        #[arg(long)]
        force: bool,
    },
    /// Bring account and home back that `offboard` removed
    ///
    /// With the same ids, password and groups. They stay cut until the roster has them again.
    #[command(after_long_help = "Exit codes: 0 restored, 1 not.")]
    RestoreAccount {
        /// The archive, or the manifest beside it
        #[arg(value_name = "ARCHIVE", value_hint = ValueHint::FilePath)]
        archive: PathBuf,
    },
    /// Print the JSON Schema of the roster or the configuration
    Schema {
        /// Print the schema of this file
        #[arg(value_name = "WHAT")]
        what: SchemaOf,
    },
    /// Print completions for a shell
    #[command(
        after_long_help = "For bash: rosterctl completions bash > /usr/share/bash-completion/completions/rosterctl"
    )]
    Completions {
        /// Complete for this shell
        #[arg(value_name = "SHELL")]
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write all of them
    Man {
        /// Write rosterctl.1 and one page for each command to this folder
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        dir: Option<PathBuf>,
    },
}

/// What is done about the group.
#[derive(Debug, Subcommand)]
pub(crate) enum MembershipCommand {
    /// Show who would join and leave, and what is for a person to decide
    #[command(after_long_help = "Exit codes: 0 they agree, 2 they differ, 1 error.")]
    Plan,
    /// Change the roster so that they agree; needs `mode = "apply"` of [membership] in config.toml
    #[command(after_long_help = "Exit codes: 0 done, 1 error.")]
    Apply {
        /// Show what would change, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
}

/// What is changed in the roster.
#[derive(Debug, Subcommand)]
pub(crate) enum UserCommand {
    /// Add a person at the end of the roster
    #[command(
        after_long_help = "For example: rosterctl user add dave authentik_user=dave k8s_user=dave tier=namespace-owner namespaces=dave\n\nExit codes: 0 done, 1 not."
    )]
    Add {
        /// Add this account
        #[arg(value_name = "USER")]
        user: OsUser,
        /// Give it these fields: tier=admin, repos=website,docs, quota.cpu=4
        #[arg(value_name = "FIELD=VALUE", required = true)]
        fields: Vec<Assignment>,
        /// Show what would change, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Change fields of a person
    #[command(
        after_long_help = "For example: rosterctl user set carol tier=power-user namespaces=\n\nExit codes: 0 done, 1 not."
    )]
    Set {
        /// Change this account
        #[arg(value_name = "USER")]
        user: OsUser,
        /// Set a field (tier=admin), take it away (email=), add to a list (repos+=docs) or take from it (repos-=docs)
        #[arg(value_name = "FIELD=VALUE", required = true)]
        fields: Vec<Assignment>,
        /// Show what would change, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Stop the services of a person; account and data stay
    #[command(after_long_help = "Exit codes: 0 done, 1 not.")]
    Park {
        /// Park this account
        #[arg(value_name = "USER")]
        user: OsUser,
        /// Show what would change, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Let the services of a person run again
    #[command(after_long_help = "Exit codes: 0 done, 1 not.")]
    Unpark {
        /// Unpark this account
        #[arg(value_name = "USER")]
        user: OsUser,
        /// Show what would change, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Take a person's lines out of the roster
    ///
    /// They lose access; account, files and ports stay, and all comes back with their lines.
    #[command(after_long_help = "Exit codes: 0 done, 1 not.")]
    Remove {
        /// Take out this account
        #[arg(value_name = "USER")]
        user: OsUser,
        /// Show what would change, and change nothing
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum SchemaOf {
    /// roster.yaml
    Roster,
    /// config.toml
    Config,
}

/// `rosterctl tmux`.
#[derive(Debug, Args)]
#[command(after_long_help = TMUX_EXIT)]
pub(crate) struct TmuxArgs {
    #[command(flatten)]
    pub(crate) options: TmuxOptions,
    #[command(subcommand)]
    pub(crate) command: TmuxCommand,
}

const TMUX_EXIT: &str = "Exit codes: 0 done, or nothing to do; 1 something could not be done, or is not there; \
    2 that person may not be asked about.";

/// What every command of `rosterctl tmux` takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of all tmux commands")]
pub(crate) struct TmuxOptions {
    /// Do it for this person [default: you; for root, everybody in the map]
    #[arg(long, global = true, value_name = "USER")]
    pub(crate) user: Option<String>,
    /// Print tab-separated values for scripts, `-` for nothing
    #[arg(long, global = true, conflicts_with = "json")]
    pub(crate) tsv: bool,
    /// Keep the snapshots in this folder [default: as configured, /var/lib/tmux-persist]
    #[arg(long, global = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) state: Option<PathBuf>,
    /// Take the people from this map [default: as configured, /etc/ttyd-user-map]
    #[arg(long, hide_short_help = true, global = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) map: Option<PathBuf>,
    /// Ask the tmux server of this name, as `tmux -L` does [default: default]
    // Hides the daemon's socket, which none of these commands needs.
    #[arg(id = "socket", long, global = true, value_name = "NAME", value_parser = parse_socket)]
    pub(crate) socket: Option<PathBuf>,
    /// Take this folder for the person's home
    #[arg(long, hide_short_help = true, global = true, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) home: Option<PathBuf>,
    /// Resume conversations with this program [default: as configured, claude]
    #[arg(long, hide_short_help = true, global = true, value_name = "BIN", value_hint = ValueHint::FilePath)]
    pub(crate) claude: Option<String>,
    /// Take this for the time, in seconds since 1970
    #[arg(long, hide_short_help = true, global = true, value_name = "SECONDS")]
    pub(crate) now: Option<i64>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TmuxCommand {
    /// Save what is live, if it differs from the newest snapshot
    #[command(after_long_help = TMUX_EXIT)]
    Save,
    /// Make again what is missing of the newest snapshot
    ///
    /// What is live is left alone, and what was closed on purpose since stays closed.
    #[command(after_long_help = TMUX_EXIT)]
    Restore {
        /// Choose what, on the terminal
        #[arg(long)]
        pick: bool,
    },
    /// List the snapshots, the newest first
    #[command(after_long_help = "With --tsv: snapshot, sessions, `newest` or `-`.")]
    Snapshots,
    /// Show the sessions of one snapshot and what restoring it would do
    #[command(
        after_long_help = "With --tsv: name, folder, conversation, state, action, target, `on` or `off`, note."
    )]
    Snapshot {
        /// Show this snapshot, as `snapshots` lists it [default: the one that `restore` takes]
        #[arg(value_name = "TS", value_parser = parse_moment)]
        ts: Option<Moment>,
    },
    /// Restore these sessions of one snapshot, or none of them when one is not in it
    #[command(after_long_help = TMUX_EXIT)]
    RestoreSelection {
        /// Take this snapshot
        #[arg(value_name = "TS", value_parser = parse_moment)]
        ts: Moment,
        /// Restore the sessions of these names
        #[arg(value_name = "NAME", required = true, allow_hyphen_values = true)]
        names: Vec<String>,
    },
    /// Restore one session from the newest snapshot that has it
    #[command(after_long_help = TMUX_EXIT)]
    RestoreOne {
        /// Its name, or the first four or more characters of its conversation
        #[arg(value_name = "SESSION", allow_hyphen_values = true)]
        session: String,
    },
    /// List all sessions that were ever saved: when they were first and last seen, and whether they are there
    #[command(
        after_long_help = "With --tsv: user, name, folder, conversation, first seen, last seen, `alive` or `dead`, \
            `killed@<seconds>` if it was closed on purpose since."
    )]
    History,
    /// Record that a session was closed on purpose, so that `restore` does not bring it back
    #[command(after_long_help = TMUX_EXIT)]
    Forget {
        /// Its name
        #[arg(value_name = "SESSION", value_parser = parse_session, allow_hyphen_values = true)]
        session: SessionName,
    },
    /// Work for a person, as root's process that becomes them
    #[command(hide = true)]
    Worker,
    /// Be what a restored pane begins with
    #[command(hide = true)]
    Pane(PaneArgs),
}

/// What a restored pane is told by the tmux server that starts it.
#[derive(Debug, Args)]
pub(crate) struct PaneArgs {
    #[arg(long)]
    pub(crate) folder: PathBuf,
    #[arg(long, requires = "name", requires = "resume", allow_hyphen_values = true)]
    pub(crate) claude: Option<String>,
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) name: Option<String>,
    #[arg(long)]
    pub(crate) resume: Option<String>,
    #[arg(long)]
    pub(crate) gone: Option<String>,
    #[arg(long)]
    pub(crate) folder_gone: Option<String>,
    #[arg(long)]
    pub(crate) wants: Option<PathBuf>,
    #[arg(long)]
    pub(crate) scrollback: Option<PathBuf>,
    #[arg(last = true)]
    pub(crate) run: Vec<std::ffi::OsString>,
}

pub(crate) fn parse_socket(text: &str) -> Result<PathBuf, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if text.is_empty() || text.starts_with('.') || text.len() > 64 || !text.chars().all(plain) {
        return Err("a name for `tmux -L` has letters, digits, `.`, `_` and `-`".into());
    }
    Ok(text.into())
}

fn parse_moment(text: &str) -> Result<Moment, String> {
    Moment::parse(text).ok_or_else(|| "a snapshot's name is such as 20260301T120000".into())
}

fn parse_session(text: &str) -> Result<SessionName, String> {
    SessionName::new(text)
        .ok_or_else(|| "a session's name has letters, digits, `_` and `-`, 32 at most".into())
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        other => return Err(format!("`{other}` is no unit of time; use s, m or h")),
    };
    let seconds = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
    seconds
        .map(Duration::from_secs)
        .ok_or_else(|| "a time is a whole number of seconds, or 30s, 5m, 1h".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_seconds_or_has_a_unit() {
        assert_eq!(parse_time("90"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_time("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(parse_time("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(parse_time("1h"), Ok(Duration::from_secs(3600)));
        for bad in ["", "s", "-1", "1.5", "5d", "99999999999999999999", "18446744073709551615h", "5 m"] {
            assert!(parse_time(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }
}
