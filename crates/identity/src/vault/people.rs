//! The list of people, and the secret that it is in. What others keep there is written back to the letter.

use std::collections::BTreeMap;
use std::time::Duration;

use http::StatusCode;
use roster::vault::{KvField, published};
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value, json};

use super::{Found, Vault, told};
use crate::http::{Trouble, percent};
use crate::protocol::Failure;
use crate::retry::{self, Ended};

/// How often a list that others write too is read and written.
const PUBLISHES: u32 = 5;

impl Vault {
    pub(super) async fn list_of_people(&self, place: &KvField) -> Found<Option<String>> {
        let Some(secret) = self.secret(place).await? else { return Ok(None) };
        secret.text(place).map_err(Trouble::NoAnswer)
    }

    /// A secret with its version; nothing when there never was one.
    async fn secret(&self, place: &KvField) -> Found<Option<Secret>> {
        match self.read::<Fields>(&kv(place)).await {
            Ok(said) => Secret::read(&said).map(Some).ok_or_else(|| {
                Trouble::NoAnswer(format!(
                    "{}/{} is not in an engine of KV version 2",
                    place.mount, place.path
                ))
            }),
            Err(Trouble::Refused(StatusCode::NOT_FOUND, said)) => {
                // One that was deleted has an answer that says so; who deleted it wanted something else than we do.
                let said: Value = serde_json::from_slice(&said).unwrap_or_default();
                match said.pointer("/data/metadata/version") {
                    None => Ok(None),
                    Some(_) => Err(Trouble::NoAnswer(format!(
                        "the newest version of {}/{} is deleted",
                        place.mount, place.path
                    ))),
                }
            }
            Err(trouble) => Err(trouble),
        }
    }

    /// Reads the list, puts our people in, and writes it only if nobody else has meanwhile: then it begins anew.
    pub(super) async fn publish(&self, place: &KvField, entries: &Map<String, Value>) -> Result<(), Failure> {
        let mut tries = 0;
        loop {
            tries += 1;
            let secret = match self.secret(place).await {
                Ok(secret) => secret.unwrap_or_default(),
                Err(trouble) => return Err(told(trouble, "read the list of people")),
            };
            let refused = |why: String| Failure::new(why, "mend it by hand");
            let before = secret.text(place).map_err(refused)?;
            let after = published(before.as_deref(), entries).map_err(|error| refused(error.to_string()))?;
            let Some(after) = after else { return Ok(()) };
            let body = secret.with(&place.field, &after).map_err(|error| refused(error.to_string()))?;
            match self.write(&kv(place), &body).await {
                Ok(_) => return Ok(()),
                Err(Trouble::Refused(StatusCode::BAD_REQUEST, said)) if is_stale(&said) => {
                    let rest = (tries < PUBLISHES)
                        .then(|| retry::wait(Ended::Busy(None), 1, Duration::ZERO))
                        .flatten();
                    let Some(rest) = rest else {
                        return Err(Failure::new(
                            "others write to it all the time",
                            "tried again by itself; look who does",
                        ));
                    };
                    tokio::time::sleep(rest).await;
                }
                Err(trouble) => return Err(told(trouble, "write the list of people")),
            }
        }
    }
}

/// The fields of a secret, each as its text: those of others are written back to the letter.
type Fields = BTreeMap<String, Box<RawValue>>;

/// A secret with its version; 0 where there never was one.
#[derive(Default)]
struct Secret {
    fields: Fields,
    version: u64,
}

impl Secret {
    /// What is not understood is told of in nobody's words: it may be somebody's secret.
    fn read(said: &Fields) -> Option<Secret> {
        let metadata: Value = serde_json::from_str(said.get("metadata")?.get()).ok()?;
        let fields = serde_json::from_str(said.get("data")?.get()).ok()?;
        Some(Secret { fields, version: metadata.get("version")?.as_u64()? })
    }

    /// The text in a field.
    fn text(&self, place: &KvField) -> Result<Option<String>, String> {
        let Some(found) = self.fields.get(&place.field) else { return Ok(None) };
        serde_json::from_str(found.get()).map(Some).map_err(|_| format!("{place} is no text"))
    }

    /// What is sent to write it with another text in a field, unless it has been written meanwhile.
    fn with(mut self, field: &str, text: &str) -> serde_json::Result<Box<RawValue>> {
        self.fields.insert(field.to_owned(), to_raw_value(text)?);
        #[derive(serde::Serialize)]
        struct Body {
            options: Value,
            data: Fields,
        }
        to_raw_value(&Body { options: json!({"cas": self.version}), data: self.fields })
    }
}

fn kv(place: &KvField) -> String {
    let path: Vec<String> = place.path.split('/').map(percent).collect();
    format!("{}/data/{}", place.mount, path.join("/"))
}

/// Whether a write was refused because there is a newer version.
fn is_stale(said: &[u8]) -> bool {
    String::from_utf8_lossy(said).contains("check-and-set")
}
