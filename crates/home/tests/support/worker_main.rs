//! The worker as a program of its own, for this crate's tests; the shipped one is `rosterd-worker`.

fn main() -> std::process::ExitCode {
    home::worker()
}
