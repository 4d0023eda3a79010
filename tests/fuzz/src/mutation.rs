//! Inputs made from those of a corpus: a few small changes each, of the kinds that damage and malice make.

use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;

use crate::INPUT_BYTES_MAX;
use crate::corpus::Corpus;

/// Bytes at the edges of what decoders tell apart: of varints, of tags, of text.
const EDGES: &[u8] = &[0, 1, 2, 7, 8, 9, 10, 0x12, 0x1a, 0x7f, 0x80, 0xfe, 0xff, b'"', b'{', b'[', b'0', b'-', b'\n'];
/// Numbers at the edges, as varints.
const NUMBERS: &[u64] = &[0, 1, 127, 128, 255, 256, 65_535, 65_536, u32::MAX as u64, 1 << 62, 1 << 63, u64::MAX];
/// One input in so many is of random bytes alone.
const RANDOM_ONE_IN: u32 = 64;
const CHANGES_MAX: u32 = 4;
const SPAN_MAX: usize = 24;

pub(crate) fn mutated(corpus: &Corpus, random: &mut ChaCha8Rng) -> Vec<u8> {
    if random.random_ratio(1, RANDOM_ONE_IN) {
        return random_bytes(random, 64);
    }
    let mut bytes = any_of(corpus, random).to_vec();
    for _ in 0..random.random_range(1..=CHANGES_MAX) {
        change(&mut bytes, corpus, random);
    }
    bytes.truncate(INPUT_BYTES_MAX);
    bytes
}

fn change(bytes: &mut Vec<u8>, corpus: &Corpus, random: &mut ChaCha8Rng) {
    let place = random.random_range(0..=bytes.len());
    let end = (place + random.random_range(0..=SPAN_MAX)).min(bytes.len());
    match random.random_range(0..9) {
        0 => {
            if let Some(byte) = bytes.get_mut(place) {
                *byte ^= 1 << random.random_range(0..8);
            }
        }
        1 => {
            if let Some(byte) = bytes.get_mut(place) {
                *byte = EDGES[random.random_range(0..EDGES.len())];
            }
        }
        2 => {
            if let Some(byte) = bytes.get_mut(place) {
                *byte = byte.wrapping_add(if random.random() { 1 } else { u8::MAX });
            }
        }
        3 => insert(bytes, place, &random_bytes(random, 8)),
        4 => insert(bytes, place, &varint(NUMBERS[random.random_range(0..NUMBERS.len())])),
        5 => drop(bytes.drain(place..end)),
        // The same again, as a list's items are; at times until the input is full.
        6 => {
            let span = bytes[place..end].to_vec();
            let times = if random.random_ratio(1, 16) { INPUT_BYTES_MAX / (span.len() + 1) } else { 1 };
            insert(bytes, place, &span.repeat(times));
        }
        7 => bytes.truncate(place),
        _ => {
            let other = any_of(corpus, random);
            let from = random.random_range(0..=other.len());
            bytes.truncate(place);
            bytes.extend_from_slice(&other[from..]);
        }
    }
}

fn any_of<'a>(corpus: &'a Corpus, random: &mut ChaCha8Rng) -> &'a [u8] {
    corpus.input(random.random_range(0..corpus.len()))
}

fn insert(bytes: &mut Vec<u8>, place: usize, inserted: &[u8]) {
    bytes.splice(place..place, inserted.iter().copied());
}

fn random_bytes(random: &mut ChaCha8Rng, bytes_max: usize) -> Vec<u8> {
    (0..random.random_range(1..=bytes_max)).map(|_| random.random()).collect()
}

/// A number as protobuf writes it.
fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}
