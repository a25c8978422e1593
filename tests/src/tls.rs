//! TLS before a server of a test on the loopback: nginx, with a certificate that an authority of its own has signed.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::cmd;
use crate::scratch::Scratch;

/// A running front. It ends with the value.
#[derive(Debug)]
pub struct TlsFront {
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
    /// Its authority's certificate, as PEM.
    pub authority: String,
    scratch: Scratch,
    nginx: Child,
}

impl TlsFront {
    /// Passes on whatever it is asked to `server`, a port of the loopback.
    pub fn start(server: u16) -> TlsFront {
        let scratch = Scratch::new("tls");
        let path = |name: &str| scratch.path().join(name);
        let openssl = |args: &str| {
            cmd::run(Command::new("openssl").args(args.split(' ')).current_dir(scratch.path()));
        };
        fs::write(path("names"), "subjectAltName=IP:127.0.0.1\n").expect("the names of a certificate");
        let new = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
        openssl(&format!("req -x509 {new} -subj /CN=authority -days 2 -keyout ca.key -out ca.crt"));
        openssl(&format!("req {new} -subj /CN=server -keyout key -out request"));
        openssl(
            "x509 -req -in request -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile names -out crt",
        );
        // Freed here and taken by nginx a moment later.
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|socket| socket.local_addr())
            .expect("a free port")
            .port();
        let folder = scratch.path().display();
        let conf = format!(
            "daemon off; user root; pid {folder}/pid; error_log {folder}/error.log; events {{}}\n\
             http {{ access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;\n\
             server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {folder}/crt; ssl_certificate_key {folder}/key;\n\
             location / {{ proxy_pass http://127.0.0.1:{server}; proxy_http_version 1.1; }} }} }}\n"
        );
        fs::write(path("conf"), conf).expect("nginx's configuration");
        let nginx = scratch
            .command("nginx")
            .arg("-e")
            .arg(path("error.log"))
            .arg("-c")
            .arg(path("conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("starting nginx");
        let authority = fs::read_to_string(path("ca.crt")).expect("the authority's certificate");
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let log = fs::read_to_string(path("error.log")).unwrap_or_default();
            assert!(begun.elapsed() < Duration::from_secs(10), "nginx does not start:\n{log}");
            std::thread::sleep(Duration::from_millis(20));
        }
        TlsFront { port, authority, scratch, nginx }
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        self.scratch.kill();
        let _ = self.nginx.wait();
    }
}
