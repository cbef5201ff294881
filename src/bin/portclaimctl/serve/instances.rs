//! The instances that registered themselves, in memory and in a file.
//!
//! ```text
//! <stateDir>/instances.json    {"schema": 1, "instances": [ …an Instance ]}
//! <stateDir>/instances.new     what is written before it takes its place
//! <stateDir>/lock              held by the only process that writes
//! ```
//!
//! What has changed is on the disk before whoever changed it is answered, and a file
//! that cannot be read is not replaced. Only what changes is written: an instance that
//! registers again with the same words, to stay known, costs nothing. Each has all of
//! its time again after a restart.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread,
    time::Instant,
};

use anyhow::{Context as _, bail};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Mutex, oneshot, watch},
    task,
};

use super::instance::{Instance, InstanceName, Registrant};

const FILE: &str = "instances.json";
const NEW: &str = "instances.new";
const LOCK: &str = "lock";
const SCHEMA: u32 = 1;
/// How many there may be, in all and of one user, and how many bytes the file may have.
const MOST: usize = 10_000;
const MOST_OF_ONE_USER: usize = 1_000;
const LARGEST: usize = 4 * 1024 * 1024;

/// All of them, by name.
pub type List = Arc<Vec<Instance>>;

/// Those that are known.
pub struct Instances {
    folder: PathBuf,
    state: Mutex<State>,
    list: watch::Sender<List>,
    /// Where there is one that may write.
    writer: Option<Writer>,
}

/// A thread of its own: it shall not wait for anything but the disk.
struct Writer {
    texts: mpsc::Sender<(Vec<u8>, oneshot::Sender<io::Result<()>>)>,
    /// For as long as it is there.
    _lock: File,
}

#[derive(Default)]
struct State {
    all: BTreeMap<InstanceName, Instance>,
    /// When each was registered last, or this process began.
    seen: HashMap<InstanceName, Instant>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    schema: u32,
    instances: Vec<Instance>,
}

/// Why an instance was not registered or deregistered.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    #[error("{name} was registered by {owner}, and not by {by}")]
    Foreign { name: InstanceName, owner: Registrant, by: Registrant },
    #[error("there are {0} instances already")]
    TooMany(usize),
    #[error("{0} has registered {1} instances already")]
    TooManyOfOne(Registrant, usize),
    #[error("what instances say takes more than {LARGEST} bytes together")]
    TooLarge,
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
}

impl Instances {
    /// Those that the file has, to be changed by this process alone.
    pub fn open(folder: &Path) -> anyhow::Result<Self> {
        let make = || {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            OpenOptions::new().append(true).create(true).mode(0o600).open(folder.join(LOCK))
        };
        let lock = make().with_context(|| format!("cannot write in {}", folder.display()))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            bail!("another process keeps its instances in {}", folder.display());
        }
        let (texts, written) = mpsc::channel::<(Vec<u8>, oneshot::Sender<io::Result<()>>)>();
        let path = folder.to_owned();
        let write = move || {
            for (text, done) in written {
                // Whoever asked may have gone.
                _ = done.send(write(&path, &text));
            }
        };
        let thread = thread::Builder::new().name("instances".to_owned());
        thread.spawn(write).context("cannot start a thread")?;
        Ok(Self { writer: Some(Writer { texts, _lock: lock }), ..Self::read(folder)? })
    }

    /// None, and none to come.
    pub fn none(folder: &Path) -> Self {
        let (folder, state) = (folder.to_owned(), Mutex::default());
        Self { folder, state, list: watch::Sender::default(), writer: None }
    }

    /// Those that the file has; none where there is no such file.
    pub fn read(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join(FILE);
        let all = match fs::read(&path) {
            Ok(text) => parse(&text).with_context(|| format!("cannot read {}", path.display()))?,
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        let list = watch::Sender::new(Arc::new(all.clone()));
        let seen = all.iter().map(|it| (it.name.clone(), Instant::now())).collect();
        let all = all.into_iter().map(|it| (it.name.clone(), it)).collect();
        let state = Mutex::new(State { all, seen });
        Ok(Self { folder: folder.to_owned(), state, list, writer: None })
    }

    /// All of them, now and with every change.
    pub fn follow(&self) -> watch::Receiver<List> {
        self.list.subscribe()
    }

    /// Registers one, in the place of the one of its name. Returns it as it is known,
    /// and whether it is new.
    pub async fn register(
        self: Arc<Self>,
        instance: Instance,
    ) -> Result<(Instance, bool), RegisterError> {
        // Whoever asks may go away; what has begun is brought to its end.
        finished(task::spawn(async move { self.register_now(instance).await })).await
    }

    async fn register_now(
        &self,
        mut instance: Instance,
    ) -> Result<(Instance, bool), RegisterError> {
        let mut state = self.state.lock().await;
        let by = instance.registrant;
        let before = state.all.get(&instance.name);
        if let Some(before) = before {
            refuse_foreign(before, by)?;
            // Whose it is does not change because somebody else may change it.
            instance.registrant = before.registrant;
            if before.says_what(&instance) {
                let before = before.clone();
                state.seen.insert(before.name.clone(), Instant::now());
                return Ok((before, false));
            }
        } else {
            if state.all.len() >= MOST {
                return Err(RegisterError::TooMany(MOST));
            }
            let of_one = state.all.values().filter(|it| it.registrant == by).count();
            if matches!(by, Registrant::User(_)) && of_one >= MOST_OF_ONE_USER {
                return Err(RegisterError::TooManyOfOne(by, of_one));
            }
        }
        let is_new = before.is_none();
        let mut all = state.all.clone();
        all.insert(instance.name.clone(), instance.clone());
        self.replace(&mut state, all).await?;
        state.seen.insert(instance.name.clone(), Instant::now());
        Ok((instance, is_new))
    }

    /// Forgets one, if there is one of this name.
    pub async fn deregister(
        self: Arc<Self>,
        name: InstanceName,
        by: Registrant,
    ) -> Result<(), RegisterError> {
        let forget = async move {
            let mut state = self.state.lock().await;
            let Some(before) = state.all.get(&name) else { return Ok(()) };
            refuse_foreign(before, by)?;
            let mut all = state.all.clone();
            all.remove(&name);
            self.replace(&mut state, all).await
        };
        finished(task::spawn(forget)).await
    }

    /// Forgets those that were not registered for their time to live, nor found healthy
    /// (`proven` says when that was last).
    pub async fn expire(
        &self,
        proven: impl Fn(&InstanceName) -> Option<Instant>,
    ) -> Result<(), RegisterError> {
        let mut state = self.state.lock().await;
        let is_alive = |instance: &Instance| {
            let seen = state.seen.get(&instance.name).copied().max(proven(&instance.name));
            seen.is_some_and(|seen| seen.elapsed() < instance.ttl.duration())
        };
        if self.writer.is_none() || state.all.values().all(is_alive) {
            return Ok(());
        }
        let alive = state.all.iter().filter(|(_, it)| is_alive(it));
        let all: BTreeMap<_, _> = alive.map(|(name, it)| (name.clone(), it.clone())).collect();
        for gone in state.all.keys().filter(|name| !all.contains_key(*name)) {
            log::info!("instance {gone} has not been heard of for its time to live");
        }
        self.replace(&mut state, all).await
    }

    /// Writes all of them, and then shows them.
    async fn replace(
        &self,
        state: &mut State,
        all: BTreeMap<InstanceName, Instance>,
    ) -> Result<(), RegisterError> {
        let list: Vec<Instance> = all.values().cloned().collect();
        let document = Document { schema: SCHEMA, instances: list.clone() };
        let text = serde_json::to_vec(&document).expect("instances can be written as JSON");
        if text.len() > LARGEST && all.len() >= state.all.len() {
            return Err(RegisterError::TooLarge);
        }
        let written = match &self.writer {
            Some(writer) => {
                let (done, written) = oneshot::channel();
                let is_sent = writer.texts.send((text, done)).is_ok();
                let gone = || io::Error::other("the thread that writes has ended");
                if is_sent { written.await.unwrap_or_else(|_| Err(gone())) } else { Err(gone()) }
            }
            None => Err(ErrorKind::ReadOnlyFilesystem.into()),
        };
        written.map_err(|source| RegisterError::Write { path: self.folder.join(FILE), source })?;
        state.seen.retain(|name, _| all.contains_key(name));
        state.all = all;
        self.list.send_replace(Arc::new(list));
        Ok(())
    }
}

/// What a task has come to.
async fn finished<T>(task: task::JoinHandle<T>) -> T {
    task.await.expect("it does not panic, and is not stopped before the process is")
}

fn refuse_foreign(before: &Instance, by: Registrant) -> Result<(), RegisterError> {
    if by.may_change_what(before.registrant) {
        return Ok(());
    }
    let (name, owner) = (before.name.clone(), before.registrant);
    Err(RegisterError::Foreign { name, owner, by })
}

fn parse(text: &[u8]) -> anyhow::Result<Vec<Instance>> {
    let document: Document = serde_json::from_slice(text)?;
    if document.schema != SCHEMA {
        bail!("it has schema {}, and {SCHEMA} is known", document.schema);
    }
    Ok(document.instances)
}

/// Replaces the file, and returns when that is on the disk.
fn write(folder: &Path, text: &[u8]) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let new = folder.join(NEW);
    let mut file = File::create(&new)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&new, folder.join(FILE))?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::runtime;

    use super::{super::instance::tests::instance, *};

    fn run<T>(test: impl Future<Output = T>) -> T {
        runtime::Builder::new_current_thread().build().unwrap().block_on(test)
    }

    fn names(instances: &Instances) -> Vec<String> {
        instances.follow().borrow().iter().map(|it| it.name.to_string()).collect()
    }

    #[test]
    fn they_are_there_again_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("state");
        run(async {
            let instances = Arc::new(Instances::open(&folder).unwrap());
            for (name, is_new) in [("b", true), ("a", true), ("b", false), ("c", true)] {
                let registered = instances.clone().register(instance(name, "192.0.2.1:80")).await;
                assert_eq!(registered.unwrap().1, is_new);
            }
            let (name, by) = ("c".parse().unwrap(), Registrant::Token);
            instances.clone().deregister(name, by).await.unwrap();
        });
        let again = Instances::read(&folder).unwrap();
        assert_eq!(names(&again), ["a", "b"]);
        fs::write(folder.join(FILE), "{\"schema\": 2, \"instances\": []}").unwrap();
        let error = format!("{:#}", Instances::read(&folder).err().unwrap());
        assert!(error.ends_with("instances.json: it has schema 2, and 1 is known"), "{error}");
    }

    #[test]
    fn what_says_the_same_is_the_same() {
        let folder = tempfile::tempdir().unwrap();
        run(async {
            let instances = Arc::new(Instances::open(folder.path()).unwrap());
            let web = instance("web", "192.0.2.1:80");
            instances.clone().register(web.clone()).await.unwrap();
            let mut list = instances.follow();
            list.mark_unchanged();
            let later = Instance { since: 200, ..web.clone() };
            assert_eq!(instances.clone().register(later).await.unwrap(), (web, false));
            assert!(!list.has_changed().unwrap());
            let moved = Instance { since: 300, ..instance("web", "192.0.2.2:80") };
            assert_eq!(instances.clone().register(moved.clone()).await.unwrap(), (moved, false));
        });
    }

    #[test]
    fn nobody_takes_the_name_of_another_user() {
        let folder = tempfile::tempdir().unwrap();
        let of = |by| Instance { registrant: by, ..instance("web", "192.0.2.1:80") };
        let elsewhere = |by| Instance { registrant: by, ..instance("web", "192.0.2.2:80") };
        run(async {
            let instances = Arc::new(Instances::open(folder.path()).unwrap());
            instances.clone().register(of(Registrant::User(1000))).await.unwrap();
            let name = || "web".parse::<InstanceName>().unwrap();
            let refused = instances.clone().register(elsewhere(Registrant::User(1001))).await;
            let message = "web was registered by user 1000, and not by user 1001";
            assert_eq!(refused.unwrap_err().to_string(), message);
            assert!(instances.clone().deregister(name(), Registrant::User(1001)).await.is_err());
            assert_eq!(names(&instances), ["web"]);
            instances.clone().deregister(name(), Registrant::User(0)).await.unwrap();
            assert!(names(&instances).is_empty());
        });
    }

    #[test]
    fn a_time_to_live_ends_unless_somebody_shows_up() {
        let folder = tempfile::tempdir().unwrap();
        run(async {
            let instances = Arc::new(Instances::open(folder.path()).unwrap());
            for name in ["dead", "proven"] {
                let short = Instance { ttl: 1.try_into().unwrap(), ..instance(name, "h:80") };
                instances.clone().register(short).await.unwrap();
            }
            instances.expire(|_| None).await.unwrap();
            assert_eq!(names(&instances).len(), 2, "its second is not over");
            let past = Instant::now().checked_sub(Duration::from_secs(2)).unwrap();
            for seen in instances.state.lock().await.seen.values_mut() {
                *seen = past;
            }
            let now = Instant::now();
            let proven = |name: &InstanceName| (name.as_str() == "proven").then_some(now);
            instances.expire(proven).await.unwrap();
            assert_eq!(names(&instances), ["proven"]);
        });
        assert_eq!(names(&Instances::open(folder.path()).unwrap()), ["proven"]);
    }

    /// Nothing is shown that is not on the disk.
    #[test]
    fn what_cannot_be_written_is_not_known() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        fs::create_dir(folder.join(NEW)).unwrap();
        run(async {
            let instances = Arc::new(Instances::open(folder).unwrap());
            let refused = instances.clone().register(instance("web", "192.0.2.1:80")).await;
            assert!(refused.unwrap_err().to_string().starts_with("cannot write "));
            assert!(names(&instances).is_empty());
        });
    }
}
