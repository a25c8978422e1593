//! One conversation with a git server: within a time, with the logins of one person or with none, and explained for
//! an admin when it fails.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use git2::{Direction, Error, ErrorClass, ErrorCode, FetchOptions, Remote, RemoteCallbacks, RemoteRedirect};
use roster::name::{ObjectId, RefName};
use roster::remote::{Answer, RemoteRefs};

use crate::credentials::{Credentials, host_of};
use crate::{panics, sys};

const LATER: &str = "tried again later by itself";

/// A server that stops in the middle. git's own keeps a waiting client alive every 5 seconds.
const SILENCE: Duration = Duration::from_secs(60);

/// More refs than this are no repository of a site.
const MAX_REFS: usize = 100_000;

/// What a transfer may use.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// When it gives up, early enough to clean up.
    pub(crate) deadline: Instant,
    /// What the server may send, in MiB.
    pub(crate) mib: u64,
}

impl Bounds {
    /// The same until another time, if that is earlier.
    pub(crate) fn until(self, deadline: Instant) -> Bounds {
        Bounds { deadline: deadline.min(self.deadline), ..self }
    }

    /// What one of `count` transfers gets that share the time.
    pub(crate) fn share(self, count: u32) -> Bounds {
        let now = Instant::now();
        self.until(now + self.deadline.saturating_duration_since(now) / count.max(1))
    }

    pub(crate) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

/// One conversation with the server of `url`.
pub(crate) struct Transfer<'a> {
    url: &'a str,
    bounds: Bounds,
    given: Duration,
    /// Nothing when the server is asked as everybody.
    credentials: Option<RefCell<Credentials<'a>>>,
    /// libgit2 does not say that it was a callback of ours that ended a transfer.
    late: Cell<bool>,
    big: Cell<bool>,
}

impl<'a> Transfer<'a> {
    pub(crate) fn new(url: &'a str, bounds: Bounds, credentials: Option<Credentials<'a>>) -> Self {
        Transfer {
            url,
            bounds,
            given: bounds.left(),
            credentials: credentials.map(RefCell::new),
            late: Cell::new(false),
            big: Cell::new(false),
        }
    }

    fn in_time(&self) -> bool {
        self.late.set(self.late.get() || Instant::now() >= self.bounds.deadline);
        !self.late.get()
    }

    pub(crate) fn callbacks(&self) -> RemoteCallbacks<'_> {
        // Nobody is called back while a server is silent. If this fails, it is silent for longer.
        let _ = sys::be_patient_for(self.bounds.left().min(SILENCE));
        let mut callbacks = RemoteCallbacks::new();
        callbacks.credentials(|asking, _, allowed| match &self.credentials {
            Some(credentials) => credentials.borrow_mut().next(asking, allowed),
            None => Err(Error::new(ErrorCode::Auth, ErrorClass::Http, "asked without a login")),
        });
        callbacks.transfer_progress(|progress| {
            let mib = progress.received_bytes() as u64 >> 20;
            self.big.set(self.big.get() || mib >= self.bounds.mib);
            !self.big.get() && self.in_time()
        });
        callbacks.sideband_progress(|_| self.in_time());
        callbacks
    }

    pub(crate) fn options(&self) -> FetchOptions<'_> {
        let mut fetch = FetchOptions::new();
        // To another path of the same host only: a redirect to another host would take the login along.
        fetch.remote_callbacks(self.callbacks()).follow_redirects(RemoteRedirect::None);
        fetch
    }

    /// Asks a remote that belongs to no repository for its refs.
    pub(crate) fn ask(&self) -> Answer {
        sys::set_up_libgit2()
            .and_then(|()| {
                let mut remote = Remote::create_detached(self.url)?;
                let connection = remote.connect_auth(Direction::Fetch, Some(self.callbacks()), None)?;
                refs(connection.list()?)
            })
            .map_or_else(|error| self.answer(&error), Answer::Refs)
    }

    /// What a failure to ask means.
    pub(crate) fn answer(&self, error: &Error) -> Answer {
        let (why, next) = self.explain(error);
        let said = error.message();
        let hidden = ["401", "403", "404"].iter().any(|code| said.contains(&format!("status code: {code}")));
        match hidden || error.code() == ErrorCode::Auth {
            true => Answer::WantsLogin { why, next },
            false => Answer::Failed { why, next },
        }
    }

    /// What libgit2 says, for an admin: why, and what to do.
    pub(crate) fn explain(&self, error: &Error) -> (String, String) {
        let said = error.message();
        let has = |part: &str| said.to_ascii_lowercase().contains(part);
        let host = host_of(self.url);
        let scheme = self.url.split_once("://").map_or("https", |(scheme, _)| scheme);
        let add_login = format!(
            "add this line to ~/.git-credentials of the person, NAME and TOKEN percent-encoded: \
                 {scheme}://NAME:TOKEN@{host}"
        );
        match (error.code(), error.class()) {
        (ErrorCode::Auth, _) => {
            let outcome = self.credentials.as_ref().and_then(|c| c.borrow().outcome.clone());
            let outcome = outcome.map(|outcome| format!(", and {outcome}")).unwrap_or_default();
            (format!("the server asks for a login{outcome}"), add_login)
        }
        (code, ErrorClass::Ssl) if code != ErrorCode::Certificate && !has("certificate") => (
            format!("it does not answer as a TLS server: {said}"),
            format!("check that {host} speaks https://, and on this port"),
        ),
        (ErrorCode::Certificate, _) | (_, ErrorClass::Ssl) => (
            format!("its certificate is not trusted: {said}"),
            "put the authority's certificate into /usr/local/share/ca-certificates and run `update-ca-certificates`"
                .to_owned(),
        ),
        _ if self.big.get() => (
            format!("the server sends more than {} MiB", self.bounds.mib),
            "raise `worker.max_clone_mib` in /etc/rosterd/config.toml if the repository is that big".to_owned(),
        ),
        _ if self.late.get() => (
            format!("it is not done after {} s, its share of the time for one home", self.given.as_secs()),
            "raise `worker.deadline_s` in /etc/rosterd/config.toml, or look whether the server is slow".to_owned(),
        ),
        (_, ErrorClass::NoMemory) => (
            "it needs more memory than a worker may use".to_owned(),
            "raise `worker.memory_mib` in /etc/rosterd/config.toml".to_owned(),
        ),
        _ if has("status code: 404") => (
            "there is no such repository, or it is private and hidden from this person".to_owned(),
            format!("check the URL; if it is private, {add_login}"),
        ),
        _ if has("status code: 403") => {
            ("the server forbids it to this person".to_owned(), "give the person access to the repository".to_owned())
        }
        _ if has("cannot redirect") => (
            format!("the server sends to another host, which is not followed: {said}"),
            "put the URL it is sent to into /etc/rosterd/config.toml".to_owned(),
        ),
        _ if has("no space left") => ("the disk is full".to_owned(), format!("free some space; {LATER}")),
        _ if has("quota exceeded") => {
            ("the disk quota of the person is used up".to_owned(), format!("let them free some space; {LATER}"))
        }
        _ if has("read-only file system") => {
            ("the home is on a read-only file system".to_owned(), format!("make it writable; {LATER}"))
        }
        _ if has("connection refused") => ("connection refused".to_owned(), LATER.to_owned()),
        _ if has("timed out") => ("the server does not answer".to_owned(), LATER.to_owned()),
        _ if has("failed to resolve") => {
            (format!("no address is known for {host}"), format!("check the URL and the name server; {LATER}"))
        }
        _ => (said.to_owned(), LATER.to_owned()),
    }
    }
}

/// `http` and `https` speak to a server in this process. `ssh` and `git` would need the person's keys or start a
/// program, and a path or `file` would read what the worker must not see. `Err` says why not and what to do.
pub(crate) fn check_url(url: &str) -> Result<(), (&'static str, &'static str)> {
    let rest = ["https://", "http://"].into_iter().find_map(|scheme| url.strip_prefix(scheme));
    match rest {
        None => Err(("only https:// and http:// are possible", "change the URL in /etc/rosterd/config.toml")),
        Some(rest) if rest.split('/').next().is_some_and(|authority| authority.contains('@')) => Err((
            "its URL has a login in it, which would end in the clone's configuration",
            "remove it from the URL and put it into ~/.git-credentials of the person",
        )),
        Some(_) => Ok(()),
    }
}

/// The ref list as data. What no branch or tag may be called is left out, and so is what is no text.
pub(crate) fn refs(heads: &[git2::RemoteHead<'_>]) -> Result<RemoteRefs, Error> {
    if heads.len() > MAX_REFS {
        return Err(Error::from_str("it has more refs than a repository of a site may have"));
    }
    let mut refs = RemoteRefs::default();
    let texts = heads.iter().map(|head| {
        // Both panic at a name that is not UTF-8.
        panics::contained(|| (head, head.name(), head.symref_target()))
    });
    for (head, name, symref_target) in texts.flatten() {
        let id = ObjectId::new(head.oid().to_string());
        let named = |prefix| name.strip_prefix(prefix).and_then(|name| RefName::new(name).ok());
        if name == "HEAD" {
            let target = symref_target.and_then(|target| target.strip_prefix("refs/heads/"));
            refs.head = target.and_then(|name| RefName::new(name).ok());
        } else if let (Some(branch), Ok(id)) = (named("refs/heads/"), &id) {
            refs.branches.insert(branch, id.clone());
        } else if let (Some(tag), Ok(id)) = (named("refs/tags/"), id) {
            // What an annotated tag points to is listed as well, as `v1^{}`, which is no name.
            refs.tags.insert(tag, id);
        }
    }
    Ok(refs)
}
