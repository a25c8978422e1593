//! A git forge on the host's loopback, which the machines share: nginx and git's own `http-backend`, repositories made
//! by real git and real git-crypt, one of them behind a password; and the ways in which a forge can misbehave.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::cmd;
use crate::scratch::Scratch;

/// A running forge. Its repositories:
///
/// | name | what |
/// | --- | --- |
/// | `infra` | public, `secrets/` encrypted by git-crypt, default branch `main` |
/// | `website` | public, default branch `master` |
/// | `ledgerbook` | private: wants [`Forge::LOGIN`] |
/// | `tripit`, `recipes` | public: those of roster.example.yaml |
#[derive(Debug)]
pub struct Forge {
    port: u16,
    scratch: Scratch,
    /// nginx and fcgiwrap while it serves.
    servers: Vec<Child>,
    /// Whoever connects to it waits for ever. Held so that it exists; never accepted from.
    silence: TcpListener,
}

/// A request that was made to a forge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The repository's name.
    pub repository: String,
    /// Who asked; empty without a password.
    pub login: String,
    /// The method and what follows the repository in the address: `GET /info/refs?service=git-upload-pack`.
    pub what: String,
    /// The answer's status.
    pub status: u16,
    /// How many bytes the answer had.
    pub bytes: u64,
}

impl Forge {
    /// Login and password for the private repository.
    pub const LOGIN: (&'static str, &'static str) = ("carol", "t0ken/with:signs");

    /// What a secret file holds before git-crypt encrypts it.
    pub const SECRET: &'static str = "the database password\n";

    /// A forge with its repositories.
    pub fn start() -> Forge {
        Forge::over(Scratch::new("forge"))
    }

    /// A forge that outlives this process, until `sweep(true)` or the next one of this name.
    pub fn kept(name: &str) -> Forge {
        let mut scratch = Scratch::named(name.to_owned());
        scratch.keep();
        Forge::over(scratch)
    }

    fn over(scratch: Scratch) -> Forge {
        for folder in ["repositories", "work", "hang", "fail", "slow", "temporary"] {
            fs::create_dir(scratch.path().join(folder)).expect("a folder of the forge");
        }
        let silence = TcpListener::bind("127.0.0.1:0").expect("a port that never answers");
        // Freed here and taken by nginx a moment later.
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|socket| socket.local_addr())
            .expect("a free port")
            .port();
        let mut forge = Forge { port, scratch, servers: Vec::new(), silence };
        forge.make_repositories();
        let conf = forge.nginx_conf();
        fs::write(forge.path("nginx.conf"), conf).expect("nginx's configuration");
        let (login, password) = Forge::LOGIN;
        cmd::run(Command::new("htpasswd").arg("-bc").arg(forge.path("htpasswd")).args([login, password]));
        forge.up();
        forge
    }

    fn path(&self, below: &str) -> PathBuf {
        self.scratch.path().join(below)
    }

    /// The address of a repository.
    pub fn url(&self, repository: &str) -> String {
        format!("http://127.0.0.1:{}/{repository}.git", self.port)
    }

    /// `[code]` of a config that clones from here.
    pub fn config(&self) -> String {
        format!("[code]\ninfra = \"{}\"\nrepositories = \"{}\"\n", self.url("infra"), self.url("{name}"))
    }

    /// The line of `~/.git-credentials` that opens the private repository.
    pub fn credentials(&self) -> String {
        let (login, password) = Forge::LOGIN;
        format!(
            "http://{login}:{}@127.0.0.1:{}\n",
            password.replace('/', "%2F").replace(':', "%3A"),
            self.port
        )
    }

    /// Serves again.
    pub fn up(&mut self) {
        assert!(self.servers.is_empty(), "the forge runs already");
        let socket = self.path("fcgi.sock");
        let _ = fs::remove_file(&socket);
        let log = fs::File::create(self.path("fcgi.log")).expect("a log");
        let fcgiwrap = self
            .scratch
            .command("fcgiwrap")
            .args(["-c", "4", "-s"])
            .arg(format!("unix:{}", socket.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("starting fcgiwrap");
        let nginx = self
            .scratch
            .command("nginx")
            .arg("-e")
            .arg(self.path("error.log"))
            .arg("-c")
            .arg(self.path("nginx.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("starting nginx");
        self.servers = vec![fcgiwrap, nginx];
        let begun = Instant::now();
        while !socket.exists() || TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let log = fs::read_to_string(self.path("error.log")).unwrap_or_default();
            assert!(begun.elapsed() < Duration::from_secs(10), "the forge does not start:\n{log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Stops serving: connections are refused.
    pub fn down(&mut self) {
        self.scratch.kill();
        for mut server in self.servers.drain(..) {
            server.wait().expect("waiting for a server that was killed");
        }
    }

    /// From now on requests for a repository are accepted and never answered; or are answered again.
    pub fn hang(&self, repository: &str, on: bool) {
        self.knob("hang", repository, on);
    }

    /// From now on requests for a repository are answered with 503; or as they should be again.
    pub fn fail(&self, repository: &str, on: bool) {
        self.knob("fail", repository, on);
    }

    /// From now on answers for a repository come at 20 kB a second; or fast again.
    pub fn slow(&self, repository: &str, on: bool) {
        self.knob("slow", repository, on);
    }

    fn knob(&self, kind: &str, repository: &str, on: bool) {
        let mark = self.path(kind).join(repository);
        if on {
            fs::write(mark, "").expect("setting a mark of the forge");
        } else if mark.exists() {
            fs::remove_file(mark).expect("removing a mark of the forge");
        }
    }

    /// The requests for a repository so far, in their order.
    pub fn requests(&self, repository: &str) -> Vec<Request> {
        let log = fs::read_to_string(self.path("access.log")).unwrap_or_default();
        let parse = |line: &str| {
            let mut parts = line.split('\t');
            let (login, method, address) = (parts.next()?, parts.next()?, parts.next()?);
            let (name, rest) = address.trim_start_matches('/').split_once(".git")?;
            Some(Request {
                repository: name.to_owned(),
                login: login.trim_matches('-').to_owned(),
                what: format!("{method} {rest}"),
                status: parts.next()?.parse().ok()?,
                bytes: parts.next()?.parse().ok()?,
            })
        };
        log.lines().filter_map(parse).filter(|request| request.repository == repository).collect()
    }

    /// Commits a file to a public repository's default branch, as a colleague who pushes.
    pub fn push(&self, repository: &str, file: &str, content: &str) {
        let work = self.path("work").join(repository);
        fs::write(work.join(file), content).expect("a file to commit");
        git(&work, &["add", "--all"]);
        git(&work, &["commit", "--quiet", "--message", "Change"]);
        git(&work, &["push", "--quiet", "origin", "HEAD"]);
    }

    /// Commits `count` times `megabytes` of noise in the same files, so that the history is that much bigger than a
    /// checkout.
    pub fn grow(&self, repository: &str, count: usize, megabytes: usize) {
        let work = self.work(repository);
        let mut noise = fs::File::open("/dev/urandom").expect("noise");
        for number in 0..count {
            for file in 0..megabytes {
                let mut content = vec![0; 1 << 20];
                std::io::Read::read_exact(&mut noise, &mut content).expect("a megabyte of noise");
                fs::write(work.join(format!("noise-{file}")), content).expect("a file to commit");
            }
            git(&work, &["add", "--all"]);
            git(&work, &["commit", "--quiet", "--message", &format!("Noise {number}")]);
        }
        git(&work, &["push", "--quiet", "origin", "HEAD"]);
    }

    /// Runs git in the work tree of a colleague who pushes; what it printed.
    pub fn git(&self, repository: &str, arguments: &[&str]) -> String {
        git(&self.path("work").join(repository), arguments)
    }

    /// The work tree of a colleague who pushes.
    pub fn work(&self, repository: &str) -> PathBuf {
        self.path("work").join(repository)
    }

    /// Makes another branch the default one.
    pub fn set_default(&self, repository: &str, branch: &str) {
        let bare = self.path("repositories").join(format!("{repository}.git"));
        git(&bare, &["symbolic-ref", "HEAD", &format!("refs/heads/{branch}")]);
    }

    /// The commit that a repository's default branch points to.
    pub fn head(&self, repository: &str) -> String {
        git(&self.path("work").join(repository), &["rev-parse", "HEAD"]).trim().to_owned()
    }

    /// What git-crypt made of a secret file: `secrets/db` as it is stored in the infra repository.
    pub fn ciphertext(&self) -> Vec<u8> {
        let work = self.path("work").join("infra");
        let blob =
            Command::new("git").arg("-C").arg(&work).args(["cat-file", "blob", "HEAD:secrets/db"]).output();
        blob.expect("running git").stdout
    }

    fn make_repositories(&self) {
        for (name, branch) in [
            ("infra", "main"),
            ("website", "master"),
            ("ledgerbook", "main"),
            ("tripit", "main"),
            ("recipes", "main"),
        ] {
            let (work, bare) =
                (self.path("work").join(name), self.path("repositories").join(format!("{name}.git")));
            let (work_name, bare_name) = (work.display().to_string(), bare.display().to_string());
            let branch = format!("--initial-branch={branch}");
            git(Path::new("/"), &["init", "--quiet", "--bare", &branch, &bare_name]);
            git(Path::new("/"), &["init", "--quiet", &branch, &work_name]);
            git(&work, &["remote", "add", "origin", &bare_name]);
            fs::write(work.join("README.md"), format!("# {name}\n")).expect("a file to commit");
            if name == "infra" {
                cmd::run(Command::new("git-crypt").arg("init").current_dir(&work));
                fs::write(work.join(".gitattributes"), "secrets/** filter=git-crypt diff=git-crypt\n")
                    .expect("attributes");
                fs::create_dir(work.join("secrets")).expect("a folder to commit");
                fs::write(work.join("secrets/db"), Forge::SECRET).expect("a secret to commit");
            }
            git(&work, &["add", "--all"]);
            git(&work, &["commit", "--quiet", "--message", "First"]);
            git(&work, &["push", "--quiet", "--set-upstream", "origin", "HEAD"]);
        }
    }

    fn nginx_conf(&self) -> String {
        let root = self.scratch.path().display();
        let (port, silent) = (self.port, self.silence.local_addr().expect("the silent port").port());
        let backend = format!("{}/git-http-backend", cmd::run(Command::new("git").arg("--exec-path")).trim());
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {root}/temporary/{kind};\n"))
            .concat();
        let serve = format!(
            "if (-f {root}/hang/$repository) {{ return 418; }}
             if (-f {root}/fail/$repository) {{ return 503; }}
             if (-f {root}/slow/$repository) {{ set $limit_rate 20k; }}
             fastcgi_pass unix:{root}/fcgi.sock;
             fastcgi_param SCRIPT_FILENAME {backend};
             fastcgi_param GIT_PROJECT_ROOT {root}/repositories;
             fastcgi_param GIT_HTTP_EXPORT_ALL 1;
             fastcgi_param PATH_INFO $uri;
             fastcgi_param REMOTE_USER $remote_user;
             fastcgi_param QUERY_STRING $query_string;
             fastcgi_param REQUEST_METHOD $request_method;
             fastcgi_param CONTENT_TYPE $content_type;
             fastcgi_param CONTENT_LENGTH $content_length;
             fastcgi_param HTTP_CONTENT_ENCODING $http_content_encoding;
             fastcgi_param GIT_PROTOCOL $http_git_protocol;"
        );
        format!(
            "user root;
             daemon off;
             pid {root}/nginx.pid;
             worker_processes 2;
             error_log {root}/error.log;
             events {{ worker_connections 256; }}
             http {{
               log_format requests '$remote_user\\t$request_method\\t$request_uri\\t$status\\t$body_bytes_sent';
               access_log {root}/access.log requests;
               {temporary}
               client_max_body_size 0;
               fastcgi_read_timeout 1h;
               proxy_read_timeout 1h;
               error_page 418 = @silence;
               server {{
                 listen 127.0.0.1:{port};
                 location ~ ^/(?<repository>ledgerbook)\\.git/ {{
                   auth_basic forge;
                   auth_basic_user_file {root}/htpasswd;
                   {serve}
                 }}
                 location ~ ^/(?<repository>[^/]+)\\.git/ {{ {serve} }}
                 location @silence {{ proxy_pass http://127.0.0.1:{silent}; }}
               }}
             }}"
        )
    }
}

impl Drop for Forge {
    fn drop(&mut self) {
        if !self.scratch.is_kept() {
            self.down();
        }
    }
}

/// git as the people who push: with nothing of this machine's configuration.
#[track_caller]
fn git(folder: &Path, args: &[&str]) -> String {
    cmd::run(
        Command::new("git")
            .current_dir(folder)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .args(["-c", "user.name=Dana Dev", "-c", "user.email=dana@example.org"])
            .args(args),
    )
}
