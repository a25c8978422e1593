//! The machine harness: a Debian with a real systemd, journald, PAM, shadow and git, made for one test and thrown
//! away after it; and a git forge over HTTP that such machines can reach.
//!
//! Needs root and Debian's mmdebstrap, systemd-container, nginx-light, fcgiwrap and git-crypt; `./dev` installs them.
//! It writes only below `~/.cache/rosterd-test` and makes cgroups whose names begin with `rosterd-test-`.
//!
//! A harness function that cannot do its work panics, with what it tried: the test ends there.

mod cmd;
mod forge;
mod image;
mod machine;
mod scratch;
mod tls;

pub use forge::{Forge, Request};
pub use image::{Suite, build_images, deb};
pub use machine::{Machine, Output, Record};
pub use scratch::{clean, sweep};
pub use tls::TlsFront;

/// Runs a claim on each Debian: `on_each_debian!(claim)` makes the tests `claim::bookworm` and `claim::trixie`
/// of a function `fn claim(suite: Suite)`.
#[macro_export]
macro_rules! on_each_debian {
    ($($claim:ident),+ $(,)?) => { $(
        mod $claim {
            #[test]
            fn bookworm() { super::$claim($crate::Suite::Bookworm) }
            #[test]
            fn trixie() { super::$claim($crate::Suite::Trixie) }
        }
    )+ };
}
