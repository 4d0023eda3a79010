//! What is compared with what: a modality and a position within it. Only references of equal slots are compared.
//!
//! The codes are stable: they are stored, replicated and sent. Quality and algorithm ids live with the references.

use std::fmt;

/// The number of slots there are today.
pub const SLOTS: usize = 14;

/// The number of slots a [`SlotMask`] has room for.
pub const SLOTS_MAX: usize = 32;

const _: () = assert!(SLOTS <= SLOTS_MAX);

/// The kind of biometric characteristic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Modality {
    /// The face.
    Face = 1,
    /// The voice.
    Voice = 2,
    /// The iris of one eye.
    Iris = 3,
    /// The friction ridges of one finger.
    Fingerprint = 4,
}

/// Which instance of a modality. ISO/IEC 19794 numbers eyes and fingers apart; here one enumeration covers both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Position {
    /// The one instance a person has (face, voice).
    Only = 1,
    /// The left eye.
    LeftEye = 2,
    /// The right eye.
    RightEye = 3,
    /// The right hand's thumb.
    RightThumb = 4,
    /// The right hand's index finger.
    RightIndex = 5,
    /// The right hand's middle finger.
    RightMiddle = 6,
    /// The right hand's ring finger.
    RightRing = 7,
    /// The right hand's little finger.
    RightLittle = 8,
    /// The left hand's thumb.
    LeftThumb = 9,
    /// The left hand's index finger.
    LeftIndex = 10,
    /// The left hand's middle finger.
    LeftMiddle = 11,
    /// The left hand's ring finger.
    LeftRing = 12,
    /// The left hand's little finger.
    LeftLittle = 13,
}

impl Modality {
    /// Every modality, in code order.
    pub const ALL: [Self; 4] = [Self::Face, Self::Voice, Self::Iris, Self::Fingerprint];

    /// The stable code.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The modality of a code; `None` for a code not assigned.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|modality| modality.code() == code)
    }

    /// The name used in configuration and output, such as `face`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Face => "face",
            Self::Voice => "voice",
            Self::Iris => "iris",
            Self::Fingerprint => "fingerprint",
        }
    }
}

impl Position {
    /// Every position, in code order.
    pub const ALL: [Self; 13] = [
        Self::Only,
        Self::LeftEye,
        Self::RightEye,
        Self::RightThumb,
        Self::RightIndex,
        Self::RightMiddle,
        Self::RightRing,
        Self::RightLittle,
        Self::LeftThumb,
        Self::LeftIndex,
        Self::LeftMiddle,
        Self::LeftRing,
        Self::LeftLittle,
    ];

    /// The stable code.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The position of a code; `None` for a code not assigned.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|position| position.code() == code)
    }

    /// The name used in configuration and output, such as `right_index`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Only => "only",
            Self::LeftEye => "left_eye",
            Self::RightEye => "right_eye",
            Self::RightThumb => "right_thumb",
            Self::RightIndex => "right_index",
            Self::RightMiddle => "right_middle",
            Self::RightRing => "right_ring",
            Self::RightLittle => "right_little",
            Self::LeftThumb => "left_thumb",
            Self::LeftIndex => "left_index",
            Self::LeftMiddle => "left_middle",
            Self::LeftRing => "left_ring",
            Self::LeftLittle => "left_little",
        }
    }
}

/// A modality with a position that exists in it. Ordered by modality, then position.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot {
    modality: Modality,
    position: Position,
}

impl Slot {
    /// The slot, or `None` where the modality has no such position (the left eye of a face).
    pub fn new(modality: Modality, position: Position) -> Option<Self> {
        let exists = match modality {
            Modality::Face | Modality::Voice => position == Position::Only,
            Modality::Iris => matches!(position, Position::LeftEye | Position::RightEye),
            Modality::Fingerprint => position >= Position::RightThumb,
        };
        exists.then_some(Self { modality, position })
    }

    /// The slot of two stable codes; `None` if either is not assigned or they do not go together.
    pub fn from_codes(modality: u8, position: u8) -> Option<Self> {
        Self::new(Modality::from_code(modality)?, Position::from_code(position)?)
    }

    /// Every slot, in order.
    pub fn all() -> impl Iterator<Item = Self> {
        Modality::ALL
            .into_iter()
            .flat_map(|modality| Position::ALL.into_iter().filter_map(move |position| Self::new(modality, position)))
    }

    /// The modality.
    pub fn modality(self) -> Modality {
        self.modality
    }

    /// The position.
    pub fn position(self) -> Position {
        self.position
    }

    /// The slot's place among all slots, below [`SLOTS`]; it orders as the slots do. Not stable: never stored.
    pub fn index(self) -> usize {
        let code = usize::from(self.position.code());
        match self.modality {
            Modality::Face => 0,
            Modality::Voice => 1,
            Modality::Iris | Modality::Fingerprint => code,
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.modality {
            Modality::Face | Modality::Voice => formatter.write_str(self.modality.name()),
            Modality::Iris | Modality::Fingerprint => {
                write!(formatter, "{}/{}", self.modality.name(), self.position.name())
            }
        }
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Slot({self})")
    }
}

/// A set of slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SlotMask(u32);

impl SlotMask {
    /// No slot.
    pub const EMPTY: Self = Self(0);

    /// This set and `slot`.
    #[must_use]
    pub fn with(self, slot: Slot) -> Self {
        Self(self.0 | 1 << slot.index())
    }

    /// Whether `slot` is in the set.
    pub fn contains(self, slot: Slot) -> bool {
        self.0 & (1 << slot.index()) != 0
    }

    /// Whether the two sets share a slot.
    pub fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether the set is empty.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The number of slots in the set.
    pub fn len(self) -> u32 {
        self.0.count_ones()
    }
}

impl FromIterator<Slot> for SlotMask {
    fn from_iter<I: IntoIterator<Item = Slot>>(slots: I) -> Self {
        slots.into_iter().fold(Self::EMPTY, Self::with)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_numbered_densely_in_order() {
        let indices: Vec<usize> = Slot::all().map(Slot::index).collect();
        assert_eq!(indices, (0..SLOTS).collect::<Vec<_>>());
        assert!(Slot::all().is_sorted());
    }

    #[test]
    fn a_position_must_exist_in_its_modality() {
        assert_eq!(Slot::new(Modality::Face, Position::LeftEye), None);
        assert_eq!(Slot::new(Modality::Iris, Position::Only), None);
        assert_eq!(Slot::new(Modality::Fingerprint, Position::RightEye), None);
        assert!(Slot::new(Modality::Fingerprint, Position::LeftLittle).is_some());
    }

    #[test]
    fn codes_round_trip_and_unknown_codes_are_refused() {
        for slot in Slot::all() {
            assert_eq!(Slot::from_codes(slot.modality().code(), slot.position().code()), Some(slot));
        }
        assert_eq!(Slot::from_codes(0, 1), None);
        assert_eq!(Slot::from_codes(1, 0), None);
        assert_eq!(Slot::from_codes(5, 1), None);
        assert_eq!(Slot::from_codes(4, 14), None);
    }

    #[test]
    fn a_mask_holds_what_was_put_in() {
        let irises: SlotMask = Slot::all().filter(|slot| slot.modality() == Modality::Iris).collect();
        assert_eq!(irises.len(), 2);
        for slot in Slot::all() {
            assert_eq!(irises.contains(slot), slot.modality() == Modality::Iris);
        }
        assert!(!irises.intersects(SlotMask::EMPTY));
    }
}
