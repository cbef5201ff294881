//! Instances that register themselves: over the Unix socket, where the kernel says who
//! asks, and over TCP with a token.
//!
//! ```text
//! POST   /register             name=web-0&address=192.0.2.1:7000   or JSON {"Name", "Address", …}
//! POST   /deregister           name=web-0                          or JSON {"Name"}
//! DELETE /v1/instances/web-0
//! ```

use std::{fs, io, os::unix::fs::MetadataExt as _, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use axum::{
    Extension, Form, Json, Router,
    extract::{DefaultBodyLimit, FromRequest, Path, Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{delete, post},
};
use clap::Args;
use rustix::process::geteuid;
use serde::{Deserialize, de::DeserializeOwned};
use tokio::time::timeout;

use super::{
    App,
    instance::{self, Instance, InstanceError, InstanceName, Registrant, Ttl},
    instances::{Instances, RegisterError},
    listen::Peer,
    refusal::Refusal,
    row::InstanceDocument,
};
use crate::{socket, view::time};

/// The most that may be sent, in bytes.
const BODY: usize = 16 * 1024;
/// How long to wait until a change is shown.
const SHOWN: Duration = Duration::from_secs(1);
/// The shortest token that keeps anybody out, in characters.
const SHORTEST_TOKEN: usize = 16;

#[derive(Args)]
#[group(skip)]
pub struct Options {
    /// Listen on this socket as well, where root, the user who runs the server and each
    /// --register-user may register instances
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,

    /// A user, by name or number, who may register instances over the socket; may be
    /// repeated
    #[arg(long, value_name = "USER")]
    register_user: Vec<String>,

    /// Let those register instances over TCP who send the token in this file, which
    /// others must not be able to read: Authorization: Bearer TOKEN
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// For how long, in seconds, an instance is known that does not say it itself, after
    /// it registered or was found healthy
    #[arg(long, value_name = "SECONDS", default_value = "86400")]
    instance_ttl: Ttl,

    /// How an instance is checked that does not say it itself: none, tcp or http:/ and
    /// what is behind it
    #[arg(long, value_name = "CHECK", default_value = "tcp")]
    instance_health: String,

    /// Where registered instances are kept over restarts
    #[arg(long, value_name = "DIRECTORY", default_value = "/var/lib/portclaim-registry")]
    pub state_dir: PathBuf,
}

/// Who may register, and what is taken for what they do not say.
pub struct Desk {
    instances: Arc<Instances>,
    /// Beside root.
    users: Vec<u32>,
    token: Option<String>,
    ttl: Ttl,
    health: String,
}

impl Options {
    /// The instances that are known. Where nobody may register, those of a folder that
    /// cannot be read are left out.
    pub fn instances(&self) -> anyhow::Result<Instances> {
        if self.socket.is_some() || self.token_file.is_some() {
            return Instances::open(&self.state_dir);
        }
        Instances::read(&self.state_dir).or_else(|error| {
            match error.downcast_ref::<io::Error>().map(io::Error::kind) {
                Some(io::ErrorKind::PermissionDenied) => {
                    log::warn!("instances are not shown: {error:#}");
                    Ok(Instances::none(&self.state_dir))
                }
                _ => Err(error),
            }
        })
    }
}

impl Desk {
    pub fn new(options: &Options, instances: Arc<Instances>) -> anyhow::Result<Self> {
        instance::probe(&options.instance_health).context("--instance-health")?;
        let user = |name: &String| {
            let uid = socket::uid_of(name).or_else(|| name.parse().ok());
            uid.with_context(|| format!("--register-user: there is no user {name:?}"))
        };
        let mut users: Vec<u32> =
            options.register_user.iter().map(user).collect::<anyhow::Result<_>>()?;
        users.push(geteuid().as_raw());
        Ok(Self {
            instances,
            users,
            token: options.token_file.as_ref().map(read_token).transpose()?,
            ttl: options.instance_ttl,
            health: options.instance_health.clone(),
        })
    }

    /// Who asks, if they may register.
    fn admit(&self, peer: Peer, headers: &HeaderMap) -> Result<Registrant, Refusal> {
        match peer {
            Peer::User(uid) => {
                if uid == 0 || self.users.contains(&uid) {
                    return Ok(Registrant::User(uid));
                }
                let message = format!("user {uid} may not register instances: --register-user");
                Err(Refusal::new(StatusCode::FORBIDDEN, message))
            }
            Peer::Address(_) => {
                let Some(token) = &self.token else {
                    let message = "instances are registered over the Unix socket (--socket), \
                        or with a token (--token-file)";
                    return Err(Refusal::new(StatusCode::FORBIDDEN, message));
                };
                let sent = headers.get(header::AUTHORIZATION);
                let sent = sent.and_then(|it| it.as_bytes().strip_prefix(b"Bearer "));
                if sent.is_some_and(|sent| is_same(sent, token.as_bytes())) {
                    return Ok(Registrant::Token);
                }
                let message = "the header Authorization does not have the token";
                Err(Refusal::new(StatusCode::UNAUTHORIZED, message))
            }
        }
    }

    /// What is to be known of who registers.
    fn instance(&self, asked: Registration, by: Registrant) -> Result<Instance, InstanceError> {
        Ok(Instance {
            name: asked.name.parse()?,
            address: asked.address.parse()?,
            tags: instance::tags(asked.tags.iter().map(String::as_str))?,
            health: instance::probe(asked.health.as_deref().unwrap_or(&self.health))?,
            ttl: asked.ttl.unwrap_or(Ok(self.ttl))?,
            since: time::now(),
            registrant: by,
        })
    }
}

/// Not faster the more of it is right.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

fn read_token(path: &PathBuf) -> anyhow::Result<String> {
    let name = path.display();
    let about = fs::metadata(path).with_context(|| format!("cannot read {name}"))?;
    if about.mode() & 0o007 != 0 {
        bail!("{name} can be used by everybody: its mode is {:03o}", about.mode() & 0o777);
    }
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {name}"))?;
    let token = text.trim();
    if token.len() < SHORTEST_TOKEN || !token.bytes().all(|b| b.is_ascii_graphic()) {
        bail!("{name} has no token: {SHORTEST_TOKEN} or more characters without blanks");
    }
    Ok(token.to_owned())
}

pub fn router() -> Router<App> {
    Router::new()
        .route("/register", post(register))
        .route("/deregister", post(deregister))
        .route("/v1/instances/{name}", delete(remove))
        .layer(DefaultBodyLimit::max(BODY))
}

/// What somebody who registers sends, in either form.
struct Registration {
    name: String,
    address: String,
    tags: Vec<String>,
    ttl: Option<Result<Ttl, InstanceError>>,
    health: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RegistrationForm {
    name: String,
    address: String,
    /// With commas between them.
    #[serde(default)]
    tags: String,
    ttl: Option<String>,
    health: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct RegistrationJson {
    name: String,
    address: String,
    tags: Option<Vec<String>>,
    #[serde(rename = "TTL")]
    ttl: Option<u64>,
    health: Option<String>,
}

impl From<RegistrationForm> for Registration {
    fn from(form: RegistrationForm) -> Self {
        let tags = form.tags.split(',').map(str::trim).filter(|tag| !tag.is_empty());
        Self {
            name: form.name,
            address: form.address,
            tags: tags.map(str::to_owned).collect(),
            ttl: form.ttl.map(|ttl| ttl.parse()),
            health: form.health,
        }
    }
}

impl From<RegistrationJson> for Registration {
    fn from(json: RegistrationJson) -> Self {
        Self {
            name: json.name,
            address: json.address,
            tags: json.tags.unwrap_or_default(),
            ttl: json.ttl.map(Ttl::try_from),
            health: json.health,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeregistrationForm {
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct DeregistrationJson {
    name: String,
}

async fn register(
    State(app): State<App>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Refusal> {
    let by = app.desk.admit(peer, &headers)?;
    let asked = read::<RegistrationForm, RegistrationJson, Registration>(request).await?;
    let instance = app.desk.instance(asked, by).map_err(Refusal::invalid)?;
    let registered = app.desk.instances.clone().register(instance).await;
    let (instance, is_new) = registered.map_err(failed)?;
    shown(&app, |list| list.contains(&instance)).await;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(InstanceDocument::with(&instance, None))).into_response())
}

async fn deregister(
    State(app): State<App>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    request: Request,
) -> Result<StatusCode, Refusal> {
    let by = app.desk.admit(peer, &headers)?;
    let name = read::<DeregistrationForm, DeregistrationJson, Name>(request).await?;
    forget(&app, &name.0, by).await
}

async fn remove(
    State(app): State<App>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    Path(name): Path<String>,
) -> Result<StatusCode, Refusal> {
    let by = app.desk.admit(peer, &headers)?;
    forget(&app, &name, by).await
}

struct Name(String);

impl From<DeregistrationForm> for Name {
    fn from(form: DeregistrationForm) -> Self {
        Self(form.name)
    }
}

impl From<DeregistrationJson> for Name {
    fn from(json: DeregistrationJson) -> Self {
        Self(json.name)
    }
}

/// The same whether there was one or not: who asks twice is not told off.
async fn forget(app: &App, name: &str, by: Registrant) -> Result<StatusCode, Refusal> {
    let name: InstanceName = name.parse().map_err(Refusal::invalid)?;
    let done = app.desk.instances.clone().deregister(name.clone(), by).await;
    done.map_err(failed)?;
    shown(app, |list| list.iter().all(|it| it.name != name)).await;
    Ok(StatusCode::NO_CONTENT)
}

/// Waits until those who read are shown what was changed, or others have changed again.
async fn shown(app: &App, is_shown: impl Fn(&[Instance]) -> bool) {
    let mut snapshots = app.snapshots.clone();
    let seen = snapshots.wait_for(|snapshot| is_shown(&snapshot.instances));
    // It takes no time; whoever overwrote it in between is shown instead.
    _ = timeout(SHOWN, seen).await;
}

/// Reads a body as what its type says that it is.
async fn read<F, J, T>(request: Request) -> Result<T, Refusal>
where
    F: DeserializeOwned + Into<T>,
    J: DeserializeOwned + Into<T>,
{
    let kind = request.headers().get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match kind.as_str() {
        "application/json" => {
            let read = Json::<J>::from_request(request, &()).await;
            read.map(|Json(json)| json.into())
                .map_err(|error| Refusal::new(error.status(), error.body_text()))
        }
        "application/x-www-form-urlencoded" => {
            let read = Form::<F>::from_request(request, &()).await;
            read.map(|Form(form)| form.into())
                .map_err(|error| Refusal::new(error.status(), error.body_text()))
        }
        _ => {
            let message = "application/json and application/x-www-form-urlencoded are understood";
            Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message))
        }
    }
}

fn failed(error: RegisterError) -> Refusal {
    let status = match &error {
        RegisterError::Foreign { .. } => StatusCode::CONFLICT,
        RegisterError::TooMany(_) | RegisterError::TooManyOfOne(..) | RegisterError::TooLarge => {
            StatusCode::TOO_MANY_REQUESTS
        }
        RegisterError::Write { source, .. } => {
            log::error!("{error}: {source}");
            StatusCode::INSUFFICIENT_STORAGE
        }
    };
    Refusal::new(status, error)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_token_is_long_and_nobody_elses() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        for (text, mode, expected) in [
            ("0123456789abcdef\n", 0o640, Ok("0123456789abcdef")),
            ("0123456789abcdef", 0o644, Err("can be used by everybody: its mode is 644")),
            ("0123456789abcde", 0o600, Err("has no token")),
            ("0123456789 abcdef", 0o600, Err("has no token")),
            ("", 0o600, Err("has no token")),
        ] {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            match (read_token(&path), expected) {
                (Ok(token), Ok(expected)) => assert_eq!(token, expected),
                (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
                (found, _) => panic!("{text:?}: {found:?}"),
            }
        }
        assert!(is_same(b"a", b"a") && !is_same(b"a", b"b") && !is_same(b"a", b"aa"));
    }
}
