//! The recall audit of a snapshot: whether its engines find mates that are known to be there.
//!
//! Live probes seldom have a mate, and nobody knows which of them do; so mates are planted, at references drawn anew every time. When that is
//! done, how often, and what becomes of the count, is the shell's affair.

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::catalogue::{CatalogueSnapshot, Comparable, References, SealedSegment};
use crate::embedding_rows::EmbeddingRows;
use crate::planted::{Direction, Planted, Planter};
use crate::proportion::Proportion;
use crate::rows::EnrolmentOrdinal;
use crate::sealed_rows::{SealedRows, TemplatesUnreadable};
use crate::search::{Candidate, ProbeReference, SearchProbe, ShardSearch, Unanswered};
use crate::segment::{EngineProbe, Proposal, Segment};

/// Mates that are planted together: as many as share a scan.
const PLANTED: usize = 64;

impl CatalogueSnapshot {
    /// Plants up to 64 mates in a sealed segment that a probe is searched in, of scores from its threshold to 0.05 above, and asks the segment's
    /// engine for them under the probe's threshold and miss budget: how many of them it did not propose. The segment, its references and the
    /// mates follow from `seed`. Nothing is planted, 0 of 0, where every comparable segment is scanned exactly anyway.
    ///
    /// # Errors
    /// If templates cannot be read.
    pub fn planted_missed(&self, probe: &SearchProbe, seed: u64) -> Result<Proportion, TemplatesUnreadable> {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let Some((reference, rows, segment)) = self.engine_of(probe, &mut random) else {
            return Ok(Proportion::default());
        };
        let mut drawn = EmbeddingRows::new(rows.dimension());
        let mut numbers = Vec::with_capacity(PLANTED);
        for place in 0..PLANTED {
            let row = random.random_range(0..rows.len());
            numbers.push(row);
            let ordinal = EnrolmentOrdinal(place as u32);
            rows.visit(row..row + 1, &mut |components, norm| drawn.push_components(ordinal, components, norm))?;
        }
        let mut planted: Vec<Planted> = Vec::with_capacity(PLANTED);
        for (place, direction) in Direction::ALL.into_iter().enumerate() {
            let mut planter = Planter::new(&drawn, reference.threshold, direction);
            planted.extend((place..PLANTED).step_by(Direction::ALL.len()).filter_map(|row| planter.plant(row)));
        }
        let probes: Vec<EngineProbe> = planted.iter().map(|planted| EngineProbe::new(&planted.probe)).collect();
        let probes: Vec<&EngineProbe> = probes.iter().collect();
        let proposals = segment.propose(&probes, reference.threshold, reference.miss_budget_ppb);
        let missed = planted.iter().zip(proposals).filter(|(planted, proposal)| match proposal {
            Proposal::ScanExactly => false,
            Proposal::Rows(proposed) => !proposed.contains(&(numbers[planted.row] as u32)),
        });
        Ok(Proportion { count: missed.count() as u64, of: planted.len() as u64 })
    }

    /// Searches for a probe again, this time exactly: how many of the candidates that there are had not been found.
    ///
    /// # Errors
    /// [`Unanswered`], as any search.
    pub fn live_missed(
        &self,
        probe: &SearchProbe,
        found: &ShardSearch,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Proportion, Unanswered> {
        let mut exactly = probe.clone();
        exactly.references.iter_mut().for_each(|reference| reference.miss_budget_ppb = 0);
        let answers = self.search(&[exactly], cancelled)?;
        let there: Vec<&Candidate> = answers.iter().flat_map(|answer| &answer.candidates).collect();
        let had_been_found =
            |candidate: &&&Candidate| found.candidates.iter().any(|found| found.enrolment_id == candidate.enrolment_id);
        let missed = there.iter().filter(|candidate| !had_been_found(candidate)).count();
        Ok(Proportion { count: missed as u64, of: there.len() as u64 })
    }

    /// A sealed segment with an engine among those that a probe is searched in, drawn by the number of its rows, and the reference that is
    /// compared with it.
    fn engine_of<'a>(
        &'a self,
        probe: &'a SearchProbe,
        random: &mut ChaCha8Rng,
    ) -> Option<(&'a ProbeReference, &'a SealedRows, &'a dyn Segment)> {
        let gallery = self.gallery(&probe.gallery)?;
        let of_reference = move |reference: &'a ProbeReference| {
            let ProbeReference { slot, spec, .. } = *reference;
            let number = gallery.collection_number(&Comparable { key_version: probe.key_version, slot, spec });
            let sealed = number.map(|number| match &gallery.collections[number].references {
                References::Embeddings { sealed, .. } => sealed.as_slice(),
                References::BinaryCodes { .. } => &[],
            });
            let with_engine =
                move |sealed: &'a SealedSegment| Some((reference, &sealed.rows, sealed.segment.as_deref()?));
            sealed.unwrap_or_default().iter().filter_map(with_engine)
        };
        let segments: Vec<_> = probe.references.iter().flat_map(of_reference).collect();
        let rows = segments.iter().map(|(_, rows, _)| rows.len()).sum::<usize>();
        let mut drawn = random.random_range(0..rows.max(1));
        segments.into_iter().find(|(_, rows, _)| {
            let is_here = drawn < rows.len();
            drawn = drawn.wrapping_sub(if is_here { 0 } else { rows.len() });
            is_here
        })
    }
}
