//! rosterd: keeps this machine as its roster says. See docs/architecture.md.
//!
//! This is the daemon, started by systemd with its socket. It starts `rosterd-look` to look at a home, and
//! `rosterd-worker` to work in one or to speak to a git server, and `rosterd-provider` to speak to a provider: programs of their
//! own beside this one, of no use by hand. So the daemon's program, which is root's, has no git and no TLS in it.

mod accept;
mod access;
mod announce;
mod ask;
mod daemon;
mod homes;
mod journal;
mod main_loop;
mod memory;
mod metrics;
mod network;
mod preview;
mod providers;
mod refresh;
mod remotes;
mod removal;
mod run;
mod running;
mod serve;
mod services;
mod source;
mod sources;
mod store;
mod watch;

use std::io::IsTerminal;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;

use sd_notify::NotifyState;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Configuration that no restart mends: `EX_CONFIG` of sysexits.h; the unit does not restart on it.
const EX_CONFIG: u8 = 78;

fn main() -> ExitCode {
    match std::env::args_os().nth(1) {
        Some(word) if word == "--version" => {
            #[expect(clippy::print_stdout, reason = "this is what was asked for")]
            {
                println!("rosterd {}", env!("CARGO_PKG_VERSION"));
            }
            ExitCode::SUCCESS
        }
        Some(_) => {
            log_to_stderr();
            tracing::error!("rosterd takes no arguments; it is started by systemd: systemctl start rosterd");
            ExitCode::from(64)
        }
        None => daemon(),
    }
}

fn daemon() -> ExitCode {
    match tracing_journald::layer() {
        Ok(layer) if !std::io::stderr().is_terminal() => {
            let layer = layer.with_field_prefix(None).with_syslog_identifier("rosterd".into());
            tracing_subscriber::registry().with(filter()).with(layer).init();
        }
        _ => log_to_stderr(),
    }
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, text)) => {
            tracing::error!("{text}");
            let _ = sd_notify::notify(&[NotifyState::Status(&text)]);
            ExitCode::from(code)
        }
    }
}

/// Only what concerns an admin; libraries speak up when something is wrong.
fn filter() -> tracing_subscriber::filter::Targets {
    tracing_subscriber::filter::Targets::new()
        .with_default(tracing::Level::WARN)
        .with_target("rosterd", tracing::Level::INFO)
}

fn log_to_stderr() {
    let plain =
        tracing_subscriber::fmt::layer().with_writer(std::io::stderr).without_time().with_target(false);
    tracing_subscriber::registry().with(filter()).with(plain).init();
}

fn start() -> Result<(), (u8, String)> {
    let broken = |what: &str, error: &dyn std::error::Error| (1, format!("{what}: {}", run::chain(error)));
    if !nix::unistd::geteuid().is_root() {
        return Err((
            EX_CONFIG,
            "rosterd must run as root; it is started by systemd: systemctl start rosterd".into(),
        ));
    }
    let listener = listenfd::ListenFd::from_env().take_unix_listener(0).ok().flatten().ok_or_else(|| {
        (EX_CONFIG, "no control socket was passed; start rosterd.socket, then rosterd.service".to_owned())
    })?;
    let state =
        std::env::var_os("STATE_DIRECTORY").map_or_else(|| PathBuf::from("/var/lib/rosterd"), PathBuf::from);
    let store =
        store::Store::open(&state).map_err(|error| broken("the ledger's folder cannot be used", &error))?;
    let config = PathBuf::from("/etc/rosterd/config.toml");
    // Held open, so that workers and daemon are of one version also after an upgrade has replaced the files.
    let open = |name: &str| {
        std::env::current_exe().and_then(|program| std::fs::File::open(program.with_file_name(name))).map_err(
            |error| broken(&format!("{name}, which belongs beside this program, cannot be opened"), &error),
        )
    };
    let (look, work, provider) = (open("rosterd-look")?, open("rosterd-worker")?, open("rosterd-provider")?);
    let path = |program: &std::fs::File| PathBuf::from(format!("/proc/self/fd/{}", program.as_raw_fd()));
    let programs = home::Programs { look: path(&look), work: path(&work) };
    let (daemon, asked) = daemon::Daemon::load(store, config, programs, path(&provider));
    let daemon = Rc::new(daemon);
    for cleared in host::clear_leftovers(&daemon.config()) {
        tracing::info!("removed {cleared}, which a run that was killed had left");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| broken("no runtime", &error))?;
    let local = tokio::task::LocalSet::new();
    local
        .block_on(&runtime, async {
            tokio::task::spawn_local(serve::serve(Rc::clone(&daemon), listener));
            let sender = tokio::task::spawn_local(announce::send(Rc::clone(&daemon)));
            tokio::task::spawn_local(source::follow(Rc::clone(&daemon)));
            let _ = sd_notify::notify(&[NotifyState::Ready]);
            tracing::info!(
                message_id = journal::id::STARTED,
                rosterd_generation = daemon.ledger().generation,
                "rosterd {} started, generation {} is in force",
                env!("CARGO_PKG_VERSION"),
                daemon.ledger().generation
            );
            let ended = main_loop::run_until_stopped(Rc::clone(&daemon), asked).await;
            let _ = tokio::time::timeout(announce::LAST_WORD, sender).await;
            ended
        })
        .map_err(|error| broken("the daemon ended", &error))
}
