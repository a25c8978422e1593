//! `rosterctl user`: changes roster.yaml as text. What changes, and whether it may, the core decides.

use roster::change;
use roster::config::Config;
use roster::edit::{self, Assignment, Edit, EditError, Edited};
use roster::model::Roster;
use roster::name::OsUser;
use serde::Serialize;
use similar::TextDiff;

use crate::args::{Global, UserCommand};
use crate::error::{CommandError, Result};
use crate::offline;
use crate::out::Out;
use crate::page::clean;
use crate::replace::{Document, Outcome};

/// How often somebody else may save while we work, before they are asked to stop.
const TRIES: usize = 5;

/// `rosterctl user …`.
pub(crate) fn run(global: &Global, command: &UserCommand, out: &Out) -> Result<u8> {
    let config = offline::valid_configuration(global, out)?;
    let (edit, dry_run) = match command {
        UserCommand::Add { user, fields, dry_run } => {
            (Edit::Add { user: user.clone(), fields: fields.clone(), note: None }, dry_run)
        }
        UserCommand::Set { user, fields, dry_run } => {
            (Edit::Set { user: user.clone(), fields: fields.clone() }, dry_run)
        }
        UserCommand::Park { user, dry_run } => (parked(user, true), dry_run),
        UserCommand::Unpark { user, dry_run } => (parked(user, false), dry_run),
        UserCommand::Remove { user, dry_run } => (Edit::Remove { user: user.clone() }, dry_run),
    };
    apply(&config, *dry_run, out, |_| Ok((vec![edit.clone()], String::new())))
}

fn parked(user: &OsUser, parked: bool) -> Edit {
    let field = Assignment::new("parked", edit::Operation::Set, if parked { "true" } else { "false" });
    Edit::Set { user: user.clone(), fields: field.into_iter().collect() }
}

/// What was done, for programs.
#[derive(Debug, Serialize)]
struct Answer {
    file: String,
    written: bool,
    changes: Vec<change::Change>,
    diff: String,
}

/// Changes the roster that the configuration names. `edits` says how the one that is found is to change, and what is
/// told beside that.
pub(crate) fn apply(
    config: &Config,
    dry_run: bool,
    out: &Out,
    edits: impl Fn(&Roster) -> Result<(Vec<Edit>, String)>,
) -> Result<u8> {
    let path = &config.roster.path;
    if let Some(url) = config.source.git.as_ref().filter(|_| !dry_run) {
        return Err(CommandError::new(format!("the roster comes from {url}, so it is not changed here"))
            .next("change it there; `--dry-run` shows the lines"));
    }
    let name = path.display().to_string();
    for _ in 0..TRIES {
        let document = Document::read(path)?;
        let before = offline::valid(&name, roster::parse::roster(&name, &document.bytes), out)?;
        let (edits, beside) = edits(&before)?;
        let edited =
            edit::apply(&name, &document.bytes, &edits).map_err(|error| failure(&name, error, out))?;
        // It has just been parsed.
        let old = String::from_utf8_lossy(&document.bytes);
        let differs = old != edited.text;
        if differs && !dry_run && document.replace(&edited.text)? == Outcome::Overtaken {
            continue;
        }
        let diff = TextDiff::from_lines(old.as_ref(), edited.text.as_str());
        let diff = diff.unified_diff().context_radius(2).header(&name, &name).to_string();
        let written = differs && !dry_run;
        tell(
            Answer { file: name, written, changes: change::between(&edited.before, &edited.after), diff },
            &edited,
            dry_run,
            out,
        )?;
        out.aside(&beside);
        return Ok(0);
    }
    Err(CommandError::new(format!("somebody else keeps saving {name}; it is as they saved it"))
        .next("try again when they are done"))
}

fn tell(answer: Answer, edited: &Edited, dry_run: bool, out: &Out) -> Result<()> {
    if out.json {
        return out.document(&answer);
    }
    if dry_run {
        return out.text(&clean(&answer.diff));
    }
    if !answer.written {
        return out.text(&format!("{} says so already; nothing is changed\n", answer.file));
    }
    let changes: String = answer.changes.iter().map(|change| format!("{change}\n")).collect();
    out.text(&clean(&changes))?;
    let people = crate::page::count(edited.after.users.len(), "person", "people");
    out.aside(&format!("saved {}, {people}; the text before is in {}~\n", answer.file, answer.file));
    Ok(())
}

fn failure(name: &str, error: EditError, out: &Out) -> CommandError {
    let what = format!("{name} is not changed");
    let next = match &error {
        EditError::Invalid(diagnostics) | EditError::Refused(diagnostics) => {
            out.aside(&diagnostics.render(out.aside.colour));
            // The diagnostics are above, so not again as the cause.
            return CommandError::new(format!("{what}: {error}"))
                .next("the lines above are those that would have been written; give other values");
        }
        EditError::TooClever(_) => "change it by hand".to_owned(),
        EditError::NoSuchUser { .. } => "`rosterctl derive` lists everybody".to_owned(),
        EditError::Exists(user) => format!("change them with `rosterctl user set {user} …`"),
        EditError::NotListed { .. } => "see what it holds, and give that".to_owned(),
    };
    CommandError::new(what).because(error).next(next)
}
