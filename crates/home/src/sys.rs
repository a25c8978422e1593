//! libgit2's process-wide settings, which git2 can only offer as unsafe: they are not synchronised, so they must be
//! made before another thread uses libgit2. The only unsafe code of this crate.
#![allow(unsafe_code)]

use std::sync::OnceLock;
use std::time::Duration;

use git2::{ConfigLevel, opts};

/// A server that does not answer at all.
const CONNECT: Duration = Duration::from_secs(10);

/// Sets time limits, and keeps every git configuration but a repository's own out of this process.
pub(crate) fn set_up_libgit2() -> Result<(), git2::Error> {
    static DONE: OnceLock<Result<(), (git2::ErrorCode, git2::ErrorClass, String)>> = OnceLock::new();
    DONE.get_or_init(|| set().map_err(|e| (e.code(), e.class(), e.message().to_owned())))
        .clone()
        .map_err(|(code, class, message)| git2::Error::new(code, class, message))
}

fn set() -> Result<(), git2::Error> {
    // SAFETY: the worker has one thread, and `OnceLock` lets only one caller in before any other use of libgit2.
    unsafe {
        // The authorities as `update-ca-certificates` arranges them for OpenSSL: looked up one by one, when a server
        // shows a certificate. libgit2 would read the file of all of them as it starts, which takes longer than most
        // of what a worker does.
        std::env::set_var("SSL_CERT_FILE", "/dev/null");
        std::env::set_var("SSL_CERT_DIR", "/etc/ssl/certs");
        for level in [ConfigLevel::ProgramData, ConfigLevel::System, ConfigLevel::XDG, ConfigLevel::Global] {
            opts::set_search_path(level, "/dev/null")?;
        }
        opts::set_server_connect_timeout_in_milliseconds(CONNECT.as_millis() as i32)
    }
}

/// How long a server may be silent on connections that are made from now on.
pub(crate) fn be_patient_for(silence: Duration) -> Result<(), git2::Error> {
    let milliseconds = i32::try_from(silence.as_millis()).unwrap_or(i32::MAX).max(1);
    // SAFETY: as above.
    unsafe { opts::set_server_timeout_in_milliseconds(milliseconds) }
}
