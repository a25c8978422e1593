//! What looks at homes as a program of its own, for this crate's tests; the shipped one is `rosterd-look`.

fn main() -> std::process::ExitCode {
    home::look()
}
