//! How many of something each client may have at once, so that none keeps others out.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

/// A client: an address, or a user of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Who {
    Address(IpAddr),
    User(u32),
}

/// Who has how many.
pub struct Places {
    taken: Mutex<Option<HashMap<Who, usize>>>,
    most: usize,
    most_of_one: usize,
}

/// One of them, until it is dropped.
pub struct Place {
    places: &'static Places,
    who: Who,
}

impl Places {
    pub const fn new(most: usize, most_of_one: usize) -> Self {
        Self { taken: Mutex::new(None), most, most_of_one }
    }

    /// One more for this client, if it may have it.
    pub fn take(&'static self, who: Who) -> Option<Place> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = taken.get_or_insert_default();
        let all: usize = taken.values().sum();
        let own = taken.get(&who).copied().unwrap_or_default();
        if all >= self.most || own >= self.most_of_one {
            return None;
        }
        taken.insert(who, own + 1);
        Some(Place { places: self, who })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = taken.get_or_insert_default();
        match taken.get_mut(&self.who) {
            Some(own) if *own > 1 => *own -= 1,
            _ => {
                taken.remove(&self.who);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_leaves_places_to_others() {
        static PLACES: Places = Places::new(3, 2);
        let first = PLACES.take(Who::User(1));
        let second = PLACES.take(Who::User(1));
        assert!(first.is_some() && second.is_some() && PLACES.take(Who::User(1)).is_none());
        let other = PLACES.take(Who::User(2));
        assert!(other.is_some() && PLACES.take(Who::User(3)).is_none());
        drop(first);
        assert!(PLACES.take(Who::User(1)).is_some());
        drop((second, other));
        assert!(PLACES.taken.lock().unwrap().as_ref().unwrap().is_empty());
    }
}
