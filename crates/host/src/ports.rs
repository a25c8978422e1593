//! Who listens on a port: the kernel's list of sockets, then the process that holds the socket, then its unit. Reads
//! `/proc` and nothing else. Processes are looked through only when somebody is searched for.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use roster::observed::PortHolder;

/// A socket that listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Listener {
    pub(crate) port: u16,
    pub(crate) uid: u32,
    pub(crate) inode: u64,
}

/// Every socket that listens for TCP on this machine.
pub(crate) fn listeners(root: &Path) -> Result<Vec<Listener>, String> {
    let mut all = Vec::new();
    for file in ["proc/net/tcp", "proc/net/tcp6"] {
        match fs::read_to_string(root.join(file)) {
            Ok(text) => all.extend(parse(&text)),
            // A kernel without IPv6 has no such file.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("/{file}: {error}")),
        }
    }
    Ok(all)
}

/// `sl local_address rem_address st tx:rx tr:tm->when retrnsmt uid timeout inode …`; state 0A is LISTEN.
fn parse(text: &str) -> impl Iterator<Item = Listener> + '_ {
    text.lines().skip(1).filter_map(|line| {
        let mut columns = line.split_ascii_whitespace().skip(1);
        let (_, port) = columns.next()?.rsplit_once(':')?;
        let port = u16::from_str_radix(port, 16).ok()?;
        if columns.nth(1)? != "0A" {
            return None;
        }
        let uid = columns.nth(3)?.parse().ok()?;
        let inode = columns.nth(1)?.parse().ok()?;
        Some(Listener { port, uid, inode })
    })
}

/// The holders of sockets, by inode. What cannot be found out is left open.
pub(crate) fn holders(root: &Path, searched: &[Listener]) -> BTreeMap<u64, PortHolder> {
    let mut holders: BTreeMap<u64, PortHolder> = searched
        .iter()
        .map(|listener| {
            (listener.inode, PortHolder { user: format!("uid {}", listener.uid), process: None, unit: None })
        })
        .collect();
    let mut open: BTreeSet<u64> = holders.keys().copied().collect();
    let Ok(processes) = fs::read_dir(root.join("proc")) else { return holders };
    for process in processes.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else { continue };
        for descriptor in descriptors.flatten() {
            let inode = fs::read_link(descriptor.path()).ok().and_then(|link| inode_of(link.to_str()?));
            let Some(inode) = inode.filter(|inode| open.contains(inode)) else { continue };
            open.remove(&inode);
            if let Some(holder) = holders.get_mut(&inode) {
                let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
                let cgroup = fs::read_to_string(process.path().join("cgroup")).unwrap_or_default();
                holder.process = Some((pid, name.trim().to_owned()));
                holder.unit = unit_of(&cgroup);
            }
        }
        if open.is_empty() {
            break;
        }
    }
    holders
}

fn inode_of(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// The unit of the system's manager that a process belongs to: the first part of its path that is no slice. What a
/// person's own manager runs belongs to `user@<uid>.service`.
fn unit_of(cgroup: &str) -> Option<String> {
    let path = |prefix: &str| cgroup.lines().find_map(|line| line.split_once(prefix).map(|(_, path)| path));
    // With the old hierarchies, systemd's own is the one that is named; the new one may be empty then.
    let path = path("name=systemd:").or_else(|| path("0::"))?;
    path.split('/').find(|part| part.ends_with(".service") || part.ends_with(".scope")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_sockets_are_told_from_others() {
        let text = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:0EBD 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1005        0 123456 1 0 100 0 0 10 0
   1: 0100007F:0EBD 0100007F:A5C2 01 00000000:00000000 00:00000000 00000000  1005        0 123457 1 0 20 4 30 10 -1
   2: garbage
";
        let found: Vec<_> = parse(text).collect();
        assert_eq!(found, [Listener { port: 3773, uid: 1005, inode: 123_456 }]);
    }

    #[test]
    fn a_unit_is_read_from_either_hierarchy() {
        let unit = |text: &str| unit_of(text);
        assert_eq!(
            unit("0::/system.slice/system-t3.slice/t3@bob.service\n").as_deref(),
            Some("t3@bob.service")
        );
        assert_eq!(
            unit("5:cpu:/\n1:name=systemd:/system.slice/cron.service\n0::/\n").as_deref(),
            Some("cron.service")
        );
        assert_eq!(
            unit("0::/user.slice/user-1001.slice/user@1001.service/app.slice/x.service\n").as_deref(),
            Some("user@1001.service")
        );
        assert_eq!(
            unit("0::/user.slice/user-1001.slice/session-3.scope\n").as_deref(),
            Some("session-3.scope")
        );
        assert_eq!(unit("0::/\n"), None);
    }

    #[test]
    fn the_holder_of_a_socket_of_this_process_is_this_process() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let root = Path::new("/");
        let found: Vec<_> = listeners(root).unwrap().into_iter().filter(|found| found.port == port).collect();
        assert_eq!(found.len(), 1);
        let holder = &holders(root, &found)[&found[0].inode];
        assert_eq!(holder.process.as_ref().map(|(pid, _)| *pid), Some(std::process::id()));
    }
}
