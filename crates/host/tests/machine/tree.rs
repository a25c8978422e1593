//! A machine in a folder: enough of a Debian for this crate and for shadow's own tools with `--root`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::AtomicBool;

use host::Host;
use roster::name::{GroupName, OsUser, Shell};
use roster::plan::{Action, NewAccount, NewHome, Plan, Step, Subject};
use roster::report::StepResult;

pub(crate) const LOGIN_DEFS: &str = "\
PASS_MAX_DAYS\t99999
PASS_MIN_DAYS\t0
PASS_WARN_AGE\t7
UID_MIN\t\t\t 1000
UID_MAX\t\t\t60000
SUB_UID_MIN\t\t   100000
SUB_UID_MAX\t\t600100000
SUB_UID_COUNT\t\t    65536
GID_MIN\t\t\t 1000
GID_MAX\t\t\t60000
SUB_GID_MIN\t\t   100000
SUB_GID_MAX\t\t600100000
SUB_GID_COUNT\t\t    65536
UMASK\t\t022
HOME_MODE\t0700
USERGROUPS_ENAB yes
ENCRYPT_METHOD SHA512
";

pub(crate) struct Tree {
    folder: tempfile::TempDir,
}

/// These tests give files to other people and call shadow's tools, so they need root and a Debian.
pub(crate) fn can_run() -> bool {
    let can = nix::unistd::geteuid().is_root() && Path::new("/usr/sbin/useradd").exists();
    if !can {
        println!("skipped: needs root and the package passwd");
    }
    can
}

impl Tree {
    pub(crate) fn new() -> Tree {
        Tree::within(tempfile::tempdir().unwrap())
    }

    pub(crate) fn within(folder: tempfile::TempDir) -> Tree {
        let tree = Tree { folder };
        for path in ["etc", "etc/skel", "etc/skel/.config", "home", "root", "bin", "var", "var/mail"] {
            if !tree.path(path).exists() {
                fs::create_dir(tree.path(path)).unwrap();
            }
            fs::set_permissions(tree.path(path), fs::Permissions::from_mode(0o755)).unwrap();
        }
        for shell in ["bin/sh", "bin/zsh"] {
            tree.write(shell, "#!", 0o755, 0);
        }
        tree.write("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n", 0o644, 0);
        tree.write("etc/group", "root:x:0:\nsudo:x:27:\nshadow:x:42:\ndocker:x:998:\n", 0o644, 0);
        tree.write("etc/shadow", "root:*:20781:0:99999:7:::\n", 0o640, 42);
        tree.write("etc/gshadow", "root:*::\nsudo:*::\nshadow:*::\ndocker:!::\n", 0o640, 42);
        tree.write("etc/subuid", "", 0o644, 0);
        tree.write("etc/subgid", "", 0o644, 0);
        tree.write("etc/login.defs", LOGIN_DEFS, 0o644, 0);
        tree.write("etc/nsswitch.conf", "passwd: files systemd\ngroup: files systemd\n", 0o644, 0);
        tree.write("etc/skel/.profile", "# profile\n", 0o644, 0);
        tree.write("etc/skel/.config/run", "#!/bin/sh\n", 0o4755, 0);
        tree.write("etc/skel/.config/secret", "", 0o600, 0);
        fs::set_permissions(tree.path("etc/skel/.config"), fs::Permissions::from_mode(0o2750)).unwrap();
        symlink("/etc/skel/.config/run", tree.path("etc/skel/run")).unwrap();
        symlink("/usr/share/base", tree.path("etc/skel/base")).unwrap();
        tree
    }

    pub(crate) fn root(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root().join(path)
    }

    pub(crate) fn host(&self) -> Host {
        Host::at(self.root())
    }

    pub(crate) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    pub(crate) fn write(&self, path: &str, content: &str, mode: u32, gid: u32) {
        let path = self.path(path);
        fs::write(&path, content).unwrap();
        chown(&path, None, Some(gid)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Runs a tool of shadow on this machine.
    pub(crate) fn shadow(&self, tool: &str, arguments: &[&str]) -> std::process::Output {
        let mut command = Command::new(format!("/usr/sbin/{tool}"));
        command.arg("-R").arg(self.root()).args(arguments).output().unwrap()
    }

    /// shadow's own opinion of the user database.
    pub(crate) fn check_with_shadow(&self) {
        for tool in ["pwck", "grpck"] {
            let output = self.shadow(tool, &["-r"]);
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{tool}: {said}{}", String::from_utf8_lossy(&output.stderr));
        }
    }

    pub(crate) fn apply(&self, plan: &Plan) -> Vec<Option<StepResult>> {
        apply(&self.host(), plan)
    }

    /// Everything below `path` that a person can tell apart.
    pub(crate) fn picture(&self, path: &str) -> BTreeMap<PathBuf, String> {
        let mut picture = BTreeMap::new();
        let mut ahead = vec![self.path(path)];
        while let Some(path) = ahead.pop() {
            let seen = fs::symlink_metadata(&path).unwrap();
            let what = if seen.is_dir() {
                ahead.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
                "folder".to_string()
            } else if seen.is_symlink() {
                format!(
                    "link to {} of {:?}",
                    fs::read_link(&path).unwrap().display(),
                    seen.modified().unwrap()
                )
            } else if seen.file_type().is_fifo() {
                "pipe".to_string()
            } else {
                format!("{:?}", String::from_utf8_lossy(&fs::read(&path).unwrap()))
            };
            let line = format!("{:o} {}:{} {what}", seen.mode(), seen.uid(), seen.gid());
            picture.insert(path.strip_prefix(self.root()).unwrap().to_path_buf(), line);
        }
        picture
    }
}

pub(crate) fn apply(host: &Host, plan: &Plan) -> Vec<Option<StepResult>> {
    let mut results = vec![None; plan.steps.len()];
    host.apply(plan, &AtomicBool::new(false), &mut |index, result, _| {
        assert!(results[index].is_none(), "step {index} is reported twice");
        results[index] = Some(result);
    });
    results
}

/// The id of a person counts from 1000, as `useradd` gives them.
pub(crate) fn account(name: &str, id: u32, groups: &[&str]) -> NewAccount {
    let subordinate = Some((100_000 + (id - 1000) * 65_536, 65_536));
    NewAccount {
        user: user(name),
        uid: id,
        gid: id,
        gecos: String::new(),
        shell: Shell::new("/bin/zsh").unwrap(),
        subuid: subordinate,
        subgid: subordinate,
        groups: groups.iter().map(|group| GroupName::new(*group).unwrap()).collect(),
        home: NewHome {
            path: format!("/home/{name}").into(),
            uid: id,
            gid: id,
            skel: "/etc/skel".into(),
            exists: false,
        },
    }
}

pub(crate) fn user(name: &str) -> OsUser {
    OsUser::new(name).unwrap()
}

pub(crate) fn create(account: NewAccount) -> Step {
    step(Subject::User(account.user.clone()), Action::CreateAccount(account), &[])
}

pub(crate) fn step(subject: Subject, action: Action, needs: &[usize]) -> Step {
    Step { subject, action, reason: "because".into(), inverse: None, needs: needs.to_vec() }
}

pub(crate) fn plan(steps: Vec<Step>) -> Plan {
    Plan { steps, ..Plan::default() }
}

pub(crate) fn why(result: &Option<StepResult>) -> &str {
    match result {
        Some(StepResult::Failed { why, .. } | StepResult::Skipped { why }) => why,
        other => panic!("{other:?}"),
    }
}

/// Something mounted, until it is dropped.
pub(crate) struct Mount(PathBuf);

impl Mount {
    pub(crate) fn tmpfs(path: PathBuf, size: &str) -> Option<Mount> {
        Mount::new(path, &["-t", "tmpfs", "-o", &format!("size={size},mode=755"), "tmpfs"])
    }

    pub(crate) fn proc(path: PathBuf) -> Option<Mount> {
        fs::create_dir(&path).unwrap();
        Mount::new(path, &["-t", "proc", "proc"])
    }

    fn new(path: PathBuf, arguments: &[&str]) -> Option<Mount> {
        let mounted = Command::new("mount").args(arguments).arg(&path).status();
        if !mounted.is_ok_and(|status| status.success()) {
            println!("skipped: may not mount");
            return None;
        }
        Some(Mount(path))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
