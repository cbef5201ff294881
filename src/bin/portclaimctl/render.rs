//! `portclaimctl render`.
//!
//! ```text
//! templates ─→ read ─┐
//! --claims ──→ read ─┴→ LOCK → plan → fill ─┬→ commit → print
//!                                           └→ error: nothing has changed
//! ```

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use clap::Args;
use portclaim::{
    command::module::{Claimed, Wanted},
    lease::{ModuleId, ModuleLease},
    module::Declaration,
};
use rustix::process::geteuid;

use crate::{
    service::{self, Failure, ModulesFile},
    site,
    template::Template,
};

/// The most that is read of a file, in bytes.
const LIMIT: u64 = 4 * 1024 * 1024;

#[derive(Args)]
pub struct Options {
    /// The templates; `-` is standard input. Without `--output`, what they become is
    /// printed, several with a line of `---` between them
    #[arg(value_name = "FILE", required_unless_present = "claims")]
    files: Vec<PathBuf>,

    /// The service whose claims they are [default: `MODULE_ID`]
    #[arg(long, value_name = "MODULE")]
    owner: Option<ModuleId>,

    /// The claims that are to be there, as JSON: an array of objects with `claim`,
    /// `group`, `preferred_port`, `random` and `protocol`; those that are missing get a
    /// port
    #[arg(long, value_name = "FILE")]
    claims: Option<PathBuf>,

    /// Give back the claims of the service that are not in `--claims`.
    #[arg(long, requires = "claims")]
    prune: bool,

    /// Change nothing: print what the templates would become. Ports that are drawn by
    /// chance may be others then.
    #[arg(long)]
    dry_run: bool,

    /// Write each to a file of the same name in this directory.
    #[arg(short, long, value_name = "DIRECTORY")]
    output: Option<PathBuf>,

    #[command(flatten)]
    modules: ModulesFile,
}

pub fn run(
    out: &mut impl Write,
    options: &Options,
    site: &site::Options,
) -> anyhow::Result<ExitCode> {
    if !geteuid().is_root() {
        bail!("render needs to be root: the agent carries out allocate and deallocate only");
    }
    let targets = options.targets()?;
    let templates =
        options.files.iter().map(|file| template(file)).collect::<Result<Vec<_>, _>>()?;
    let declared = match &options.claims {
        Some(file) => {
            let parsed = Declaration::parse_all(&file.display().to_string(), &read(file)?);
            parsed.map_err(|error| Failure::invalid(format!("{:#}", anyhow::Error::from(error))))?
        }
        None => Vec::new(),
    };
    let mut modules = service::open(site, &options.modules)?;
    let wanted = Wanted {
        module: options.owner.as_ref(),
        declared: &declared,
        prunes: options.prune,
        is_dry_run: options.dry_run,
    };
    let fill = |ports: &BTreeMap<String, u16>| {
        let rendered = templates.iter().map(|template| template.render(ports));
        rendered.collect::<Result<Vec<_>, _>>()
    };
    let claimed = modules.claim(&service::caller()?, wanted, site::moment(), fill);
    let Claimed { filled, came, went } = claimed.map_err(Failure::from)??;
    report(options.dry_run, &came, &went);
    if options.output.is_some() && !options.dry_run {
        for (target, text) in targets.iter().zip(&filled) {
            let written = replace(target, text);
            written.with_context(|| {
                format!("cannot write {}; the claims are allocated", target.display())
            })?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    for (index, text) in filled.iter().enumerate() {
        if index > 0 {
            writeln!(out, "---")?;
        }
        out.write_all(text.as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Options {
    /// Where the files go with `--output`: no two to the same.
    fn targets(&self) -> anyhow::Result<Vec<PathBuf>> {
        let Some(directory) = &self.output else { return Ok(Vec::new()) };
        let mut targets: Vec<PathBuf> = Vec::new();
        for file in &self.files {
            let name = file.file_name().filter(|_| *file != Path::new("-"));
            let Some(name) = name else {
                bail!("{} has no name to be written under in --output", file.display());
            };
            let target = directory.join(name);
            if targets.contains(&target) {
                bail!("two templates would be written to {}", target.display());
            }
            if target.exists() && !target.is_file() {
                bail!("{} is no file that can be replaced", target.display());
            }
            targets.push(target);
        }
        Ok(targets)
    }
}

/// Tells what has become of the claims beside what is printed.
fn report(is_dry_run: bool, came: &[ModuleLease], went: &[ModuleLease]) {
    let would = if is_dry_run { "would have " } else { "" };
    for (what, leases) in [("gave back", went), ("allocated", came)] {
        let what = if is_dry_run { what.replace("gave", "given") } else { what.to_owned() };
        for lease in leases {
            let name = lease.name.as_ref().map(ToString::to_string).unwrap_or_default();
            eprintln!(
                "portclaimctl: {would}{what} {}/{} for claim {name}",
                lease.port, lease.protocol
            );
        }
    }
}

fn template(file: &Path) -> anyhow::Result<Template> {
    Ok(Template::parse(&file.display().to_string(), &read(file)?)?)
}

/// The text of a file, or of standard input.
pub fn read(file: &Path) -> anyhow::Result<String> {
    let name = file.display();
    let mut text = String::new();
    let length = if file == Path::new("-") {
        io::stdin().take(LIMIT + 1).read_to_string(&mut text)
    } else {
        fs::File::open(file).and_then(|file| file.take(LIMIT + 1).read_to_string(&mut text))
    };
    let length = length.with_context(|| format!("cannot read {name}"))?;
    if length as u64 > LIMIT {
        bail!("{name} is larger than {LIMIT} bytes");
    }
    Ok(text)
}

/// Replaces a file by rename(2), so that nobody reads half of it.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = path.with_file_name(format!(".{name}.{:016x}", fastrand::u64(..)));
    let mut file = fs::OpenOptions::new().write(true).create_new(true).open(&new)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        _ = fs::remove_file(&new);
    }
    written
}
