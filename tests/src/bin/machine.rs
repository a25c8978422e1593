//! `./dev image` and `./dev clean`.

use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("images") => machine_tests::build_images(),
        Some("clean") => machine_tests::clean(),
        _ => {
            eprintln!("machine images | clean");
            return ExitCode::from(64);
        }
    }
    ExitCode::SUCCESS
}
