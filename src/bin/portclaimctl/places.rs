//! How many of something each client may have at once, so that none keeps others out.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

/// Who has how many.
pub struct Places<K> {
    taken: Arc<Mutex<HashMap<K, usize>>>,
    most: usize,
    most_of_one: usize,
}

/// One of them, until it is dropped.
pub struct Place<K: Eq + Hash> {
    taken: Arc<Mutex<HashMap<K, usize>>>,
    who: K,
}

impl<K: Copy + Eq + Hash> Places<K> {
    pub fn new(most: usize, most_of_one: usize) -> Self {
        Self { taken: Arc::default(), most, most_of_one }
    }

    /// One more for this client, if it may have it.
    pub fn take(&self, who: K) -> Option<Place<K>> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = taken.values().sum();
        let own = taken.get(&who).copied().unwrap_or_default();
        if all >= self.most || own >= self.most_of_one {
            return None;
        }
        taken.insert(who, own + 1);
        Some(Place { taken: self.taken.clone(), who })
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = taken.get_mut(&self.who) {
            *own -= 1;
        }
        taken.retain(|_, own| *own > 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_leaves_places_to_others() {
        let places = Places::new(3, 2);
        let first = places.take(1);
        let second = places.take(1);
        assert!(first.is_some() && second.is_some() && places.take(1).is_none());
        let other = places.take(2);
        assert!(other.is_some() && places.take(3).is_none());
        drop(first);
        assert!(places.take(1).is_some());
        drop((second, other));
        assert!(places.is_empty());
    }
}
