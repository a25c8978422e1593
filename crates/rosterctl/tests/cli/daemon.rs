//! A daemon that answers from a script, byte for byte in Varlink's form, so that the tests hold the wire format too.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::Place;

/// What was asked, as `(method, parameters)`.
pub(crate) type Asked = Arc<Mutex<Vec<(String, Value)>>>;

/// Listens at `control.sock` of `place`. `answer` gives the replies to a method, or hangs up with none.
pub(crate) fn daemon(place: &Place, answer: impl Fn(&str) -> Vec<Value> + Send + 'static) -> Asked {
    let listener = UnixListener::bind(place.path().join("control.sock")).unwrap();
    let asked = Asked::default();
    let heard = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            serve(stream.unwrap(), &answer, &heard);
        }
    });
    asked
}

fn serve(mut stream: UnixStream, answer: &impl Fn(&str) -> Vec<Value>, heard: &Asked) {
    let mut waiting = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let Some(end) = waiting.iter().position(|byte| *byte == 0) else {
            match stream.read(&mut buffer) {
                Ok(0) | Err(_) => return,
                Ok(length) => waiting.extend_from_slice(&buffer[..length]),
            }
            continue;
        };
        let message: Value = serde_json::from_slice(&waiting[..end]).unwrap();
        waiting.drain(..=end);
        let method =
            message["method"].as_str().unwrap().strip_prefix("io.rosterd.Control.").unwrap().to_owned();
        let replies = answer(&method);
        heard.lock().unwrap().push((method, message["parameters"].clone()));
        if replies.is_empty() {
            return;
        }
        for reply in replies {
            let mut bytes = serde_json::to_vec(&reply).unwrap();
            bytes.push(0);
            if stream.write_all(&bytes).is_err() {
                return;
            }
        }
    }
}

pub(crate) fn reply(parameters: Value) -> Vec<Value> {
    vec![json!({ "parameters": parameters })]
}

/// The answer to a method that returns nothing; as the daemon writes it, without parameters.
pub(crate) fn done() -> Vec<Value> {
    vec![json!({})]
}

pub(crate) fn refusal(name: &str, parameters: Value) -> Vec<Value> {
    let mut error = json!({ "error": format!("io.rosterd.Control.{name}") });
    if !parameters.is_null() {
        error["parameters"] = parameters;
    }
    vec![error]
}

/// Events of a run, all but the last announced as continued.
pub(crate) fn events(events: Vec<Value>) -> Vec<Value> {
    let last = events.len() - 1;
    events
        .into_iter()
        .enumerate()
        .map(|(number, event)| json!({ "parameters": { "progress": event }, "continues": number != last }))
        .collect()
}
