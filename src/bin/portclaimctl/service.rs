//! What the commands for services of the host share: who asks, where it is carried
//! out, and what it means when it fails.
//!
//! The superuser's process opens the store itself. Any other one asks the agent,
//! which knows it by its user:
//!
//! ```text
//! request   {"action": "allocate-ports", "data": {…}}
//! reply     {"output": [20001,20004], "env": "TCP_PORT=20001\n…"}
//!           {"error": "max_ports_exceeded", "message": "…"}
//! ```

use std::{
    env, fs,
    io::{self, Read, Write},
    net::Shutdown,
    os::unix::{fs::MetadataExt, net::UnixStream},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use clap::Args;
use portclaim::{
    command::{
        self,
        module::{Modules, Outcome},
    },
    lease::{ModuleId, ModuleLease},
    module::{Action, ActionError, Caller, Policy, Refusal},
    publish,
};
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::site::{self, Site, moment};

/// Where the modules of the node are listed, unless told otherwise.
const MODULES: &str = "/etc/portclaim/modules.json";
/// Where the agent is reached, unless told otherwise.
const SOCKET: &str = "/run/portclaim/agent.sock";
/// Set for the services of a module; the owner where none is named.
const MODULE_ID: &str = "MODULE_ID";

/// How to act for a service of the host.
#[derive(Args)]
#[group(skip)]
pub struct Options {
    #[command(flatten)]
    pub file: ModulesFile,

    /// The agent's socket [default: /run/portclaim/agent.sock, unless run by root,
    /// who needs no agent]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// Where the modules of the node are listed.
#[derive(Args)]
#[group(skip)]
pub struct ModulesFile {
    /// The modules, with their users, demands and authorizations [default:
    /// /etc/portclaim/modules.json, where it is]
    #[arg(long, value_name = "FILE")]
    modules: Option<PathBuf>,
}

/// What is printed of an action that was carried out.
#[derive(Debug, Serialize, Deserialize)]
pub struct Answer {
    /// `[first,last]` of what was allocated, or an array of these of what was given
    /// back.
    pub output: Value,
    /// The text of the module's `ports.env`.
    pub env: String,
}

/// An action that was not carried out.
#[derive(Debug, thiserror::Error)]
#[error("{}{message}", self.prefix())]
pub struct Failure {
    kind: Kind,
    message: String,
    /// What to do about it.
    advice: Option<String>,
}

/// What programs tell failures apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// What is asked for is not understood, or cannot be.
    InvalidRequest,
    /// Whoever asks may not.
    ModulePermissionDenied,
    /// More than the module demands.
    MaxPortsExceeded,
    /// Anything else: no port left, no store, no agent.
    Failed,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::ModulePermissionDenied => "module_permission_denied",
            Self::MaxPortsExceeded => "max_ports_exceeded",
            Self::Failed => "failed",
        }
    }
}

impl Failure {
    /// One that whoever asks has brought about.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self { kind: Kind::InvalidRequest, message: message.into(), advice: None }
    }

    /// The exit status of the process.
    pub fn status(&self) -> u8 {
        match self.kind {
            Kind::Failed => 1,
            Kind::InvalidRequest => 2,
            Kind::ModulePermissionDenied => 32,
            Kind::MaxPortsExceeded => 33,
        }
    }

    /// As a program reads it.
    pub fn to_json(&self) -> Value {
        let mut document = json!({"error": self.kind, "message": self.message});
        if let Some(advice) = &self.advice {
            document["advice"] = json!(advice);
        }
        document
    }

    /// What to do about it.
    pub fn advice(&self) -> Option<&str> {
        self.advice.as_deref()
    }

    fn prefix(&self) -> String {
        match self.kind {
            Kind::ModulePermissionDenied | Kind::MaxPortsExceeded => {
                format!("{}: ", self.kind.name())
            }
            Kind::InvalidRequest | Kind::Failed => String::new(),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self { kind: Kind::Failed, message: format!("{error:#}"), advice: None }
    }
}

impl From<ActionError> for Failure {
    fn from(error: ActionError) -> Self {
        Self::invalid(error.to_string())
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let kind = match &refusal {
            Refusal::Unnamed
            | Refusal::UnknownGroup(_)
            | Refusal::Protocol { .. }
            | Refusal::Outside { .. } => Kind::InvalidRequest,
            Refusal::Stranger(_)
            | Refusal::Shared { .. }
            | Refusal::Other { .. }
            | Refusal::Unlisted(_)
            | Refusal::Unauthorized { .. }
            | Refusal::Forwarding(_)
            | Refusal::Group(_) => Kind::ModulePermissionDenied,
            Refusal::MaxPorts { .. } => Kind::MaxPortsExceeded,
        };
        Self { kind, message: refusal.to_string(), advice: None }
    }
}

impl From<command::Error> for Failure {
    fn from(error: command::Error) -> Self {
        match error {
            command::Error::Module(refusal) => refusal.into(),
            command::Error::Of { what, cause } => {
                let failure = Self::from(*cause);
                Self { message: format!("{what}: {}", failure.message), ..failure }
            }
            other => {
                let advice = Some(other.advice().to_owned());
                Self { advice, ..anyhow::Error::from(other).into() }
            }
        }
    }
}

/// Has an action carried out: here, or by the agent.
pub fn call(site: &site::Options, options: &Options, action: &Action) -> Result<Answer, Failure> {
    let socket = match &options.socket {
        Some(socket) => socket,
        None if geteuid().is_root() => {
            let mut modules = open(site, &options.file)?;
            return carry_out(&mut modules, &caller()?, action);
        }
        None => Path::new(SOCKET),
    };
    let mut request = json!({"action": action.name(), "data": action.data()});
    // The agent knows who asks; what was meant is told all the same.
    if action.module().is_none()
        && let Some(module) = own_module()?
    {
        request["data"]["module_id"] = json!(module);
    }
    ask(socket, &request)
}

/// The ports of this node's modules.
pub fn open(site: &site::Options, file: &ModulesFile) -> anyhow::Result<Modules> {
    let site = Site::find(site)?;
    site.refuse_broken()?;
    let path = env::var_os("PATH");
    let (settings, policy) = (site.settings()?, file.read()?);
    Ok(Modules::new(site.store()?, site.run_dir, path.as_deref(), settings, policy))
}

/// Has an action carried out here, now.
pub fn carry_out(
    modules: &mut Modules,
    caller: &Caller,
    action: &Action,
) -> Result<Answer, Failure> {
    let outcome = modules.carry_out(caller, action, moment())?;
    let env = publish::module_env(&outcome.held);
    Ok(Answer { output: output(action, &outcome), env })
}

fn output(action: &Action, outcome: &Outcome) -> Value {
    let range = |lease: &ModuleLease| json!([lease.port, lease.last()]);
    match action {
        Action::Allocate(_) => range(&outcome.changed[0]),
        Action::Deallocate(_) => outcome.changed.iter().map(range).collect(),
    }
}

impl ModulesFile {
    pub fn read(&self) -> anyhow::Result<Policy> {
        let path = self.modules.as_deref().unwrap_or(Path::new(MODULES));
        let text = match fs::read(path) {
            Err(error) if self.modules.is_none() && error.kind() == io::ErrorKind::NotFound => {
                return Ok(Policy::default());
            }
            read => read.with_context(|| format!("cannot read {}", path.display()))?,
        };
        // Whoever may write it says who may do what.
        let about =
            fs::metadata(path).with_context(|| format!("cannot look at {}", path.display()))?;
        if about.uid() != 0 || about.mode() & 0o022 != 0 {
            bail!("{} may be changed by others than root: refused", path.display());
        }
        Policy::parse(&text).with_context(|| format!("{} cannot be used", path.display()))
    }
}

/// Who the superuser's process acts for.
pub fn caller() -> Result<Caller, Failure> {
    Ok(own_module()?.map_or(Caller::Cluster, Caller::Module))
}

/// `MODULE_ID`; empty counts as absent.
fn own_module() -> Result<Option<ModuleId>, Failure> {
    let Some(name) = env::var_os(MODULE_ID).filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    let module = name.to_string_lossy().parse();
    module.map(Some).map_err(|error| Failure::invalid(format!("{MODULE_ID}: {error}")))
}

/// Asks the agent. Waits for as long as it is at work, which has its own limits.
fn ask(socket: &Path, request: &Value) -> Result<Answer, Failure> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Reply {
        Answer(Answer),
        Failure { error: Kind, message: String, advice: Option<String> },
    }
    let name = socket.display();
    let mut stream =
        UnixStream::connect(socket).with_context(|| format!("cannot reach the agent by {name}"))?;
    // One that does not read to the end says why.
    let request = format!("{request}\n");
    _ = stream.write_all(request.as_bytes()).and_then(|()| stream.shutdown(Shutdown::Write));
    let mut text = Vec::new();
    match stream.read_to_end(&mut text) {
        // One that refuses does not read what was asked.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset && !text.is_empty() => {}
        read => drop(read.with_context(|| format!("cannot read from {name}"))?),
    }
    let reply = serde_json::from_slice(&text);
    match reply.with_context(|| format!("the agent at {name} gave no reply"))? {
        Reply::Answer(answer) => Ok(answer),
        Reply::Failure { error: kind, message, advice } => Err(Failure { kind, message, advice }),
    }
}
