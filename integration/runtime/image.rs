//! The image of every container here: busybox, which sleeps unless it is told to
//! do something else. It is made on the spot; no registry is asked.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use serde_json::json;
use tempfile::TempDir;

use crate::namespace::output;

/// Its name, which leads to no registry.
pub const NAME: &str = "localhost/busybox:1";

/// Statically linked, of the package busybox-static.
pub const BUSYBOX: &str = "/bin/busybox";

/// An archive that `ctr images import` and `podman load` take:
///
/// ```text
/// manifest.json    names the image and the files below
/// config.json      what runs in a container, and the digest of the layer
/// layer.tar        /bin/busybox, /bin/sh, /etc, /tmp
/// ```
pub fn archive() -> &'static Path {
    static ARCHIVE: LazyLock<(TempDir, PathBuf)> = LazyLock::new(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let archive = write(folder.path());
        (folder, archive)
    });
    &ARCHIVE.1
}

fn write(folder: &Path) -> PathBuf {
    let root = folder.join("root");
    for name in ["bin", "etc", "tmp"] {
        fs::create_dir_all(root.join(name)).expect("the folder is writable");
    }
    let busybox = root.join("bin/busybox");
    fs::copy(BUSYBOX, &busybox).expect("busybox is installed");
    fs::set_permissions(&busybox, Permissions::from_mode(0o755)).expect("it was made here");
    symlink("busybox", root.join("bin/sh")).expect("the folder is writable");
    let layer = folder.join("layer.tar");
    tar(&layer, &root, &["bin", "etc", "tmp"]);
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": { "Entrypoint": [BUSYBOX, "sleep", "infinity"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", sha256(&layer))] },
    });
    let manifest =
        json!([{ "Config": "config.json", "RepoTags": [NAME], "Layers": ["layer.tar"] }]);
    for (name, value) in [("config.json", config), ("manifest.json", manifest)] {
        fs::write(folder.join(name), value.to_string()).expect("the folder is writable");
    }
    let archive = folder.join("image.tar");
    tar(&archive, folder, &["manifest.json", "config.json", "layer.tar"]);
    archive
}

/// As images name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn tar(archive: &Path, folder: &Path, names: &[&str]) {
    let mut command = Command::new("tar");
    command.arg("--create").arg("--file").arg(archive).arg("--directory").arg(folder);
    succeed(command.args(["--owner=0", "--group=0"]).args(names));
}

fn sha256(file: &Path) -> String {
    let printed = succeed(Command::new("sha256sum").arg(file));
    printed.split_whitespace().next().expect("it prints the digest first").to_owned()
}

fn succeed(command: &mut Command) -> String {
    let output = output(command, b"");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
    String::from_utf8(output.stdout).expect("it prints UTF-8")
}
