//! Synthetic people for benchmarks: one reference of each, and further captures of some as probes. Drawn on all cores.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use semel_population::{CaptureNumber, PersonId, Population, Preset, Seed};

use crate::output::Progress;

/// People drawn by one thread at a time.
const PEOPLE_PER_PART: usize = 256;

/// People of a population, of whom the first so many are enrolled.
pub(super) struct People {
    population: Population,
    count: u32,
}

impl People {
    /// People of preset F1: embeddings of 512 components.
    pub(super) fn new(count: u32, seed: u64) -> Self {
        Self::of(Population::new(Preset::F1, Seed(seed), count), count)
    }

    /// All people of a population but those beyond `count`, who are strangers to it.
    pub(super) fn of(population: Population, count: u32) -> Self {
        assert!(count <= population.people(), "the enrolled are people of the population");
        Self { population, count }
    }

    pub(super) fn dimension(&self) -> u32 {
        self.population.dimension() as u32
    }

    /// One reference of each person.
    pub(super) fn references<T: Send>(&self, make: impl Fn(Vec<f32>) -> T + Sync) -> Vec<T> {
        self.draw("drawing people", self.count as usize, make, |place| (PersonId(place as u32), CaptureNumber(0)))
    }

    /// Another capture of so many people, spread evenly: each has a mate among the references.
    pub(super) fn probes<T: Send>(&self, count: usize, make: impl Fn(Vec<f32>) -> T + Sync) -> Vec<T> {
        let person = |place: usize| PersonId(self.probed(place, count));
        // A person who is a probe more than once, because there are more probes than people, is captured anew.
        let capture = |place: usize| CaptureNumber(1 + (place / self.count as usize) as u32);
        self.draw("drawing probes", count, make, |place| (person(place), capture(place)))
    }

    /// The person of one of so many [`probes`](Self::probes), who is the reference of that number.
    pub(super) fn probed(&self, place: usize, count: usize) -> u32 {
        (place as u64 * u64::from(self.count) / count as u64) as u32
    }

    /// A capture of each stranger.
    pub(super) fn strangers<T: Send>(&self, make: impl Fn(Vec<f32>) -> T + Sync) -> Vec<T> {
        let strangers = (self.population.people() - self.count) as usize;
        let stranger = |place: usize| (PersonId(self.count + place as u32), CaptureNumber(0));
        self.draw("drawing strangers", strangers, make, stranger)
    }

    fn draw<T: Send>(
        &self,
        what: &str,
        count: usize,
        make: impl Fn(Vec<f32>) -> T + Sync,
        of: impl Fn(usize) -> (PersonId, CaptureNumber) + Sync,
    ) -> Vec<T> {
        let mut progress = Progress::start(what, Some(count as u64));
        let next = AtomicUsize::new(0);
        let mut parts = Vec::new();
        thread::scope(|scope| {
            let (sender, drawn) = mpsc::sync_channel(threads());
            for _ in 0..threads() {
                let (sender, next, make, of) = (sender.clone(), &next, &make, &of);
                scope.spawn(move || {
                    loop {
                        let first = next.fetch_add(PEOPLE_PER_PART, Ordering::Relaxed);
                        if first >= count {
                            return;
                        }
                        let places = first..count.min(first + PEOPLE_PER_PART);
                        let captures = places.map(of).map(|(person, capture)| self.population.capture(person, capture));
                        let part: Vec<T> = captures.map(make).collect();
                        if sender.send((first, part)).is_err() {
                            return;
                        }
                    }
                });
            }
            drop(sender);
            for part in drawn {
                part.1.iter().for_each(|_| progress.advance(String::new));
                parts.push(part);
            }
        });
        progress.finish();
        parts.sort_unstable_by_key(|(first, _)| *first);
        parts.into_iter().flat_map(|(_, part)| part).collect()
    }
}

/// One per core.
pub(super) fn threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}
