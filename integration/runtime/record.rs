//! What a runtime sends to its plugins: each call's environment and input, written
//! down by a script that then becomes the plugin.

use std::{
    collections::BTreeMap,
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::node::{BOOT_ID, KERNEL_BOOT_ID, Node};

/// One call.
#[derive(Debug)]
pub struct Recorded {
    process: String,
    /// `CNI_…`
    pub environment: BTreeMap<String, String>,
    /// What it read.
    pub config: Value,
}

impl Recorded {
    /// Whether its process is still there.
    pub fn is_running(&self) -> bool {
        Path::new("/proc").join(&self.process).exists()
    }

    /// A variable of the environment; none if it was not set at all.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(String::as_str)
    }
}

/// The plugins of a chain, as a runtime's `bin_dir`.
pub struct Plugins {
    folder: PathBuf,
}

impl Plugins {
    /// Those of a runtime whose files are in this folder. The plugin under test sees
    /// the node's boot, and the runtime does not: what it mounts, all must see.
    pub fn below(folder: &Path, node: &Node) -> Self {
        let plugins = Self { folder: folder.join("plugins") };
        fs::create_dir(&plugins.folder).expect("the folder is writable");
        fs::create_dir(plugins.calls()).expect("it was made here");
        for name in ["bridge", "host-local", "loopback"] {
            let plugin = Path::new("/usr/lib/cni").join(name);
            symlink(plugin, plugins.folder.join(name)).expect("it was made here");
        }
        let text = format!(
            "#!/bin/sh\n\
             call={calls}/$(date +%s%N)-$$\n\
             cat >$call.config\n\
             env | grep ^CNI_ >$call.new\n\
             mv $call.new $call.environment\n\
             exec <$call.config\n\
             [ -e {boot} ] || exec {plugin}\n\
             exec unshare --mount sh -c 'mount --bind {boot} {KERNEL_BOOT_ID}; exec {plugin}'\n",
            calls = plugins.calls().display(),
            boot = node.folder(BOOT_ID).display(),
            plugin = env!("CARGO_BIN_EXE_portclaim"),
        );
        let script = plugins.folder.join("portclaim");
        fs::write(&script, text).expect("it was made here");
        fs::set_permissions(&script, Permissions::from_mode(0o755)).expect("it was made here");
        plugins
    }

    /// Where they are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn calls(&self) -> PathBuf {
        self.folder.join("calls")
    }

    /// How the plugin under test was called so far with this `CNI_COMMAND`, in order.
    pub fn calls_of(&self, command: &str) -> Vec<Recorded> {
        let entries = fs::read_dir(self.calls()).expect("it was made here");
        let mut files: Vec<_> = entries.map(|it| it.expect("it can be read").path()).collect();
        files.retain(|file| file.extension().is_some_and(|it| it == "environment"));
        files.sort();
        let calls = files.iter().map(|file| {
            let read = |file: &Path| fs::read_to_string(file).expect("it can be read");
            let environment = read(file);
            let variables = environment.lines().filter_map(|line| line.split_once('='));
            let name = file.file_stem().expect("a file has a name").to_string_lossy();
            let (_, process) = name.split_once('-').expect("the script writes both");
            Recorded {
                process: process.to_owned(),
                environment: variables.map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
                // VERSION may come with anything.
                config: serde_json::from_str(&read(&file.with_extension("config")))
                    .unwrap_or_default(),
            }
        });
        calls.filter(|it| it.variable("CNI_COMMAND") == Some(command)).collect()
    }
}
