//! Asks the program that speaks to servers for the daemon itself, with a webhook or for the roster: it has an HTTP client
//! and starts git, the daemon does neither. It becomes the system user `rosterd`: root speaks to no network (invariant 3).

use std::error::Error as _;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use worker_process::{Advice, ask_once};

const PROGRAM: &str = "/usr/bin/rosterctl";

/// Whoever asks tries again by itself, and tells only why.
const ADVICE: Advice = Advice { deadline: "", memory: "", ended: "", protocol: "" };

/// Asks one thing; why it did not work is fit to be shown.
pub(crate) async fn ask<T: DeserializeOwned>(
    word: &str,
    question: &impl Serialize,
    doing: &str,
    given: Duration,
) -> Result<T, String> {
    let asked = ask_once(Path::new(PROGRAM), &["rosterctl", word], question, doing, given, &ADVICE).await;
    asked.map_err(|error| match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    })
}
