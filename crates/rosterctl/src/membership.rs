//! `rosterctl membership`: the group of the identity provider against the roster. The core compares; a worker that is
//! not root reads the group.

mod authentik;
mod worker;

pub(crate) use authentik::chain;
pub(crate) use worker::{WORD, work};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use nix::unistd::User;
use roster::config::{Config, MembershipMode};
use roster::membership::{self, Member, Proposal};
use roster::model::Roster;
use roster::name::OsUser;

use crate::args::{Global, MembershipCommand};
use crate::error::{CommandError, Result};
use crate::offline;
use crate::out::Out;
use crate::page::clean;
use crate::replace::Document;
use crate::user;

/// The exit code when something is proposed, or is for a person to decide.
const PROPOSED: u8 = 2;

/// `rosterctl membership …`.
pub(crate) fn run(global: &Global, command: &MembershipCommand, out: &Out) -> Result<u8> {
    let config = offline::valid_configuration(global, out)?;
    let may_change = match (config.membership.mode, command) {
        (MembershipMode::Off, _) => {
            return Err(CommandError::new("membership is off")
                .next("set `mode`, `authentik`, `group` and `token_file` of [membership] in config.toml"));
        }
        (MembershipMode::Report, MembershipCommand::Apply { dry_run: false }) => {
            return Err(CommandError::new("[membership] mode is `report`, so the roster is not changed")
                .next(
                    "`rosterctl membership plan` shows what would change; set mode = \"apply\" to let it",
                ));
        }
        (_, MembershipCommand::Apply { .. }) => true,
        (_, MembershipCommand::Plan) => false,
    };
    let members = worker::members(&config.membership)?;
    match command {
        MembershipCommand::Apply { dry_run } if may_change => apply(&config, &members, *dry_run, out),
        _ => plan(&config, &members, out),
    }
}

fn compare(members: &[Member], roster: &Roster) -> Result<Vec<Proposal>> {
    // Asked of the whole user database, LDAP's too. A question that fails says that there may be one.
    let exists = |user: &OsUser| !matches!(User::from_name(user.as_str()), Ok(None));
    membership::compare(members, roster, exists).map_err(|error| {
        CommandError::new("nothing is concluded from the group")
            .because(error)
            .next("look at the group at the identity provider, and at `group` of [membership] in config.toml")
    })
}

fn plan(config: &Config, members: &[Member], out: &Out) -> Result<u8> {
    let document = Document::read(&config.roster.path)?;
    let name = config.roster.path.display().to_string();
    let roster = offline::valid(&name, roster::parse::roster(&name, &document.bytes), out)?;
    let proposals = compare(members, &roster)?;
    if out.json {
        out.document(&proposals)?;
    } else if proposals.is_empty() {
        let people = crate::page::count(members.len(), "member", "members");
        out.text(&format!("the group and {name} agree, {people}\n"))?;
    } else {
        out.text(&told(&proposals))?;
    }
    Ok(if proposals.is_empty() { 0 } else { PROPOSED })
}

fn apply(config: &Config, members: &[Member], dry_run: bool, out: &Out) -> Result<u8> {
    let today = TimeZone::UTC.to_datetime(Timestamp::now()).date();
    let group = config.membership.group.clone().unwrap_or_default();
    let code = user::apply(config, dry_run, out, |before| {
        let proposals = compare(members, before)?;
        let undecided: Vec<_> = proposals.iter().filter(|proposal| !proposal.is_change()).cloned().collect();
        Ok((membership::edits(&proposals, &group, today), told(&undecided)))
    })?;
    Ok(code)
}

fn told(proposals: &[Proposal]) -> String {
    clean(&proposals.iter().map(|proposal| format!("{proposal}\n")).collect::<String>())
}
