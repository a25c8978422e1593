//! The commands that need no daemon. They read files, ask the pure core and print.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use roster::config::Config;
use roster::desired::{Ports, UnknownPorts};
use roster::diagnostic::Diagnostics;
use roster::hosts;
use roster::model::Roster;
use roster::name::{HostName, Shell};
use roster::observed::FileState;

use crate::args::{CONFIG, Global};
use crate::error::{CommandError, Result};
use crate::out::Out;
use crate::page::{Style, count};
use crate::render;

/// No roster is nearly as long; whatever is longer is read this far, and the parser refuses it.
const LONGEST: u64 = 64 << 20;

/// `rosterctl validate`.
///
/// A configuration that is not valid does not keep the roster from being looked at: both are told at once.
pub(crate) fn validate(
    global: &Global,
    file: Option<&Path>,
    host: Option<&HostName>,
    out: &Out,
) -> Result<u8> {
    let mut found = Vec::new();
    // A roster is YAML, whatever its name; what is called TOML is meant as a configuration.
    let is_config = file.is_some_and(|file| file.extension().is_some_and(|extension| extension == "toml"));
    let read_config = match file.filter(|_| is_config) {
        Some(file) => Some(read(file)?),
        None => read_config(global)?,
    };
    let config = match read_config {
        Some((name, bytes)) => match roster::parse::config(&name, &bytes) {
            Ok(config) => {
                if !out.json {
                    out.text(&format!("{name}: valid\n"))?;
                }
                config
            }
            Err(diagnostics) => {
                found.push(diagnostics);
                Config::default()
            }
        },
        None => Config::default(),
    };
    if !is_config {
        let (name, bytes) = read_roster(file, &config)?;
        match roster::parse::roster(&name, &bytes) {
            Ok(roster) if !out.json => {
                let people = count(roster.users.len(), "person", "people");
                let spread = roster.users.values().any(|person| !person.hosts.is_empty());
                let here = match this_host(host, &config) {
                    Ok(host) if spread => {
                        format!(", {} of them on {host}", hosts::part(&roster, &host).users.len())
                    }
                    // Without `hosts` the name is of no interest.
                    _ => String::new(),
                };
                out.text(&format!("{name}: valid, {people}{here}\n"))?;
                roster.not_applied().iter().for_each(|what| out.aside(&format!("note: {what}\n")));
            }
            Ok(_) => {}
            Err(diagnostics) => found.push(diagnostics),
        }
    }
    // Of a draft that lies elsewhere nobody asks it.
    if global.config.is_none() {
        let roster = Some(&config.roster.path).filter(|_| file.is_none());
        for path in [Path::new(CONFIG)].into_iter().chain(roster.map(PathBuf::as_path)) {
            if let Err(host::source::SourceError::Refused(why)) = host::source::read(path) {
                let warning = out.aside.paint(Style::Warn, "warning: ");
                out.aside(&format!("{warning}rosterd does not read it: {}\n  next: {}\n", why.why, why.next));
            }
        }
    }
    if out.json {
        let list: Vec<_> = found.iter().flat_map(|diagnostics| &diagnostics.diagnostics).collect();
        out.document(&list)?;
        for more in found.iter().map(|diagnostics| diagnostics.omitted).filter(|more| *more > 0) {
            out.aside(&format!("{more} more are not listed\n"));
        }
    } else {
        for diagnostics in &found {
            out.aside(&diagnostics.render(out.aside.colour));
        }
    }
    Ok(if found.is_empty() { 0 } else { 1 })
}

/// `rosterctl derive`.
pub(crate) fn derive(
    global: &Global,
    file: Option<&Path>,
    host: Option<&HostName>,
    ports: Option<&Path>,
    k8s_users: Option<&Path>,
    out: &Out,
) -> Result<u8> {
    let config = valid_configuration(global, out)?;
    let (name, bytes) = read_roster(file, &config)?;
    let roster = valid(&name, roster::parse::roster(&name, &bytes), out)?;
    let roster = hosts::part(&roster, &this_host(host, &config)?);
    let ports = ports.map(read_ports).transpose()?.unwrap_or_default();
    if let Some(path) = k8s_users {
        check_tiers(&roster, path, out)?;
    }
    let mut desired = roster::derive::derive(
        &roster,
        &config,
        &ports,
        &UnknownPorts::new(),
        &installed_shells(&roster, &config),
    )
    .map_err(|error| CommandError::new(format!("cannot derive what {name} asks for")).because(error))?;
    let told = roster::files::add(&mut desired, &roster, &config, &read_sources(&config));
    for problem in &told.problems {
        out.aside(&format!(
            "{}{}: {}\n",
            out.aside.paint(Style::Warn, "warning: "),
            problem.what,
            problem.why
        ));
    }
    match out.json {
        true => out.document(&desired)?,
        false => out.text(&render::desired(&desired, &config, out.look))?,
    }
    Ok(0)
}

/// The sources of files, as far as who asks may read them.
fn read_sources(config: &Config) -> BTreeMap<PathBuf, FileState> {
    let read_whole = |path: &PathBuf| -> io::Result<_> {
        let mode = std::fs::metadata(path)?.permissions().mode() & 0o7777;
        Ok((std::fs::read(path)?, mode))
    };
    let read = |path: &PathBuf| match read_whole(path) {
        Ok((content, mode)) => FileState::Present { content, mode },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => FileState::Absent,
        Err(error) => FileState::Unreadable(error.to_string()),
    };
    roster::files::sources(config).into_iter().map(|path| (path.clone(), read(path))).collect()
}

/// The machine whose part it is about: the one that was named, or this one, as the daemon knows it.
fn this_host(named: Option<&HostName>, config: &Config) -> Result<HostName> {
    if let Some(host) = named.or(config.host.as_ref()) {
        return Ok(host.clone());
    }
    let own = nix::unistd::gethostname().map_err(|error| {
        CommandError::new("cannot find out what this machine is called")
            .because(error)
            .next("name one with --host")
    })?;
    HostName::new(own.to_string_lossy()).map_err(|error| {
        CommandError::new("this machine's name is not that of a host")
            .because(error)
            .next("name one with --host, or set `host` in config.toml")
    })
}

pub(crate) fn valid<T>(name: &str, parsed: std::result::Result<T, Diagnostics>, out: &Out) -> Result<T> {
    parsed.map_err(|diagnostics| {
        out.aside(&diagnostics.render(out.aside.colour));
        CommandError::new(format!("{name} is not valid"))
            .next(format!("correct it; `rosterctl validate {name}` checks it"))
    })
}

/// The text of a draft that the daemon is to plan. What is wrong with it shows better here, where its file has a name.
pub(crate) fn valid_draft(file: &Path, out: &Out) -> Result<String> {
    let (name, bytes) = read(file)?;
    valid(&name, roster::parse::roster(&name, &bytes), out)?;
    // A roster that is valid is UTF-8.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The tier check as a run does it: a difference ends it, a map that cannot be read is told and skipped.
fn check_tiers(roster: &Roster, path: &Path, out: &Out) -> Result<()> {
    let warn = |text: &str| out.aside(&format!("{}{text}\n", out.aside.paint(Style::Warn, "warning: ")));
    let (_, bytes) = match read(path) {
        Ok(read) => read,
        Err(error) => {
            warn(&format!("the tiers are not checked: {error}"));
            return Ok(());
        }
    };
    match roster::tier_check::compare(roster, &bytes) {
        Ok(check) => {
            for warning in &check.warnings {
                warn(&warning.to_string());
            }
            match check.differences.as_slice() {
                [] => Ok(()),
                differences => {
                    let all = differences
                        .iter()
                        .map(|difference| format!("\n  - {difference}"))
                        .collect::<String>();
                    Err(CommandError::new(format!("tiers differ from the map in {}:{all}", path.display()))
                        .next("make the roster and the cluster's map agree"))
                }
            }
        }
        Err(error) => {
            warn(&format!("the tiers are not checked: {}: {error}", path.display()));
            Ok(())
        }
    }
}

fn read_ports(path: &Path) -> Result<Ports> {
    let (name, bytes) = read(path)?;
    serde_json::from_slice(&bytes).map_err(|error| {
        CommandError::new(format!("cannot take ports from {name}")).because(error).next(
            "it must be JSON like {\"t3\": {\"alice\": 3773}}, the `ports` of `rosterctl derive --json`",
        )
    })
}

/// The configuration, or the defaults where there is none.
pub(crate) fn valid_configuration(global: &Global, out: &Out) -> Result<Config> {
    match read_config(global)? {
        Some((name, bytes)) => valid(&name, roster::parse::config(&name, &bytes), out),
        None => Ok(Config::default()),
    }
}

/// The configuration, or the defaults when there is none.
pub(crate) fn configuration(global: &Global) -> Result<Config> {
    let Some((name, bytes)) = read_config(global)? else { return Ok(Config::default()) };
    roster::parse::config(&name, &bytes).map_err(|_| {
        CommandError::new(format!("{name} is not valid")).next("`rosterctl validate` shows what is wrong")
    })
}

/// The configuration's bytes; nothing when the default place is empty, which means the defaults.
fn read_config(global: &Global) -> Result<Option<(String, Vec<u8>)>> {
    match &global.config {
        Some(path) => read(path).map(Some),
        None if Path::new(CONFIG).exists() => read(Path::new(CONFIG)).map(Some),
        None => Ok(None),
    }
}

fn read_roster(file: Option<&Path>, config: &Config) -> Result<(String, Vec<u8>)> {
    let path = &config.roster.path;
    match file {
        Some(file) => read(file),
        None if !path.exists() => read(path).map_err(|error| {
            error.next(format!(
                "begin with /usr/share/doc/rosterd/roster.example.yaml, saved as {}; or name another file",
                path.display()
            ))
        }),
        None => {
            read(path).map_err(|error| error.next("name another file, or set [roster] path in config.toml"))
        }
    }
}

/// A file's bytes and its name for people; `-` is standard input.
fn read(path: &Path) -> Result<(String, Vec<u8>)> {
    let name = if path == Path::new("-") { "standard input".into() } else { path.display().to_string() };
    let mut bytes = Vec::new();
    let result = if path == Path::new("-") {
        io::stdin().take(LONGEST).read_to_end(&mut bytes)
    } else {
        File::open(path).and_then(|file| file.take(LONGEST).read_to_end(&mut bytes))
    };
    match result {
        Ok(_) => Ok((name, bytes)),
        Err(error) => {
            let denied = error.kind() == io::ErrorKind::PermissionDenied;
            let failure = CommandError::new(format!("cannot read {name}")).because(error);
            Err(if denied { failure.next("run it as root") } else { failure })
        }
    }
}

/// The same question the daemon asks the machine: a new account gets the first shell that is there.
fn installed_shells(roster: &Roster, config: &Config) -> BTreeSet<Shell> {
    let named = roster.users.values().filter_map(|person| person.shell.as_ref());
    let program = |shell: &&Shell| {
        fs::metadata(shell.as_str())
            .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    config.accounts.shells.iter().chain(named).filter(program).cloned().collect()
}
