//! What it was measured on, and with.

use std::{env, fs, process::Command, thread, time::SystemTime};

use crate::plugin::{Plugin, STORE_FOLDER};

/// Date, hardware and versions, in Markdown.
pub fn describe() -> String {
    let now = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let cores = thread::available_parallelism().map_or(0, usize::from);
    // dpkg's database is hidden in here, and portmap does not know its version.
    let portmap = env::var("PORTMAP_VERSION").unwrap_or_else(|_| "?".to_owned());
    format!(
        "portclaim {} against portmap {portmap} ({}), {}\n\n\
         {cores} cores ({}), {:.1} GiB of memory, Linux {}, {}, {}, store on {}. \
         Times are medians, and in brackets 90th percentiles; plugins take turns.",
        env!("CARGO_PKG_VERSION"),
        Plugin::Portmap.path().display(),
        now.split('T').next().unwrap_or_default(),
        field("/proc/cpuinfo", "model name"),
        memory_gib(),
        print("uname", &["-r"]),
        print("nft", &["--version"]),
        print("iptables", &["--version"]),
        print("findmnt", &["--noheadings", "--output=FSTYPE", "--target", STORE_FOLDER]),
    )
}

fn memory_gib() -> f64 {
    let total = field("/proc/meminfo", "MemTotal");
    let kib: f64 = total.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or_default();
    kib / 1024.0 / 1024.0
}

/// The value of the first line `name : value` of a file.
fn field(file: &str, name: &str) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let mut fields = text.lines().filter_map(|line| line.split_once(':'));
    let value = fields.find(|(key, _)| key.trim() == name);
    value.map_or_else(|| "?".to_owned(), |(_, value)| value.trim().to_owned())
}

fn print(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
