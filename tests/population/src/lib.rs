//! Synthetic people, the registrations they make, and the exact oracle that says what a search should have found.
//!
//! Everything is drawn from a seed and can be drawn again in any order; nothing here reads files, opens sockets, asks
//! the clock or starts threads. Whoever wants threads shares [`Oracle::ranges`] among them. Synthetic rates are
//! about the index and the cluster; they are never to be presented as biometric accuracy.
//!
//! A report states preset, seed, number of people, dimension, threshold and the 95 % intervals, and keeps identical
//! twins apart: matching them is what any matcher does.

#![forbid(unsafe_code)]

mod basis;
mod distribution;
mod geometry;
mod iris;
mod oracle;
mod population;
mod preset;
mod rates;
mod registrations;
mod seed;
mod spectrum;
mod truth;

pub use distribution::ScoreDistribution;
pub use iris::{Eye, IrisCapture, IrisError, IrisModel, IrisPopulation, IrisPreset};
pub use oracle::{Oracle, OracleError, ScoreStatistics, ScoredPair};
pub use population::{CaptureNumber, CaptureQuality, GroupId, Kin, Person, PersonId, Population, PopulationError};
pub use preset::{BetaLaw, Group, InvalidModel, KinModel, Model, Normal, Preset, UnknownPreset};
pub use rates::EnrolmentRates;
pub use registrations::{InvalidWorkload, Multiplicity, Registration, RegistrationPlan, Submission, Workload};
pub use seed::Seed;
pub use spectrum::{Spectrum, SpectrumError};
pub use truth::{Kinship, Relation, Row, Standing, Subject, Truth};
