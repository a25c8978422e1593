//! What `rosterctl freshen` does, as the person who calls it: the refresh of their own clones, and the lock of those
//! that are locked, by the same plan and the same steps as in a run. It never keeps a session waiting for longer than it was given, whatever a server does.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::dir::Dir;
use nix::fcntl::OFlag;
use nix::unistd::{Uid, User, fchdir};

use roster::name::OsUser;
use roster::observed::Place;
use roster::plan::refresh::{self, States};
use roster::plan::{self, Action, Plan};
use roster::remote::{Remote, Remotes};

use crate::confine::{self, Room};
use crate::credentials::Credentials;
use crate::transfer::{self, Bounds, Transfer};
use crate::{clone, fast_forward, place, refs, tree, wiring};

/// More entries of `~/code` than this are not looked at.
const MOST: usize = 500;

/// Refreshes the clones of whoever calls it and says what did not become fresh, a line for each. Returns after `within`
/// at the latest; what is still going on ends with the process, which no step minds.
pub fn freshen(within: Duration) -> Vec<String> {
    let deadline = Instant::now() + within;
    let (tell, told) = mpsc::channel();
    let thread = std::thread::Builder::new().name("freshen".into()).spawn(move || {
        let lines = work(deadline).unwrap_or_else(|why| vec![format!("clones are not refreshed: {why}")]);
        // Nobody listens any more when the time is up.
        let _ = tell.send(lines);
    });
    if let Err(error) = thread {
        return vec![format!("clones are not refreshed: {error}")];
    }
    let late = |_| vec![format!("clones are not refreshed: it takes longer than {} s", within.as_secs())];
    told.recv_timeout(within).unwrap_or_else(late)
}

fn work(deadline: Instant) -> Result<Vec<String>, String> {
    let uid = Uid::current();
    if uid.is_root() {
        return Err("this is for people, not for root".into());
    }
    let person = User::from_uid(uid).map_err(|errno| tree::words(errno).to_owned())?;
    let person = person.ok_or("this user is not known here")?;
    let home = tree::open_home(&person.dir)?;
    confine::confine(&Room { write: Some(&home), read: None, network: true })
        .map_err(|error| error.to_string())?;
    fchdir(&home).map_err(|errno| tree::words(errno).to_owned())?;

    let me = OsUser::new("me").map_err(|error| error.to_string())?;
    let desired = refresh::as_found(&found(&home));
    // Who waits is bounded by the time.
    let bounds = Bounds { deadline, mib: u64::MAX };
    let mut lines = Vec::new();
    let apply = |lines: &mut Vec<String>, plan: Plan| {
        tell(lines, &plan);
        for step in &plan.steps {
            if let Action::Home(action) = &step.action
                && let Err(failure) = clone::apply(&home, None, action, bounds)
            {
                lines.push(failure.why);
            }
        }
    };
    // Before anything waits for a server.
    let locked = desired.clones.iter().filter(|clone| clone.locked).map(|clone| clone.path.clone());
    let seen = wiring::observe(&home, &desired, &locked.collect::<Vec<_>>());
    apply(&mut lines, plan::locks(&me, &desired, &seen));
    let mut remotes = Remotes::new();
    for url in refresh::to_ask([&desired]) {
        let answer = Transfer::new(&url, bounds, Some(Credentials::new(&home, &url))).ask();
        remotes.insert(url, Remote { answer, mirrored: false });
    }
    let look = || -> States {
        refresh::look_at(&desired, &remotes)
            .iter()
            .map(|look| (look.path.clone(), refs::state(&home, look)))
            .collect::<BTreeMap<_, _>>()
    };
    for (url, remote) in &remotes {
        tell(&mut lines, &refresh::not_asked(&roster::plan::Subject::Machine, url, &remote.answer));
    }
    apply(&mut lines, refresh::fetches(&me, &desired, &look(), &remotes));
    let (branches, told) = refresh::behind(&me, &desired, &look(), &remotes);
    apply(&mut lines, told);
    let standings: Vec<_> =
        branches.into_iter().map(|branch| (branch.clone(), fast_forward::inspect(&branch))).collect();
    apply(&mut lines, refresh::fast_forwards(&me, &standings));
    Ok(lines)
}

fn tell(lines: &mut Vec<String>, plan: &Plan) {
    lines.extend(plan.notices.iter().map(|notice| notice.text.clone()));
}

/// The clones where both layouts have them, each with its `origin` and whether it is locked. One of a server that needs a program or a key to
/// speak to is its person's.
fn found(home: &OwnedFd) -> Vec<(String, String, bool)> {
    let mut paths = vec!["code".to_owned()];
    let folder = tree::open(home, "code", OFlag::O_RDONLY | OFlag::O_DIRECTORY);
    if let Ok(mut folder) = folder.and_then(Dir::from_fd) {
        let names = folder.iter().flatten().take(MOST).filter_map(|entry| {
            entry
                .file_name()
                .to_str()
                .ok()
                .filter(|name| !name.starts_with('.'))
                .map(|name| format!("code/{name}"))
        });
        paths.extend(names);
    }
    paths.sort();
    let origin = |path: String| match place::look(home, &path) {
        Place::Clone { origin: Some(origin), locked } if transfer::check_url(&origin).is_ok() => {
            Some((path, origin, locked))
        }
        _ => None,
    };
    let mut clones: Vec<_> = paths.into_iter().filter_map(origin).collect();
    // Within a clone there is no layout.
    if clones.first().is_some_and(|(path, ..)| path == "code") {
        clones.truncate(1);
    }
    clones
}
