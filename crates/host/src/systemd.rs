//! The few calls of systemd's manager that units need, over the system bus. What they mean is told in
//! org.freedesktop.systemd1(5).

use std::collections::HashMap;
use std::time::Duration;

use roster::ledger::Reload;
use zbus::{Connection, Error, OwnedObjectPath, OwnedVariant};

/// A bus that does not answer must not hold a run for ever. A reload is the longest call: half a second with the units
/// of a hundred people.
const PATIENCE: Duration = Duration::from_secs(60);

const SERVICE: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const RUNNER: &str = "org.freedesktop.systemd1.Service";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// Why a call failed, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CallError {
    pub(crate) why: String,
    /// systemd does not know the unit, or has not loaded it: then there is nothing to stop or to reset.
    pub(crate) no_such_unit: bool,
}

impl From<Error> for CallError {
    fn from(error: Error) -> Self {
        match error {
            Error::MethodError(name, text, _) => CallError {
                no_such_unit: name.as_str().ends_with(".NoSuchUnit"),
                why: text.unwrap_or_else(|| name.to_string()),
            },
            other => CallError { why: other.to_string(), no_such_unit: false },
        }
    }
}

/// A row of `ListUnitsByNames`.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) load: String,
    pub(crate) active: String,
    pub(crate) sub: String,
    pub(crate) path: OwnedObjectPath,
    /// Whether something is still to be done about it.
    pub(crate) has_job: bool,
}

type RawRow = (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);

/// A connection to the manager.
#[derive(Debug)]
pub(crate) struct Systemd {
    bus: Connection,
}

impl Systemd {
    pub(crate) async fn connect() -> Result<Systemd, CallError> {
        let bus = within(Connection::system()).await?;
        Ok(Systemd { bus })
    }

    async fn call<B, R>(&self, path: &str, interface: &str, method: &str, body: &B) -> Result<R, CallError>
    where
        B: serde::Serialize + zbus::wire::DynamicType,
        R: serde::de::DeserializeOwned + zbus::wire::Type,
    {
        let reply = within(self.bus.call_method(Some(SERVICE), path, Some(interface), method, body)).await?;
        Ok(reply.body().deserialize_ignore_signature()?)
    }

    async fn manager<B, R>(&self, method: &str, body: &B) -> Result<R, CallError>
    where
        B: serde::Serialize + zbus::wire::DynamicType,
        R: serde::de::DeserializeOwned + zbus::wire::Type,
    {
        self.call(MANAGER_PATH, MANAGER, method, body).await
    }

    /// What the units do, in their order.
    pub(crate) async fn list(&self, names: &[&str]) -> Result<Vec<Row>, CallError> {
        let rows: Vec<RawRow> = self.manager("ListUnitsByNames", &(names,)).await?;
        if rows.len() != names.len() {
            let why = format!("asked for {} units, told of {}", names.len(), rows.len());
            return Err(CallError { why, no_such_unit: false });
        }
        let row =
            |raw: RawRow| Row { load: raw.2, active: raw.3, sub: raw.4, path: raw.6, has_job: raw.7 != 0 };
        Ok(rows.into_iter().map(row).collect())
    }

    /// `static`, `disabled`, …; of a template, what its file says.
    pub(crate) async fn file_state(&self, name: &str) -> Result<String, CallError> {
        self.manager("GetUnitFileState", &(name,)).await
    }

    /// Why a unit could not be loaded.
    pub(crate) async fn load_error(&self, unit: &Row) -> Result<String, CallError> {
        let (_, text): (String, String) = self.property(unit, UNIT, "LoadError").await?;
        Ok(text)
    }

    async fn property<T>(&self, unit: &Row, interface: &str, name: &str) -> Result<T, CallError>
    where
        T: TryFrom<OwnedVariant>,
        Error: From<T::Error>,
    {
        let value: OwnedVariant =
            self.call(unit.path.as_str(), PROPERTIES, "Get", &(interface, name)).await?;
        Ok(T::try_from(value).map_err(Error::from)?)
    }

    /// How often systemd has started a service again by itself since somebody started it.
    pub(crate) async fn restarts(&self, unit: &Row) -> Result<u32, CallError> {
        self.property(unit, RUNNER, "NRestarts").await
    }

    /// For how long a unit is active.
    pub(crate) async fn active_for(&self, unit: &Row) -> Result<Duration, CallError> {
        let since: u64 = self.property(unit, UNIT, "ActiveEnterTimestamp").await?;
        let since = std::time::UNIX_EPOCH + Duration::from_micros(since);
        Ok(since.elapsed().unwrap_or_default())
    }

    /// How a service is set up and how it ended.
    pub(crate) async fn service(&self, unit: &Row) -> Result<Ended, CallError> {
        let all: HashMap<String, OwnedVariant> =
            self.call(unit.path.as_str(), PROPERTIES, "GetAll", &(RUNNER,)).await?;
        let text =
            |key: &str| all.get(key).and_then(|value| <&str>::try_from(value).ok()).unwrap_or_default();
        let number = |key: &str| all.get(key).and_then(|value| i32::try_from(value).ok()).unwrap_or_default();
        let time = |key: &str| all.get(key).and_then(|value| u64::try_from(value).ok()).unwrap_or_default();
        Ok(Ended {
            kind: text("Type").to_owned(),
            result: text("Result").to_owned(),
            code: number("ExecMainCode"),
            status: number("ExecMainStatus"),
            has_run: time("ExecMainExitTimestamp") != 0,
        })
    }

    pub(crate) async fn enable(&self, names: &[&str]) -> Result<(), CallError> {
        self.manager::<_, (bool, Vec<(String, String, String)>)>("EnableUnitFiles", &(names, false, false))
            .await
            .map(drop)
    }

    pub(crate) async fn disable(&self, names: &[&str]) -> Result<(), CallError> {
        self.manager::<_, Vec<(String, String, String)>>("DisableUnitFiles", &(names, false)).await.map(drop)
    }

    pub(crate) async fn start(&self, name: &str) -> Result<(), CallError> {
        self.manager::<_, OwnedObjectPath>("StartUnit", &(name, "replace")).await.map(drop)
    }

    pub(crate) async fn stop(&self, name: &str) -> Result<(), CallError> {
        self.manager::<_, OwnedObjectPath>("StopUnit", &(name, "replace")).await.map(drop)
    }

    pub(crate) async fn reset_failed(&self, name: &str) -> Result<(), CallError> {
        self.manager("ResetFailedUnit", &(name,)).await
    }

    /// Ends the sessions of a uid, if logind runs and knows of any.
    pub(crate) async fn terminate_user(&self, uid: u32) -> Result<(), CallError> {
        let (path, interface) = ("/org/freedesktop/login1", "org.freedesktop.login1.Manager");
        let service = Some("org.freedesktop.login1");
        let terminate = async {
            match self.bus.call_method(service, path, Some(interface), "TerminateUser", &(uid,)).await {
                Err(Error::MethodError(name, ..))
                    if name.as_str().ends_with(".NoSuchUser")
                        || name.as_str().ends_with(".ServiceUnknown") =>
                {
                    Ok(())
                }
                other => other.map(drop),
            }
        };
        within(terminate).await
    }

    /// Reads all units and drop-ins again.
    pub(crate) async fn reload(&self, what: Reload) -> Result<(), CallError> {
        self.manager::<_, ()>("Reload", &()).await?;
        if what == Reload::Users {
            let of_users = (&["active"][..], &["user@*.service"][..]);
            let rows: Vec<RawRow> = self.manager("ListUnitsByPatterns", &of_users).await?;
            for row in rows {
                // SIGHUP is "reload" to a manager (systemd(1)); one that ended meanwhile needs none.
                let told: Result<(), CallError> = self.manager("KillUnit", &(row.0, "main", 1_i32)).await;
                told.or_else(|error| if error.no_such_unit { Ok(()) } else { Err(error) })?;
            }
        }
        Ok(())
    }
}

/// How a service is set up and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) kind: String,
    pub(crate) result: String,
    pub(crate) code: i32,
    pub(crate) status: i32,
    pub(crate) has_run: bool,
}

impl Ended {
    /// How it ended, in words that do not change from one time to the next.
    pub(crate) fn words(&self) -> String {
        let often = if self.result == "start-limit-hit" { ", too often in a short time" } else { "" };
        let how = match (self.result.as_str(), self.code, self.status) {
            ("timeout", ..) => "it did not start or stop in time".to_owned(),
            ("oom-kill", ..) => "the kernel ended it for want of memory".to_owned(),
            ("watchdog", ..) => "its watchdog was not fed".to_owned(),
            ("resources", ..) => "systemd could not set it up".to_owned(),
            // systemd.exec(5), "process exit codes"
            (_, 1, 200) => "its working folder cannot be entered".to_owned(),
            (_, 1, 203) => "its program cannot be executed".to_owned(),
            (_, 1, 217) => "its user does not exist".to_owned(),
            (_, 1, status) => format!("it ended with status {status}"),
            (_, 2 | 3, signal) => format!("it was ended by signal {signal}"),
            (result, ..) => format!("its result is `{result}`"),
        };
        how + often
    }
}

async fn within<T>(call: impl Future<Output = Result<T, Error>>) -> Result<T, CallError> {
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(result) => Ok(result?),
        Err(_) => {
            Err(CallError { why: format!("no answer for {} s", PATIENCE.as_secs()), no_such_unit: false })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_a_service_ended_is_told_in_words() {
        let words = |result: &str, code, status| {
            let kind = "simple".into();
            Ended { kind, result: result.into(), code, status, has_run: true }.words()
        };
        let all = [
            words("exit-code", 1, 1),
            words("exit-code", 1, 203),
            words("exit-code", 1, 200),
            words("exit-code", 1, 217),
            words("signal", 2, 11),
            words("start-limit-hit", 1, 3),
            words("timeout", 2, 15),
            words("oom-kill", 2, 9),
            words("protocol", 0, 0),
        ];
        assert_eq!(
            all,
            [
                "it ended with status 1",
                "its program cannot be executed",
                "its working folder cannot be entered",
                "its user does not exist",
                "it was ended by signal 11",
                "it ended with status 3, too often in a short time",
                "it did not start or stop in time",
                "the kernel ended it for want of memory",
                "its result is `protocol`",
            ]
        );
    }
}
