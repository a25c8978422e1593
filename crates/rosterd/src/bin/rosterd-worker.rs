//! What the daemon starts to work in a home as its user, or to speak to a server; of no use by hand. All of it is in the
//! crate `home`.

fn main() -> std::process::ExitCode {
    home::worker()
}
