//! A set of ports that is quick to change and to combine: one bit for each port.

use super::{Port, PortSet};

const WORD: usize = u64::BITS as usize;
const WORDS: usize = (u16::MAX as usize + 1) / WORD;

/// A set of ports as 65,536 bits. Unlike a [`PortSet`] it costs the same 8 KiB
/// however the ports lie, and combining two of them is a loop over words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortMap(Box<[u64; WORDS]>);

impl Default for PortMap {
    fn default() -> Self {
        Self(Box::new([0; WORDS]))
    }
}

fn place(port: Port) -> (usize, u64) {
    let number = usize::from(port.number());
    (number / WORD, 1 << (number % WORD))
}

impl PortMap {
    /// The size of a chunk: a bit for each of the 256 ports whose numbers begin
    /// with the same byte.
    pub const CHUNK_BYTES: usize = 32;

    /// Puts a port in.
    pub fn insert(&mut self, port: Port) {
        let (word, bit) = place(port);
        self.0[word] |= bit;
    }

    /// Takes a port out.
    pub fn remove(&mut self, port: Port) {
        let (word, bit) = place(port);
        self.0[word] &= !bit;
    }

    /// Whether the port is in the set.
    #[must_use]
    pub fn contains(&self, port: Port) -> bool {
        let (word, bit) = place(port);
        self.0[word] & bit != 0
    }

    /// How many ports are in the set, 0 to 65535.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }

    /// Whether no port is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// Leaves what is in both.
    pub fn keep(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0.iter()).for_each(|(word, other)| *word &= other);
    }

    /// Takes out what is in the other.
    pub fn subtract(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0.iter()).for_each(|(word, other)| *word &= !other);
    }

    /// Adds what is in the other.
    pub fn include(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0.iter()).for_each(|(word, other)| *word |= other);
    }

    /// Takes out every port below this one.
    pub fn remove_below(&mut self, port: Port) {
        let (word, bit) = place(port);
        self.0[..word].fill(0);
        self.0[word] &= !(bit - 1);
    }

    /// The same set with every port lower by `distance`; those that would be lower
    /// than 1 fall out.
    #[must_use]
    pub fn lowered(&self, distance: u16) -> Self {
        let (words, bits) = (usize::from(distance) / WORD, usize::from(distance) % WORD);
        let mut lowered = Self::default();
        for (at, word) in lowered.0[..WORDS - words].iter_mut().enumerate() {
            let carried = match self.0.get(at + words + 1) {
                Some(next) if bits > 0 => next << (WORD - bits),
                _ => 0,
            };
            *word = self.0[at + words] >> bits | carried;
        }
        lowered.0[0] &= !1;
        lowered
    }

    /// The ports with which a run of `count` neighbours begins that are all in the
    /// set. Runs may overlap.
    #[must_use]
    pub fn runs(mut self, count: u16) -> Self {
        let mut length = 1;
        while length < count {
            let step = length.min(count - length);
            self.keep(&self.lowered(step));
            length += step;
        }
        self
    }

    /// Every port of the set, lowest first.
    pub fn iter(&self) -> impl Iterator<Item = Port> + '_ {
        self.0.iter().enumerate().flat_map(|(at, word)| {
            let mut rest = *word;
            std::iter::from_fn(move || {
                let bit = (rest != 0).then(|| rest.trailing_zeros() as usize)?;
                rest &= rest - 1;
                let number = u16::try_from(at * WORD + bit).expect("there are 65,536 bits");
                Some(Port::new(number).expect("no port 0 was put in"))
            })
        })
    }

    /// The port at `index` when counted from the lowest, which is 0.
    #[must_use]
    pub fn nth(&self, mut index: u32) -> Option<Port> {
        for (at, word) in self.0.iter().enumerate() {
            let ones = word.count_ones();
            if index >= ones {
                index -= ones;
                continue;
            }
            let mut rest = *word;
            for _ in 0..index {
                rest &= rest - 1;
            }
            return Port::new(u16::try_from(at * WORD + rest.trailing_zeros() as usize).ok()?);
        }
        None
    }

    /// The bits of the ports whose number begins with this byte, the lowest port
    /// first and in the lowest bit.
    #[must_use]
    pub fn chunk(&self, high: u8) -> [u8; Self::CHUNK_BYTES] {
        let mut bytes = [0; Self::CHUNK_BYTES];
        let first = usize::from(high) * Self::CHUNK_BYTES / 8;
        for (to, word) in bytes.chunks_exact_mut(8).zip(&self.0[first..]) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Replaces the bits of the ports whose number begins with this byte. The bit
    /// of port 0, which there is not, is ignored.
    pub fn set_chunk(&mut self, high: u8, bytes: [u8; Self::CHUNK_BYTES]) {
        let first = usize::from(high) * Self::CHUNK_BYTES / 8;
        for (word, from) in self.0[first..].iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(from.try_into().expect("a chunk is whole words"));
        }
        self.0[0] &= !1;
    }
}

impl From<&PortSet> for PortMap {
    fn from(set: &PortSet) -> Self {
        set.iter().collect()
    }
}

impl FromIterator<Port> for PortMap {
    fn from_iter<I: IntoIterator<Item = Port>>(ports: I) -> Self {
        let mut map = Self::default();
        ports.into_iter().for_each(|port| map.insert(port));
        map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_agrees_with_a_set() {
        let set = |text: &str| text.parse::<PortSet>().unwrap();
        let (a, b) = (set("1,63-65,255-257,1000-2000,65535"), set("64,256-300,1500-65535"));
        let map = PortMap::from(&a);
        assert_eq!((map.len(), map.is_empty()), (a.len(), false));
        assert_eq!(map.iter().collect::<Vec<_>>(), a.iter().collect::<Vec<_>>());
        for index in 0..=a.len() {
            assert_eq!(map.nth(index), a.nth(index));
        }
        let (mut both, mut rest) = (map.clone(), map.clone());
        both.keep(&PortMap::from(&b));
        rest.subtract(&PortMap::from(&b));
        let mut copy = PortMap::default();
        (0..=u8::MAX).for_each(|high| copy.set_chunk(high, map.chunk(high)));
        assert_eq!(copy, map);
        let distances = [0, 1, 63, 64, 65, 1000, 65535];
        let lowered = distances.map(|distance| (distance, map.lowered(distance)));
        let mut either = map.clone();
        either.include(&PortMap::from(&b));
        for number in 1..=u16::MAX {
            let port = Port::new(number).unwrap();
            assert_eq!(map.contains(port), a.contains(port));
            assert_eq!(both.contains(port), a.contains(port) && b.contains(port));
            assert_eq!(rest.contains(port), a.contains(port) && !b.contains(port));
            assert_eq!(either.contains(port), a.contains(port) || b.contains(port));
            for (distance, lowered) in &lowered {
                let above = port.above(*distance);
                assert_eq!(lowered.contains(port), above.is_some_and(|port| a.contains(port)));
            }
        }
        let is_clean = |(_, lowered): &(u16, PortMap)| lowered.0[0] & 1 == 0;
        assert!(lowered.iter().all(is_clean), "port 0 is in no set");
    }

    #[test]
    fn runs_are_found_wherever_they_lie() {
        let set: PortSet = "1-3,60-70,100-199,205,65530-65535".parse().unwrap();
        let map = PortMap::from(&set);
        for count in [1, 2, 3, 4, 6, 7, 11, 12, 64, 99, 100, 101, 65535] {
            let runs = map.clone().runs(count);
            for port in (1..=u16::MAX).filter_map(Port::new) {
                let is_in = |at| port.above(at).is_some_and(|port| set.contains(port));
                assert_eq!(runs.contains(port), (0..count).all(is_in), "{count} from {port}");
            }
        }
    }

    #[test]
    fn what_is_below_a_port_is_taken_out() {
        let all = PortMap::from(&"1-65535".parse::<PortSet>().unwrap());
        for number in [1, 2, 63, 64, 65, 30558, 65535] {
            let mut map = all.clone();
            map.remove_below(Port::new(number).unwrap());
            let first = map.iter().next().map(Port::number);
            assert_eq!((first, map.len()), (Some(number), 65536 - u32::from(number)));
        }
    }

    #[test]
    fn ports_come_and_go() {
        let port = |number| Port::new(number).unwrap();
        let mut map = PortMap::default();
        for number in [1, 63, 64, 65535] {
            map.insert(port(number));
            assert!(map.contains(port(number)) && map.len() == 1);
            map.remove(port(number));
            assert!(map.is_empty());
        }
        map.set_chunk(0, [255; 32]);
        assert_eq!((map.len(), map.nth(0)), (255, Some(port(1))));
    }
}
