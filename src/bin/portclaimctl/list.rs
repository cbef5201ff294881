//! `portclaimctl list`.

use std::{io::Write, process::ExitCode};

use clap::Args;
use portclaim::lease::{
    ClaimName, GroupName, InterfaceName, ModuleId, Namespace, NetworkName, PodName, PortName,
    PortSet, Protocol,
};
use serde::Serialize;

use crate::{
    output::{self, Output},
    site::{Site, holdings},
    table::{self, Column, Table},
    view::{
        lease::{Document, Filter, Held, changes, rows},
        time,
    },
    watch::{Wake, Watch},
};

#[derive(Args)]
pub struct Options {
    /// How to print: tables for people, JSON and YAML for programs.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,

    /// Only what pods of this namespace hold
    #[arg(short, long)]
    namespace: Option<Namespace>,

    /// Only what pods of this name hold
    #[arg(long)]
    pod: Option<PodName>,

    /// Only ports of this group
    #[arg(long)]
    group: Option<GroupName>,

    /// Only ports of this protocol: tcp, udp or sctp
    #[arg(long, value_parser = output::protocol)]
    protocol: Option<Protocol>,

    /// Only these host ports: a number, a range like 7000-7999, or several with
    /// commas between them
    #[arg(long, value_name = "PORTS")]
    port: Option<PortSet>,

    /// Only what is held on this network
    #[arg(long)]
    network: Option<NetworkName>,

    /// Only what this service of the host holds
    #[arg(long)]
    module: Option<ModuleId>,

    /// Go on until interrupted: a terminal always shows what is held, elsewhere each
    /// change is printed as it comes, `+` for a port that is held now and `-` for one
    /// that no longer is; as JSON one object a line
    #[arg(short, long)]
    watch: bool,
}

pub fn run(out: &mut impl Write, options: &Options, site: &Site) -> anyhow::Result<ExitCode> {
    let filter = Filter {
        namespace: options.namespace.clone(),
        pod: options.pod.clone(),
        group: options.group.clone(),
        protocol: options.protocol,
        ports: options.port.clone(),
        network: options.network.clone(),
        module: options.module.clone(),
    };
    if options.watch {
        watch(out, options.output, site, &filter)?;
    } else {
        let holdings = holdings(&site.read()?)?;
        print(out, options.output, &rows(&holdings, &filter))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn watch(out: &mut impl Write, output: Output, site: &Site, filter: &Filter) -> anyhow::Result<()> {
    let mut watch = Watch::new(&site.data_dir)?;
    let mut before = Vec::new();
    let mut printer = Changes::new(output);
    let mut reader = site.read()?;
    loop {
        let after = holdings(&reader)?;
        drop(reader);
        let rows_after = rows(&after, filter);
        if let Some(size) = table::terminal() {
            redraw(out, output, &rows_after, size)?;
        } else {
            let (gone, come) = changes(&rows(&before, filter), &rows_after);
            printer.print(out, &gone, &come)?;
        }
        out.flush()?;
        before = after;
        if watch.wait()? == Wake::Unread {
            return Ok(());
        }
        reader = site.read_again()?;
    }
}

/// Prints in place of what the terminal shows, as much as it has room for.
fn redraw(
    out: &mut impl Write,
    output: Output,
    rows: &[Held<'_>],
    (columns, height): (usize, usize),
) -> anyhow::Result<()> {
    const HOME_AND_CLEAR: &str = "\x1b[H\x1b[J";
    let lines = if matches!(output, Output::Table | Output::Wide) {
        table(output, rows, false).lines(Some(columns))
    } else {
        let mut text = Vec::new();
        print(&mut text, output, rows)?;
        String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()
    };
    out.write_all(HOME_AND_CLEAR.as_bytes())?;
    // The cursor is below the last line.
    let room = height.saturating_sub(1).max(1);
    let shown = if lines.len() > room { room - 1 } else { lines.len() };
    for line in &lines[..shown] {
        writeln!(out, "{line}")?;
    }
    if lines.len() > shown {
        writeln!(out, "… and {} more", lines.len() - shown)?;
    }
    Ok(())
}

/// Prints what comes and goes.
struct Changes {
    output: Output,
    /// How wide the columns are; none before there were any.
    widths: Vec<usize>,
}

#[derive(Serialize)]
struct Change<'a> {
    change: &'static str,
    #[serde(flatten)]
    lease: Document<'a>,
}

impl Changes {
    fn new(output: Output) -> Self {
        Self { output, widths: Vec::new() }
    }

    fn print(
        &mut self,
        out: &mut impl Write,
        gone: &[Held<'_>],
        come: &[Held<'_>],
    ) -> anyhow::Result<()> {
        let removed = gone.iter().map(|held| Change { change: "removed", lease: held.document() });
        let added = come.iter().map(|held| Change { change: "added", lease: held.document() });
        match self.output {
            Output::Json => {
                for change in removed.chain(added) {
                    output::json_line(out, &change)?;
                }
            }
            Output::Yaml => {
                for change in removed.chain(added) {
                    writeln!(out, "---")?;
                    output::yaml(out, &change)?;
                }
            }
            Output::Table | Output::Wide => {
                let mut table = new_table(self.output, true).at_least(&self.widths);
                let now = time::now();
                for (sign, rows) in [("-", gone), ("+", come)] {
                    for held in rows {
                        let mut cells = vec![sign.to_owned()];
                        cells.extend(row(self.output, held, now));
                        table.push(cells);
                    }
                }
                let lines = table.lines(None);
                for line in lines.iter().skip(usize::from(!self.widths.is_empty())) {
                    writeln!(out, "{line}")?;
                }
                self.widths = table.widths(None);
            }
        }
        Ok(())
    }
}

fn print(out: &mut impl Write, output: Output, rows: &[Held<'_>]) -> anyhow::Result<()> {
    let documents = || rows.iter().map(Held::document).collect::<Vec<_>>();
    match output {
        Output::Json => output::json(out, &documents()),
        Output::Yaml => output::yaml(out, &documents()),
        Output::Table | Output::Wide => Ok(table(output, rows, false).print(out)?),
    }
}

fn table(output: Output, rows: &[Held<'_>], with_change: bool) -> Table {
    let mut table = new_table(output, with_change);
    let now = time::now();
    for held in rows {
        table.push(row(output, held, now));
    }
    table
}

fn new_table(output: Output, with_change: bool) -> Table {
    let fixed = |title| Column { title, shrinks: false };
    let shrinking = |title| Column { title, shrinks: true };
    let mut columns = Vec::new();
    if with_change {
        columns.push(fixed(" "));
    }
    columns.extend([
        fixed("HOST PORT"),
        fixed("TO"),
        shrinking("OWNER"),
        shrinking("NETWORK"),
        shrinking("GROUP"),
        fixed("AGE"),
    ]);
    if output == Output::Wide {
        columns.extend(["NAME", "CLAIM", "CONTAINER", "INTERFACE", "LINK", "UID"].map(shrinking));
    }
    Table::new(&columns)
}

fn row(output: Output, held: &Held<'_>, now: u64) -> Vec<String> {
    let Held { lease, owner } = held;
    let or_none = |text: Option<&str>| text.unwrap_or("-").to_owned();
    let attachment = owner.attachment();
    let mut cells = vec![
        lease.host.to_string(),
        held.target(),
        owner.to_string(),
        or_none(attachment.map(|at| at.network.as_str())),
        held.group(),
        held.age(now),
    ];
    if output == Output::Wide {
        cells.extend([
            or_none(lease.name.as_ref().map(PortName::as_str)),
            or_none(lease.claim.as_ref().map(ClaimName::as_str)),
            or_none(attachment.map(|at| at.container.as_str())),
            or_none(attachment.map(|at| at.interface.as_str())),
            or_none(owner.link().map(InterfaceName::as_str)),
            or_none(owner.pod().and_then(|pod| pod.uid.as_deref())),
        ]);
    }
    cells
}
