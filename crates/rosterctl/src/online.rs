//! The commands that ask the daemon.

use std::io;
use std::path::Path;
use std::time::Duration;

use control::{Client, ClientError, ControlError, Events};
use futures_util::StreamExt as _;
use jiff::Timestamp;
use roster::ledger::WaitingCause;
use roster::name::OsUser;
use roster::plan::{Plan, Subject};
use roster::provider::Provider;
use roster::report::{Outcome, Progress, Run, Status, SubjectStatus, WaitingStatus};
use serde::Serialize;
use serde_json::json;

use crate::args::Command;
use crate::error::{CommandError, Result};
use crate::offline;
use crate::out::{Out, Spinner, ask};
use crate::render;

/// How long the daemon may be late with telling that the time ran out, before we say so ourselves.
const GRACE: Duration = Duration::from_secs(2);

/// From one picture of the progress line to the next.
const TICK: Duration = Duration::from_millis(120);

/// How long a question may take that the daemon answers from what it knows.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs one command and returns its exit code.
pub(crate) fn run(socket: &Path, command: &Command, out: &Out) -> Result<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CommandError::new("cannot start").because(error))?;
    runtime.block_on(async {
        let mut client = Client::connect(socket).await.map_err(explain)?;
        match command {
            Command::Status { user, provider: Some(provider) } => {
                let status = answer(client.status(None), out).await?;
                show_provider(*provider, status, user.as_ref(), out)
            }
            Command::Plan { user, provider: Some(provider), .. } => {
                let asked = client.plan_provider(*provider, user.as_ref());
                let plan = patiently(asked, out, &format!("rosterd looks at {provider}")).await?;
                // What could not be looked at may well differ.
                let unknown = plan.steps.is_empty() && !plan.problems.is_empty();
                Ok(show_plan(plan, None, true, out)?.max(u8::from(unknown)))
            }
            Command::Reconcile { user, provider: Some(provider) } => {
                let events = client.reconcile_provider(*provider, user.as_ref()).await.map_err(explain)?;
                let run = follow(events, out, &format!("waiting for {provider}")).await?;
                close(&mut client, &run, out).await
            }
            Command::Status { user, provider: None } => {
                let asked = tokio::time::timeout(PATIENCE, client.status(user.as_ref())).await;
                let status = match (asked.map_err(|_| silent())?, user) {
                    (Err(ClientError::Refused(ControlError::NoSuchUser { .. })), Some(user)) => {
                        let status = answer(client.status(None), out).await?;
                        return Err(nobody(user, &status));
                    }
                    (asked, _) => asked.map_err(explain)?,
                };
                show_status(&status, user.as_ref(), out)
            }
            Command::Plan { draft, user, provider: None } => {
                let draft = draft.as_deref().map(|file| offline::valid_draft(file, out)).transpose()?;
                let asked = client.plan(user.as_ref(), draft.as_deref());
                let plan = patiently(asked, out, "rosterd looks at the machine and the homes").await?;
                if draft.is_some() {
                    return show_plan(plan, None, true, out);
                }
                let status = answer(client.status(None), out).await?;
                match user {
                    // The daemon plans for whoever is on disk; for a mistyped name that is nothing.
                    Some(user) if plan == Plan::default() && !known(&status, user) => {
                        Err(nobody(user, &status))
                    }
                    _ => show_plan(plan, status.waiting, status.since.is_some(), out),
                }
            }
            Command::Reconcile { user, provider: None } => {
                let events = client.reconcile(user.as_ref()).await.map_err(explain)?;
                let run = follow(events, out, "waiting for rosterd").await?;
                close(&mut client, &run, out).await
            }
            Command::Wait { timeout } => {
                let seconds = timeout.map(|timeout| u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX));
                let follow = async {
                    let events = client.wait(seconds).await.map_err(explain)?;
                    follow(events, out, "waiting for the roster on disk to be applied").await
                };
                let run = match timeout {
                    None => follow.await,
                    // Also when the daemon hangs and does not answer at all.
                    Some(timeout) => tokio::time::timeout(timeout.saturating_add(GRACE), follow)
                        .await
                        .unwrap_or_else(|_| Err(refused(ControlError::TimedOut))),
                }?;
                close(&mut client, &run, out).await
            }
            Command::Access { user } => {
                let asked = client.access(user);
                let access = patiently(asked, out, "rosterd looks at the machine and the providers").await?;
                match out.json {
                    true => out.document(&access)?,
                    false => out.text(&render::access(&access, out.look))?,
                }
                Ok(if render::is_as_wanted(&access) { 0 } else { 3 })
            }
            Command::History { limit } => {
                let runs = answer(client.history(*limit), out).await?;
                match out.json {
                    true => out.document(&runs)?,
                    false => out.text(&render::history(&runs, Timestamp::now(), out.look))?,
                }
                Ok(0)
            }
            Command::Show { run } => {
                let run = answer(client.show(run), out).await?;
                match out.json {
                    true => out.document(&run)?,
                    false => out.text(&render::run(&run, Timestamp::now(), out.look))?,
                }
                Ok(0)
            }
            Command::Confirm { yes } => {
                let waiting = answer(client.status(None), out).await?.waiting;
                let Some(cuts) = to_confirm(waiting, *yes, out)? else { return Ok(0) };
                answer(client.confirm(&cuts), out).await?;
                match out.json {
                    true => out.document(&json!({ "confirmed": true, "cuts": cuts }))?,
                    false => out.text("Confirmed. `rosterctl wait` shows the outcome.\n")?,
                }
                Ok(0)
            }
            Command::Validate { .. }
            | Command::Tmux(_)
            | Command::User { .. }
            | Command::Membership { .. }
            | Command::Offboard { .. }
            | Command::RestoreAccount { .. }
            | Command::Derive { .. }
            | Command::Freshen
            | Command::Doctor
            | Command::Schema { .. }
            | Command::Completions { .. }
            | Command::Man { .. } => Err(CommandError::new("this command needs no daemon")),
        }
    })
}

/// One question of a command that works by itself.
pub(crate) fn asking<T>(
    socket: &Path,
    ask: impl AsyncFnOnce(&mut Client) -> std::result::Result<T, ClientError>,
) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CommandError::new("cannot start").because(error))?;
    runtime.block_on(async {
        let mut client = Client::connect(socket).await.map_err(explain)?;
        tokio::time::timeout(PATIENCE, ask(&mut client)).await.map_err(|_| silent())?.map_err(explain)
    })
}

fn silent() -> CommandError {
    CommandError::new(format!("rosterd has not answered for {} s", PATIENCE.as_secs()))
        .next("systemctl status rosterd; journalctl -u rosterd -n 50")
}

/// One answer that the daemon has at hand.
async fn answer<T>(asked: impl Future<Output = std::result::Result<T, ClientError>>, out: &Out) -> Result<T> {
    tokio::time::timeout(PATIENCE, patiently(asked, out, "waiting for rosterd"))
        .await
        .unwrap_or_else(|_| Err(silent()))
}

/// One answer that may take its time; a terminal is told what is waited for.
async fn patiently<T>(
    asked: impl Future<Output = std::result::Result<T, ClientError>>,
    out: &Out,
    phase: &str,
) -> Result<T> {
    let mut spinner = Spinner::new(out, phase);
    let mut asked = std::pin::pin!(asked);
    // A quick answer comes without a flicker.
    let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + 3 * TICK, TICK);
    let answer = loop {
        tokio::select! {
            biased;
            answer = &mut asked => break answer,
            _ = ticks.tick() => spinner.tick(),
        }
    };
    spinner.clear();
    answer.map_err(explain)
}

fn show_status(status: &Status, user: Option<&OsUser>, out: &Out) -> Result<u8> {
    match out.json {
        true => out.document(status)?,
        false => out.text(&render::status(status, Timestamp::now(), out.look))?,
    }
    let outcome = match user {
        None => status.outcome,
        Some(user) => outcome_of(status, user),
    };
    Ok(outcome.exit_code())
}

fn show_provider(provider: Provider, mut status: Status, user: Option<&OsUser>, out: &Out) -> Result<u8> {
    let Some(mut found) = status.providers.remove(&provider) else {
        return Err(CommandError::new(format!("no {provider} is configured"))
            .next(format!("see `[{provider}]` in /etc/rosterd/config.toml")));
    };
    if let Some(user) = user {
        found.degraded.retain(|subject, _| *subject == Subject::User(user.clone()));
    }
    match out.json {
        true => out.document(&found)?,
        false => out.text(&render::provider(provider, &found, Timestamp::now(), out.look))?,
    }
    let outcome = if found.degraded.is_empty() { Outcome::Converged } else { Outcome::Degraded };
    Ok(outcome.exit_code())
}

/// Somebody else's failure is not this person's.
fn outcome_of(status: &Status, user: &OsUser) -> Outcome {
    match status.subjects.get(&Subject::User(user.clone())) {
        _ if status.outcome != Outcome::Degraded => status.outcome,
        Some(SubjectStatus::Degraded(_)) => Outcome::Degraded,
        _ => Outcome::Converged,
    }
}

/// Nobody has this name; perhaps one that is near was meant.
fn nobody(user: &OsUser, status: &Status) -> CommandError {
    let error = refused(ControlError::NoSuchUser { user: user.to_string() });
    let names: Vec<String> = status.subjects.keys().map(ToString::to_string).collect();
    match roster::parse::nearest(user.as_str(), names.iter().map(String::as_str)) {
        Some(near) => error.next(format!("did you mean {near}?")),
        None => error,
    }
}

fn known(status: &Status, user: &OsUser) -> bool {
    status.subjects.contains_key(&Subject::User(user.clone()))
}

/// A plan, and why the roster on disk is not what it leads to.
#[derive(Serialize)]
struct PlanAnswer {
    #[serde(flatten)]
    plan: Plan,
    waiting: Option<WaitingStatus>,
}

fn show_plan(plan: Plan, waiting: Option<WaitingStatus>, in_force: bool, out: &Out) -> Result<u8> {
    let code = match &waiting {
        Some(WaitingStatus {
            cause: WaitingCause::Invalid { .. } | WaitingCause::TierMismatch { .. },
            ..
        }) => 1,
        _ if plan.steps.is_empty() => 0,
        _ => 2,
    };
    if out.json {
        out.document(&PlanAnswer { plan, waiting })?;
    } else {
        out.text(&render::plan(&plan, waiting.as_ref(), in_force, Timestamp::now(), out.look))?;
    }
    Ok(code)
}

/// Prints each step of a run until it ends.
async fn follow(mut events: Events<'_>, out: &Out, phase: &str) -> Result<Run> {
    let mut spinner = Spinner::new(out, phase);
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    let mut ticks = tokio::time::interval(TICK);
    let ended = loop {
        let event = tokio::select! {
            biased;
            event = events.next() => event,
            _ = &mut interrupt => break Err(CommandError::interrupted("stopped looking; rosterd goes on")
                .next("`rosterctl wait` shows how it ends")),
            _ = ticks.tick() => {
                spinner.tick();
                continue;
            }
        };
        let event = match event {
            Some(Ok(event)) => event,
            Some(Err(error)) => break Err(explain(error)),
            None => break Err(explain(ClientError::Gone)),
        };
        spinner.clear();
        if out.json {
            out.event(&event)?;
        }
        match event {
            Progress::Phase { text } => spinner.phase(&text),
            Progress::Step(record) if !out.json => out.text(&render::step(&record, out.look))?,
            Progress::Step(_) => {}
            Progress::Ended(run) => break Ok(*run),
        }
    };
    spinner.clear();
    ended
}

/// Says how a run ended, and why nothing could be done when so.
async fn close(client: &mut Client, run: &Run, out: &Out) -> Result<u8> {
    if !out.json {
        let waiting = match run.outcome {
            // The outcome is what counts; without the reason it is still told.
            Outcome::Held | Outcome::Failed => {
                answer(client.status(None), out).await.ok().and_then(|status| status.waiting)
            }
            Outcome::Converged | Outcome::Degraded => None,
        };
        out.text(&render::closing(run, waiting.as_ref(), Timestamp::now(), out.look))?;
    }
    Ok(run.outcome.exit_code())
}

/// Whom to cut after all; `None` when there is nothing to confirm.
fn to_confirm(waiting: Option<WaitingStatus>, yes: bool, out: &Out) -> Result<Option<Vec<OsUser>>> {
    let (cuts, why) = match waiting.map(|waiting| waiting.cause) {
        Some(WaitingCause::Held { cuts, why, confirmed: false }) => (cuts, why),
        other => {
            let already = matches!(other, Some(WaitingCause::Held { .. }));
            let text =
                if already { "Confirmed already; the next run applies it.\n" } else { "Nothing is held.\n" };
            match out.json {
                true => out.document(&json!({ "confirmed": already, "cuts": [] }))?,
                false => out.text(text)?,
            }
            return Ok(None);
        }
    };
    // With --json only the answer may be on standard output; the admin still sees what is confirmed.
    let shown = render::held(&cuts, &why, if out.json { out.aside } else { out.look });
    match out.json {
        true => out.aside(&shown),
        false => out.text(&shown)?,
    }
    if yes {
        return Ok(Some(cuts));
    }
    let refused = |why: &str| CommandError::new(format!("not confirmed, nobody is cut: {why}"));
    match ask(out, "Type yes to let this proceed: ")?.as_deref() {
        Some("yes") => Ok(Some(cuts)),
        Some(_) => Err(refused("the answer was not yes")),
        None => Err(refused("there is no terminal to ask on").next("say it with `rosterctl confirm --yes`")),
    }
}

/// What happened on the way to the daemon, and what to do next.
fn explain(error: ClientError) -> CommandError {
    match error {
        ClientError::Connect { path, source } => connect(&path, source),
        ClientError::Form(source) => other_version().because(source),
        ClientError::Broken(
            source @ (zlink::Error::Json(_)
            | zlink::Error::VarlinkService(_)
            | zlink::Error::UnknownErrorReply(_)
            | zlink::Error::MissingParameters),
        ) => cause(other_version(), source),
        ClientError::Gone | ClientError::Broken(zlink::Error::UnexpectedEof) => {
            CommandError::new("rosterd went away before it had answered")
                .next("systemctl status rosterd; what was cut off is made up for when it starts again")
        }
        ClientError::Broken(source) => cause(CommandError::new("the connection to rosterd broke"), source)
            .next("journalctl -u rosterd -n 50"),
        ClientError::Refused(refusal) => refused(refusal),
    }
}

fn other_version() -> CommandError {
    CommandError::new("rosterd answers in a form that this rosterctl does not know").next(format!(
        "see that both are of version {}: systemctl restart rosterd",
        env!("CARGO_PKG_VERSION")
    ))
}

fn connect(path: &Path, source: zlink::Error) -> CommandError {
    let kind = match &source {
        zlink::Error::Io(error) => Some(error.kind()),
        _ => None,
    };
    let what = format!("cannot ask rosterd at {}", path.display());
    match kind {
        Some(io::ErrorKind::PermissionDenied) => cause(CommandError::new(what), source)
            .next("run it as root, or be in the group rosterd to read (`id` shows your groups)"),
        Some(io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => cause(CommandError::new(what), source)
            .next("rosterd does not run: systemctl status rosterd.socket rosterd; start it with systemctl start rosterd"),
        _ => cause(CommandError::new(what), source)
            .next("systemctl status rosterd.socket rosterd; are you root or in the group rosterd?"),
    }
}

/// zlink's texts repeat their source, so only the innermost is told.
fn cause(error: CommandError, source: zlink::Error) -> CommandError {
    match source {
        zlink::Error::Io(source) => error.because(source),
        other => error.because(other.to_string()),
    }
}

fn refused(refusal: ControlError) -> CommandError {
    let text = refusal.text();
    match refusal {
        ControlError::TimedOut => {
            CommandError::timed_out(text).next("`rosterctl status` shows what it waits for")
        }
        ControlError::PermissionDenied { .. } => CommandError::new(text).next("run it as root"),
        ControlError::NothingHeld | ControlError::HeldDiffers => {
            CommandError::new(text).next("`rosterctl confirm` shows what is held now")
        }
        ControlError::NoSuchRun { .. } => CommandError::new(text).next("`rosterctl history` lists the runs"),
        ControlError::NoSuchUser { .. } => CommandError::new(text)
            .next("`rosterctl status` lists everybody; who was just added is known after the next run"),
        ControlError::Stopping => {
            CommandError::new(text).next("ask again in a moment; systemctl status rosterd")
        }
        ControlError::Failed { .. } => CommandError::new(text),
    }
}
