//! `portclaimctl serve`: who has which port, on a page and over HTTP.
//!
//! ```text
//! dataDir/current ─inotify→ snapshot ─┬→ api      /v1/…, /metrics, /healthz
//!                                     ├→ page     /
//!                                     └→ events   /v1/events
//! ```
//!
//! Reads generations without the lock, and changes nothing: an ADD never waits for it.
//! One snapshot is shared by all who ask, however many there are.

mod address;
mod api;
mod events;
mod listen;
mod page;
mod query;
mod snapshot;

use std::{net::SocketAddr, process::ExitCode, sync::Arc};

use anyhow::Context;
use clap::Args;
use tokio::{net::TcpListener, runtime, sync::watch};

use crate::site;
use address::Shown;
use snapshot::Snapshot;

#[derive(Args)]
pub struct Options {
    /// Where to listen. Anybody who can connect can read.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8642")]
    listen: SocketAddr,

    #[command(flatten)]
    address: address::Options,
}

/// What all handlers share.
#[derive(Clone)]
struct App {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    shown: Arc<Shown>,
}

impl App {
    /// What there is now.
    fn now(&self) -> Arc<Snapshot> {
        self.snapshots.borrow().clone()
    }
}

pub fn run(options: &Options, site: &site::Options) -> anyhow::Result<ExitCode> {
    let shown = Arc::new(Shown::new(&options.address));
    let snapshots = {
        let shown = shown.clone();
        snapshot::follow(site.clone(), move |before, after| {
            events::describe(&shown, before, after)
        })?
    };
    let runtime = runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.context("cannot start threads")?;
    runtime.block_on(async {
        let listener = TcpListener::bind(options.listen).await;
        let listener = listener.with_context(|| format!("cannot listen on {}", options.listen))?;
        let address = listener.local_addr().context("cannot tell where it listens")?;
        println!("http://{address}/");
        let app = App { snapshots, shown };
        let router = api::router().merge(page::router()).with_state(app);
        listen::serve(listener, router).await;
        Ok(ExitCode::SUCCESS)
    })
}
