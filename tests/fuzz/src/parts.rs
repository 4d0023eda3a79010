//! Several inputs in one: what a target takes apart that looks at more than one thing.

/// The parts of an input: each opens with its length, two bytes, little-endian. The last is what is left.
pub fn parts(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<2>() {
        let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
        let (part, rest) = rest.split_at(length);
        parts.push(part);
        bytes = rest;
    }
    parts
}

/// The input that has these parts.
///
/// # Panics
/// Panics if one is longer than its length can tell.
pub fn joined<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in parts {
        bytes.extend(u16::try_from(part.len()).expect("parts are short").to_le_bytes());
        bytes.extend_from_slice(part);
    }
    bytes
}
