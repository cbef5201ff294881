//! Commands and what they print, as one would see it, compared with a file.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
    time::{Duration, UNIX_EPOCH},
};

use super::fixture::{CTL, DAY, Site, now, since};
use crate::namespace;

pub struct Transcript<'a> {
    site: &'a Site,
    text: String,
    /// What is another text in each run, and what is written in its place.
    stable: Vec<(String, &'static str)>,
}

impl<'a> Transcript<'a> {
    pub fn new(site: &'a Site) -> Self {
        Self { site, text: String::new(), stable: stable(site) }
    }

    /// Runs the tool with these words.
    pub fn run(&mut self, args: &str) {
        let output = self.site.run(&args.split(' ').collect::<Vec<_>>());
        self.write(args, &output);
    }

    /// Runs it without telling where the conflist is, with this folder, if it is
    /// there, as `/etc/cni/net.d`.
    pub fn run_without_conflist(&mut self, args: &str, folder: &Path) {
        const SCRIPT: &str = "set -e
            mount -t tmpfs tmpfs /etc
            [ ! -d \"$0\" ] || { mkdir -p /etc/cni/net.d; mount --bind \"$0\" /etc/cni/net.d; }
            exec \"$@\"";
        let node = &self.site.node;
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", SCRIPT]).arg(folder).arg(CTL);
        command.args(args.split(' '));
        command.arg("--data-dir").arg(node.data_dir()).arg("--run-dir").arg(node.run_dir());
        let output = node.host.enter(|| namespace::output(&mut command, b""));
        self.write(args, &output);
    }

    fn write(&mut self, args: &str, output: &Output) {
        let mut text = format!("$ portclaimctl {args}\n");
        text += std::str::from_utf8(&output.stdout).unwrap();
        for line in std::str::from_utf8(&output.stderr).unwrap().lines() {
            text.extend(["2> ", line, "\n"]);
        }
        if !output.status.success() {
            text.extend(["[", &output.status.to_string(), "]\n"]);
        }
        for (found, stable) in &self.stable {
            text = text.replace(found, stable);
        }
        self.text += &without_numbers(&text, "(pid ");
        self.text.push('\n');
    }

    /// Compares all of it with a file.
    #[track_caller]
    pub fn compare(self, name: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/see/golden");
        let path = path.join(name).with_extension("txt");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&path, &self.text).unwrap();
        }
        let expected = fs::read_to_string(&path).unwrap_or_default();
        assert!(self.text == expected, "{} is not\n{}", path.display(), self.text);
    }
}

/// Folders and times of this run.
fn stable(site: &Site) -> Vec<(String, &'static str)> {
    let (node, mut stable) = (&site.node, Vec::new());
    stable.push((node.data_dir().display().to_string(), "/var/lib/portclaim"));
    stable.push((node.run_dir().display().to_string(), "/run/portclaim"));
    stable.push((site.conflist.display().to_string(), "/etc/cni/net.d/podnet.conflist"));
    // A minute for the whole test, and the seconds it took.
    for (time, shown) in [
        (since(), "2026-01-01T00:00:00Z"),
        (now() + 29 * DAY + 60 * 60, "2026-02-02T00:00:00Z"),
        (now() + 30 * DAY, "2026-02-03T00:00:00Z"),
        (now() - 1, "2026-01-04T04:59:59Z"),
    ] {
        for time in time - 60..time + 60 {
            let time = UNIX_EPOCH + Duration::from_secs(time);
            stable.push((humantime::format_rfc3339_seconds(time).to_string(), shown));
        }
    }
    // A second later it is not 30 days any more.
    stable.push(("expires in 30d".to_owned(), "expires in 29d"));
    for seconds in 0..60 {
        stable.push((format!("({seconds}s ago)"), "(0s ago)"));
    }
    stable
}

/// The text with another number after each of these words.
fn without_numbers(text: &str, word: &str) -> String {
    let mut parts = text.split(word);
    let mut stable = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        stable += word;
        stable += "812";
        stable += part.trim_start_matches(|c: char| c.is_ascii_digit());
    }
    stable
}
