//! `portclaimctl completions` and `portclaimctl manual`: what is made from the
//! definitions of the commands.

use std::{fs, io::Write, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

#[derive(Args)]
pub struct CompletionOptions {
    /// For which shell
    shell: Shell,
}

pub fn completions<C: CommandFactory>(
    out: &mut impl Write,
    options: &CompletionOptions,
) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    let mut command = C::command();
    let name = command.get_name().to_owned();
    clap_complete::generate(options.shell, &mut command, name, &mut script);
    // The library panics where it cannot write.
    out.write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}

#[derive(Args)]
pub struct ManualOptions {
    /// Write a page for each command to this directory, as `portclaimctl-list.1`;
    /// without it, the first page is printed
    #[arg(short, long, value_name = "DIRECTORY")]
    output: Option<PathBuf>,
}

pub fn manual<C: CommandFactory>(
    out: &mut impl Write,
    options: &ManualOptions,
) -> anyhow::Result<ExitCode> {
    // Options of every command stand on the first page.
    let command = C::command().disable_help_subcommand(true);
    match &options.output {
        Some(directory) => {
            fs::create_dir_all(directory)
                .and_then(|()| clap_mangen::generate_to(command, directory))
                .with_context(|| format!("cannot write to {}", directory.display()))?;
        }
        None => clap_mangen::Man::new(command).render(out)?,
    }
    Ok(ExitCode::SUCCESS)
}
