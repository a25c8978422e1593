//! A program that a process of root's starts after it has become a person, and that the person may take over: any program
//! is theirs to trace from its first instruction on. The only unsafe code of this crate: what is done between fork and
//! exec, where the copy of a process that cannot be traced cannot be traced either.
#![allow(unsafe_code)]

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::sys::resource::{Resource, setrlimit};

/// More than a client of anything needs of its own, in bytes.
const MEMORY: u64 = 64 << 20;
/// With the files that it maps, in bytes: every locale of Debian is one of 230 MB.
const ADDRESSES: u64 = 512 << 20;

/// Has the program, and whatever it becomes, be one process that can start no other, lets no file grow and has at most
/// 64 MiB of its own and 512 MiB with what it shares: no process of it is left when it is killed. SysV segments that it
/// has let go of, files in memory that it is passed, and pages of files that were there before, may stay and are in no
/// process: a unit bounds them, and cannot keep the kernel from ending somebody else's worker for them. A program that set
/// the limits on itself could be taken over before it has.
pub fn alone(command: &mut Command) -> &mut Command {
    let limit = || {
        for (resource, most) in [
            (Resource::RLIMIT_NPROC, 0),
            (Resource::RLIMIT_FSIZE, 0),
            (Resource::RLIMIT_DATA, MEMORY),
            (Resource::RLIMIT_AS, ADDRESSES),
        ] {
            setrlimit(resource, most, most).map_err(io::Error::from)?;
        }
        Ok(())
    };
    // SAFETY: setrlimit is one call of the kernel; nothing is allocated, locked or shared.
    unsafe { command.pre_exec(limit) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_started_so_has_the_limits_from_its_first_instruction_on() {
        let output = alone(Command::new("cat").arg("/proc/self/limits")).output().unwrap();
        let limits = String::from_utf8(output.stdout).unwrap();
        let of = |name: &str| {
            let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(of("Max processes"), ["0", "0"]);
        assert_eq!(of("Max file size"), ["0", "0"]);
        assert_eq!(of("Max data size"), ["67108864", "67108864"]);
        assert_eq!(of("Max address space"), ["536870912", "536870912"]);
    }
}
