//! Another CNI plugin of the node, run in the place of this one.

use std::{
    env::split_paths,
    io::{self, Write},
    path::Path,
    process::{Command, Stdio},
};

use super::HostError;

/// Runs a plugin of `directories` (a `CNI_PATH`) with the environment of this process,
/// and `config` on its stdin. False where there is no such plugin.
pub fn delegate(kind: &str, directories: &str, config: &[u8]) -> Result<bool, HostError> {
    let mut files = split_paths(directories).map(|directory| directory.join(kind));
    let Some(path) = files.find(|file| file.is_absolute() && file.is_file()) else {
        return Ok(false);
    };
    run(&path, config).map_err(|source| HostError::Plugin { path, source })?;
    Ok(true)
}

fn run(plugin: &Path, config: &[u8]) -> io::Result<()> {
    let mut child = Command::new(plugin)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()?;
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    // One that has seen enough of it says why on stdout. Its reply is small, so that
    // neither waits for the other.
    _ = stdin.write_all(config);
    drop(stdin);
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    let reply = String::from_utf8_lossy(&output.stdout);
    Err(io::Error::other(format!("{}: {}", output.status, reply.trim())))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn plugin(text: &str) -> (tempfile::TempDir, String) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("other");
        // By a process of its own: a child of another test that still has the file open
        // for writing would keep it from being executed.
        let written = Command::new("sh")
            .args(["-c", "printf '#!/bin/sh\\n%s\\n' \"$2\" >\"$1\"; chmod +x \"$1\"", "sh"])
            .args([file.as_os_str(), text.as_ref()])
            .status();
        assert!(written.unwrap().success());
        let path = format!("relative:/nowhere:{}", folder.path().display());
        (folder, path)
    }

    #[test]
    fn what_it_reads_and_what_it_says() {
        let (folder, path) = plugin("cat >\"${0%/*}/read\"; echo '{\"msg\": \"no\"}'; exit $1");
        assert!(delegate("other", &path, b"{}").unwrap());
        assert_eq!(fs::read(folder.path().join("read")).unwrap(), b"{}");
        assert!(!delegate("absent", &path, b"").unwrap());
        assert!(!delegate("other", "", b"").unwrap());
    }

    #[test]
    fn its_failure_is_told() {
        let (folder, path) = plugin("echo '{\"msg\": \"no\"}'; exit 3");
        let error = delegate("other", &path, &vec![b' '; 1 << 20]).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("plugin {} has failed", folder.path().join("other").display())
        );
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(cause, "exit status: 3: {\"msg\": \"no\"}");
    }
}
