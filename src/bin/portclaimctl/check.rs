//! `portclaimctl check`.

use std::{io::Write, process::ExitCode};

use clap::{Args, ValueEnum};
use portclaim::{
    command::Finding,
    lease::{ModuleId, NetworkName, Owner},
};
use serde::Serialize;

use crate::site::Site;

#[derive(Args)]
pub struct Options {
    /// How to print: lines for people, or JSON for programs.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum Output {
    Text,
    Json,
}

/// What the status of the process says.
const DIFFERENT: u8 = 1;
/// When it could not be found out.
pub const NOT_LOOKED: u8 = 3;

#[derive(Serialize)]
struct Document<'a> {
    same: bool,
    leases: usize,
    differences: Vec<Difference<'a>>,
    notes: &'a [String],
}

#[derive(Serialize)]
struct Difference<'a> {
    kind: &'static str,
    network: Option<&'a str>,
    #[serde(rename = "containerID")]
    container_id: Option<&'a str>,
    ifname: Option<&'a str>,
    namespace: Option<&'a str>,
    pod: Option<&'a str>,
    module: Option<&'a str>,
    text: &'a str,
}

impl<'a> From<&'a Finding> for Difference<'a> {
    fn from(finding: &'a Finding) -> Self {
        let (attachment, module) = match finding.owner.as_ref().map(|(owner, _)| owner) {
            Some(Owner::Attachment(attachment)) => (Some(attachment), None),
            Some(Owner::Module(module)) => (None, Some(module)),
            None => (None, None),
        };
        let pod = finding.owner.as_ref().and_then(|(_, pod)| pod.as_ref());
        Self {
            kind: finding.kind.name(),
            network: finding.network.as_ref().map(NetworkName::as_str),
            container_id: attachment.map(|attachment| attachment.container.as_str()),
            ifname: attachment.map(|attachment| attachment.interface.as_str()),
            namespace: pod.map(|pod| pod.namespace.as_str()),
            pod: pod.map(|pod| pod.name.as_str()),
            module: module.map(ModuleId::as_str),
            text: &finding.text,
        }
    }
}

pub fn run(out: &mut impl Write, options: &Options, site: &Site) -> anyhow::Result<ExitCode> {
    let compared = site.operator()?.compare().map_err(crate::site::advised)?;
    let findings = &compared.findings;
    match options.output {
        Output::Json => {
            let document = Document {
                same: findings.is_empty(),
                leases: compared.leases,
                differences: findings.iter().map(Difference::from).collect(),
                notes: &compared.notes,
            };
            serde_json::to_writer_pretty(&mut *out, &document).map_err(std::io::Error::from)?;
            writeln!(out)?;
        }
        Output::Text => {
            for finding in findings {
                writeln!(out, "{}", finding.text)?;
            }
            for note in &compared.notes {
                writeln!(out, "note: {note}")?;
            }
            match findings.len() {
                0 => writeln!(out, "no difference: {} leases", compared.leases)?,
                1 => writeln!(out, "1 difference: portclaimctl restore puts it right")?,
                count => {
                    writeln!(out, "{count} differences: portclaimctl restore puts them right")?;
                }
            }
        }
    }
    Ok(if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(DIFFERENT) })
}
