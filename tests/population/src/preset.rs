//! Models of a population and the named presets, each with its source and the figures it is fitted to.
//! Drawing people and captures from a model lives in `population`.
//!
//! A model says how scores spread, not how good a matcher is: rates measured on it are the index's and the cluster's
//! to answer for, never a claim of biometric accuracy.

use std::fmt;
use std::str::FromStr;

/// Mean and standard deviation of a normal law.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Normal {
    /// Its mean.
    pub mean: f64,
    /// Its standard deviation, not negative.
    pub sd: f64,
}

/// The two shape parameters of a beta law, both positive.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BetaLaw {
    /// α.
    pub alpha: f64,
    /// β.
    pub beta: f64,
}

impl BetaLaw {
    /// The law with this mean and standard deviation; `None` if no beta law has them.
    pub fn from_moments(mean: f64, sd: f64) -> Option<Self> {
        let size = mean * (1.0 - mean) / (sd * sd) - 1.0;
        let law = Self { alpha: mean * size, beta: (1.0 - mean) * size };
        (law.alpha > 0.0 && law.beta > 0.0 && size.is_finite()).then_some(law)
    }
}

/// A demographic group: its people's centres share a direction, so that its strangers score higher.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Group {
    /// Share of the people, 0 to 1.
    pub share: f64,
    /// Mean inner product of two centres of the group, 0 to 1. Captures show it times the genuine mean.
    pub weight: f64,
}

/// Pairs of people whose centres are alike.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KinModel {
    /// Share of the people who are one of such a pair, 0 to 1.
    pub share: f64,
    /// Inner product of the two centres.
    pub cosine: Normal,
}

/// Everything a population of embeddings is drawn from, apart from its spectrum's basis.
#[derive(Debug, Clone, PartialEq)]
pub struct Model {
    /// Components of an embedding.
    pub dimension: usize,
    /// Standard deviation of scores between strangers of different groups; the spectrum is solved for it.
    pub impostor_sd: f64,
    /// The part of a capture that is its person, drawn anew for each capture: a mated pair scores its product.
    pub quality: BetaLaw,
    /// Share of mated pairs that hold a failed capture (0 to 1): half of it for each capture.
    pub floor_share: f64,
    /// Quality of a failed capture.
    pub floor_quality: BetaLaw,
    /// The groups; shares add up to one. Empty: no groups.
    pub groups: Vec<Group>,
    /// Siblings.
    pub siblings: KinModel,
    /// Identical twins: expected false positives, reported apart.
    pub twins: KinModel,
}

/// Twelve groups, larger ones with the smaller weight: weights .03 to .10 give the 10 to more than 100 times higher
/// false-match rates between groups that NISTIR 8280 reports at one threshold. The shares are an assumption.
const GROUPS: [Group; 12] = [
    Group { share: 0.18, weight: 0.03 },
    Group { share: 0.15, weight: 0.04 },
    Group { share: 0.13, weight: 0.05 },
    Group { share: 0.11, weight: 0.05 },
    Group { share: 0.09, weight: 0.06 },
    Group { share: 0.08, weight: 0.06 },
    Group { share: 0.07, weight: 0.07 },
    Group { share: 0.06, weight: 0.07 },
    Group { share: 0.05, weight: 0.08 },
    Group { share: 0.04, weight: 0.09 },
    Group { share: 0.02, weight: 0.10 },
    Group { share: 0.02, weight: 0.10 },
];
const SIBLINGS: KinModel = KinModel { share: 0.016, cosine: Normal { mean: 0.30, sd: 0.08 } };
const TWINS: KinModel = KinModel { share: 0.004, cosine: Normal { mean: 0.78, sd: 0.06 } };
const NO_KIN: KinModel = KinModel { share: 0.0, cosine: Normal { mean: 0.0, sd: 0.0 } };
/// A failed capture: occlusion, pose, a mislabelled record.
const FLOOR_QUALITY: BetaLaw = BetaLaw { alpha: 3.0, beta: 6.0 };
/// Portrait matchers on faces: effective dimension 237 at 512 components.
const FACE_IMPOSTOR_SD: f64 = 0.065;

/// The named models. Faces have 512 components, impostor sd .065 (effective dimension 237; spectrum exponent ≈ .70),
/// twelve groups of weight .03 to .10, 1.6 % of people in sibling pairs with cosine N(.30, .08) and .4 % in pairs of
/// identical twins with N(.78, .06).
///
/// | preset | genuine mean / sd | quality | floor | fitted to |
/// |---|---|---|---|---|
/// | `F1` | .76 / .08 | Beta(23.2, 3.41) | 4e-4 | portraits, the best of NIST FRTE 1:N: FNIR 4e-4 at 1.6 million, 6e-4 at 12 million, FPIR .003 |
/// | `F1m` | .72 / .10 | Beta(15.4, 2.75) | 1e-4 | portraits, the median of FRTE 1:N: 1.5e-3 and 1.6e-3 |
/// | `F2` | .70 / .10 | Beta(15.8, 3.09) | 4e-4 | civil registers after ten years, FRTE 1:N border ≥ 10 years, best: 2.7e-3 at 1.6 million |
/// | `F3` | .52 / .13 | Beta(8.75, 3.38) | 0 | an open model on unconstrained pictures, InsightFace MFR-ALL r100 WF12M: TAR 94.7 % at FAR 1e-6 |
/// | `Voice` | .62 / .15 | Beta(7.29, 1.97) | 0 | ECAPA-class voices, 192 components, impostor sd .115: EER about 1 %. **Uncalibrated** |
/// | `Isotropic` | .76 / .08 | as F1 | 0 | a control: impostor sd 1/√512 = .0442, no groups, no kin. Too easy to publish |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Preset {
    /// Portrait faces and a leading commercial matcher.
    F1,
    /// Portrait faces and the median vendor.
    F1m,
    /// Faces of a civil register, ten years apart or more.
    F2,
    /// Faces in the wild and an open model.
    F3,
    /// Voices; uncalibrated.
    Voice,
    /// The easy control.
    Isotropic,
}

impl Preset {
    /// Every preset, in the order of the table.
    pub const ALL: [Self; 6] = [Self::F1, Self::F1m, Self::F2, Self::F3, Self::Voice, Self::Isotropic];

    /// The name in reports and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::F1 => "F1",
            Self::F1m => "F1m",
            Self::F2 => "F2",
            Self::F3 => "F3",
            Self::Voice => "voice",
            Self::Isotropic => "isotropic",
        }
    }

    /// What the preset stands for and where its figures come from, for a report.
    pub fn source(self) -> &'static str {
        match self {
            Self::F1 => "portrait faces, best of NIST FRTE 1:N",
            Self::F1m => "portrait faces, median of NIST FRTE 1:N",
            Self::F2 => "civil register faces after ten years, NIST FRTE 1:N border",
            Self::F3 => "open face model in the wild, InsightFace MFR-ALL",
            Self::Voice => "ECAPA-class voices, uncalibrated",
            Self::Isotropic => "isotropic control, easier than any real population",
        }
    }

    /// The preset's figures, to use or to vary.
    pub fn model(self) -> Model {
        match self {
            Self::F1 => faces(BetaLaw { alpha: 23.2, beta: 3.41 }, 4e-4),
            Self::F1m => faces(BetaLaw { alpha: 15.4, beta: 2.75 }, 1e-4),
            Self::F2 => faces(BetaLaw { alpha: 15.8, beta: 3.09 }, 4e-4),
            Self::F3 => faces(BetaLaw { alpha: 8.75, beta: 3.38 }, 0.0),
            Self::Voice => {
                Model { dimension: 192, impostor_sd: 0.115, ..faces(BetaLaw { alpha: 7.29, beta: 1.97 }, 0.0) }
            }
            Self::Isotropic => Model {
                impostor_sd: 1.0 / 512_f64.sqrt(),
                groups: Vec::new(),
                siblings: NO_KIN,
                twins: NO_KIN,
                ..faces(BetaLaw { alpha: 23.2, beta: 3.41 }, 0.0)
            },
        }
    }
}

fn faces(quality: BetaLaw, floor_share: f64) -> Model {
    Model {
        dimension: 512,
        impostor_sd: FACE_IMPOSTOR_SD,
        quality,
        floor_share,
        floor_quality: FLOOR_QUALITY,
        groups: GROUPS.to_vec(),
        siblings: SIBLINGS,
        twins: TWINS,
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A name that no preset has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no preset is called {name:?}; there are F1, F1m, F2, F3, voice and isotropic")]
pub struct UnknownPreset {
    /// The name given.
    pub name: String,
}

impl FromStr for Preset {
    type Err = UnknownPreset;

    fn from_str(name: &str) -> Result<Self, UnknownPreset> {
        let found = Self::ALL.into_iter().find(|preset| preset.name().eq_ignore_ascii_case(name));
        found.ok_or_else(|| UnknownPreset { name: name.to_owned() })
    }
}

/// A field of a [`Model`] out of its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{field} must be {range}")]
pub struct InvalidModel {
    /// The field.
    pub field: &'static str,
    /// What it must be.
    pub range: &'static str,
}

/// Rounding allowed in shares that must add up to one.
const SHARE_ROUNDING: f64 = 1e-9;

impl Model {
    /// Checks every range but the dimension and the impostor sd, which the spectrum checks.
    pub fn validate(&self) -> Result<(), InvalidModel> {
        let require = |holds: bool, field, range| if holds { Ok(()) } else { Err(InvalidModel { field, range }) };
        let is_share = |share: f64| (0.0..=1.0).contains(&share);
        let is_law = |law: BetaLaw| law.alpha.is_finite() && law.beta.is_finite() && law.alpha > 0.0 && law.beta > 0.0;
        require(is_law(self.quality), "quality", "a beta law with positive parameters")?;
        require(is_law(self.floor_quality), "floor_quality", "a beta law with positive parameters")?;
        require(is_share(self.floor_share), "floor_share", "0 to 1")?;
        for group in &self.groups {
            require(is_share(group.share), "groups.share", "0 to 1")?;
            require((0.0..1.0).contains(&group.weight), "groups.weight", "at least 0 and less than 1")?;
        }
        let grouped: f64 = self.groups.iter().map(|group| group.share).sum();
        let whole = self.groups.is_empty() || (grouped - 1.0).abs() < SHARE_ROUNDING;
        require(whole, "groups.share", "1 when added up")?;
        for kin in [self.siblings, self.twins] {
            require(is_share(kin.share), "kin share", "0 to 1")?;
            require((-1.0..=1.0).contains(&kin.cosine.mean), "kin cosine mean", "-1 to 1")?;
            require(kin.cosine.sd.is_finite() && kin.cosine.sd >= 0.0, "kin cosine sd", "finite and not negative")?;
        }
        require(is_share(self.siblings.share + self.twins.share), "siblings and twins", "0 to 1 when added up")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_valid_and_found_by_its_name() {
        for preset in Preset::ALL {
            assert_eq!(preset.model().validate(), Ok(()));
            assert_eq!(preset.name().parse(), Ok(preset));
        }
        assert_eq!("F9".parse::<Preset>(), Err(UnknownPreset { name: "F9".to_owned() }));
    }

    #[test]
    fn models_out_of_range_name_the_field() {
        let field = |vary: fn(&mut Model)| {
            let mut model = Preset::F1.model();
            vary(&mut model);
            model.validate().expect_err("out of range").field
        };
        assert_eq!(field(|model| model.quality.alpha = 0.0), "quality");
        assert_eq!(field(|model| model.floor_quality.beta = f64::NAN), "floor_quality");
        assert_eq!(field(|model| model.floor_share = 1.5), "floor_share");
        assert_eq!(field(|model| model.groups[0].share = 0.5), "groups.share");
        assert_eq!(field(|model| model.groups[0].weight = 1.0), "groups.weight");
        assert_eq!(field(|model| model.twins.share = 0.99), "siblings and twins");
        assert_eq!(field(|model| model.siblings.cosine.sd = -1.0), "kin cosine sd");
        assert_eq!(field(|model| model.twins.cosine.mean = f64::INFINITY), "kin cosine mean");
    }

    #[test]
    fn beta_laws_are_found_from_their_moments() {
        let law = BetaLaw::from_moments(0.4, 0.1).expect("a beta law has these moments");
        let size = law.alpha + law.beta;
        assert!((law.alpha / size - 0.4).abs() < 1e-12);
        assert!((law.alpha * law.beta / (size * size * (size + 1.0)) - 0.01).abs() < 1e-12);
        assert_eq!(BetaLaw::from_moments(0.5, 0.6), None);
    }
}
