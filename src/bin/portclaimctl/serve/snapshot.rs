//! All that is shown at one moment: what the store holds, who registered itself, and
//! who of them works.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time};

use super::{
    health::{Health, Marks},
    instance::Instance,
    instances::List,
    stored::Stored,
};
use crate::view::lease::Held;

/// How long to wait for more of what changes: checks end one after the other.
const SETTLE: Duration = Duration::from_millis(50);

#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub stored: Arc<Stored>,
    pub instances: List,
    pub marks: Arc<Marks>,
    /// How many there were before this one.
    pub number: u64,
    /// What is different from the one before, for those who watch; none where it shows
    /// the same. Made once, however many watch.
    pub change: Option<String>,
}

impl Snapshot {
    /// Whether who holds a port works; none where that is not checked.
    pub fn health_of(&self, held: &Held<'_>) -> Option<&Health> {
        self.marks.of_container(held.owner.attachment()?)
    }

    /// Whether an instance works; none where that is not checked.
    pub fn health_of_instance(&self, instance: &Instance) -> Option<&Health> {
        self.marks.of_instance(&instance.name)
    }
}

/// What snapshots are made of.
pub struct Sources {
    pub stored: watch::Receiver<Arc<Stored>>,
    pub instances: watch::Receiver<List>,
    pub marks: watch::Receiver<Marks>,
}

impl Sources {
    /// What there is now.
    pub fn first(&mut self) -> Snapshot {
        let marks = Arc::new(self.marks.borrow_and_update().clone());
        self.after(&Snapshot::default(), marks)
    }

    fn after(&mut self, before: &Snapshot, marks: Arc<Marks>) -> Snapshot {
        Snapshot {
            stored: self.stored.borrow_and_update().clone(),
            instances: self.instances.borrow_and_update().clone(),
            marks,
            number: before.number + 1,
            change: None,
        }
    }

    /// Makes one with every change, which `describe` puts into words.
    pub async fn follow(
        mut self,
        snapshots: watch::Sender<Arc<Snapshot>>,
        describe: impl Fn(&Snapshot, &Snapshot) -> Option<String>,
    ) {
        loop {
            let before = snapshots.borrow().clone();
            // None of them ends before the process does.
            let marks = tokio::select! {
                _ = self.stored.changed() => before.marks.clone(),
                _ = self.instances.changed() => before.marks.clone(),
                _ = self.marks.changed() => {
                    // What else changes does not wait for more of these.
                    tokio::select! {
                        _ = self.stored.changed() => {}
                        _ = self.instances.changed() => {}
                        () = time::sleep(SETTLE) => {}
                    }
                    Arc::new(self.marks.borrow_and_update().clone())
                }
            };
            let mut next = self.after(&before, marks);
            next.change = describe(&before, &next);
            snapshots.send_replace(Arc::new(next));
        }
    }
}
