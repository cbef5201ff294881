//! The operator's tool: reads what the plugin keeps, without its lock, so that
//! it never delays a container.

mod list;
mod table;

use std::{io, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Parser, Subcommand};
use portclaim::{cni::config, command, host, store::Store};

/// See which host ports the containers of this node have.
#[derive(Parser)]
#[command(name = "portclaimctl", version, max_term_width = 100)]
struct Arguments {
    /// Where the plugin keeps its database (`dataDir` of the conflist).
    #[arg(long, global = true, default_value = config::DATA_DIR)]
    data_dir: PathBuf,

    /// Where it publishes files (`runDir` of the conflist); copies of the
    /// database are read there.
    #[arg(long, global = true, default_value = config::RUN_DIR)]
    run_dir: PathBuf,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the host ports that are held, one line each.
    List(list::Options),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads the output has seen enough of it (`| head`).
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("portclaimctl: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let boot_id = host::boot_id()?;
    let store = Store::new(arguments.data_dir.clone(), boot_id)
        .working_in(arguments.run_dir.join(command::STORE_WORK));
    let mut stdout = io::stdout().lock();
    match &arguments.command {
        Command::List(options) => {
            if !store.exists().unwrap_or(true) {
                eprintln!("portclaimctl: there is no database in {}", arguments.data_dir.display());
            }
            let forwardings = store.read().and_then(|reader| reader.forwardings());
            let forwardings = forwardings.context("cannot read the leases")?;
            list::print(&mut stdout, options, &forwardings)
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kind = |cause: &io::Error| cause.kind() == io::ErrorKind::BrokenPipe;
    error.downcast_ref::<io::Error>().is_some_and(kind)
}
