//! What the tests stand on: people with homes (numeric ids only; the machine's user database is not touched) and a
//! real git server over HTTP: nginx, fcgiwrap and `git http-backend` on a loopback port, private to one test.
//! Needs root and what `need_forge` in `./dev` installs. Plain std, nix and tempfile, so that
//! other tests can include it.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may panic")]

use std::ffi::OsStr;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::Duration;

use tempfile::TempDir;

/// A folder that everyone may pass through.
pub fn open_dir() -> TempDir {
    open_dir_in(&std::env::temp_dir())
}

fn open_dir_in(above: &Path) -> TempDir {
    let dir = tempfile::Builder::new().prefix("rosterd-home-").tempdir_in(above).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

/// Runs and asserts success; the output's text.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn clean_command(program: impl AsRef<OsStr>, home: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("HOME", home)
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("GIT_TERMINAL_PROMPT", "0");
    command.stdin(Stdio::null());
    command
}

/// Somebody with a home.
pub struct Somebody {
    pub uid: u32,
    pub home: PathBuf,
    base: TempDir,
}

impl Somebody {
    pub fn new() -> Somebody {
        Somebody::in_folder(open_dir())
    }

    /// Somebody with so many files that on some disks their removal would take longer than the test.
    pub fn in_memory() -> Somebody {
        Somebody::in_folder(open_dir_in(Path::new("/dev/shm")))
    }

    fn in_folder(base: TempDir) -> Somebody {
        static NEXT: AtomicU32 = AtomicU32::new(61_001);
        let uid = NEXT.fetch_add(1, Ordering::Relaxed);
        let home = base.path().join("home");
        let person = Somebody { uid, home, base };
        person.mkdir("");
        fs::set_permissions(&person.home, fs::Permissions::from_mode(0o700)).unwrap();
        person
    }

    /// The folder that holds the home; root's.
    pub fn base(&self) -> &Path {
        self.base.path()
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.home.join(below)
    }

    pub fn mkdir(&self, below: &str) {
        fs::create_dir(self.path(below)).unwrap();
        chown(self.path(below), Some(self.uid), Some(self.uid)).unwrap();
    }

    /// A chain of folders that no path names.
    pub fn mkdir_deep(&self, below: &str, depth: usize) {
        use nix::fcntl::{OFlag, open, openat};
        let (flags, mode) = (OFlag::O_RDONLY | OFlag::O_DIRECTORY, nix::sys::stat::Mode::S_IRWXU);
        let mut dir = open(&self.path(below), flags, mode).unwrap();
        for _ in 0..depth {
            nix::sys::stat::mkdirat(&dir, "a", mode).unwrap();
            dir = openat(&dir, "a", flags, mode).unwrap();
            nix::unistd::fchown(&dir, Some(self.uid.into()), Some(self.uid.into())).unwrap();
        }
    }

    pub fn write(&self, below: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(below), content).unwrap();
        chown(self.path(below), Some(self.uid), Some(self.uid)).unwrap();
    }

    /// A program as this person, with their home as the working folder.
    pub fn command(&self, program: &str) -> Command {
        let mut command = clean_command(program, &self.home);
        command.uid(self.uid).gid(self.uid).current_dir(&self.home);
        command
    }

    /// The person's own git in a folder of their home.
    pub fn git(&self, folder: &str, arguments: &[&str]) -> Output {
        let id = ["-c", "user.name=Ana", "-c", "user.email=ana@example.org"];
        self.command("git").arg("-C").arg(self.path(folder)).args(id).args(arguments).output().unwrap()
    }

    /// The same, which has to succeed.
    pub fn git_ok(&self, folder: &str, arguments: &[&str]) -> String {
        let output = self.git(folder, arguments);
        assert!(output.status.success(), "git {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Every path below the home with its kind, size and inode: what must be the same when nothing happened.
    pub fn snapshot(&self) -> Vec<String> {
        fn walk(dir: &Path, into: &mut Vec<String>) {
            let Ok(entries) = fs::read_dir(dir) else { return };
            for entry in entries {
                let path = entry.unwrap().path();
                let meta = fs::symlink_metadata(&path).unwrap();
                into.push(format!(
                    "{} {:o} {} {} {}",
                    path.display(),
                    meta.mode(),
                    meta.len(),
                    meta.ino(),
                    meta.mtime_nsec()
                ));
                if meta.is_dir() {
                    walk(&path, into);
                }
            }
        }
        let mut all = Vec::new();
        walk(self.base.path(), &mut all);
        all.sort();
        all
    }
}

/// A git server.
pub struct GitServer {
    pub port: u16,
    dir: TempDir,
    children: Vec<Child>,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn wait_for(port: u16) {
    for _ in 0..500 {
        if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return;
        }
        sleep(Duration::from_millis(10));
    }
    panic!("nothing listens on port {port}");
}

/// An nginx of one process, all of whose files are in `dir`.
fn nginx(dir: &Path, name: &str, server: &str) -> Child {
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {}/{kind}-{name};", dir.display()))
        .concat();
    let root = dir.display();
    let conf = format!(
        "daemon off; master_process off; pid {root}/{name}.pid; error_log {root}/error.log;
         events {{ worker_connections 64; }}
         http {{
           log_format all '$host $request_uri \"$http_authorization\" $status';
           access_log {root}/access.log all; client_max_body_size 0; {temporary}
           {server}
         }}"
    );
    let file = dir.join(format!("{name}.conf"));
    fs::write(&file, conf).unwrap();
    let log = dir.join("error.log");
    clean_command("/usr/sbin/nginx", dir)
        .arg("-e")
        .arg(log)
        .arg("-c")
        .arg(file)
        .stderr(Stdio::null())
        .spawn()
        .expect("nginx")
}

impl GitServer {
    pub fn start() -> GitServer {
        let dir = tempfile::Builder::new().prefix("rosterd-git-").tempdir().unwrap();
        let root = dir.path().display();
        fs::create_dir(dir.path().join("repos")).unwrap();
        let port = free_port();
        let backend = run(Command::new("git").arg("--exec-path"));
        let backend = format!("{}/git-http-backend", backend.trim());
        run(Command::new("htpasswd")
            .args(["-bc"])
            .arg(dir.path().join("htpasswd"))
            .args(["ana", "t:ken/1"])
            .stderr(Stdio::null()));
        let cgi = format!(
            "fastcgi_pass unix:{root}/fcgi.sock;
             fastcgi_param SCRIPT_FILENAME {backend};
             fastcgi_param GIT_PROJECT_ROOT {root}/repos;
             fastcgi_param GIT_HTTP_EXPORT_ALL 1;
             fastcgi_param PATH_INFO $1;
             fastcgi_param REMOTE_USER $remote_user;
             fastcgi_param QUERY_STRING $query_string;
             fastcgi_param REQUEST_METHOD $request_method;
             fastcgi_param CONTENT_TYPE $content_type;
             fastcgi_param CONTENT_LENGTH $content_length;
             fastcgi_param HTTP_CONTENT_ENCODING $http_content_encoding;"
        );
        let server = format!(
            "server {{
                 listen 127.0.0.1:{port};
                 location ~ ^/public(/.*)$ {{ {cgi} }}
                 location ~ ^/private(/.*)$ {{ auth_basic git; auth_basic_user_file {root}/htpasswd; {cgi} }}
                 location ~ ^/elsewhere(/.*)$ {{ return 302 http://localhost:{port}/private$1?$args; }}
                 location ~ ^/moved(/.*)$ {{ return 301 /private$1?$args; }}
                 location /broken {{ return 503; }}
                 location /forbidden {{ return 403; }}
             }}"
        );
        let socket = dir.path().join("fcgi.sock");
        let fcgi = clean_command("/usr/sbin/fcgiwrap", dir.path())
            .arg("-s")
            .arg(format!("unix:{}", socket.display()))
            .stderr(Stdio::null())
            .spawn()
            .expect("fcgiwrap");
        let nginx = nginx(dir.path(), "plain", &server);
        let server = GitServer { port, dir, children: vec![nginx, fcgi] };
        wait_for(port);
        while !socket.exists() {
            sleep(Duration::from_millis(5));
        }
        server
    }

    /// The same over TLS on a port of its own, on every loopback address.
    pub fn serve_tls(&mut self, certificate: &Path, key: &Path) -> u16 {
        let port = free_port();
        let server = format!(
            "server {{ listen {port} ssl; ssl_certificate {}; ssl_certificate_key {};
             location / {{ proxy_pass http://127.0.0.1:{}; }} }}",
            certificate.display(),
            key.display(),
            self.port
        );
        let nginx = nginx(self.dir.path(), "tls", &server);
        self.children.push(nginx);
        wait_for(port);
        port
    }

    /// The URL of a repository, by the way it is served: public, private, elsewhere, moved, broken, forbidden.
    pub fn url(&self, way: &str, name: &str) -> String {
        format!("http://127.0.0.1:{}/{way}/{name}", self.port)
    }

    /// The bare repository behind a URL.
    pub fn bare(&self, name: &str) -> PathBuf {
        self.dir.path().join("repos").join(name)
    }

    /// git as the one who serves.
    pub fn git(&self, folder: &Path, arguments: &[&str]) -> String {
        let id = ["-c", "user.name=Dev", "-c", "user.email=dev@example.org", "-c", "init.defaultBranch=main"];
        run(clean_command("git", self.dir.path()).arg("-C").arg(folder).args(id).args(arguments))
    }

    /// Commits to `main` of a repository what `write` says in the language of `git fast-import`: without a work tree and
    /// without a file for each object, whose removal would take longer than the test.
    pub fn import(&self, name: &str, write: impl FnOnce(&mut dyn std::io::Write)) -> String {
        let mut git = clean_command("git", self.dir.path());
        git.arg("-C").arg(self.bare(name)).args([
            "-c",
            "pack.compression=0",
            "fast-import",
            "--quiet",
            "--depth=0",
        ]);
        let mut child = git.stdin(Stdio::piped()).spawn().unwrap();
        let mut stream = std::io::BufWriter::new(child.stdin.take().unwrap());
        let text =
            "commit refs/heads/main\ncommitter Dev <dev@example.org> 1700000000 +0000\ndata 7\nA step\n";
        std::io::Write::write_all(&mut stream, text.as_bytes()).unwrap();
        if self.bare(name).join("refs/heads/main").exists() {
            std::io::Write::write_all(&mut stream, b"from refs/heads/main^0\n").unwrap();
        }
        write(&mut stream);
        drop(stream);
        assert!(child.wait().unwrap().success());
        self.git(&self.bare(name), &["rev-parse", "main"])
    }

    /// The work tree that pushes to a repository.
    pub fn work(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("work-{name}"))
    }

    /// Makes an empty bare repository and a work tree that pushes to it.
    pub fn empty(&self, name: &str) -> PathBuf {
        let work = self.work(name);
        fs::create_dir(&work).unwrap();
        self.git(&work, &["init", "-q", "--bare", self.bare(name).to_str().unwrap()]);
        self.git(&work, &["init", "-q"]);
        self.git(&work, &["remote", "add", "origin", self.bare(name).to_str().unwrap()]);
        work
    }

    /// Makes a repository with two branches, a tag, an executable, a symlink and a file with line endings of its own.
    pub fn plain(&self, name: &str) -> PathBuf {
        let work = self.empty(name);
        fs::create_dir(work.join("src")).unwrap();
        fs::write(work.join("README.md"), format!("# {name}\n")).unwrap();
        fs::write(work.join("src/run.sh"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(work.join("src/run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink("src/run.sh", work.join("run")).unwrap();
        fs::write(work.join(".gitattributes"), "*.bat text eol=crlf\n").unwrap();
        fs::write(work.join("a.bat"), "echo\n").unwrap();
        self.git(&work, &["add", "."]);
        self.git(&work, &["commit", "-qm", "First"]);
        self.git(&work, &["tag", "v1"]);
        self.git(&work, &["branch", "other"]);
        self.git(&work, &["push", "-q", "--tags", "origin", "main", "other"]);
        work
    }

    /// Makes a repository with secrets by real git-crypt, on two branches; the key's file.
    pub fn encrypted(&self, name: &str) -> PathBuf {
        let work = self.plain(name);
        let crypt = |arguments: &[&str]| {
            run(clean_command("git-crypt", self.dir.path()).args(arguments).current_dir(&work));
        };
        let key = self.dir.path().join(format!("{name}.key"));
        crypt(&["init"]);
        crypt(&["export-key", key.to_str().unwrap()]);
        fs::write(work.join(".gitattributes"), "secrets/** filter=git-crypt diff=git-crypt\n").unwrap();
        fs::create_dir(work.join("secrets")).unwrap();
        fs::write(work.join("secrets/db"), "the database password\n").unwrap();
        fs::write(work.join("secrets/empty"), "").unwrap();
        self.git(&work, &["add", "."]);
        self.git(&work, &["commit", "-qm", "Secrets"]);
        self.git(&work, &["checkout", "-q", "-b", "rotated"]);
        fs::write(work.join("secrets/db"), "another database password\n").unwrap();
        self.git(&work, &["commit", "-qam", "Rotate"]);
        self.git(&work, &["checkout", "-q", "-b", "third", "main"]);
        fs::write(work.join("secrets/db"), "a third database password\n").unwrap();
        self.git(&work, &["commit", "-qam", "Third"]);
        self.git(&work, &["checkout", "-q", "main"]);
        self.git(&work, &["push", "-q", "origin", "main", "rotated", "third"]);
        key
    }

    /// Gives a work tree a named key of git-crypt; where the key is.
    pub fn named_key(&self, work: &Path, name: &str) -> PathBuf {
        let key = self.dir.path().join(format!("{name}.key"));
        for arguments in [vec!["init", "-k", name], vec!["export-key", "-k", name, key.to_str().unwrap()]] {
            run(clean_command("git-crypt", self.dir.path()).args(arguments).current_dir(work));
        }
        key
    }

    /// A line for each request: host, path, Authorization header, status.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("access.log")).unwrap_or_default()
    }
}

impl Drop for GitServer {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
