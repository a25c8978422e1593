//! Requests to a provider's server: sent until there is an answer, or none that is worth another try. Decides nothing
//! about what is asked.

use std::fmt::Display;
use std::time::Duration;

use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, RETRY_AFTER, USER_AGENT};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::retry::{self, Ended};
use crate::tls::Flaw;

const CONNECT: Duration = Duration::from_secs(10);
/// A page of a list takes a busy server a second or two.
const ANSWER: Duration = Duration::from_secs(20);
/// An object that a server stores does not reach this. Of a list, so many fewer are asked for at once.
const MAX_ANSWER: usize = 32 << 20;

/// A server that can be spoken to.
#[derive(Clone)]
pub(crate) struct Server {
    // That of `kube` is an HTTP client with deadlines and verified TLS, for whatever server a kubeconfig names.
    client: Client,
    /// Where it is, for people.
    place: String,
    /// With each request.
    headers: HeaderMap,
}

/// Why a request came to nothing.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The server refused it, with these words.
    Refused(StatusCode, Vec<u8>),
    /// There was no answer that could be used.
    NoAnswer(String),
    /// The answer was bigger than any that makes sense.
    TooBig,
    /// There is no connection that can be trusted.
    Untrusted(Flaw),
}

impl Server {
    /// Reads the credential. Connects nowhere yet.
    pub(crate) async fn new(kubeconfig: &SecretString, headers: HeaderMap) -> Result<Server, String> {
        let parsed: Kubeconfig = serde_json::from_str(kubeconfig.expose_secret())
            .map_err(|_| "it is not what a kubeconfig is".to_owned())?;
        let mut config = Config::from_custom_kubeconfig(parsed, &KubeConfigOptions::default())
            .await
            .map_err(|error| chain(&error))?;
        config.connect_timeout = Some(CONNECT);
        // How long an answer may take, and what is tried again, is decided here.
        config.read_timeout = None;
        config.default_retry = false;
        config.accept_invalid_certs = false;
        // Whatever else a URL may hold is shown to nobody.
        let port = config.cluster_url.port_u16().map_or_else(String::new, |port| format!(":{port}"));
        let place = format!("{}{port}", config.cluster_url.host().unwrap_or_default());
        let client = Client::try_from(config).map_err(|error| chain(&error))?;
        Ok(Server { client, place, headers })
    }

    /// The same server, with more to say in each request.
    pub(crate) fn with(&self, headers: HeaderMap) -> Server {
        let mut server = self.clone();
        server.headers.extend(headers);
        server
    }

    /// Reads something.
    pub(crate) async fn get<T: for<'a> Deserialize<'a>>(&self, path: &str) -> Result<T, Trouble> {
        let bytes = self.send(&Method::GET, path, None, "application/json").await?;
        serde_json::from_slice(&bytes)
            .map_err(|error| Trouble::NoAnswer(format!("its answer makes no sense: {error}")))
    }

    /// Sends a request until it is answered or not worth another try. Its body is JSON.
    pub(crate) async fn send(
        &self,
        method: &Method,
        path: &str,
        body: Option<&(dyn Display + Sync)>,
        kind: &str,
    ) -> Result<Vec<u8>, Trouble> {
        let (mut tries, mut waited) = (0, Duration::ZERO);
        loop {
            tries += 1;
            let (ended, trouble) =
                match tokio::time::timeout(ANSWER, self.once(method, path, body, kind)).await {
                    Ok(Ok((status, bytes, _))) if status.is_success() => return Ok(bytes),
                    Ok(Ok((code, bytes, after))) => {
                        let trouble = Trouble::Refused(code, bytes);
                        if code != StatusCode::TOO_MANY_REQUESTS && !code.is_server_error() {
                            return Err(trouble);
                        }
                        (Ended::Busy(after), trouble)
                    }
                    // A certificate does not become another one by being looked at again.
                    Ok(Err(trouble @ (Trouble::Untrusted(_) | Trouble::TooBig))) => return Err(trouble),
                    Ok(Err(trouble)) => (Ended::Busy(None), trouble),
                    Err(_) => {
                        let why = format!("{} says nothing within {} s", self.place, ANSWER.as_secs());
                        (Ended::Hung, Trouble::NoAnswer(why))
                    }
                };
            let Some(wait) = retry::wait(ended, tries, waited) else { return Err(trouble) };
            tokio::time::sleep(wait).await;
            waited += wait;
        }
    }

    async fn once(
        &self,
        method: &Method,
        path: &str,
        body: Option<&(dyn Display + Sync)>,
        kind: &str,
    ) -> Result<(StatusCode, Vec<u8>, Option<Duration>), Trouble> {
        let bytes = body.map(ToString::to_string).unwrap_or_default().into_bytes();
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(CONTENT_TYPE, kind)
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, concat!("rosterd/", env!("CARGO_PKG_VERSION")))
            .body(Body::from(bytes))
            .map_err(|error| Trouble::NoAnswer(error.to_string()))?;
        request.headers_mut().extend(self.headers.clone());
        let answer = self.client.send(request).await.map_err(|error| self.no_answer(&error))?;
        let (status, after) = (answer.status(), retry_after(&answer));
        let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
        let bytes = body.map_err(|error| match error.is::<LengthLimitError>() {
            true => Trouble::TooBig,
            false => self.no_answer(&*error),
        })?;
        Ok((status, bytes.to_bytes().to_vec(), after))
    }

    fn no_answer(&self, error: &(dyn std::error::Error + 'static)) -> Trouble {
        let why = || {
            let why = chain(error);
            // In which layer of the client it was is nobody's business.
            let why = ["ServiceError: ", "client error (Connect): "]
                .into_iter()
                .fold(why.as_str(), |why, layer| why.strip_prefix(layer).unwrap_or(why));
            // The client's word for its own deadline.
            if why.ends_with("deadline has elapsed") {
                return Trouble::NoAnswer(format!(
                    "{} says nothing within {} s",
                    self.place,
                    CONNECT.as_secs()
                ));
            }
            Trouble::NoAnswer(format!("{}: {why}", self.place))
        };
        Flaw::of(error).map_or_else(why, Trouble::Untrusted)
    }
}

fn retry_after(answer: &Response<Body>) -> Option<Duration> {
    let seconds = answer.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// A text as one part of a URL.
pub(crate) fn percent(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// An error with everything that led to it, each said once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let said = error.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        source = error.source();
    }
    text
}
