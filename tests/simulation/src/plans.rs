//! What clients and operators do in a run, planned before the first fault: whom they enrol and when, who is enrolled twice, who
//! is withdrawn, read and identified, and which policies are put in force.

use semel_index::{EnrolmentId, GalleryId, KeyVersion, PolicyVersion};
use semel_shard::CanonicalReference;
use semel_workflow::{MetadataCommand, canonicalise, validate_references};

use crate::chance::Chance;
use crate::clients::What;
use crate::cluster::Cluster;
use crate::history::Key;
use crate::people::{self, Captured, Person};

/// The galleries of a run; most people are in the first.
pub(crate) const GALLERIES: [&str; 2] = ["people", "camp"];
/// The face threshold of a gallery's first policy, in units of 1e-6.
pub(crate) const FACE_THRESHOLD_FIRST: i32 = 700_000;
/// Those of later ones.
const FACE_THRESHOLDS: [i32; 3] = [620_000, FACE_THRESHOLD_FIRST, 800_000];

impl Cluster {
    /// Plans what clients and operators do over so many microseconds.
    pub(crate) fn plan_lives(&mut self, chance: &mut Chance, micros: u64) {
        let persons: Vec<Person> = (0..chance.between(8..=24)).map(|_| Person::new(chance)).collect();
        let enrolments = chance.between(16..=48);
        for number in 0..enrolments {
            let person = chance.pick(&persons).clone();
            let name = gallery(if chance.one_in(6) { GALLERIES[1] } else { GALLERIES[0] });
            let enrolment = format!("e{:03}", chance.below(enrolments * 40) / 40 * 40 + number);
            let key = Key { gallery: name.clone(), enrolment: id(&enrolment) };
            let at = chance.below(micros);
            let captured = *chance.pick(&[Captured::Face, Captured::Face, Captured::Both, Captured::Iris]);
            self.plan_enrolment(chance, &key, &person, captured, at);
            // Often at about the same moment, elsewhere: the same person once more.
            if !chance.one_in(3) {
                let twin = Key { gallery: name, enrolment: id(&format!("{enrolment}t")) };
                let within = *chance.pick(&[1, 2_000, 20_000, 100_000, 1_000_000]);
                let at = at + chance.below(within);
                self.plan_enrolment(chance, &twin, &person, captured, at);
            }
            if chance.one_in(8) {
                // The same id for somebody else.
                let stranger = chance.pick(&persons).clone();
                let at = at + chance.below(2_000_000);
                self.plan_enrolment(chance, &key, &stranger, captured, at);
            }
            self.plan_what_follows(chance, &key, &person, at, micros);
        }
        for _ in 0..chance.between(0..=3) {
            let policy = people::policy(*chance.pick(&FACE_THRESHOLDS), self.candidates_max);
            let expected: Option<PolicyVersion> = None;
            let command = MetadataCommand::UpdatePolicy { name: gallery(GALLERIES[0]), policy, expected };
            let at = chance.below(micros);
            self.clients.plan(&mut self.world, at, What::Govern { command: Box::new(command) }, false);
        }
    }

    /// Whether these are the canonical references of some request to enrol under this id.
    pub(crate) fn was_sent(&self, key: &Key, recorded: &[CanonicalReference]) -> bool {
        let keys = self.keys.borrow();
        let Some(gallery) = keys.get(&(key.gallery.clone(), KeyVersion(1))) else { return false };
        // Specs never change, so that any version of the policy will do.
        let policy = people::policy(FACE_THRESHOLD_FIRST, 0);
        self.clients.enrolment_requests().into_iter().any(|what| match what {
            What::Enrol { key: sent, request, .. } if sent == *key => {
                let references =
                    validate_references(request.references, &policy).expect("clients send valid references");
                let sent = canonicalise(&references, &gallery.rotations);
                sent.len() == recorded.len()
                    && sent.iter().zip(recorded).all(|(sent, recorded)| {
                        (sent.slot, sent.spec, &sent.template) == (recorded.slot, recorded.spec, &recorded.template)
                    })
            }
            What::Enrol { .. }
            | What::Withdraw { .. }
            | What::Read { .. }
            | What::Identify { .. }
            | What::Govern { .. } => false,
        })
    }

    fn plan_enrolment(&mut self, chance: &mut Chance, key: &Key, person: &Person, captured: Captured, at: u64) {
        let references = person.capture(chance, captured);
        // Two captures may come out the same: then they are the same content.
        let content = people::content(&references);
        let request = people::enrolment(&key.gallery, key.enrolment.as_str(), references);
        let what = What::Enrol { key: key.clone(), content, request };
        let twice = chance.one_in(6);
        if chance.one_in(5) {
            let again = at + chance.below(6_000_000);
            self.clients.plan(&mut self.world, again, what.clone(), false);
        }
        self.clients.plan(&mut self.world, at, what, twice);
    }

    fn plan_what_follows(&mut self, chance: &mut Chance, key: &Key, person: &Person, at: u64, micros: u64) {
        if chance.one_in(6) {
            let at = at + chance.below(micros);
            self.clients.plan(&mut self.world, at, What::Withdraw { key: key.clone() }, false);
        }
        for _ in 0..chance.below(3) {
            let at = at + chance.below(5_000_000);
            self.clients.plan(&mut self.world, at, What::Read { key: key.clone() }, false);
        }
        if chance.one_in(4) {
            let references = person.capture(chance, Captured::Both);
            let what = What::Identify { gallery: key.gallery.clone(), references };
            let at = at + chance.below(5_000_000);
            self.clients.plan(&mut self.world, at, what, false);
        }
    }
}

/// A gallery by its name.
pub(crate) fn gallery(name: &str) -> GalleryId {
    GalleryId::try_from(name).expect("a valid name")
}

fn id(enrolment: &str) -> EnrolmentId {
    EnrolmentId::try_from(enrolment).expect("a valid id")
}
