//! Little-endian numbers and short texts, one after another.

use super::UnusableFile;
use crate::ids::{EnrolmentId, GalleryId};

/// Bytes that are read from the front.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], UnusableFile> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(UnusableFile::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], UnusableFile> {
        Ok(self.take(N)?.try_into().expect("so many were taken"))
    }

    pub(super) fn u8(&mut self) -> Result<u8, UnusableFile> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn u32(&mut self) -> Result<u32, UnusableFile> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, UnusableFile> {
        self.array().map(u64::from_le_bytes)
    }

    /// The length of a list whose items take `item_bytes` or more: never longer than the bytes that are left.
    pub(super) fn count(&mut self, item_bytes: usize) -> Result<usize, UnusableFile> {
        let count = self.u32()? as usize;
        if count.saturating_mul(item_bytes) > self.0.len() {
            return Err(UnusableFile::Short);
        }
        Ok(count)
    }

    pub(super) fn text(&mut self, field: &'static str) -> Result<&'a str, UnusableFile> {
        let count = self.u8()?;
        std::str::from_utf8(self.take(usize::from(count))?).map_err(|_| UnusableFile::Field { field })
    }

    pub(super) fn gallery(&mut self) -> Result<GalleryId, UnusableFile> {
        GalleryId::try_from(self.text("gallery")?).map_err(|_| UnusableFile::Field { field: "gallery" })
    }

    pub(super) fn enrolment(&mut self) -> Result<&'a str, UnusableFile> {
        let text = self.text("enrolment_id")?;
        EnrolmentId::is_valid(text).then_some(text).ok_or(UnusableFile::Field { field: "enrolment_id" })
    }

    pub(super) fn end(&self) -> Result<(), UnusableFile> {
        if self.0.is_empty() { Ok(()) } else { Err(UnusableFile::Long) }
    }
}

pub(super) fn put_u32(bytes: &mut Vec<u8>, value: usize) {
    bytes.extend_from_slice(&u32::try_from(value).expect("lists are shorter than 2^32").to_le_bytes());
}

/// Texts are ids, names and settings, all shorter than 256 bytes.
pub(super) fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.push(u8::try_from(text.len()).expect("a short text"));
    bytes.extend_from_slice(text.as_bytes());
}
