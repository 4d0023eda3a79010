//! Tells a write-ahead log that was cut short, as a power cut leaves it, from one that is damaged.
//!
//! RocksDB looks for damage too, and refuses what fails its checksums. But where a header is damaged it may take acknowledged
//! writes for ones that were never finished: it skips the rest of a block after a header of zeros, ends where a length
//! points past the end of the file, and takes a log whose first header has the kind of a recycled one for an old one (a
//! later header of that kind, it reads for ever). A replica would then have forgotten what it told others, so every log is
//! walked through, header by header, before RocksDB opens it. The price: a start reads the logs twice, the second time from
//! memory.
//!
//! A log is a row of blocks of 32 KiB. A record lies within one block: a checksum (CRC-32C of kind and bytes, masked), the
//! number of its bytes, its kind, its bytes. What does not fit into the rest of a block continues in the next one.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

const BLOCK_BYTES: usize = 32 << 10;
const HEADER_BYTES: usize = 7;
const CHECKSUM_BYTES: usize = 4;
/// A whole write, or the first, a middle or the last piece of one. RocksDB knows more kinds, which these options never make.
const KINDS: std::ops::RangeInclusive<u8> = 1..=4;

/// Why a log is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    #[error("read {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{path} at byte {offset}: {damage}")]
    Damaged { path: PathBuf, offset: usize, damage: Damage },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Damage {
    #[error("zeros before the end")]
    Zeros,
    #[error("unknown kind of record {kind}")]
    Kind { kind: u8 },
    #[error("record longer than its block")]
    PastBlock,
    #[error("record longer than the file, with whole ones inside")]
    Length,
}

/// Checks the logs in a folder of RocksDB.
pub(crate) fn check_logs(folder: &Path) -> Result<(), LogError> {
    let failed = |path: &Path, source| LogError::Io { path: path.to_owned(), source };
    let files = fs::read_dir(folder).map_err(|error| failed(folder, error))?;
    for file in files {
        let path = file.map_err(|error| failed(folder, error))?.path();
        if path.extension() == Some(OsStr::new("log")) {
            let log = File::open(&path).map_err(|error| failed(&path, error))?;
            check_log(log).map_err(|error| failed(&path, error))?.map_err(|(offset, damage)| LogError::Damaged {
                path: path.clone(),
                offset,
                damage,
            })?;
        }
    }
    Ok(())
}

/// Checks one log, block by block. An error of reading is apart from damage.
fn check_log(mut log: impl Read) -> io::Result<Result<(), (usize, Damage)>> {
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    let mut offset = 0;
    let mut zeros_from = None;
    loop {
        block.clear();
        log.by_ref().take(BLOCK_BYTES as u64).read_to_end(&mut block)?;
        let checked = match zeros_from {
            None => check_block(&block),
            Some(_) if block.iter().all(|byte| *byte == 0) => Ok(None),
            Some(_) => Err((0, Damage::Zeros)),
        };
        match checked {
            Ok(None) => {}
            Ok(Some(zeros)) => zeros_from = Some(offset + zeros),
            Err((within, damage)) => return Ok(Err((zeros_from.unwrap_or(offset + within), damage))),
        }
        if block.len() < BLOCK_BYTES {
            return Ok(Ok(()));
        }
        offset += block.len();
    }
}

/// Checks one block; it is the last one if it is shorter than the others. Returns where nothing but zeros is left, which a
/// file system may have put in the place of what it had not written yet: then no block with anything else may follow.
fn check_block(block: &[u8]) -> Result<Option<usize>, (usize, Damage)> {
    let mut offset = 0;
    // Less than a header is left: the end of a whole block is not used then, and the end of the file was not finished.
    while block.len() - offset >= HEADER_BYTES {
        let rest = &block[offset..];
        let (length, kind) = (usize::from(u16::from_le_bytes([rest[4], rest[5]])), rest[6]);
        if length == 0 && kind == 0 {
            // The last write may have reached the disk up to the middle of its header's checksum.
            let written = rest[..CHECKSUM_BYTES].iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            let zeros = rest[written..].iter().all(|byte| *byte == 0);
            return if zeros { Ok(Some(offset + written)) } else { Err((offset, Damage::Zeros)) };
        }
        if !KINDS.contains(&kind) {
            return Err((offset, Damage::Kind { kind }));
        }
        if offset + HEADER_BYTES + length > BLOCK_BYTES {
            return Err((offset, Damage::PastBlock));
        }
        if HEADER_BYTES + length > rest.len() {
            // Still being written when the process or the machine died, unless it is whole and its length is wrong.
            return if has_whole_record(rest) { Err((offset, Damage::Length)) } else { Ok(None) };
        }
        offset += HEADER_BYTES + length;
    }
    Ok(None)
}

/// Tells whether a record that seems to be longer than the file is whole but for its length, or has a whole one inside it.
fn has_whole_record(rest: &[u8]) -> bool {
    let is_whole = |header: &[u8], length: usize| {
        let end = HEADER_BYTES + length;
        KINDS.contains(&header[6]) && end <= header.len() && stored_checksum(header) == checksum(&header[6..end])
    };
    is_whole(rest, rest.len() - HEADER_BYTES)
        || (1..=rest.len() - HEADER_BYTES)
            .map(|start| &rest[start..])
            .any(|header| is_whole(header, usize::from(u16::from_le_bytes([header[4], header[5]]))))
}

fn stored_checksum(header: &[u8]) -> u32 {
    u32::from_le_bytes([header[0], header[1], header[2], header[3]])
}

/// CRC-32C, masked as RocksDB does. Bit by bit: at most one block is ever checked.
fn checksum(bytes: &[u8]) -> u32 {
    const POLYNOMIAL_REVERSED: u32 = 0x82f6_3b78;
    const MASK: u32 = 0xa282_ead8;
    let crc = !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (POLYNOMIAL_REVERSED & (crc & 1).wrapping_neg()))
    });
    crc.rotate_right(15).wrapping_add(MASK)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u8, bytes: &[u8]) -> Vec<u8> {
        let checked = [&[kind][..], bytes].concat();
        let length = u16::try_from(bytes.len()).expect("short").to_le_bytes();
        [&checksum(&checked).to_le_bytes()[..], &length, &checked].concat()
    }

    fn check(log: &[u8]) -> Result<(), (usize, Damage)> {
        check_log(log).expect("memory can be read")
    }

    /// Three records in one block.
    fn log() -> (Vec<u8>, [usize; 3]) {
        let records = [record(1, &[7; 100]), record(1, &[0; 40]), record(1, &[9; 60])];
        (records.concat(), [0, records[0].len(), records[0].len() + records[1].len()])
    }

    #[test]
    fn a_checksum_is_masked_crc32c() {
        // The check value of CRC-32C, of the digits 1 to 9.
        assert_eq!(checksum(b"123456789"), 0xe306_9283_u32.rotate_right(15).wrapping_add(0xa282_ead8));
    }

    #[test]
    fn a_log_cut_short_anywhere_is_not_damaged() {
        let (log, _) = log();
        for length in 0..=log.len() {
            assert_eq!(check(&log[..length]), Ok(()), "{length}");
        }
    }

    #[test]
    fn a_length_that_points_past_the_end_is_damage() {
        let (log, starts) = log();
        for start in starts {
            let mut log = log.clone();
            log[start + 5] ^= 4;
            assert_eq!(check(&log), Err((start, Damage::Length)));
            log[start + 5] ^= 0x80;
            assert_eq!(check(&log), Err((start, Damage::PastBlock)));
        }
    }

    #[test]
    fn a_kind_that_is_never_written_is_damage() {
        let (log, starts) = log();
        for start in starts {
            let mut log = log.clone();
            log[start + 6] ^= 4;
            assert_eq!(check(&log), Err((start, Damage::Kind { kind: 5 })));
        }
    }

    #[test]
    fn zeros_are_damage_unless_nothing_follows() {
        let (log, starts) = log();
        let mut holed = log.clone();
        holed[starts[1]..starts[2]].fill(0);
        assert_eq!(check(&holed), Err((starts[1], Damage::Zeros)));
        let mut padded = log;
        let end = padded.len();
        padded.resize(3 * BLOCK_BYTES + 5, 0);
        assert_eq!(check(&padded), Ok(()));
        *padded.last_mut().expect("long") = 1;
        assert_eq!(check(&padded), Err((end, Damage::Zeros)));
    }

    #[test]
    fn records_in_many_blocks_are_read() {
        let first = record(2, &[1; BLOCK_BYTES - HEADER_BYTES]);
        // Leaves less than a header in the second block.
        let last = record(4, &[2; BLOCK_BYTES - HEADER_BYTES - 3]);
        let log = [first, last, vec![0; 3], record(1, &[3; 9])].concat();
        assert_eq!(check(&log), Ok(()));
        let mut damaged = log;
        damaged[BLOCK_BYTES + 6] = 0x41;
        assert_eq!(check(&damaged), Err((BLOCK_BYTES, Damage::Kind { kind: 0x41 })));
    }
}
