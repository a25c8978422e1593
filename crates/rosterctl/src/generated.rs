//! What is generated from the types: schemas, completions and manual pages.

use std::fs;
use std::io;
use std::path::Path;

use clap::CommandFactory as _;
use clap_mangen::Man;

use crate::args::{Cli, SchemaOf};
use crate::error::{CommandError, Result};
use crate::out::Out;

/// `rosterctl schema`.
pub(crate) fn schema(what: SchemaOf, out: &Out) -> Result<u8> {
    out.document(&match what {
        SchemaOf::Roster => roster::schema::roster(),
        SchemaOf::Config => roster::schema::config(),
    })?;
    Ok(0)
}

/// `rosterctl completions`.
pub(crate) fn completions(shell: clap_complete::Shell, out: &Out) -> Result<u8> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "rosterctl", &mut text);
    out.text(&String::from_utf8_lossy(&text))?;
    Ok(0)
}

/// `rosterctl man`.
pub(crate) fn man(dir: Option<&Path>, out: &Out) -> Result<u8> {
    let mut pages = pages()?;
    let Some(dir) = dir else {
        if let Some((_, page)) = pages.drain(..).next() {
            out.text(&page)?;
        }
        return Ok(0);
    };
    let cannot = |path: &Path, error: io::Error| {
        CommandError::new(format!("cannot write {}", path.display())).because(error)
    };
    fs::create_dir_all(dir).map_err(|error| cannot(dir, error))?;
    for (name, page) in pages {
        let path = dir.join(name);
        fs::write(&path, page).map_err(|error| cannot(&path, error))?;
    }
    Ok(0)
}

/// Every page with its file name, that of the program first.
fn pages() -> Result<Vec<(String, String)>> {
    let mut program = Cli::command();
    program.build();
    let mut pages = Vec::new();
    collect(&program, "rosterctl", &mut pages)?;
    Ok(pages)
}

fn collect(command: &clap::Command, name: &str, pages: &mut Vec<(String, String)>) -> Result<()> {
    pages.push((format!("{name}.1"), page(command.clone().display_name(name.to_owned()))?));
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        collect(inner, &format!("{name}-{}", inner.get_name()), pages)?;
    }
    Ok(())
}

fn page(command: clap::Command) -> Result<String> {
    let mut text = Vec::new();
    let version = concat!("rosterd ", env!("CARGO_PKG_VERSION"));
    Man::new(command).manual("rosterd").source(version).section("1").render(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    // clap_mangen has no name of its own for what stands after the options.
    let heading = if text.contains("Exit code") { "\"EXIT STATUS\"" } else { "EXAMPLES" };
    let text = text.replace(".SH EXTRA", &format!(".SH {heading}"));
    Ok(format!("{text}.SH \"SEE ALSO\"\n.BR rosterctl (1),\n.BR systemctl (1),\n.BR journalctl (1)\n"))
}
