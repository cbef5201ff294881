//! Unix sockets that anybody of the host may connect to, and who does: what the
//! kernel says (`SO_PEERCRED`), whatever a request says.
//!
//! Limits: users are known by the names in `/etc/passwd`; those of other sources are
//! named by their number.

use std::{
    fs::{self, Permissions},
    io::{self, ErrorKind},
    os::{
        fd::AsFd,
        unix::{
            fs::{FileTypeExt, PermissionsExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::Path,
};

use anyhow::{Context, bail};
use rustix::net::sockopt::socket_peercred;

/// Listens on a socket of this name, in place of one that a killed process has left.
pub fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    remove_leftover(path)?;
    let name = path.display();
    let listener = UnixListener::bind(path).with_context(|| format!("cannot listen on {name}"))?;
    let open = fs::set_permissions(path, Permissions::from_mode(0o666));
    open.with_context(|| format!("cannot open {name} to all"))?;
    Ok(listener)
}

/// A socket that nobody listens on is one that a killed agent has left.
fn remove_leftover(path: &Path) -> anyhow::Result<()> {
    let is_socket = |about: &fs::Metadata| about.file_type().is_socket();
    if !fs::symlink_metadata(path).is_ok_and(|about| is_socket(&about)) {
        return Ok(());
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            fs::remove_file(path).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => bail!("another process listens on {}", path.display()),
    }
}

/// Who connected the socket.
pub fn user_of(socket: &impl AsFd) -> io::Result<u32> {
    Ok(socket_peercred(socket)?.uid.as_raw())
}

/// The name of a user.
pub fn name_of(uid: u32) -> Option<String> {
    find(|_, number| number == uid).map(|(name, _)| name)
}

/// The number of a user.
pub fn uid_of(name: &str) -> Option<u32> {
    find(|other, _| other == name).map(|(_, number)| number)
}

fn find(is_meant: impl Fn(&str, u32) -> bool) -> Option<(String, u32)> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?, fields.nth(1)?.parse().ok()?);
        is_meant(name, number).then(|| (name.to_owned(), number))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_users_are_those_of_the_host() {
        assert_eq!(name_of(0).as_deref(), Some("root"));
        assert_eq!(name_of(u32::MAX - 1), None);
        assert_eq!((uid_of("root"), uid_of("0")), (Some(0), None));
    }
}
