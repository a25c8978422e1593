//! The worker as a program of its own, for this crate's tests; the shipped one is `rosterd-provider`.

fn main() -> std::process::ExitCode {
    identity::worker()
}
