//! What a command could not do: what happened, to whom, why, and what to do next.

use std::error::Error;
use std::fmt;
use std::io;

/// What kind of failure it is. It sets the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Something is wrong with what was given or asked for.
    Failed,
    /// Somebody asks for a person whom they may not ask about.
    Refused,
    /// The time given to `wait` ran out.
    TimedOut,
    /// Somebody pressed Ctrl-C.
    Interrupted,
    /// Whoever read our output is gone. Nothing is said about it.
    BrokenPipe,
}

/// A failure that ends the command.
#[derive(Debug)]
pub(crate) struct CommandError {
    kind: Kind,
    what: String,
    source: Option<Box<dyn Error + Send + Sync>>,
    hints: Vec<String>,
}

/// The result of a command's parts.
pub(crate) type Result<T> = std::result::Result<T, CommandError>;

impl CommandError {
    /// A failure in one sentence without full stop.
    pub(crate) fn new(what: impl Into<String>) -> Self {
        CommandError { kind: Kind::Failed, what: what.into(), source: None, hints: Vec::new() }
    }

    pub(crate) fn refused(what: impl Into<String>) -> Self {
        CommandError { kind: Kind::Refused, ..CommandError::new(what) }
    }

    pub(crate) fn timed_out(what: impl Into<String>) -> Self {
        CommandError { kind: Kind::TimedOut, ..CommandError::new(what) }
    }

    pub(crate) fn interrupted(what: impl Into<String>) -> Self {
        CommandError { kind: Kind::Interrupted, ..CommandError::new(what) }
    }

    /// Adds why.
    pub(crate) fn because(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Adds what to do next.
    pub(crate) fn next(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// The exit code. Those of an interrupt and a broken pipe are what a shell makes of SIGINT and SIGPIPE.
    pub(crate) fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::Failed => 1,
            Kind::Refused => 2,
            Kind::TimedOut => 5,
            Kind::Interrupted => 130,
            Kind::BrokenPipe => 141,
        }
    }

    /// Whether there is anybody to tell.
    pub(crate) fn is_quiet(&self) -> bool {
        self.kind == Kind::BrokenPipe
    }
}

/// Writing our own output failed.
impl From<io::Error> for CommandError {
    fn from(error: io::Error) -> Self {
        let kind = if error.kind() == io::ErrorKind::BrokenPipe { Kind::BrokenPipe } else { Kind::Failed };
        CommandError { kind, ..CommandError::new("cannot write the output").because(error) }
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.what)?;
        let mut cause = self.source.as_deref().map(|source| source as &dyn Error);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        for hint in &self.hints {
            write!(f, "\n  next: {hint}")?;
        }
        Ok(())
    }
}

impl Error for CommandError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_why_and_what_next() {
        let error = CommandError::new("cannot read roster.yaml")
            .because(io::Error::from(io::ErrorKind::PermissionDenied))
            .next("run it as root");
        insta::assert_snapshot!(error, @r"
        cannot read roster.yaml: permission denied
          next: run it as root
        ");
        assert_eq!(error.exit_code(), 1);
    }

    #[test]
    fn a_broken_pipe_is_quiet() {
        let error = CommandError::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(error.is_quiet());
        assert_eq!(error.exit_code(), 141);
    }
}
