//! A login is closed at a cut and opened again at a return: the password and the date of expiry in `shadow`.

use roster::observed::LoginState;

use super::{Database, collision};
use crate::failure::Failure;

impl Database {
    /// Locks a password as `usermod --lock` does, and lets the account expire.
    pub(crate) fn lock_login(&mut self, user: &str, before: LoginState) -> Result<(), Failure> {
        self.change_login(user, |password, expires| {
            if !before.locked && !password.starts_with(b"!") {
                password.insert(0, b'!');
            }
            *expires = LoginState::CUT.expires.map_or_else(Vec::new, |day| day.to_string().into_bytes());
        })
    }

    /// Takes back what [`Database::lock_login`] did. What somebody has changed since stays as they made it.
    pub(crate) fn restore_login(&mut self, user: &str, before: LoginState) -> Result<(), Failure> {
        self.change_login(user, |password, expires| {
            if !before.locked && password.starts_with(b"!") {
                password.remove(0);
            }
            let cut = LoginState::CUT.expires.map(|day| day.to_string().into_bytes());
            if Some(&*expires) == cut.as_ref() {
                *expires = before.expires.map_or_else(Vec::new, |day| day.to_string().into_bytes());
            }
        })
    }

    /// Changes the second and the eighth field of a line of `shadow`.
    fn change_login(
        &mut self,
        user: &str,
        change: impl FnOnce(&mut Vec<u8>, &mut Vec<u8>),
    ) -> Result<(), Failure> {
        if self.passwd.line(user).is_none() {
            return Err(collision(format!("there is no account {user} any more")));
        }
        let malformed = || {
            let why = format!("/etc/shadow has no whole line of {user}");
            Failure::new(why, "`pwck` and `pwconv` mend it; the next run tries again")
        };
        let line = self.shadow.line(user).ok_or_else(malformed)?;
        let mut fields: Vec<Vec<u8>> = line.split(|byte| *byte == b':').map(<[u8]>::to_vec).collect();
        let [_, password, _, _, _, _, _, expires, _] = fields.as_mut_slice() else { return Err(malformed()) };
        change(password, expires);
        self.shadow.set_bytes(user, fields.join(&b':'));
        Ok(())
    }
}
