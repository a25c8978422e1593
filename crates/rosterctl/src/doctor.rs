//! `rosterctl doctor`: what a support person would ask first. The facts are gathered here and in [`facts`], each by
//! itself, so that it also answers when the daemon is dead; what they mean is judged in [`judge`], which is pure.

mod facts;
mod judge;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;

use crate::args::Global;
use crate::error::Result;
use crate::out::Out;
use crate::render;

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Light {
    /// As it should be.
    Green,
    /// It works, and somebody should look.
    Yellow,
    /// It does not work.
    Red,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    /// What was looked at, in one word.
    pub(crate) check: &'static str,
    /// How it is.
    pub(crate) light: Light,
    /// What was found.
    pub(crate) found: String,
    /// What to do about it; nothing when it is green.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next: Option<String>,
}

/// Exit code when something is red.
const RED: u8 = 3;

/// Looks, judges and prints.
pub(crate) fn run(global: &Global, out: &Out) -> Result<u8> {
    let checks = judge::judge(&facts::gather(global), Timestamp::now());
    let worst = checks.iter().map(|check| check.light).max().unwrap_or(Light::Green);
    match out.json {
        true => out.document(&json!({ "worst": worst, "checks": checks }))?,
        false => out.text(&render::doctor(&checks, out.look))?,
    }
    Ok(if worst == Light::Red { RED } else { 0 })
}
