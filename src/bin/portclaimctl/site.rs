//! Where the node's settings are: the conflists with portclaim in them.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail};
use clap::Args;
use portclaim::{
    cni::{
        Config, Conflist,
        config::{self, Settings},
    },
    command::{self, ConflistFile, Exclusion, Operator, STORE_WORK},
    host,
    lease::{Claim, Forwarding, Lease, NetworkName},
    store::{Moment, Reader, Store, StoreError},
};
use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;

use crate::{
    escape::printable,
    view::{group::Policy, holding::Holding, time},
};

/// Where runtimes look for conflists, unless they are told otherwise.
const CONFLISTS: &str = "/etc/cni/net.d";

/// Where to find the node's settings, on every command.
#[derive(Args, Clone)]
pub struct Options {
    /// The conflist to take settings from [default: those in /etc/cni/net.d that
    /// have portclaim in them, the first by name before others]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Where the plugin keeps its database [default: dataDir of the conflist]
    #[arg(long, global = true, value_name = "DIRECTORY")]
    data_dir: Option<PathBuf>,

    /// Where it publishes files [default: runDir of the conflist]
    #[arg(long, global = true, value_name = "DIRECTORY")]
    run_dir: Option<PathBuf>,
}

/// The node as its conflists describe it.
pub struct Site {
    /// The configurations of portclaim, in the order in which a runtime would look
    /// at their files, but with those first that share the first one's database; none
    /// where there is no conflist.
    pub configs: Vec<Config>,
    /// Where the database is.
    pub data_dir: PathBuf,
    /// Where files are published.
    pub run_dir: PathBuf,
    /// Where copies of the database are opened.
    pub work_dir: PathBuf,
    /// All conflists, as they are: also those without portclaim, and broken ones.
    pub conflists: Vec<ConflistFile>,
    /// Those that were found and cannot be used, and why.
    broken: Vec<anyhow::Error>,
}

impl Site {
    /// Reads the conflists. One that is broken is an error where it is named, and
    /// passed over with a warning where it is only found.
    pub fn find(options: &Options) -> anyhow::Result<Self> {
        let (mut configs, broken) = match &options.config {
            Some(file) => {
                let configs = read(file)?;
                if configs.is_empty() {
                    bail!("{} has no plugin of type \"portclaim\"", file.display());
                }
                (configs, Vec::new())
            }
            None => search(Path::new(CONFLISTS))?,
        };
        let conflists = match &options.config {
            Some(file) => vec![file.clone()],
            None => files(Path::new(CONFLISTS))?,
        };
        // Those that share the database of the first come first.
        if let Some(database) = configs.first().map(|first| first.data_dir.clone()) {
            configs.sort_by_key(|config| config.data_dir != database);
        }
        let first = configs.first();
        let data_dir = options.data_dir.clone().or_else(|| first.map(|c| c.data_dir.clone()));
        let run_dir = options.run_dir.clone().or_else(|| first.map(|c| c.run_dir.clone()));
        let run_dir = run_dir.unwrap_or_else(|| config::RUN_DIR.into());
        Ok(Self {
            configs,
            data_dir: data_dir.unwrap_or_else(|| config::DATA_DIR.into()),
            work_dir: run_dir.join(STORE_WORK),
            run_dir,
            conflists: conflists.into_iter().map(conflist).collect(),
            broken,
        })
    }

    /// Refuses to take ports on a node with a conflist that cannot be used: it may be
    /// the one that says where the database is and which ports there are.
    pub fn refuse_broken(&self) -> anyhow::Result<()> {
        match self.broken.first() {
            Some(error) => {
                bail!("{error:#}: repair it, or name the right one with --config")
            }
            None => Ok(()),
        }
    }

    /// The settings of the first conflist; the documented defaults without one.
    pub fn settings(&self) -> anyhow::Result<Settings> {
        match self.configs.first() {
            Some(config) => Ok(config.settings()?),
            None => Ok(defaults().settings()?),
        }
    }

    /// The configuration of a network; none where no conflist has its name.
    pub fn config_of(&self, network: &NetworkName) -> Option<&Config> {
        self.configs.iter().find(|config| config.network == *network)
    }

    /// What the networks that share the database say about ports, those together that
    /// say the same; the documented defaults without a conflist.
    pub fn policies(&self) -> anyhow::Result<Vec<Policy>> {
        let Some(first) = self.configs.first() else {
            let settings = self.settings()?;
            let exclusion = Exclusion::read(&settings)?;
            return Ok(vec![Policy { networks: Vec::new(), settings, exclusion }]);
        };
        let mut policies: Vec<Policy> = Vec::new();
        for config in self.configs.iter().filter(|config| config.data_dir == first.data_dir) {
            let settings = config.settings()?;
            match policies.iter_mut().find(|policy| policy.settings == settings) {
                Some(policy) => policy.networks.push(config.network.clone()),
                None => policies.push(Policy {
                    networks: vec![config.network.clone()],
                    exclusion: Exclusion::read(&settings)?,
                    settings,
                }),
            }
        }
        Ok(policies)
    }

    /// The store, as the plugin sees it.
    pub fn store(&self) -> anyhow::Result<Store> {
        let store = Store::new(self.data_dir.clone(), host::boot_id()?);
        Ok(store.working_in(self.work_dir.clone()))
    }

    /// The node, to be worked on.
    pub fn operator(&self) -> anyhow::Result<Operator<'_>> {
        let (data_dir, run_dir) = (self.data_dir.clone(), self.run_dir.clone());
        let path = std::env::var_os("PATH");
        let first = self.configs.first();
        let is_own = |config: &Config| first.is_some_and(|first| first.data_dir == config.data_dir);
        let (own, other) = self.configs.split_at(self.configs.partition_point(is_own));
        Ok(Operator::new(data_dir, run_dir, path.as_deref(), own, moment())?.beside(other))
    }

    /// What the store holds now, without the lock. Where there is none, somebody may
    /// have meant another one, and is told.
    pub fn read(&self) -> anyhow::Result<Reader> {
        if !self.store()?.exists().unwrap_or(true) {
            let message = format!("there is no database in {}", self.data_dir.display());
            eprintln!("portclaimctl: {}", printable(&message));
        }
        self.read_again()
    }

    /// What the store holds now, for somebody who has been told what there is to tell.
    pub fn read_again(&self) -> anyhow::Result<Reader> {
        self.store()?.read().context("cannot read the leases")
    }
}

/// An error with what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Advised {
    text: String,
    pub advice: &'static str,
}

/// An error with what to do about it.
pub fn advised(error: command::Error) -> anyhow::Error {
    let advice = error.advice();
    Advised { text: format!("{:#}", anyhow::Error::from(error)), advice }.into()
}

/// Prints what went wrong beside all that went well.
pub fn report(errors: &[command::Error]) -> ExitCode {
    for error in errors {
        eprintln!("portclaimctl: {}", error.with_causes());
    }
    if errors.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// An attachment, and its pod where it is of one.
pub fn who(held: &Forwarding) -> String {
    let pod = held.pod.as_ref().map(|pod| format!(" ({pod})")).unwrap_or_default();
    format!("{}{pod}", held.attachment)
}

/// The host ports of leases.
pub fn ports(leases: &[Lease]) -> String {
    let ports: Vec<_> = leases.iter().map(|lease| lease.host.to_string()).collect();
    ports.join(", ")
}

fn conflist(path: PathBuf) -> ConflistFile {
    let content = fs::read(&path).ok().and_then(|text| Conflist::parse(&text));
    ConflistFile { path, content }
}

/// All that is held.
pub fn holdings(reader: &Reader) -> anyhow::Result<Vec<Holding>> {
    let read = || Ok::<_, StoreError>((reader.forwardings()?, reader.module_leases()?));
    let (forwardings, modules) = read().context("cannot read the leases")?;
    let modules = modules.into_iter().map(Holding::from);
    Ok(forwardings.into_iter().map(Holding::from).chain(modules).collect())
}

/// All that is held, and all that is reserved.
pub fn everything(reader: &Reader) -> anyhow::Result<(Vec<Holding>, Vec<Claim>)> {
    let claims = reader.claims().context("cannot read the leases")?;
    Ok((holdings(reader)?, claims))
}

/// The time, for the store.
pub fn moment() -> Moment {
    Moment { since_boot: since_boot(), unix: time::now() }
}

/// The time since boot, by which ports cool down.
pub fn since_boot() -> Duration {
    Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default()
}

/// What a conflist that says nothing means.
fn defaults() -> Config {
    let text = r#"{"cniVersion": "1.0.0", "name": "default", "type": "portclaim"}"#;
    Config::parse(text.as_bytes()).expect("the text is a configuration")
}

/// The files in the directory that a runtime takes for conflists, in their order.
fn files(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("cannot list {}", directory.display()))?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("cannot list {}", directory.display()))?.path();
        let is_conflist = |extension| ["conflist", "conf", "json"].iter().any(|e| extension == *e);
        if path.extension().is_some_and(is_conflist) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The configurations of portclaim, and what is wrong with the conflists that are
/// passed over.
fn search(directory: &Path) -> anyhow::Result<(Vec<Config>, Vec<anyhow::Error>)> {
    let (mut configs, mut broken) = (Vec::new(), Vec::new());
    for file in files(directory)? {
        match read(&file) {
            Ok(found) => configs.extend(found),
            Err(error) => {
                let text = format!("{error:#}: passed over");
                eprintln!("portclaimctl: {}", printable(&text));
                broken.push(error);
            }
        }
    }
    Ok((configs, broken))
}

fn read(file: &Path) -> anyhow::Result<Vec<Config>> {
    let text = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    parse(&text, file)
}

/// The configurations of portclaim in the text of a conflist, or of the configuration
/// of a single plugin.
pub fn parse(text: &[u8], file: &Path) -> anyhow::Result<Vec<Config>> {
    let name = file.display();
    let list: Value =
        serde_json::from_slice(text).with_context(|| format!("{name} is not JSON"))?;
    let plugins = list["plugins"].as_array().cloned().unwrap_or_else(|| vec![list.clone()]);
    let ours = plugins.into_iter().filter(|plugin| plugin["type"] == "portclaim");
    ours.map(|mut plugin| {
        // As libcni derives what a plugin reads from a list.
        for key in ["cniVersion", "name"] {
            plugin[key] = list[key].clone();
        }
        let config = Config::parse(plugin.to_string().as_bytes());
        let config = config.with_context(|| format!("{name} cannot be used"))?;
        config.settings().with_context(|| format!("{name} cannot be used"))?;
        Ok(config)
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(directory: &Path, file: &str) -> anyhow::Result<Site> {
        let config = Some(directory.join(file));
        Site::find(&Options { config, data_dir: None, run_dir: Some("/run/other".into()) })
    }

    #[test]
    fn conflists_are_found_in_the_order_of_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        let list = |name: &str| {
            format!(
                r#"{{"cniVersion": "1.0.0", "name": "{name}", "plugins": [{{"type": "bridge"}},
                {{"type": "portclaim", "dataDir": "/data/{name}"}}]}}"#
            )
        };
        write("20-b.conflist", &list("b"));
        write("10-a.conf", r#"{"cniVersion": "1.0.0", "name": "a", "type": "portclaim"}"#);
        write("00-other.conflist", r#"{"cniVersion": "1.0.0", "name": "o", "plugins": []}"#);
        write("01-broken.conflist", "{");
        write("30-c.conflist.bak", &list("c"));
        let (found, broken) = search(dir.path()).unwrap();
        assert_eq!(broken.len(), 1);
        let names: Vec<_> = found.iter().map(|config| config.network.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        let site = site(dir.path(), "20-b.conflist").unwrap();
        assert_eq!(site.data_dir, PathBuf::from("/data/b"));
        assert_eq!(site.run_dir, PathBuf::from("/run/other"));
        assert!(site.config_of(&"b".parse().unwrap()).is_some());
        assert!(search(&dir.path().join("absent")).unwrap().0.is_empty());
    }

    #[test]
    fn a_conflist_that_is_named_must_be_right() {
        let dir = tempfile::tempdir().unwrap();
        for (text, message) in [
            ("{", "is not JSON"),
            (r#"{"plugins": []}"#, "has no plugin of type \"portclaim\""),
            (
                r#"{"cniVersion": "1.0.0", "name": "a", "type": "portclaim", "snat": 1}"#,
                "cannot be used: snat is 1",
            ),
        ] {
            fs::write(dir.path().join("x.conflist"), text).unwrap();
            let error = site(dir.path(), "x.conflist").err().unwrap();
            assert!(format!("{error:#}").contains(message), "{error:#}");
        }
        assert!(site(dir.path(), "absent.conflist").is_err());
    }
}
