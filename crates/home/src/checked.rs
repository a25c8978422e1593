//! What a worker says it saw, as far as it was asked, with texts that can be shown. It may be anybody's program by
//! now, so a path that it names is one of those it was asked about, or the whole answer counts for nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use roster::desired::HomeDesired;
use roster::files::{ClosedFolder, Content, FileSeen, FileWanted, Found};
use roster::moves::{Candidate, Lookout, MovesObserved, Tracked};
use roster::observed::Place;
use roster::wiring::{CloneConfig, CredentialsFile, Driver, PERSON_KEYS, PersonConfig, WiringObserved};
use worker_process::clean;

use crate::locked::MAX_DRIVERS;
use crate::place::without_user;
use crate::wiring::{PERSON_FILES, configs_of};

/// More remarks about one clone than anybody reads.
const MAX_REMARKS: usize = 50;

/// What stands at a place.
pub(crate) fn place(place: Place) -> Place {
    match place {
        Place::Clone { origin, locked } => {
            Place::Clone { origin: origin.map(|url| without_user(&clean(&url))), locked }
        }
        Place::Other(what) => Place::Other(clean(&what)),
        Place::Unreadable(why) => Place::Unreadable(clean(&why)),
        plain @ (Place::Absent | Place::EmptyFolder | Place::Folder) => plain,
    }
}

/// Clones that may have to move.
pub(crate) fn moves(observed: MovesObserved, desired: &HomeDesired) -> Result<MovesObserved, &'static str> {
    let mut hidden = BTreeSet::new();
    let mut candidates = BTreeSet::from(["code".to_owned()]);
    for infra in Lookout::infra() {
        let lookout = Lookout::of(desired, &infra);
        hidden.extend(lookout.hidden);
        candidates.extend(lookout.nested);
    }
    if !observed.on_the_way.keys().all(|path| hidden.contains(path))
        || !observed.candidates.keys().all(|path| candidates.contains(path))
    {
        return Err("it names a clone that cannot have to move");
    }
    let texts = |all: Vec<String>| all.iter().take(MAX_REMARKS).map(|text| clean(text)).collect();
    let candidate = |candidate: Candidate| Candidate {
        tracked: match candidate.tracked {
            Tracked::Unknown(why) => Tracked::Unknown(clean(&why)),
            known => known,
        },
        obstacles: texts(candidate.obstacles),
        remarks: texts(candidate.remarks),
    };
    Ok(MovesObserved {
        on_the_way: observed.on_the_way.into_iter().map(|(path, found)| (path, place(found))).collect(),
        candidates: observed.candidates.into_iter().map(|(path, found)| (path, candidate(found))).collect(),
        infra: place(observed.infra),
    })
}

/// What git is told already.
pub(crate) fn wiring(observed: WiringObserved) -> Result<WiringObserved, &'static str> {
    let places = Lookout::infra();
    let configs = places.iter().flat_map(|path| configs_of(path));
    let files: BTreeSet<String> = PERSON_FILES.into_iter().map(str::to_owned).chain(configs).collect();
    if !observed.clones.keys().all(|path| places.contains(path))
        || observed.clones.values().any(|clone| clone.filters.len() > MAX_DRIVERS + 1)
        || observed.interrupted.len() > files.len()
        || !observed.interrupted.iter().all(|file| files.contains(file))
    {
        return Err("it tells of other configuration files than were asked for");
    }
    let person = match observed.person {
        Some(person) => {
            let is_filter = |key: &str| {
                let driver = key.strip_prefix("filter.").and_then(|key| key.strip_suffix(".clean"));
                driver.is_some_and(|driver| Driver::new(driver).is_some())
            };
            let known = person.set.len() <= PERSON_KEYS.len() + 4 * MAX_DRIVERS
                && person.set.iter().all(|key| PERSON_KEYS.contains(&key.as_str()) || is_filter(key));
            if !PERSON_FILES.contains(&person.file.as_str()) || !known {
                return Err("it tells of other settings than were asked for");
            }
            Some(PersonConfig {
                closed: person.closed.as_deref().map(clean),
                credentials: match person.credentials {
                    CredentialsFile::Other(what) => CredentialsFile::Other(clean(&what)),
                    CredentialsFile::Present { mode } => CredentialsFile::Present { mode: mode & 0o7777 },
                    CredentialsFile::Absent => CredentialsFile::Absent,
                },
                ..person
            })
        }
        None => None,
    };
    let config = |config: CloneConfig| CloneConfig {
        closed: config.closed.as_deref().map(clean),
        push_url: config.push_url.map(|url| without_user(&clean(&url))),
        default_branch: config.default_branch.as_deref().map(clean),
        follows: config.follows.map(|(remote, merge)| (clean(&remote), clean(&merge))),
        filters: config.filters,
        is_open: config.is_open,
    };
    let clones = observed.clones.into_iter().map(|(path, seen)| (path, config(seen))).collect();
    Ok(WiringObserved { person, clones, interrupted: observed.interrupted })
}

/// What stands in the place of each file.
pub(crate) fn files(
    observed: BTreeMap<String, FileSeen>,
    desired: &HomeDesired,
) -> Result<BTreeMap<String, FileSeen>, &'static str> {
    let wanted: BTreeMap<&str, &FileWanted> =
        desired.files.iter().map(|file| (file.path.as_str(), &file.wanted)).collect();
    if observed.len() != wanted.len() || !observed.keys().all(|path| wanted.contains_key(path.as_str())) {
        return Err("it tells of other files than were asked for");
    }
    let checked = |(path, seen): (String, FileSeen)| {
        let found = match seen.found {
            Found::File { mode, content } => {
                let content = file_content(content, wanted.get(path.as_str()).copied())?;
                Found::File { mode: mode & 0o7777, content }
            }
            Found::Link { target } => Found::Link { target: clean(&target) },
            Found::Other(what) => Found::Other(clean(&what)),
            Found::Unreadable(why) => Found::Unreadable(clean(&why)),
            plain @ (Found::Absent | Found::Folder) => plain,
        };
        Ok((path, FileSeen { found, ..seen }))
    };
    observed.into_iter().map(checked).collect()
}

/// Folders that others cannot go through.
pub(crate) fn bases(
    observed: BTreeMap<String, ClosedFolder>,
    desired: &HomeDesired,
) -> Result<BTreeMap<String, ClosedFolder>, &'static str> {
    let is_on_the_way = |(base, closed): (&String, &ClosedFolder)| {
        desired.bases.contains(base) && Path::new(base).starts_with(&closed.folder)
    };
    match observed.iter().all(is_on_the_way) {
        true => Ok(observed),
        false => Err("it tells of other folders than were asked for"),
    }
}

fn file_content(content: Content, wanted: Option<&FileWanted>) -> Result<Content, &'static str> {
    let is_digest = |text: &str| text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    Ok(match content {
        Content::Unfit(why) => Content::Unfit(clean(&why)),
        Content::Text { sha256, .. } | Content::Block { sha256 } if !is_digest(&sha256) => {
            return Err("it tells a digest that is none");
        }
        Content::Keys { absent, blocked } => {
            let Some(FileWanted::Json { keys }) = wanted else {
                return Err("it tells of keys of no JSON file");
            };
            let asked = |pointer: &String| keys.iter().any(|(asked, _)| asked == pointer);
            if absent.len() + blocked.len() > keys.len() || !absent.iter().chain(&blocked).all(asked) {
                return Err("it tells of other keys than were asked for");
            }
            Content::Keys { absent, blocked }
        }
        plain => plain,
    })
}
