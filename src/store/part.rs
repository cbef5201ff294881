//! Parts of files and values: bytes with their length, 4 bytes and big-endian, before them.

/// The bytes that a number takes.
pub(super) const NUMBER_BYTES: usize = 4;

/// A length as it is written; what is written is in memory, and far from the limit.
pub(super) fn number(length: usize) -> [u8; NUMBER_BYTES] {
    u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes()
}

pub(super) fn push_part(bytes: &mut Vec<u8>, part: &[u8]) {
    bytes.extend(number(part.len()));
    bytes.extend(part);
}

/// Takes the number off the front; none where there are too few bytes.
pub(super) fn split_number(bytes: &mut &[u8]) -> Option<u32> {
    let (number, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(u32::from_be_bytes(*number))
}

/// Takes the part off the front; none where it is cut.
pub(super) fn split_part<'b>(bytes: &mut &'b [u8]) -> Option<&'b [u8]> {
    let length = split_number(bytes)?;
    let (part, rest) = bytes.split_at_checked(usize::try_from(length).ok()?)?;
    *bytes = rest;
    Some(part)
}
