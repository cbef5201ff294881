//! `nft`, found and run.
//!
//! The crate's own runner does not tell what nft printed, so it is run here:
//! JSON to its stdin, what it printed back in the error.

use std::{
    ffi::OsStr,
    io::{self, Write},
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use nftables::schema::Nftables;
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{Access, Timespec, access},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

/// Where nft is when `PATH` does not lead to it: a runtime may start plugins
/// without one, or without the directories for root.
const USUAL_DIRECTORIES: [&str; 3] = ["/usr/sbin", "/sbin", "/usr/local/sbin"];
/// Its name.
pub(super) const NFT: &str = "nft";

/// A program, by the absolute directories of `path` (a `PATH`) and the usual ones.
pub(super) fn find(name: &str, path: Option<&OsStr>) -> Option<PathBuf> {
    let given = path.map(std::env::split_paths).into_iter().flatten();
    given
        .chain(USUAL_DIRECTORIES.map(PathBuf::from))
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(name))
        .find(|file| file.is_file() && access(file, Access::EXEC_OK).is_ok())
}

/// How long nft may take; 20,000 elements take it about a second. One that hangs
/// would keep the node's lock, of which it has a copy, for ever; one that outlives
/// a plugin that was killed meanwhile still does.
const DEADLINE: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };

/// Runs a transaction, or only checks whether the kernel would take it.
pub(super) fn run(program: &Path, transaction: &Nftables<'_>, check: bool) -> io::Result<Output> {
    let json = serde_json::to_vec(transaction).expect("nftables objects are JSON");
    let mut command = Command::new(program);
    if check {
        command.arg("--check");
    }
    let mut child = command
        .args(["--json", "--file", "-"])
        .env_clear()
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let stdin = child.stdin.take();
    let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
    std::thread::scope(|scope| {
        scope.spawn(|| kill_at_deadline(&pidfd));
        // Written beside the reading, or both sides might wait for each other. An
        // nft that does not read to the end says why by its exit status.
        scope.spawn(move || stdin.map(|mut pipe| pipe.write_all(&json)));
        child.wait_with_output()
    })
}

/// The version that it says it has: `nftables v1.0.6 (Lester Gooch #5)`.
pub(super) fn version(program: &Path) -> io::Result<Option<[u32; 3]>> {
    let output = Command::new(program).arg("--version").env_clear().output()?;
    Ok(read_version(&String::from_utf8_lossy(&output.stdout)))
}

fn read_version(text: &str) -> Option<[u32; 3]> {
    let text = text.split(' ').find_map(|word| word.strip_prefix('v'))?;
    let mut numbers = text.split('.').map(|number| number.trim().parse().ok());
    Some([numbers.next()??, numbers.next().flatten()?, numbers.next().flatten().unwrap_or(0)])
}

/// Returns when the process has ended, and sees to it that it does.
fn kill_at_deadline(process: &impl AsFd) {
    let mut ended = [PollFd::new(process, PollFlags::IN)];
    let ready = loop {
        match poll(&mut ended, Some(&DEADLINE)) {
            Err(Errno::INTR) => {}
            result => break result,
        }
    };
    if ready != Ok(1) {
        log::error!("nft has not ended within {} s and is killed", DEADLINE.tv_sec);
        _ = pidfd_send_signal(process, Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        for (text, version) in [
            ("nftables v1.0.6 (Lester Gooch #5)\n", Some([1, 0, 6])),
            ("nftables v1.1\n", Some([1, 1, 0])),
            ("nftables v1\n", None),
            ("", None),
        ] {
            assert_eq!(read_version(text), version, "{text}");
        }
    }
}
