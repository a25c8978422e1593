//! `rosterctl`: the admin's command line. It decides nothing: it asks `rosterd` over its control socket, or the
//! pure core, and prints the answer for people or, with `--json`, for programs.
//!
//! | module | what it does |
//! | --- | --- |
//! | [`args`] | the command line |
//! | [`offline`] | commands that need no daemon: `validate`, `derive` |
//! | `home::freshen` | `freshen`, which needs no daemon either |
//! | [`user`], [`replace`] | changes of the roster: `user`; its file, replaced safely |
//! | [`membership`] | the identity provider's group against the roster |
//! | [`webhook`], [`source`] | the daemon's workers that send an announcement and fetch the roster |
//! | [`removal`] | `offboard` and `restore-account` |
//! | [`generated`] | what comes from the types: `schema`, `completions`, `man` |
//! | [`online`] | commands that ask the daemon: `plan`, `reconcile`, `wait`, `status`, `history`, `show`, `confirm` |
//! | [`tmux`], [`picker`] | the commands for tmux sessions; choosing among them on a terminal |
//! | [`doctor`] | `doctor`: asks everything by itself, daemon or not |
//! | [`render`] | answers as text: pure |
//! | [`page`], [`when`] | wrapping, tables, colour; times in words: pure |
//! | [`out`], [`error`] | the terminal; what went wrong and what to do |

mod args;
mod doctor;
mod error;
mod generated;
mod membership;
mod network;
mod offline;
mod online;
mod out;
mod page;
mod picker;
mod removal;
mod render;
mod replace;
mod source;
mod tmux;
mod user;
mod webhook;
mod when;

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::{Cli, Command};
use crate::out::Out;
use crate::page::Style;

/// Nobody waits longer than this for a session to begin.
const FRESHEN: std::time::Duration = std::time::Duration::from_secs(10);

/// Exit code of a wrong command line: EX_USAGE, since clap's own 2 means "there are changes" here.
const USAGE: u8 = 64;

fn main() -> ExitCode {
    match std::env::args_os().nth(1) {
        Some(word) if word == membership::WORD => return membership::work(),
        Some(word) if word == removal::WORD => return removal::work(),
        Some(word) if word == source::WORD => return source::work(),
        Some(word) if word == webhook::WORD => return webhook::work(),
        _ => {}
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too; whoever reads them may leave early.
            let _ = error.print();
            return if error.use_stderr() { USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    let out = Out::new(cli.global.json);
    let code = match &cli.command {
        Command::Validate { file, host } => {
            offline::validate(&cli.global, file.as_deref(), host.as_ref(), &out)
        }
        Command::Derive { file, host, ports, k8s_users } => {
            let (ports, k8s_users) = (ports.as_deref(), k8s_users.as_deref());
            offline::derive(&cli.global, file.as_deref(), host.as_ref(), ports, k8s_users, &out)
        }
        Command::Freshen => {
            for line in home::freshen(FRESHEN) {
                out.aside(&format!("{}\n", page::clean(&line)));
            }
            Ok(0)
        }
        Command::User { command } => user::run(&cli.global, command, &out),
        Command::Membership { command } => membership::run(&cli.global, command, &out),
        Command::Offboard { user, yes, force } => {
            removal::offboard(&cli.global, user, yes.as_deref(), *force, &out)
        }
        Command::RestoreAccount { archive } => removal::restore(&cli.global, archive, &out),
        Command::Schema { what } => generated::schema(*what, &out),
        Command::Completions { shell } => generated::completions(*shell, &out),
        Command::Man { dir } => generated::man(dir.as_deref(), &out),
        Command::Tmux(args) => tmux::run(&cli.global, args, &out),
        Command::Doctor => doctor::run(&cli.global, &out),
        Command::Plan { .. }
        | Command::Reconcile { .. }
        | Command::Wait { .. }
        | Command::Status { .. }
        | Command::Access { .. }
        | Command::History { .. }
        | Command::Show { .. }
        | Command::Confirm { .. } => {
            let socket = cli.global.daemon();
            online::run(socket, &cli.command, &out)
        }
    };
    match code {
        Ok(code) => code.into(),
        Err(error) => {
            if !error.is_quiet() {
                out.aside(&format!(
                    "{}{}\n",
                    out.aside.paint(Style::Bad, "error: "),
                    page::clean(&error.to_string())
                ));
            }
            error.exit_code().into()
        }
    }
}
