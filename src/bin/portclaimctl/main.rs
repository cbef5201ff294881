//! The operator's tool. What only looks does so without the plugin's lock, so that
//! it never delays a container.

mod action;
mod agent;
mod allocate;
mod check;
mod claims;
mod confirm;
mod conflist;
mod deallocate;
mod doctor;
mod escape;
mod explain;
mod export;
mod gc;
mod groups;
mod import;
mod ink;
mod list;
mod manual;
mod output;
mod places;
mod release;
mod render;
mod reset;
mod restore;
mod serve;
mod service;
mod show;
mod site;
mod socket;
mod table;
mod template;
mod view;
mod watch;

use std::{
    io::{self, BufWriter, Write},
    iter,
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use log::LevelFilter;
use portclaim::logger;

use ink::Ink;
use site::Site;

/// What the exit status says, for `--help` and the manual.
const STATUS: &str = "Exit status: 0: done. 1: not done, not found, or what was looked at is not \
    as it should be. 2: what is asked for is not understood. 3: check could not look. 32: whoever \
    asks may not change these ports. 33: more ports than the module may have.";

/// See which host ports the containers of this node have, and put them right.
#[derive(Parser)]
#[command(name = "portclaimctl", version, max_term_width = 100, after_help = STATUS)]
struct Arguments {
    #[command(flatten)]
    site: site::Options,

    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the host ports that are held, one line each.
    List(list::Options),
    /// Show everything about a host port, a pod, a container or a claim.
    Show(show::Options),
    /// Explain whether a host port is free, and why not.
    Explain(explain::Options),
    /// Show how much of each group is used.
    Groups(groups::Options),
    /// List the claims, and who uses them.
    Claims(claims::Options),
    /// Compare the database with the kernel and the published files. Status 0: they
    /// agree, 1: they do not, 3: that could not be found out.
    Check(check::Options),
    /// Make the kernel and the published files what the database says.
    Restore(restore::Options),
    /// Give back what containers held whose network namespace is gone.
    Gc(gc::Options),
    /// Give leases back, or give claims up.
    Release(release::Options),
    /// Remove everything of portclaim from this node; also with a damaged database.
    Reset(reset::Options),
    /// Look at everything that portclaim needs of this node. Status 1: something does
    /// not work.
    Doctor(doctor::Options),
    /// Take ports for a service of the host, in a row.
    Allocate(allocate::Options),
    /// Give back the ports of a service of the host.
    Deallocate(deallocate::Options),
    /// Do what `allocate` and `deallocate` do, with JSON on stdin and stdout.
    Action(action::Options),
    /// Fill templates with the ports of a service's claims.
    Render(render::Options),
    /// Print the claims and the ports of services of the host as JSON.
    Export(export::Options),
    /// Take over what `export` has printed, or the ports of a `NethServer` module.
    Import(import::Options),
    /// Print completions for a shell.
    Completions(manual::CompletionOptions),
    /// Print the manual page.
    Manual(manual::ManualOptions),
    /// Show who has which port on a page and over HTTP.
    Serve(serve::Options),
    /// Serve services of the host that do not run as root.
    Agent(agent::Options),
    /// Put portclaim into conflists, or take it out again.
    Conflist(conflist::Options),
}

impl Command {
    /// The status of the process when it fails like this.
    fn failure(&self, error: &anyhow::Error) -> ExitCode {
        match (self, error.downcast_ref::<service::Failure>()) {
            (Self::Check(_), _) => ExitCode::from(check::NOT_LOOKED),
            (_, Some(failure)) => ExitCode::from(failure.status()),
            _ => ExitCode::FAILURE,
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    logger::start(LevelFilter::Warn, None);
    match run(&arguments) {
        Ok(code) => code,
        // Whoever reads the output has seen enough of it (`| head`).
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let text = format!("{error:#}");
            for line in iter::once(text.as_str()).chain(advice(&error)) {
                eprintln!("portclaimctl: {}", escape::printable(line));
            }
            arguments.command.failure(&error)
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    // Not every user may read the conflists, nor need to.
    let site = || Site::find(&arguments.site);
    let (mut out, ink) = (BufWriter::new(io::stdout().lock()), Ink::of_stdout());
    let out = &mut out;
    let code = match &arguments.command {
        Command::List(options) => list::run(out, options, &site()?)?,
        Command::Show(options) => show::run(out, ink, options, &site()?)?,
        Command::Explain(options) => explain::run(out, ink, options, &site()?)?,
        Command::Groups(options) => groups::run(out, ink, options, &site()?)?,
        Command::Claims(options) => claims::run(out, options, &site()?)?,
        Command::Check(options) => check::run(out, options, &site()?)?,
        Command::Restore(options) => restore::run(out, options, &site()?)?,
        Command::Gc(options) => gc::run(out, options, &site()?)?,
        Command::Release(options) => release::run(out, options, &site()?)?,
        Command::Reset(options) => reset::run(out, options, &site()?)?,
        Command::Doctor(options) => doctor::run(out, options, &site()?)?,
        Command::Allocate(options) => allocate::run(out, options, &arguments.site)?,
        Command::Deallocate(options) => deallocate::run(out, options, &arguments.site)?,
        Command::Action(options) => action::run(out, options, &arguments.site)?,
        Command::Render(options) => render::run(out, options, &arguments.site)?,
        Command::Export(options) => export::run(out, options, &site()?)?,
        Command::Import(options) => import::run(out, options, &arguments.site)?,
        Command::Completions(options) => manual::completions::<Arguments>(out, options)?,
        Command::Manual(options) => manual::manual::<Arguments>(out, options)?,
        Command::Serve(options) => serve::run(options, &arguments.site)?,
        Command::Agent(options) => agent::run(options, &arguments.site)?,
        Command::Conflist(options) => conflist::run(out, options)?,
    };
    out.flush()?;
    Ok(code)
}

/// What to do about an error.
fn advice(error: &anyhow::Error) -> Option<&str> {
    let advised = error.downcast_ref::<site::Advised>().map(|advised| advised.advice);
    advised.or_else(|| error.downcast_ref::<service::Failure>()?.advice())
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let kind = |cause: &io::Error| cause.kind() == io::ErrorKind::BrokenPipe;
    error.downcast_ref::<io::Error>().is_some_and(kind)
}
