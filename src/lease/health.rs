//! How one finds out whether what listens behind a port works.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{Excerpt, PortName};

/// The most that a path may have, in bytes.
const LONGEST_PATH: usize = 255;

/// A check of one TCP port, as it is written: `tcp`, `http:/healthz`,
/// `web=http:/healthz`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HealthCheck {
    /// The name of the port; none: the first TCP port.
    pub port: Option<PortName>,
    /// What is done with it.
    pub probe: Probe,
}

/// What is done with a port to find out whether it works.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Probe {
    /// A connection is made.
    Tcp,
    /// This path, with a query if it has one, is asked for. Statuses from 200 to 399
    /// are good, as with the probes of Kubernetes.
    Http(String),
}

/// A check that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is no health check: {ALLOWED}")]
pub struct ParseHealthCheckError(Excerpt);

impl HealthCheck {
    /// What may be written, for messages.
    pub const ALLOWED: &'static str = ALLOWED;

    /// Reads a check, or `none`.
    pub fn parse(text: &str) -> Result<Option<Self>, ParseHealthCheckError> {
        if text == "none" { Ok(None) } else { text.parse().map(Some) }
    }
}

const ALLOWED: &str = "\"none\", \"tcp\" and \"http:/PATH\" are allowed, the latter two also \
    with the name of a TCP port: \"web=http:/healthz\"";

impl FromStr for HealthCheck {
    type Err = ParseHealthCheckError;

    fn from_str(text: &str) -> Result<Self, ParseHealthCheckError> {
        let wrong = || ParseHealthCheckError(Excerpt::quoted(text));
        let (port, probe) = match text.split_once('=') {
            // What is behind the first slash belongs to the path.
            Some((name, probe)) if !name.contains('/') => {
                (Some(name.parse().map_err(|_| wrong())?), probe)
            }
            _ => (None, text),
        };
        let probe = match probe.strip_prefix("http:") {
            Some(path) if is_path(path) => Probe::Http(path.to_owned()),
            None if probe == "tcp" => Probe::Tcp,
            _ => return Err(wrong()),
        };
        Ok(Self { port, probe })
    }
}

/// An absolute path with or without a query (RFC 3986, section 3).
fn is_path(text: &str) -> bool {
    let is_allowed =
        |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@%/?".contains(&byte);
    text.starts_with('/') && text.len() <= LONGEST_PATH && text.bytes().all(is_allowed)
}

impl TryFrom<String> for HealthCheck {
    type Error = ParseHealthCheckError;

    fn try_from(text: String) -> Result<Self, ParseHealthCheckError> {
        text.parse()
    }
}

impl From<HealthCheck> for String {
    fn from(check: HealthCheck) -> Self {
        check.to_string()
    }
}

impl fmt::Display for HealthCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(port) = &self.port {
            write!(f, "{port}=")?;
        }
        match &self.probe {
            Probe::Tcp => f.write_str("tcp"),
            Probe::Http(path) => write!(f, "http:{path}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_read_as_they_are_written() {
        let longest = format!("http:/{}", "a".repeat(LONGEST_PATH - 1));
        for text in ["tcp", "web=tcp", "http:/", "http:/a?b=c&d=%20", "w-1=http:/x=y", &longest] {
            let check: HealthCheck = text.parse().unwrap();
            assert_eq!(check.to_string(), text);
        }
        let check: HealthCheck = "http:/x=tcp".parse().unwrap();
        assert_eq!(check.probe, Probe::Http("/x=tcp".to_owned()));
        assert_eq!(HealthCheck::parse("none"), Ok(None));
    }

    #[test]
    fn anything_else_is_refused() {
        let long = format!("http:/{}", "a".repeat(LONGEST_PATH));
        for text in [
            "",
            "TCP",
            " tcp",
            "udp",
            "http",
            "http:",
            "http:x",
            "https:/x",
            "http:/a b",
            "=tcp",
            "Web=tcp",
            "web=",
            "web=none",
            "http:/a\r\nX: y",
            "http:/<b>",
            "http:/ä",
            "a=b=tcp",
            &long,
        ] {
            let error = HealthCheck::parse(text).unwrap_err().to_string();
            assert!(error.contains(" is no health check: \"none\", \"tcp\" and"), "{error}");
        }
    }
}
