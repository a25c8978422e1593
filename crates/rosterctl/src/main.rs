//! `rosterctl`: the admin's command line. It decides nothing: it asks `rosterd` over its control socket, or the
//! pure core, and prints the answer for people or, with `--json`, for programs.
//!
//! | module | what it does |
//! | --- | --- |
//! | [`args`] | the command line |
//! | [`offline`] | commands that need no daemon: `validate`, `derive` |
//! | `home::freshen` | `freshen`, which needs no daemon either |
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
mod offline;
mod online;
mod out;
mod page;
mod picker;
mod render;
mod tmux;
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
        Command::Validate { file } => offline::validate(&cli.global, file.as_deref(), &out),
        Command::Derive { file, ports, k8s_users } => {
            offline::derive(&cli.global, file.as_deref(), ports.as_deref(), k8s_users.as_deref(), &out)
        }
        Command::Freshen => {
            for line in home::freshen(FRESHEN) {
                out.aside(&format!("{}\n", page::clean(&line)));
            }
            Ok(0)
        }
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
