//! Sealing as a pure job: the catalogue hands it out, the shell runs it on a thread of its own, the result is swapped
//! in by the catalogue. Rows that wait for it are scanned exactly, so its speed never affects an answer.

use std::sync::Arc;

use crate::catalogue::collection::SegmentNumber;
use crate::ids::GalleryId;
use crate::sealed_rows::SealedRows;
use crate::segment::{BuildError, Calibration, Engine, Segment};

/// Where a sealed segment is in the catalogue.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SegmentPlace {
    pub(crate) gallery: GalleryId,
    pub(crate) collection: usize,
    pub(crate) segment: SegmentNumber,
}

/// Work for another thread: build a segment, or calibrate one for another policy.
#[derive(Debug)]
pub struct SealJob {
    pub(crate) ticket: SealTicket,
    /// The segment to calibrate; none means to build it.
    pub(crate) built: Option<Arc<dyn Segment>>,
}

/// A claim on one of the catalogue's bounded number of jobs. Lets a shell report a job it has lost to a panic.
#[derive(Debug, Clone)]
pub struct SealTicket {
    pub(crate) place: SegmentPlace,
    /// Which catalogue's: no two have the same.
    pub(crate) catalogue: Arc<CatalogueToken>,
    pub(crate) rows: SealedRows,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) calibration: Calibration,
}

/// Tells catalogues apart by where it lies; not of size zero, so that no two lie at one place.
#[derive(Debug)]
pub(crate) struct CatalogueToken(#[allow(dead_code, reason = "only its address counts")] pub(crate) u8);

impl SealTicket {
    pub(crate) fn is_for(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.catalogue, &other.catalogue) && self.place == other.place
    }
}

/// The outcome of a job, to be given back to the catalogue that handed it out.
#[derive(Debug)]
pub struct Sealed {
    pub(crate) ticket: SealTicket,
    pub(crate) outcome: Result<Arc<dyn Segment>, BuildError>,
}

impl SealJob {
    /// The job's claim, to be kept where a panic of [`Self::run`] is caught.
    pub fn ticket(&self) -> SealTicket {
        self.ticket.clone()
    }

    /// The gallery the job is for.
    pub fn gallery(&self) -> &GalleryId {
        &self.ticket.place.gallery
    }

    /// The number of references the job is over.
    pub fn references(&self) -> usize {
        self.ticket.rows.len()
    }

    /// Does the work, which may take seconds.
    pub fn run(self) -> Sealed {
        let Self { ticket, built } = self;
        let outcome = ticket.rows.load().map_err(|error| {
            let (engine, references) = (ticket.engine.name().to_owned(), ticket.rows.len());
            BuildError { engine, references, reason: error.to_string() }
        });
        let outcome = outcome.and_then(|rows| match built {
            Some(segment) => segment.calibrate(&rows, &ticket.calibration).map(|()| segment),
            None => ticket.engine.build(rows, &ticket.calibration).map(Arc::from),
        });
        Sealed { ticket, outcome }
    }
}

impl SealTicket {
    /// The outcome of a job that ended without one: its rows stay as they are, and the claim is given back.
    pub fn lost(self, reason: impl Into<String>) -> Sealed {
        let (engine, references) = (self.engine.name().to_owned(), self.rows.len());
        let error = BuildError { engine, references, reason: reason.into() };
        Sealed { ticket: self, outcome: Err(error) }
    }
}

impl Sealed {
    /// Why the engine failed, if it did; the rows are then searched exactly. For the shell's log.
    pub fn error(&self) -> Option<&BuildError> {
        self.outcome.as_ref().err()
    }
}
