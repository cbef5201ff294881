//! The plugins, and one execution of either, as a runtime does it.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    progress,
    site::{Container, Site},
};

/// Where stores lie: on a disk, unlike `/run` and `/var/lib` in here.
pub const STORE_FOLDER: &str = env!("CARGO_TARGET_TMPDIR");

/// How often a call among many is tried.
const ATTEMPTS: u32 = 5;

/// One of those compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plugin {
    /// The release build.
    Portclaim,
    /// Debian's, with the backend that it takes by itself (iptables).
    Portmap,
}

impl Plugin {
    /// Both, in the order of the report's columns.
    pub const ALL: [Self; 2] = [Self::Portclaim, Self::Portmap];

    /// Its `type` in a conflist.
    pub fn name(self) -> &'static str {
        match self {
            Self::Portclaim => "portclaim",
            Self::Portmap => "portmap",
        }
    }

    /// The binary.
    pub fn path(self) -> PathBuf {
        match self {
            Self::Portclaim => concat!(env!("CARGO_MANIFEST_DIR"), "/dist/portclaim").into(),
            Self::Portmap => "/usr/lib/cni/portmap".into(),
        }
    }
}

/// A port that a container asks for.
#[derive(Clone, Copy, Debug)]
pub struct Mapping {
    /// 0: any.
    pub host_port: u16,
    /// Where it leads.
    pub container_port: u16,
    /// As in `portMappings`.
    pub protocol: &'static str,
}

impl Mapping {
    /// A host port that leads to port 80.
    pub fn tcp(host_port: u16) -> Self {
        Self { host_port, container_port: 80, protocol: "tcp" }
    }
}

/// One execution of a plugin, ready to start.
pub struct Call {
    command: Command,
    stdin: Vec<u8>,
    what: String,
}

impl Call {
    /// `verb` of a site's plugin for a container with these ports. Every verb is
    /// given the same: portmap's DEL needs the ports.
    pub fn new(verb: &str, site: &Site, container: Container, mappings: &[Mapping]) -> Self {
        let mappings: Value = mappings
            .iter()
            .map(|mapping| {
                json!({
                    "hostPort": mapping.host_port,
                    "containerPort": mapping.container_port,
                    "protocol": mapping.protocol,
                })
            })
            .collect();
        let mut config = json!({
            "cniVersion": "1.0.0",
            "name": "bench",
            "type": site.plugin.name(),
            "capabilities": { "portMappings": true },
            "runtimeConfig": { "portMappings": mappings },
            "prevResult": container.result(),
        });
        if site.plugin == Plugin::Portclaim {
            config["dataDir"] = json!(site.data_dir());
            config["runDir"] = json!(site.run_dir());
        }
        let mut command = Command::new(site.plugin.path());
        command
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", container.id())
            .env("CNI_NETNS", "/run/netns/on-paper")
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", "/usr/lib/cni")
            .env("CNI_ARGS", container.args())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let what = format!("{} {verb} {}", site.plugin.name(), container.id());
        Self { command, stdin: config.to_string().into_bytes(), what }
    }

    /// The call on a node that has iptables, but no ip6tables.
    pub fn without_ip6tables(mut self) -> Self {
        let folder = std::env::temp_dir().join("without-ip6tables");
        if !folder.exists() {
            fs::create_dir(&folder).expect("the temporary folder is writable");
            // nft is what portclaim needs.
            for program in ["iptables", "nft"] {
                symlink(Path::new("/usr/sbin").join(program), folder.join(program))
                    .expect("the temporary folder is writable");
            }
        }
        self.command.env("PATH", folder);
        self
    }

    /// Runs it where the calling thread is; returns how long that took, from
    /// before the fork to after the exit.
    pub fn run(mut self) -> Duration {
        let start = Instant::now();
        let child = self.start();
        self.finish(child).unwrap_or_else(|failure| panic!("{failure}"));
        start.elapsed()
    }

    /// Runs it, and again where it fails, as a runtime does.
    pub fn run_until_it_succeeds(mut self) {
        for _ in 1..ATTEMPTS {
            let child = self.start();
            match self.finish(child) {
                Ok(()) => return,
                Err(failure) => progress(&failure),
            }
        }
        self.run();
    }

    /// Runs it; returns the most memory that its own process had resident, in
    /// bytes. The `ru_maxrss` of wait4(2) would be that of its largest child, nft,
    /// or of this process before exec; so `VmHWM` is read until it is gone.
    pub fn peak_memory(mut self) -> u64 {
        let child = self.start();
        let status = format!("/proc/{}/status", child.id());
        let mut peak = 0;
        while let Some(kib) = fs::read_to_string(&status).ok().as_deref().and_then(high_water) {
            peak = kib * 1024;
        }
        self.finish(child).unwrap_or_else(|failure| panic!("{failure}"));
        peak
    }

    fn start(&mut self) -> Child {
        let mut child =
            self.command.spawn().unwrap_or_else(|error| panic!("{}: {error}", self.what));
        let mut stdin = child.stdin.take().expect("stdin is a pipe");
        // Far less than a pipe holds.
        stdin.write_all(&self.stdin).unwrap_or_else(|error| panic!("{}: {error}", self.what));
        child
    }

    /// Waits until it is over; what it printed if it failed.
    fn finish(&self, mut child: Child) -> Result<(), String> {
        let mut printed = String::new();
        let _ = child.stdout.take().expect("stdout is a pipe").read_to_string(&mut printed);
        let status = child.wait().unwrap_or_else(|error| panic!("{}: {error}", self.what));
        if status.success() {
            return Ok(());
        }
        let _ = child.stderr.take().expect("stderr is a pipe").read_to_string(&mut printed);
        Err(format!("{}: {status}: {printed}", self.what))
    }
}

/// `VmHWM` in KiB; none once the process has given its memory back.
fn high_water(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}
