//! The files that are there, compared with those that should be.

use std::{
    fmt, fs,
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use super::{At, CONTAINERS, ENV, JSON, MODULES, NEW, PODS, Publication, PublishError};

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file.
    pub path: PathBuf,
    /// Whether it is there.
    pub is_there: bool,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.is_there { "does not say what the leases are" } else { "is not there" };
        write!(f, "{} {what}", self.path.display())
    }
}

impl Publication {
    /// The files that are not as they should be.
    pub fn faults(&self) -> Result<Vec<Fault>, PublishError> {
        let mut faults = Vec::new();
        for (name, text) in &self.files {
            let path = self.folder.join(name);
            match has_text(&path, text) {
                Ok(true) => {}
                Ok(false) => faults.push(Fault { path, is_there: true }),
                Err(error) if is_absent(&error) => faults.push(Fault { path, is_there: false }),
                // A link, which is not followed, or something else that is no file.
                Err(error) if is_no_file(&error) => faults.push(Fault { path, is_there: true }),
                Err(error) => return Err(error).at("read", &path),
            }
        }
        Ok(faults)
    }
}

/// Every folder below `run_dir` with files of ours, sorted.
pub fn folders(run_dir: &Path) -> Result<Vec<PathBuf>, PublishError> {
    let mut found = Vec::new();
    for namespace in entries(&run_dir.join(PODS))? {
        found.append(&mut entries(&namespace)?);
    }
    for folder in [CONTAINERS, MODULES] {
        found.append(&mut entries(&run_dir.join(folder))?);
    }
    let is_ours = |folder: &PathBuf| {
        [JSON, ENV, NEW].iter().any(|name| folder.join(name).symlink_metadata().is_ok())
    };
    found.retain(is_ours);
    found.sort();
    Ok(found)
}

/// The folders in a folder; no links.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, PublishError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
        entries => entries.at("list", folder)?,
    };
    let mut folders = Vec::new();
    for entry in entries {
        let entry = entry.at("list", folder)?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            folders.push(entry.path());
        }
    }
    Ok(folders)
}

/// Whether a file holds this text. Whoever may write to it gets no link followed, no
/// pipe waited for, and no more read than is expected.
fn has_text(path: &Path, text: &str) -> io::Result<bool> {
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Ok(false);
    }
    let mut held = Vec::new();
    file.take(text.len() as u64 + 1).read_to_end(&mut held)?;
    Ok(held == text.as_bytes())
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn is_no_file(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ELOOP | libc::ENXIO | libc::EISDIR))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::{
        lease::Forwarding,
        publish::{clear, publish},
    };

    fn forwarding(port: u16, pod: &str) -> Forwarding {
        serde_json::from_str(&format!(
            r#"{{"network":"n","containerID":"c","ifname":"eth0","since":0,{pod}"container":{{}},
                "leases":[{{"protocol":"tcp","hostPort":{port},"containerPort":80}}]}}"#
        ))
        .unwrap()
    }

    #[test]
    fn every_fault_of_a_file_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let held = forwarding(8080, "");
        let faults = || {
            let faults = Publication::of_container(dir.path(), &held).faults().unwrap();
            faults.into_iter().map(|fault| fault.is_there).collect::<Vec<_>>()
        };
        assert_eq!(faults(), [false, false]);
        publish(dir.path(), &held).unwrap();
        assert_eq!(faults(), [true; 0]);
        publish(dir.path(), &forwarding(8081, "")).unwrap();
        assert_eq!(faults(), [true, true]);
        let env = dir.path().join("containers/c/ports.env");
        for spoil in [
            |path: &Path| symlink("/dev/zero", path).unwrap(),
            |path: &Path| fs::create_dir(path).unwrap(),
            |path: &Path| fs::write(path, "TCP_PORT=8080\n and more").unwrap(),
            |path: &Path| {
                rustix::fs::mknodat(
                    rustix::fs::CWD,
                    path,
                    rustix::fs::FileType::Fifo,
                    0o600.into(),
                    0,
                )
                .unwrap();
            },
        ] {
            publish(dir.path(), &held).unwrap();
            fs::remove_file(&env).unwrap();
            spoil(&env);
            assert_eq!(faults(), [true]);
        }
        publish(dir.path(), &held).unwrap();
        assert_eq!(faults(), [true; 0]);
    }

    #[test]
    fn folders_are_those_with_files_of_ours() {
        let dir = tempfile::tempdir().unwrap();
        assert!(folders(dir.path()).unwrap().is_empty());
        let pod = forwarding(8080, r#""pod":{"namespace":"shop","pod":"web"},"#);
        for held in [&pod, &forwarding(8081, "")] {
            publish(dir.path(), held).unwrap();
        }
        fs::create_dir_all(dir.path().join("pods/shop/mounted")).unwrap();
        fs::create_dir_all(dir.path().join("store/writing.1.1")).unwrap();
        symlink("/", dir.path().join("pods/link")).unwrap();
        let found = folders(dir.path()).unwrap();
        assert_eq!(found, ["containers/c", "pods/shop/web"].map(|name| dir.path().join(name)));
        for folder in found {
            clear(dir.path(), &folder).unwrap();
        }
        assert!(folders(dir.path()).unwrap().is_empty());
        assert!(dir.path().join("pods/shop/mounted").exists());
    }
}
