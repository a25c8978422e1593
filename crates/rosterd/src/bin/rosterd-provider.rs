//! What the daemon starts to speak to a provider, as the system user `rosterd`. Of no use by hand.

use std::process::ExitCode;

fn main() -> ExitCode {
    identity::worker()
}
