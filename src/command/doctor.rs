//! What the operator's `doctor` does: looks at everything that portclaim needs of a
//! node, and says what to do about it. Reads only, and takes no lock.

mod kernel;
mod network;
mod store;

use std::{io, path::PathBuf};

use super::{Error, operate::Operator};
use crate::cni::Conflist;

/// How it is with one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// As it should be.
    Ok,
    /// Something may not work as expected.
    Warn,
    /// Something does not work.
    Fail,
    /// It could not be looked at.
    Skip,
}

impl State {
    /// In four letters at most.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
            Self::Skip => "skip",
        }
    }
}

/// What was found about one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnosis {
    /// What was looked at, in one word.
    pub check: &'static str,
    /// How it is.
    pub state: State,
    /// One fact with its values.
    pub text: String,
    /// What to do; none where nothing has to be done.
    pub advice: Option<String>,
}

/// A file in the directory of conflists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConflistFile {
    /// The file.
    pub path: PathBuf,
    /// What is in it; none where that is no JSON object.
    pub content: Option<Conflist>,
}

/// What was found so far.
#[derive(Default)]
struct Diagnoses(Vec<Diagnosis>);

impl Diagnoses {
    fn ok(&mut self, check: &'static str, text: impl Into<String>) {
        self.0.push(Diagnosis { check, state: State::Ok, text: text.into(), advice: None });
    }

    fn warn(&mut self, check: &'static str, text: impl Into<String>, advice: impl Into<String>) {
        let advice = Some(advice.into());
        self.0.push(Diagnosis { check, state: State::Warn, text: text.into(), advice });
    }

    fn fail(&mut self, check: &'static str, text: impl Into<String>, advice: impl Into<String>) {
        let advice = Some(advice.into());
        self.0.push(Diagnosis { check, state: State::Fail, text: text.into(), advice });
    }

    /// What was read, or a line on why it could not be.
    fn read<T>(&mut self, check: &'static str, read: Result<T, impl Into<Error>>) -> Option<T> {
        let error = match read {
            Ok(read) => return Some(read),
            Err(error) => error.into(),
        };
        let text = error.with_causes();
        if is_forbidden(&error) {
            let advice = Some("run doctor as root".to_owned());
            self.0.push(Diagnosis { check, state: State::Skip, text, advice });
        } else {
            self.fail(check, text, error.advice());
        }
        None
    }
}

fn is_forbidden(error: &Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<io::Error>();
        if io.is_some_and(|io| io.kind() == io::ErrorKind::PermissionDenied) {
            return true;
        }
        cause = error.source();
    }
    false
}

impl Operator<'_> {
    /// Looks at the node, and at its conflists.
    pub fn diagnose(&mut self, conflists: &[ConflistFile]) -> Vec<Diagnosis> {
        let mut found = Diagnoses::default();
        network::look_at_conflists(&mut found, conflists);
        self.look_at_nftables(&mut found);
        self.look_at_lock(&mut found);
        self.look_at_store(&mut found);
        self.look_at_directories(&mut found);
        self.look_at_clock(&mut found);
        kernel::look_at_settings(&mut found, conflists);
        self.look_at_pools(&mut found);
        self.look_at_others(&mut found, conflists);
        found.0
    }
}
