//! A client of CRI, the gRPC interface between kubelet and container runtimes
//! (`k8s.io/cri-api/pkg/apis/runtime/v1/api.proto`): the few calls and fields that
//! are needed here, over a Unix socket.

use std::{collections::HashMap, fmt, path::PathBuf, time::Duration};

use bytes::{BufMut as _, Bytes, BytesMut};
use h2::client;
use http::{HeaderMap, Request};
use prost::Message;
use tokio::{net::UnixStream, runtime, time::timeout};

/// How long a call may take that sets no time of its own, in the kubelet.
const PATIENCE: Duration = Duration::from_mins(2);

/// How a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The code of gRPC; none without an answer of the server.
    pub code: Option<u32>,
    /// What went wrong.
    pub message: String,
}

impl Failure {
    fn local(error: impl fmt::Display) -> Self {
        Self { code: None, message: error.to_string() }
    }
}

/// A runtime's socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    patience: Duration,
}

impl Client {
    /// A client of whoever listens there.
    pub fn new(socket: PathBuf) -> Self {
        Self { socket, patience: PATIENCE }
    }

    /// The client with another deadline of its calls, which the server keeps, too.
    pub fn within(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Calls a method of `runtime.v1.RuntimeService`, on a connection of its own.
    pub fn call<R: Message + Default>(
        &self,
        method: &str,
        request: &impl Message,
    ) -> Result<R, Failure> {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(Failure::local)?;
        let exchange = self.exchange(method, frame(request));
        // The server ends at its deadline, too, but cleans up before it answers.
        let answer = runtime.block_on(async { timeout(self.patience, exchange).await });
        let message = answer.map_err(Failure::local)??;
        R::decode(message).map_err(Failure::local)
    }

    async fn exchange(&self, method: &str, body: Bytes) -> Result<Bytes, Failure> {
        let stream = UnixStream::connect(&self.socket).await.map_err(Failure::local)?;
        let (requests, connection) = client::handshake(stream).await.map_err(Failure::local)?;
        tokio::spawn(connection);
        let request = Request::post(format!("http://localhost/runtime.v1.RuntimeService/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("grpc-timeout", format!("{}m", self.patience.as_millis()))
            .body(())
            .map_err(Failure::local)?;
        let mut requests = requests.ready().await.map_err(Failure::local)?;
        let (response, mut sending) =
            requests.send_request(request, false).map_err(Failure::local)?;
        sending.send_data(body, true).map_err(Failure::local)?;
        let (head, mut body) = response.await.map_err(Failure::local)?.into_parts();
        let mut received = BytesMut::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk.map_err(Failure::local)?;
            received.put_slice(&chunk);
            body.flow_control().release_capacity(chunk.len()).map_err(Failure::local)?;
        }
        let trailers = body.trailers().await.map_err(Failure::local)?;
        // Without a message, all there is are headers.
        succeeded(trailers.as_ref().unwrap_or(&head.headers))?;
        unframe(&received.freeze())
    }
}

/// A message as gRPC sends it.
///
/// ```text
/// 0 (not compressed) │ length, 4 bytes, big endian │ message
/// ```
fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(5 + length);
    frame.put_u8(0);
    frame.put_u32(length.try_into().expect("a message is small"));
    message.encode(&mut frame).expect("the buffer grows");
    frame.freeze()
}

fn unframe(frame: &Bytes) -> Result<Bytes, Failure> {
    if frame.len() < 5 || frame[0] != 0 {
        return Err(Failure::local("the server's message is not a frame of gRPC"));
    }
    Ok(frame.slice(5..))
}

fn succeeded(trailers: &HeaderMap) -> Result<(), Failure> {
    let text = |name| trailers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match text("grpc-status") {
        "0" => Ok(()),
        code => Err(Failure { code: code.parse().ok(), message: text("grpc-message").to_owned() }),
    }
}

/// What a pod is made of.
#[derive(Clone, PartialEq, Message)]
pub struct PodSandboxConfig {
    #[prost(message, optional, tag = "1")]
    pub metadata: Option<PodSandboxMetadata>,
    #[prost(string, tag = "2")]
    pub hostname: String,
    #[prost(message, repeated, tag = "5")]
    pub port_mappings: Vec<PortMapping>,
    #[prost(map = "string, string", tag = "7")]
    pub annotations: HashMap<String, String>,
    #[prost(message, optional, tag = "8")]
    pub linux: Option<LinuxPodSandboxConfig>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct PodSandboxMetadata {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub uid: String,
    #[prost(string, tag = "3")]
    pub namespace: String,
    #[prost(uint32, tag = "4")]
    pub attempt: u32,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct PortMapping {
    #[prost(enumeration = "Protocol", tag = "1")]
    pub protocol: i32,
    #[prost(int32, tag = "2")]
    pub container_port: i32,
    #[prost(int32, tag = "3")]
    pub host_port: i32,
    #[prost(string, tag = "4")]
    pub host_ip: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Protocol {
    Tcp = 0,
    Udp = 1,
    Sctp = 2,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct LinuxPodSandboxConfig {
    #[prost(string, tag = "1")]
    pub cgroup_parent: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct RunPodSandboxRequest {
    #[prost(message, optional, tag = "1")]
    pub config: Option<PodSandboxConfig>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct RunPodSandboxResponse {
    #[prost(string, tag = "1")]
    pub pod_sandbox_id: String,
}

/// For `StopPodSandbox` and `RemovePodSandbox`, whose answers are empty.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PodSandboxRequest {
    #[prost(string, tag = "1")]
    pub pod_sandbox_id: String,
}

/// For whatever has no field that matters here.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Empty {}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct PodSandboxStatusRequest {
    #[prost(string, tag = "1")]
    pub pod_sandbox_id: String,
    #[prost(bool, tag = "2")]
    pub verbose: bool,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct PodSandboxStatusResponse {
    /// What the runtime tells beyond that, if it is asked to be verbose.
    #[prost(map = "string, string", tag = "2")]
    pub info: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct ListPodSandboxResponse {
    #[prost(message, repeated, tag = "1")]
    pub items: Vec<PodSandbox>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct PodSandbox {
    #[prost(string, tag = "1")]
    pub id: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct CreateContainerRequest {
    #[prost(string, tag = "1")]
    pub pod_sandbox_id: String,
    #[prost(message, optional, tag = "2")]
    pub config: Option<ContainerConfig>,
    #[prost(message, optional, tag = "3")]
    pub sandbox_config: Option<PodSandboxConfig>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct ContainerConfig {
    #[prost(message, optional, tag = "1")]
    pub metadata: Option<ContainerMetadata>,
    #[prost(message, optional, tag = "2")]
    pub image: Option<ImageSpec>,
    #[prost(string, repeated, tag = "3")]
    pub command: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct ContainerMetadata {
    #[prost(string, tag = "1")]
    pub name: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct ImageSpec {
    #[prost(string, tag = "1")]
    pub image: String,
}

/// For `StartContainer`; also the answer of `CreateContainer`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ContainerId {
    #[prost(string, tag = "1")]
    pub container_id: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    pub status: Option<RuntimeStatus>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct RuntimeStatus {
    #[prost(message, repeated, tag = "1")]
    pub conditions: Vec<RuntimeCondition>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct RuntimeCondition {
    #[prost(bool, tag = "2")]
    pub status: bool,
}
