//! The worker that sends one announcement, as the system user `rosterd`. The daemon starts it; by hand it is of no use.

use std::process::ExitCode;
use std::time::Duration;

use reqwest::header::CONTENT_TYPE;
use reqwest::redirect::Policy;
use serde::Deserialize;

use crate::membership;
use crate::network;

/// The word by which the daemon starts it.
pub(crate) const WORD: &str = "webhook-worker";

const PATIENCE: Duration = Duration::from_secs(20);

/// What it is told. The address is a secret: whoever knows it may write there.
#[derive(Deserialize)]
struct Task {
    url: String,
    body: String,
}

/// The worker's own life.
pub(crate) fn work() -> ExitCode {
    network::work(send)
}

fn send(task: Task) -> Result<(), String> {
    let local = ["http://127.0.0.1", "http://localhost", "http://[::1]"];
    if !task.url.starts_with("https://") && !local.iter().any(|address| task.url.starts_with(address)) {
        return Err("the webhook's file does not hold an https:// address and nothing else".into());
    }
    let failed = |error: reqwest::Error| membership::chain(error);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("the worker cannot start: {error}"))?;
    runtime.block_on(async {
        let client = reqwest::Client::builder()
            .redirect(Policy::none())
            .user_agent(concat!("rosterd/", env!("CARGO_PKG_VERSION")))
            .no_proxy()
            .timeout(PATIENCE)
            .build()
            .map_err(failed)?;
        let request = client.post(&task.url).header(CONTENT_TYPE, "application/json").body(task.body);
        let status = request.send().await.map_err(failed)?.status();
        if status.is_success() { Ok(()) } else { Err(format!("the server answers {status}")) }
    })
}
