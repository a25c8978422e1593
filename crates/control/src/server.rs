//! The answering side of one connection: calls of a bounded size come in, replies of any size go out. Knows Varlink's
//! frames and nothing of what is asked.
//!
//! zlink serves well what is small. It builds a reply in a buffer that grows by 256 bytes and begins anew each time,
//! so that one of some megabytes (a run of thousands of steps) stops the thread for minutes; and it takes a call of
//! up to 100 MB from anybody. The asking side, which is nobody's danger, is zlink's.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use zlink::connection::socket::{FetchPeerCredentials, UnixSocket};

use crate::ControlError;

/// The interface, as `GetInterfaceDescription` tells it.
pub const DESCRIPTION: &str = include_str!("io.rosterd.Control.varlink");

/// What every service answers, likewise.
pub const SERVICE_DESCRIPTION: &str = include_str!("org.varlink.service.varlink");

/// A call names a person, a run, or those whose cut is confirmed.
const LONGEST_CALL: u64 = 256 * 1024;

/// Root may send a draft of the roster: one of the largest, each byte of it escaped.
const LONGEST_OF_ROOT: u64 = 16 << 20;

/// A client that does not read what it asked for is given up after this.
const SEND: Duration = Duration::from_secs(60);

/// How often a client that will ask no more is looked at while it waits for its answer.
const HALF_CLOSED: Duration = Duration::from_millis(500);

/// Who is at the other end, as the kernel says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// User id.
    pub uid: u32,
    /// All groups, the primary one first.
    pub gids: Vec<u32>,
}

/// One call.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Call {
    /// Interface and method: `io.rosterd.Control.Status`.
    pub method: String,
    #[serde(default)]
    parameters: Option<Map<String, Value>>,
    /// Whether more than one reply is welcome.
    #[serde(default)]
    pub more: bool,
    #[serde(default)]
    oneway: bool,
}

/// A refusal by the protocol itself, not by what was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallError {
    /// The interface or its method is not ours.
    MethodNotFound(String),
    /// There is no such interface.
    InterfaceNotFound(String),
    /// A parameter is missing, of another type or unknown.
    InvalidParameter(String),
    /// What the interface itself refuses.
    Refused(ControlError),
}

impl From<ControlError> for CallError {
    fn from(error: ControlError) -> Self {
        CallError::Refused(error)
    }
}

impl CallError {
    fn reply(&self) -> Value {
        let protocol = |error: &str, key: &str, value: &str| json!({ "error": format!("org.varlink.service.{error}"), "parameters": { key: value } });
        match self {
            CallError::MethodNotFound(name) => protocol("MethodNotFound", "method", name),
            CallError::InterfaceNotFound(name) => protocol("InterfaceNotFound", "interface", name),
            CallError::InvalidParameter(name) => protocol("InvalidParameter", "parameter", name),
            // Our own errors have nothing that JSON cannot say.
            CallError::Refused(error) => serde_json::to_value(error).unwrap_or_default(),
        }
    }
}

impl Call {
    /// The parameters as `T`.
    pub fn parameters<T: DeserializeOwned>(&self) -> Result<T, CallError> {
        serde_json::from_value(Value::Object(self.parameters.clone().unwrap_or_default()))
            .map_err(|error| CallError::InvalidParameter(error.to_string()))
    }
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    peer: Peer,
    calls: BufReader<OwnedReadHalf>,
    replies: OwnedWriteHalf,
}

/// A socket whose peer zlink can ask the kernel for.
struct Socket<'a>(&'a UnixStream);

impl AsFd for Socket<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl UnixSocket for Socket<'_> {}

impl Connection {
    /// Takes over an accepted connection.
    pub async fn new(stream: UnixStream) -> io::Result<Self> {
        let known = Socket(&stream).fetch_peer_credentials().await?;
        let others = known.unix_supplementary_group_ids().iter().map(|gid| gid.as_raw());
        let gids = std::iter::once(known.unix_primary_group_id().as_raw()).chain(others).collect();
        let peer = Peer { uid: known.unix_user_id().as_raw(), gids };
        let (calls, replies) = stream.into_split();
        Ok(Connection { peer, calls: BufReader::new(calls), replies })
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// The next call; nothing when the client has hung up.
    pub async fn call(&mut self) -> io::Result<Option<Call>> {
        let mut text = Vec::new();
        let longest = if self.peer.uid == 0 { LONGEST_OF_ROOT } else { LONGEST_CALL };
        (&mut self.calls).take(longest).read_until(0, &mut text).await?;
        match text.pop() {
            None => Ok(None),
            Some(0) => serde_json::from_slice(&text).map(Some).map_err(io::Error::from),
            Some(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "a call was cut off or is too long")),
        }
    }

    /// Returns when the client has hung up. Cancel-safe; a call that comes meanwhile is kept.
    pub async fn hung_up(&mut self) {
        match self.calls.fill_buf().await {
            // It has no more to ask and may still read, as `socat` does at the end of its input. Only a write tells: of
            // nothing, which fails once the other end is closed.
            Ok([]) => {
                while !matches!(self.replies.try_write(&[]), Err(error) if error.kind() != io::ErrorKind::WouldBlock)
                {
                    tokio::time::sleep(HALF_CLOSED).await;
                }
            }
            Err(_) => {}
            // A client that has sent its next call already is not listened to until it has its answer.
            Ok(_) => std::future::pending().await,
        }
    }

    /// Answers `call`. With `continues`, more answers follow.
    pub async fn reply(
        &mut self,
        call: &Call,
        parameters: Option<impl Serialize>,
        continues: bool,
    ) -> io::Result<()> {
        #[derive(Serialize)]
        struct Reply<T> {
            // Left out where there are none: zlink's client takes an empty object for something it does not know.
            #[serde(skip_serializing_if = "Option::is_none")]
            parameters: Option<T>,
            #[serde(skip_serializing_if = "std::ops::Not::not")]
            continues: bool,
        }
        self.send(call, Reply { parameters, continues }).await
    }

    /// Refuses `call`.
    pub async fn refuse(&mut self, call: &Call, error: &CallError) -> io::Result<()> {
        self.send(call, error.reply()).await
    }

    async fn send(&mut self, call: &Call, reply: impl Serialize) -> io::Result<()> {
        if call.oneway {
            return Ok(());
        }
        let mut text = serde_json::to_vec(&reply)?;
        // A reply may be megabytes: not held twice while the client takes its time.
        drop(reply);
        text.push(0);
        tokio::time::timeout(SEND, self.replies.write_all(&text)).await?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn pair() -> (UnixStream, Connection) {
        let (client, server) = UnixStream::pair().unwrap();
        (client, Connection::new(server).await.unwrap())
    }

    /// The description is Varlink, and names what zlink's client, derived from the types, may get as an error.
    #[test]
    fn the_description_parses_and_names_every_error() {
        let interface = zlink::idl::Interface::try_from(DESCRIPTION).unwrap();
        assert_eq!(interface.name().to_string(), crate::INTERFACE);
        let mut told: Vec<_> = interface.errors().map(|error| error.name().to_string()).collect();
        told.sort_unstable();
        let text = String::new;
        let all = [
            ControlError::PermissionDenied { needs: text() },
            ControlError::NothingHeld,
            ControlError::HeldDiffers,
            ControlError::NoSuchRun { id: text() },
            ControlError::NoSuchUser { user: text() },
            ControlError::TimedOut,
            ControlError::Stopping,
            ControlError::Failed { what: text() },
        ];
        let mut ours: Vec<_> = all
            .into_iter()
            .map(|error| {
                let reply = CallError::from(error).reply();
                let name = reply["error"].as_str().unwrap().strip_prefix("io.rosterd.Control.").unwrap();
                name.to_owned()
            })
            .collect();
        ours.sort_unstable();
        assert_eq!(told, ours);
        zlink::idl::Interface::try_from(SERVICE_DESCRIPTION).unwrap();
    }

    #[tokio::test]
    async fn calls_come_one_by_one_and_a_long_one_is_refused() {
        let (mut client, mut server) = pair().await;
        assert_eq!(server.peer().uid, nix_uid());
        let two = b"{\"method\":\"a.b.C\",\"parameters\":{\"user\":\"ann\"}}\0{\"method\":\"a.b.D\",\"more\":true}\0";
        client.write_all(two).await.unwrap();
        let call = server.call().await.unwrap().unwrap();
        assert_eq!((call.method.as_str(), call.more), ("a.b.C", false));
        assert!(call.parameters::<Map<String, Value>>().unwrap().contains_key("user"));
        assert!(server.call().await.unwrap().unwrap().more);
        let flood = tokio::spawn(async move {
            // Ends with an error when the other end is closed.
            while client.write_all(&[b' '; 4096]).await.is_ok() {}
        });
        assert_eq!(server.call().await.unwrap_err().kind(), io::ErrorKind::InvalidData);
        drop(server);
        flood.await.unwrap();
    }

    #[tokio::test]
    async fn one_that_hangs_up_in_the_middle_of_a_call_is_noticed() {
        let (mut client, mut server) = pair().await;
        client.write_all(b"{\"method\":").await.unwrap();
        drop(client);
        assert!(server.call().await.is_err());
        let (client, mut server) = pair().await;
        drop(client);
        server.hung_up().await;
        assert!(server.call().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn one_that_asks_no_more_and_still_reads_has_not_hung_up() {
        let (mut client, mut server) = pair().await;
        client.shutdown().await.unwrap();
        let waited = tokio::time::timeout(HALF_CLOSED * 3, server.hung_up()).await;
        assert!(waited.is_err(), "taken for one that has hung up");
        drop(client);
        server.hung_up().await;
    }

    /// Five megabytes took zlink's server minutes; here they are written once.
    #[tokio::test]
    async fn a_reply_of_megabytes_arrives_whole() {
        let (mut client, mut server) = pair().await;
        let long = "x".repeat(5 << 20);
        let sent = json!({ "run": long });
        let call = Call { method: "a.b.C".into(), parameters: None, more: false, oneway: false };
        let mut got = Vec::new();
        let (written, read) = tokio::join!(
            async {
                let written = server.reply(&call, Some(&sent), false).await;
                drop(server);
                written
            },
            client.read_to_end(&mut got)
        );
        written.unwrap();
        read.unwrap();
        assert_eq!(got.pop(), Some(0));
        assert_eq!(serde_json::from_slice::<Value>(&got).unwrap(), json!({ "parameters": { "run": long } }));
    }

    /// The two ends are of different make: what zlink's client asks is understood, and it understands each kind of answer.
    #[tokio::test]
    async fn the_client_understands_replies_with_and_without_parameters_and_refusals() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let server = async {
            let mut server = Connection::new(listener.accept().await.unwrap().0).await.unwrap();
            let call = server.call().await.unwrap().unwrap();
            assert_eq!(call.method, "io.rosterd.Control.Confirm");
            server.reply(&call, None::<Value>, false).await.unwrap();
            let call = server.call().await.unwrap().unwrap();
            server.refuse(&call, &ControlError::NothingHeld.into()).await.unwrap();
            let call = server.call().await.unwrap().unwrap();
            assert_eq!(call.method, "io.rosterd.Control.History");
            server.reply(&call, Some(&json!({ "runs": [] })), false).await.unwrap();
        };
        let client = async {
            let mut client = crate::Client::connect(&path).await.unwrap();
            client.confirm(&[]).await.unwrap();
            let refused = client.confirm(&[]).await;
            assert!(
                matches!(refused, Err(crate::ClientError::Refused(ControlError::NothingHeld))),
                "{refused:?}"
            );
            assert!(client.history(1).await.unwrap().is_empty());
        };
        tokio::join!(server, client);
    }

    fn nix_uid() -> u32 {
        use std::os::unix::fs::MetadataExt;
        std::fs::metadata("/proc/self").unwrap().uid()
    }
}
