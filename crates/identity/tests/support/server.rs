//! The network's side of every stand-in: connections that live on, requests that are counted, and whatever goes wrong.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::{Value, json};

/// What goes wrong with a request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Wrong {
    /// It is answered with this code.
    Code(u16),
    /// It is not done, and this is the answer.
    Says(&'static str),
    /// It is to come back after so many seconds.
    Later(u64),
    /// The connection ends without an answer.
    Close,
    /// The server says no more and still listens, without an answer.
    HalfClose,
    /// The server says no more after its answer, although it had promised to.
    CloseAfter,
    /// The answer stops in the middle.
    Cut,
    /// It is done, and there is no answer.
    Lost,
    /// There never is an answer.
    Hang,
}

#[derive(Debug)]
struct Fault {
    /// `GET /api/v1/namespaces`, or a part of it.
    of: String,
    /// The requests before it that are answered.
    after: usize,
    times: usize,
    wrong: Wrong,
}

#[derive(Debug, Default)]
struct Traffic {
    requests: Vec<String>,
    /// What was sent last with each of them.
    bodies: BTreeMap<String, String>,
    faults: Vec<Fault>,
    busy: usize,
    busiest: usize,
    delay: Duration,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) body: Value,
    pub(crate) after: Option<u64>,
}

/// A request.
pub(crate) struct Asked<'a> {
    pub(crate) method: &'a str,
    pub(crate) target: &'a str,
    pub(crate) headers: &'a BTreeMap<String, String>,
    pub(crate) body: &'a [u8],
}

/// A server. It runs until the process ends.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    traffic: Arc<Mutex<Traffic>>,
    /// Where it listens.
    pub(crate) port: u16,
}

impl Server {
    /// Starts one that answers so.
    pub(crate) fn start(answer: impl Fn(&Asked<'_>) -> Answer + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = Server { traffic: Arc::default(), port };
        let (serving, answer) = (server.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (server, answer) = (serving.clone(), Arc::clone(&answer));
                std::thread::spawn(move || drop(server.connection(&stream, &*answer)));
            }
        });
        server
    }

    fn traffic(&self) -> MutexGuard<'_, Traffic> {
        self.traffic.lock().unwrap()
    }

    /// The next `times` requests that `of` is a part of go wrong, after the first `after`.
    pub(crate) fn wrong(&self, of: &str, after: usize, times: usize, wrong: Wrong) {
        self.traffic().faults.push(Fault { of: of.into(), after, times, wrong });
    }

    /// Whether something is to go wrong.
    pub(crate) fn is_wrong(&self) -> bool {
        !self.traffic().faults.is_empty()
    }

    /// Nothing goes wrong any more.
    pub(crate) fn mend(&self) {
        self.traffic().faults.clear();
    }

    /// The requests since the last call, as `GET /api/v1/namespaces?limit=500`.
    pub(crate) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.traffic().requests)
    }

    /// What was sent last with such a request.
    pub(crate) fn sent(&self, request: &str) -> String {
        self.traffic().bodies.get(request).cloned().unwrap_or_default()
    }

    /// How many requests were under way at the same time, at most.
    pub(crate) fn busiest(&self) -> usize {
        self.traffic().busiest
    }

    /// Each answer takes so long.
    pub(crate) fn slow(&self, delay: Duration) {
        self.traffic().delay = delay;
    }

    fn connection(&self, stream: &TcpStream, answer: &dyn Fn(&Asked<'_>) -> Answer) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut writer = stream.try_clone()?;
        loop {
            let mut first = String::new();
            if reader.read_line(&mut first)? == 0 {
                return Ok(());
            }
            let mut headers = BTreeMap::new();
            loop {
                let mut line = String::new();
                reader.read_line(&mut line)?;
                let Some((key, value)) = line.trim().split_once(':') else { break };
                headers.insert(key.to_ascii_lowercase(), value.trim().to_owned());
            }
            let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
            let mut body = vec![0; length];
            reader.read_exact(&mut body)?;
            let mut words = first.split_whitespace();
            let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            let (wrong, delay) = {
                let mut traffic = self.traffic();
                traffic.requests.push(format!("{method} {target}"));
                let text = String::from_utf8_lossy(&body).into_owned();
                traffic.bodies.insert(format!("{method} {target}"), text);
                traffic.busy += 1;
                traffic.busiest = traffic.busiest.max(traffic.busy);
                (traffic.next_fault(&format!("{method} {target}")), traffic.delay)
            };
            std::thread::sleep(delay);
            let injected = |code: u16, after| Answer {
                code,
                body: json!({
                    "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code,
                    "message": "this was injected", "errors": ["this was injected"],
                }),
                after,
            };
            let answer = match wrong {
                Some(Wrong::Code(code)) => injected(code, None),
                Some(Wrong::Says(_)) => injected(200, None),
                Some(Wrong::Later(seconds)) => injected(429, Some(seconds)),
                Some(Wrong::Hang) => {
                    std::thread::sleep(Duration::from_secs(600));
                    return Ok(());
                }
                Some(Wrong::Close) => {
                    self.traffic().busy -= 1;
                    return stream.shutdown(Shutdown::Both);
                }
                Some(Wrong::HalfClose) => {
                    self.traffic().busy -= 1;
                    stream.shutdown(Shutdown::Write)?;
                    return reader.read_to_end(&mut Vec::new()).map(drop);
                }
                _ => answer(&Asked { method, target, headers: &headers, body: &body }),
            };
            // After an answer that has no content, whatever follows would be taken for the beginning of the next one.
            let text = match wrong {
                Some(Wrong::Says(text)) => text.to_owned(),
                _ if answer.code == 204 => String::new(),
                _ => answer.body.to_string(),
            };
            let after = answer.after.map_or_else(String::new, |after| format!("retry-after: {after}\r\n"));
            let head = format!(
                "HTTP/1.1 {} X\r\ncontent-type: application/json\r\n{after}content-length: {}\r\n\r\n",
                answer.code,
                text.len()
            );
            self.traffic().busy -= 1;
            if wrong == Some(Wrong::Lost) {
                return stream.shutdown(Shutdown::Both);
            }
            writer.write_all(head.as_bytes())?;
            if wrong == Some(Wrong::Cut) {
                writer.write_all(&text.as_bytes()[..text.len() / 2])?;
                return stream.shutdown(Shutdown::Both);
            }
            writer.write_all(text.as_bytes())?;
            if wrong == Some(Wrong::CloseAfter) {
                stream.shutdown(Shutdown::Write)?;
                return reader.read_to_end(&mut Vec::new()).map(drop);
            }
        }
    }
}

impl Traffic {
    fn next_fault(&mut self, request: &str) -> Option<Wrong> {
        let fault = self.faults.iter_mut().find(|fault| request.contains(&fault.of) && fault.times > 0)?;
        if fault.after > 0 {
            fault.after -= 1;
            return None;
        }
        fault.times -= 1;
        Some(fault.wrong)
    }
}
