//! Messages as bytes: requests written, replies read.
//!
//! Pure. Nothing here panics on what was received: a length that does not fit
//! ends the walk, and what is missing is `None`.

/// `struct nlmsghdr`.
pub(super) const HEADER_LENGTH: usize = 16;
/// `struct nlattr`.
const ATTRIBUTE_HEADER_LENGTH: usize = 4;
/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;
/// `NLA_TYPE_MASK`: the kind without its flags.
const KIND_MASK: u16 = 0x3fff;

/// A request, or the attributes of one, while it is written.
#[derive(Clone, Debug)]
pub struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// A request of this kind. `flags` are added to those that the socket sets;
    /// `header` is the fixed part that follows (`nfgenmsg`, `rtmsg`, …).
    #[must_use]
    pub fn new(kind: u16, flags: u16, header: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER_LENGTH];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(header);
        pad(&mut bytes);
        Self { bytes }
    }

    /// Appends an attribute.
    ///
    /// # Panics
    ///
    /// When the value is longer than an attribute can be (65,531 bytes).
    pub fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let start = self.open(kind);
        self.bytes.extend_from_slice(value);
        self.close(start)
    }

    /// Appends an attribute that holds a text and the NUL after it.
    pub fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let start = self.open(kind);
        self.bytes.extend_from_slice(value.as_bytes());
        self.bytes.push(0);
        self.close(start)
    }

    /// Appends an attribute that holds a number in network byte order.
    pub fn number(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    /// Appends an attribute that holds the attributes which `write` appends.
    pub fn nested(&mut self, kind: u16, write: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.open(kind | NESTED);
        write(self);
        self.close(start)
    }

    fn open(&mut self, kind: u16) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        start
    }

    fn close(&mut self, start: usize) -> &mut Self {
        let length = u16::try_from(self.bytes.len() - start).expect("an attribute fits in 64 KiB");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        pad(&mut self.bytes);
        self
    }

    /// What there is of the message before the socket completes its header.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The message with the fields that only the socket knows.
    pub(super) fn stamped(&self, flags: u16, sequence: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.stamp(flags, sequence, &mut bytes);
        bytes
    }

    /// The same, behind other messages.
    pub(super) fn stamp(&self, flags: u16, sequence: u32, datagram: &mut Vec<u8>) {
        let start = datagram.len();
        datagram.extend_from_slice(&self.bytes);
        let bytes = &mut datagram[start..];
        let length = u32::try_from(bytes.len()).expect("a request fits in 4 GiB");
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        let flags = flags | u16::from_ne_bytes([bytes[6], bytes[7]]);
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
    }
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// A message as it was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// `nlmsg_seq`: that of the request it answers.
    pub sequence: u32,
    /// What follows the netlink header.
    pub body: &'a [u8],
}

impl<'a> Message<'a> {
    /// The attributes after a fixed part of `header` bytes; none when the
    /// message is shorter.
    #[must_use]
    pub fn attributes(&self, header: usize) -> Attributes<'a> {
        Attributes::new(self.body.get(header.next_multiple_of(4)..).unwrap_or_default())
    }

    /// The messages of one datagram. Ends at the first that does not fit.
    pub(super) fn all(mut datagram: &'a [u8]) -> impl Iterator<Item = Self> {
        std::iter::from_fn(move || {
            let length = usize::try_from(number(datagram, 0)?).ok()?;
            let message = Self {
                kind: short(datagram, 4)?,
                flags: short(datagram, 6)?,
                sequence: number(datagram, 8)?,
                body: datagram.get(HEADER_LENGTH..length)?,
            };
            datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
            Some(message)
        })
    }
}

/// One attribute of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// The kind, without the flags for nesting and byte order.
    pub kind: u16,
    /// What it holds.
    pub value: &'a [u8],
}

/// The attributes of a reply, or of an attribute that holds attributes. Ends at
/// the first that does not fit.
#[derive(Clone, Debug)]
pub struct Attributes<'a> {
    bytes: &'a [u8],
}

impl<'a> Attributes<'a> {
    /// Those in these bytes.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// What the first attribute of this kind holds.
    #[must_use]
    pub fn find(&self, kind: u16) -> Option<&'a [u8]> {
        self.clone().find_map(|a| (a.kind == kind).then_some(a.value))
    }

    /// The attributes that the first attribute of this kind holds.
    #[must_use]
    pub fn nested(&self, kind: u16) -> Option<Self> {
        self.find(kind).map(Self::new)
    }

    /// The text that the first attribute of this kind holds, up to its NUL;
    /// none when that is not UTF-8.
    #[must_use]
    pub fn text(&self, kind: u16) -> Option<&'a str> {
        let value = self.find(kind)?;
        let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
        std::str::from_utf8(&value[..end]).ok()
    }

    /// The number in host byte order that the first attribute of this kind holds.
    #[must_use]
    pub fn number(&self, kind: u16) -> Option<u32> {
        number(self.find(kind)?, 0)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Attribute<'a>> {
        let length = usize::from(short(self.bytes, 0)?);
        let kind = short(self.bytes, 2)? & KIND_MASK;
        let value = self.bytes.get(ATTRIBUTE_HEADER_LENGTH..length)?;
        self.bytes = self.bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Attribute { kind, value })
    }
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// The 32 bit number in host byte order at an offset.
pub(super) fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request() -> Request {
        let mut request = Request::new(7, 0x300, &[1, 2, 3]);
        request.text(1, "table").nested(2, |r| {
            r.attribute(1, &[9]).attribute(3, &5u32.to_ne_bytes());
        });
        request
    }

    #[test]
    fn what_was_written_is_read() {
        let bytes = request().stamped(1, 42);
        let messages: Vec<_> = Message::all(&bytes).collect();
        let [message] = messages[..] else { panic!("{messages:?}") };
        assert_eq!((message.kind, message.flags, message.sequence), (7, 0x301, 42));
        assert_eq!(message.body[..4], [1, 2, 3, 0]);
        let attributes = message.attributes(3);
        assert_eq!(attributes.text(1), Some("table"));
        let nested = attributes.nested(2).unwrap();
        assert_eq!(
            (nested.find(1), nested.number(3), nested.find(2)),
            (Some(&[9][..]), Some(5), None)
        );
    }

    #[test]
    fn messages_follow_each_other() {
        let bytes = [request().stamped(0, 1), request().stamped(0, 2)].concat();
        assert_eq!(Message::all(&bytes).map(|m| m.sequence).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn truncated_replies_end_early() {
        let bytes = request().stamped(0, 1);
        for end in 0..bytes.len() {
            assert_eq!(Message::all(&bytes[..end]).count(), 0, "{end}");
            walk(&bytes[..end]);
        }
    }

    #[test]
    fn lengths_below_a_header_end_the_walk() {
        assert_eq!(Attributes::new(&[0, 0, 1, 0, 8, 0, 1, 0]).count(), 0);
        assert_eq!(Attributes::new(&[3, 0, 1, 0]).count(), 0);
        assert_eq!(Message::all(&[0; 64]).count(), 0);
    }

    fn walk(bytes: &[u8]) {
        for message in Message::all(bytes) {
            for header in [0, 1, 4, 12] {
                message.attributes(header).for_each(|a| walk_attributes(a.value, 0));
            }
        }
        walk_attributes(bytes, 0);
    }

    fn walk_attributes(bytes: &[u8], depth: usize) {
        for attribute in Attributes::new(bytes) {
            let nested = Attributes::new(attribute.value);
            let _ = (nested.text(1), nested.number(1), nested.nested(1).map(Iterator::count));
            if depth < 8 {
                walk_attributes(attribute.value, depth + 1);
            }
        }
    }

    proptest! {
        #[test]
        fn hostile_replies_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            walk(&bytes);
        }

        #[test]
        fn damaged_replies_do_no_harm(at in 0usize..52, value in any::<u8>()) {
            let mut bytes = request().stamped(0, 1);
            let at = at % bytes.len();
            bytes[at] = value;
            walk(&bytes);
        }
    }
}
