//! Asks Authentik, as a worker. What an answer means the core knows; this only carries.

use std::error::Error as _;
use std::time::Duration;

use reqwest::header::ACCEPT;
use reqwest::redirect::Policy;
use reqwest::{Client, Url};
use roster::membership::Member;
use roster::membership::authentik::{Ask, LARGEST_ANSWER, Next, Reading};

/// The members of the group, or why not.
pub(super) fn members(
    server: &str,
    group: &str,
    token: &str,
    deadline_s: u64,
) -> Result<Vec<Member>, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("the worker cannot start: {error}"))?;
    let deadline = Duration::from_secs(deadline_s);
    runtime.block_on(async {
        match tokio::time::timeout(deadline, read(server, group, token)).await {
            Ok(read) => read,
            Err(_) => Err(format!("it took longer than {deadline_s} s")),
        }
    })
}

async fn read(server: &str, group: &str, token: &str) -> Result<Vec<Member>, String> {
    // A redirect could carry the token to another server.
    let client = Client::builder()
        .redirect(Policy::none())
        .user_agent(concat!("rosterd/", env!("CARGO_PKG_VERSION")))
        .no_proxy()
        .build()
        .map_err(chain)?;
    let (mut reading, mut ask) = Reading::of(group);
    loop {
        let answer = get(&client, server, &ask, token).await.map_err(|why| format!("{ask}: {why}"))?;
        match reading.answer(&answer).map_err(|error| format!("{ask}: {error}"))? {
            Next::Members(members) => return Ok(members),
            Next::Ask(next) => ask = next,
        }
    }
}

async fn get(client: &Client, server: &str, ask: &Ask, token: &str) -> Result<Vec<u8>, String> {
    let url = format!("{}/{}", server.trim_end_matches('/'), ask.path);
    let url = Url::parse_with_params(&url, &ask.query).map_err(|error| error.to_string())?;
    let request = client.get(url).bearer_auth(token).header(ACCEPT, "application/json");
    let mut response = request.send().await.map_err(chain)?;
    if response.status() != reqwest::StatusCode::OK {
        return Err(format!("the server answers {}", response.status()));
    }
    let mut bytes = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(chain)? {
        bytes.extend_from_slice(&piece);
        if bytes.len() > LARGEST_ANSWER {
            return Err(format!("the answer is larger than {} MiB", LARGEST_ANSWER >> 20));
        }
    }
    Ok(bytes)
}

/// With what led to it, and without the address: it is in the message already.
pub(crate) fn chain(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(": {error}"));
        source = error.source();
    }
    text
}
