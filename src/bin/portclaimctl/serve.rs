//! `portclaimctl serve`: who has which port, on a page and over HTTP.
//!
//! ```text
//! dataDir/current ─inotify→ stored ──┬→ snapshot ─┬→ api      /v1/…, /healthz
//! POST /register → instances ─→ file ┤            ├→ metrics  /metrics ← runDir/calls
//!                                    │            ├→ page     /
//!                   checks ← health ←┘            └→ events   /v1/events
//! ```
//!
//! Reads generations without the lock, and changes none of them: an ADD never waits for
//! it. One snapshot is shared by all who ask, however many there are.

mod address;
mod api;
mod cache;
mod events;
mod health;
mod host;
mod instance;
mod instances;
mod listen;
mod metrics;
mod page;
mod patience;
mod probe;
mod query;
mod refusal;
mod register;
mod row;
mod snapshot;
mod stored;

use std::{
    net::SocketAddr, num::NonZero, path::PathBuf, process::ExitCode, sync::Arc,
    thread::available_parallelism, time::Duration,
};

use anyhow::Context;
use axum::middleware;
use clap::Args;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::{
    net::{TcpListener, UnixListener},
    runtime,
    sync::watch,
    time,
};

use crate::{
    site::{self, Site},
    socket,
};
use address::Shown;
use cache::Cache;
use health::Marks;
use host::Hosts;
use instances::Instances;
use metrics::Calls;
use register::Desk;
use snapshot::{Snapshot, Sources};

#[derive(Args)]
pub struct Options {
    /// Where to listen. Anybody who can connect can read.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8642")]
    listen: SocketAddr,

    #[command(flatten)]
    address: address::Options,

    #[command(flatten)]
    register: register::Options,

    #[command(flatten)]
    health: health::Options,

    /// A name by which browsers may reach this, beside localhost and the addresses above;
    /// may be repeated
    #[arg(long, value_name = "NAME")]
    allowed_host: Vec<String>,

    /// Where copies of the database are opened, in memory if possible [default: store in
    /// the runDir of the conflist]
    #[arg(long, value_name = "DIRECTORY")]
    work_dir: Option<PathBuf>,
}

/// How many threads serve, at most: the work is small.
const WORKERS: usize = 4;
/// How many more look up names, the only thing that such threads do.
const LOOKUPS: usize = 8;
/// How often it is looked whose time to live is over.
const EXPIRY: Duration = Duration::from_secs(1);

/// What all handlers share.
#[derive(Clone)]
struct App {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    shown: Arc<Shown>,
    desk: Arc<Desk>,
    calls: Arc<Calls>,
    cache: Arc<Cache>,
}

impl App {
    /// What there is now.
    fn now(&self) -> Arc<Snapshot> {
        self.snapshots.borrow().clone()
    }
}

pub fn run(options: &Options, site: &site::Options) -> anyhow::Result<ExitCode> {
    raise_open_files();
    let shown = Arc::new(Shown::new(&options.address));
    let instances = Arc::new(options.register.instances()?);
    let desk = Arc::new(Desk::new(&options.register, instances.clone())?);
    let calls = Arc::new(Calls::below(&Site::find(site)?.run_dir));
    let stored = stored::follow(site.clone(), options.work_dir.clone())?;
    let threads = available_parallelism().map_or(1, NonZero::get).min(WORKERS);
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .max_blocking_threads(LOOKUPS)
        .enable_all()
        .build();
    let runtime = runtime.context("cannot start threads")?;
    runtime.block_on(async {
        let tcp = TcpListener::bind(options.listen).await;
        let tcp = tcp.with_context(|| format!("cannot listen on {}", options.listen))?;
        let unix = options.register.socket.as_deref().map(socket::listen).transpose()?;
        let unix = unix.map(from_std).transpose().context("cannot use the Unix socket")?;
        let address = tcp.local_addr().context("cannot tell where it listens")?;

        let marks = Arc::new(watch::Sender::new(Marks::default()));
        tokio::spawn(health::follow(
            options.health.clone(),
            stored.clone(),
            instances.follow(),
            marks.clone(),
        ));
        tokio::spawn(expire(instances.clone(), marks.subscribe()));
        let mut sources =
            Sources { stored, instances: instances.follow(), marks: marks.subscribe() };
        let (sender, snapshots) = watch::channel(Arc::new(sources.first()));
        let describe = {
            let shown = shown.clone();
            move |before: &Snapshot, after: &Snapshot| events::describe(&shown, before, after)
        };
        tokio::spawn(sources.follow(sender, describe));

        println!("http://{address}/");
        let app = App { snapshots, shown, desk, calls, cache: Arc::default() };
        let router = api::router().merge(page::router()).merge(register::router());
        let router = router.layer(middleware::from_fn_with_state(app.clone(), cache::answer));
        let hosts =
            Arc::new(Hosts::new(options.allowed_host.iter().chain(options.address.names())));
        let router = router.layer(middleware::from_fn_with_state(hosts, host::check));
        listen::serve(tcp, unix, router.with_state(app)).await;
        Ok(ExitCode::SUCCESS)
    })
}

fn from_std(listener: std::os::unix::net::UnixListener) -> std::io::Result<UnixListener> {
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// Checks and clients each take a descriptor.
fn raise_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        log::warn!("cannot raise the number of open files: {error}");
    }
}

async fn expire(instances: Arc<Instances>, marks: watch::Receiver<Marks>) {
    loop {
        time::sleep(EXPIRY).await;
        let done = instances.expire(|name| marks.borrow().proven(name)).await;
        if let Err(error) = done {
            log::error!("{:#}", anyhow::Error::from(error));
        }
    }
}
