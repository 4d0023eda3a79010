//! Which enrolments are withdrawn: a bitmap by ordinal, in pages that snapshots share.

use std::sync::Arc;

use crate::rows::EnrolmentOrdinal;

const BITS_PER_PAGE: usize = 32_768;
const WORDS_PER_PAGE: usize = BITS_PER_PAGE / u64::BITS as usize;

/// A set of ordinals that only grows. A clone shares every page; adding to a shared set copies one page of 4 KiB and
/// the list of pages, which has one entry for each 32,768 enrolments.
#[derive(Debug, Clone, Default)]
pub(crate) struct Withdrawals {
    /// Pages without a withdrawal are not there.
    pages: Arc<Vec<Option<Arc<Page>>>>,
    len: u64,
}

type Page = [u64; WORDS_PER_PAGE];

impl Withdrawals {
    /// The number of ordinals in the set.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn contains(&self, ordinal: EnrolmentOrdinal) -> bool {
        let (page, word, bit) = place(ordinal);
        self.pages.get(page).and_then(Option::as_ref).is_some_and(|page| page[word] & bit != 0)
    }

    /// Adds an ordinal that is not in the set.
    pub(crate) fn insert(&mut self, ordinal: EnrolmentOrdinal) {
        assert!(!self.contains(ordinal), "an enrolment is withdrawn once");
        let (page, word, bit) = place(ordinal);
        let pages = Arc::make_mut(&mut self.pages);
        if pages.len() <= page {
            pages.resize(page + 1, None);
        }
        let page = pages[page].get_or_insert_with(|| Arc::new([0; WORDS_PER_PAGE]));
        Arc::make_mut(page)[word] |= bit;
        self.len += 1;
    }
}

fn place(ordinal: EnrolmentOrdinal) -> (usize, usize, u64) {
    let ordinal = ordinal.0 as usize;
    let within = ordinal % BITS_PER_PAGE;
    (ordinal / BITS_PER_PAGE, within / u64::BITS as usize, 1 << (within % u64::BITS as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_does_not_see_later_withdrawals() {
        let mut withdrawals = Withdrawals::default();
        withdrawals.insert(EnrolmentOrdinal(70_000));
        let before = withdrawals.clone();
        withdrawals.insert(EnrolmentOrdinal(70_001));
        withdrawals.insert(EnrolmentOrdinal(0));
        assert!(before.contains(EnrolmentOrdinal(70_000)));
        assert!(!before.contains(EnrolmentOrdinal(70_001)));
        assert!(!before.contains(EnrolmentOrdinal(0)));
        assert!(withdrawals.contains(EnrolmentOrdinal(0)));
        assert!(!withdrawals.contains(EnrolmentOrdinal(u32::MAX)));
        assert_eq!((before.len(), withdrawals.len()), (1, 3));
    }
}
