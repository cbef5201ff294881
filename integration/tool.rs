//! `portclaimctl` in a node.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::{Value, json};

use crate::{chain::Network, namespace::output, node::Node};

/// What came of a call.
#[derive(Debug)]
pub struct Ran {
    /// The exit status; none when it was killed.
    pub status: Option<i32>,
    /// What it printed, with the node's folder as `NODE`.
    pub stdout: String,
    /// What it complained of, likewise.
    pub stderr: String,
}

impl Ran {
    /// What a call printed that ends with this status.
    #[track_caller]
    pub fn with_status(&self, status: i32) -> &str {
        assert_eq!(self.status, Some(status), "{self:?}");
        &self.stdout
    }

    /// What a call printed that succeeds.
    #[track_caller]
    pub fn succeeded(&self) -> &str {
        self.with_status(0)
    }

    /// The same as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A call of `portclaimctl` in the node, whose conflist is that of the network.
pub fn command(node: &Node, network: &Network, arguments: &[&str]) -> Command {
    let file = node.folder(&format!("{}.conflist", network.name));
    let ours = network.config(node);
    let list = json!({
        "cniVersion": ours["cniVersion"],
        "name": network.name,
        "plugins": [{ "type": "bridge", "hairpinMode": true }, ours],
    });
    fs::write(&file, list.to_string()).expect("the node's folder is writable");
    let mut command = node.command(Path::new(env!("CARGO_BIN_EXE_portclaimctl")));
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.arg("--config").arg(file).args(arguments);
    command
}

/// Runs a call in the node.
pub fn run(node: &Node, command: &mut Command) -> Ran {
    let Output { status, stdout, stderr } = node.host.enter(|| output(command, b""));
    let folder = node.folder("").display().to_string();
    let text = |bytes| {
        let text = String::from_utf8(bytes).expect("it prints UTF-8");
        text.replace(folder.trim_end_matches('/'), "NODE")
    };
    Ran { status: status.code(), stdout: text(stdout), stderr: text(stderr) }
}

/// Calls `portclaimctl` in the node.
pub fn ctl(node: &Node, network: &Network, arguments: &[&str]) -> Ran {
    run(node, &mut command(node, network, arguments))
}
