//! What the daemon starts to look at a home as its user; of no use by hand. All of it is in the crate `home`.

fn main() -> std::process::ExitCode {
    home::look()
}
