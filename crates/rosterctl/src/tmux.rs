//! The commands for tmux sessions: whose, by which process, and how the answers are printed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use nix::unistd::Uid;
use roster::config::Config;
use tmux_persist::{Answer, Failure, Job, PaneStart, PeopleError, Person, Resume, Settings};

use crate::args::{Global, PaneArgs, TmuxArgs, TmuxCommand, TmuxOptions};
use crate::error::{CommandError, Result};
use crate::out::Out;
use crate::page::{self, Style};
use crate::picker;
use crate::render;

/// What came of a job, for each person.
pub(crate) type Answers = Vec<(String, std::result::Result<Answer, Failure>)>;

/// `rosterctl tmux …`.
pub(crate) fn run(global: &Global, args: &TmuxArgs, out: &Out) -> Result<u8> {
    let job = match &args.command {
        TmuxCommand::Worker => return worker(),
        TmuxCommand::Pane(pane) => return Err(begin_pane(pane)),
        TmuxCommand::Save => Job::Save,
        TmuxCommand::Restore { .. } => Job::Restore,
        TmuxCommand::Snapshots => Job::Snapshots,
        TmuxCommand::Snapshot { ts } => Job::Snapshot(*ts),
        TmuxCommand::RestoreSelection { ts, names } => Job::RestoreSelection(*ts, names.clone()),
        TmuxCommand::RestoreOne { session } => Job::RestoreOne(session.clone()),
        TmuxCommand::History => Job::History,
        TmuxCommand::Forget { session } => {
            Job::Forget(session.clone(), args.options.now.map(tmux_persist::Moment::new))
        }
    };
    let asked = Asked::new(global, &args.options)?;
    let pick = matches!(&args.command, TmuxCommand::Restore { pick: true });
    let many = matches!(job, Job::Save | Job::Restore | Job::History) && !pick;
    if !many && asked.people.len() != 1 {
        return Err(CommandError::refused("this is asked for one person").next("give one with --user"));
    }
    let job = match pick {
        false => job,
        true => match choose(&asked, out)? {
            Some((taken, names)) => Job::RestoreSelection(taken, names),
            None => return Ok(0),
        },
    };
    let answers = asked.answer(&job)?;
    print(&answers, &args.options, out)
}

/// Whom something is asked for, and by whom it is done.
pub(crate) struct Asked {
    settings: Settings,
    people: Vec<Person>,
    /// The person asks for themself: this process does it.
    myself: bool,
    /// They are not among the people whose sessions are kept, and asked for no place of their own.
    stranger: bool,
}

impl Asked {
    fn new(global: &Global, options: &TmuxOptions) -> Result<Asked> {
        let config = crate::offline::configuration(global)?;
        let people = people(options, &config)?;
        let settings = settings(options, &config)?;
        let myself = !Uid::effective().is_root();
        let map = options.map.as_deref().unwrap_or(&config.maps.ttyd_user_map);
        let unknown = |known: BTreeSet<String>| people.iter().any(|person| !known.contains(&person.user));
        let stranger = myself && options.state.is_none() && tmux_persist::known(map).is_ok_and(unknown);
        Ok(Asked { settings, people, myself, stranger })
    }

    /// Does a job for each person.
    pub(crate) fn answer(&self, job: &Job) -> Result<Answers> {
        if self.myself {
            let of = |person: &Person| {
                let answer = tmux_persist::run_here(&person.user, &person.home, &self.settings, job);
                (person.user.clone(), answer.map_err(|failure| self.of_stranger(person).unwrap_or(failure)))
            };
            return Ok(self.people.iter().map(of).collect());
        }
        let program = this_program()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| CommandError::new("cannot start").because(error))?;
        let people = self.people.clone();
        let (done, left) = runtime.block_on(tmux_persist::run_as(
            &program,
            &["rosterctl", "tmux", "worker"],
            people,
            &self.settings,
            job,
        ));
        let answers = done.into_iter().map(|(person, answer)| (person.user, answer));
        Ok(answers.chain(left.map(|left| ("root".to_owned(), Err(left)))).collect())
    }

    /// Why nothing can be done for somebody of whom nothing is kept.
    fn of_stranger(&self, person: &Person) -> Option<Failure> {
        let kept = self.settings.state.join("users").join(&person.user).exists();
        (self.stranger && !kept).then(|| Failure {
            why: format!("{} is not in the roster, so nothing is kept of them", person.user),
            next: "an admin can add them: `rosterctl user add`".into(),
        })
    }
}

/// Lets the person at the terminal choose.
fn choose(asked: &Asked, out: &Out) -> Result<Option<(tmux_persist::Moment, Vec<String>)>> {
    let one = |job: &Job| -> Result<Answer> {
        match asked.answer(job)?.into_iter().next() {
            Some((_, Ok(answer))) => Ok(answer),
            Some((user, Err(Failure { why, next }))) => {
                Err(CommandError::new(format!("{user}: {}", page::clean_line(&why)))
                    .next(page::clean_line(&next)))
            }
            None => Err(CommandError::refused("nobody to work for")),
        }
    };
    let Answer::Snapshots(snapshots) = one(&Job::Snapshots)? else { return Ok(None) };
    if snapshots.is_empty() {
        return Err(CommandError::new("there is no snapshot yet").next("`rosterctl tmux save` makes one"));
    }
    picker::pick(snapshots, out.look.colour, |taken| match one(&Job::Snapshot(Some(taken))) {
        Ok(Answer::Snapshot(view)) => Ok(Some(view)),
        // A damaged one; the others can still be chosen.
        _ => Ok(None),
    })
}

fn people(options: &TmuxOptions, config: &Config) -> Result<Vec<Person>> {
    let map = options.map.as_deref().unwrap_or(&config.maps.ttyd_user_map);
    let refused = |error: PeopleError| match error {
        PeopleError::Map { .. } => CommandError::new("nobody is known")
            .because(error)
            .next("rosterd writes that map; name another one with --map"),
        _ => CommandError::refused("nobody to work for").because(error),
    };
    let mut people = if Uid::effective().is_root() {
        match &options.user {
            Some(user) => vec![Person::known(user, map).map_err(refused)?],
            // An account that was removed is nobody's failure.
            None => {
                let known = match tmux_persist::known(map) {
                    // rosterd has not written it yet: nobody has a session to save.
                    Err(PeopleError::Map { source, .. })
                        if options.map.is_none() && source.kind() == std::io::ErrorKind::NotFound =>
                    {
                        Default::default()
                    }
                    known => known.map_err(refused)?,
                };
                known.iter().filter_map(|user| Person::look_up(user).ok()).collect()
            }
        }
    } else {
        let me = nix::unistd::User::from_uid(Uid::effective()).ok().flatten();
        let me = me.ok_or_else(|| CommandError::refused("your uid has no account"))?;
        if options.user.as_ref().is_some_and(|user| *user != me.name) {
            return Err(CommandError::refused(format!(
                "only root and they themself may ask about others; you are {}",
                me.name
            )));
        }
        vec![Person::look_up(&me.name).map_err(refused)?]
    };
    if let Some(home) = &options.home {
        for person in &mut people {
            person.home = absolute(home)?;
        }
    }
    Ok(people)
}

fn settings(options: &TmuxOptions, config: &Config) -> Result<Settings> {
    let text = |path: &PathBuf| path.to_string_lossy().into_owned();
    let program = this_program()?;
    // Given before `tmux`, it was meant for the daemon and not looked at yet.
    let socket = options.socket.as_ref().map_or_else(|| "default".into(), text);
    crate::args::parse_socket(&socket)
        .map_err(|why| CommandError::new(format!("no tmux server can be asked at {socket}")).because(why))?;
    Ok(Settings {
        state: absolute(options.state.as_ref().unwrap_or(&config.tmux.state))?,
        socket,
        claude: options.claude.clone().unwrap_or_else(|| config.tmux.claude.to_string()),
        commands: config.tmux.commands.iter().map(ToString::to_string).collect(),
        environment: config.tmux.environment.iter().map(ToString::to_string).collect(),
        scrollback_kib: config.tmux.scrollback_kib,
        now: options.now,
        pane: vec![text(&program), "tmux".into(), "pane".into()],
    })
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path)
        .map_err(|error| CommandError::new(format!("cannot use {}", path.display())).because(error))
}

fn this_program() -> Result<PathBuf> {
    std::env::current_exe().map_err(|error| CommandError::new("cannot find this program").because(error))
}

/// Prints what came of it; what went wrong goes to standard error.
fn print(answers: &Answers, options: &TmuxOptions, out: &Out) -> Result<u8> {
    let mut failed = false;
    for (user, answer) in answers {
        match answer {
            Ok(Answer::Restored(restored)) => failed |= restored.failed(),
            Ok(_) => {}
            Err(Failure { why, next }) => {
                failed = true;
                let [user, why, next] = [user, why, next].map(|text| page::clean_line(text));
                let text = format!("{user}: {why}\n  next: {next}");
                out.aside(&format!("{}{text}\n", out.aside.paint(Style::Bad, "error: ")));
            }
        }
    }
    if out.json {
        out.document(&render::tmux::json(answers))?;
    } else if options.tsv {
        out.text(&render::tmux::tsv(answers))?;
    } else {
        out.text(&render::tmux::text(answers, jiff::Timestamp::now(), out.look))?;
    }
    Ok(u8::from(failed))
}

fn worker() -> Result<u8> {
    Ok(if tmux_persist::worker() == std::process::ExitCode::SUCCESS { 0 } else { 1 })
}

fn begin_pane(args: &PaneArgs) -> CommandError {
    let resume = match (&args.claude, &args.name, &args.resume) {
        (Some(claude), Some(name), Some(id)) => {
            Some(Resume { id: id.clone(), name: name.clone(), claude: claude.clone() })
        }
        _ => None,
    };
    let start = PaneStart {
        folder: args.folder.clone(),
        scrollback: args.scrollback.clone(),
        resume,
        gone: args.gone.clone(),
        folder_gone: args.folder_gone.clone().zip(args.wants.clone()),
        run: args.run.clone(),
    };
    CommandError::new("cannot start a shell").because(tmux_persist::pane(&start))
}
