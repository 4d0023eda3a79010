//! Whole numbers of the command line, and how one that is out of bounds is refused.

use std::ops::RangeInclusive;

/// Reads a whole number within bounds. Whatever else it is given, it says what the bounds are; clap says for which argument.
pub(crate) fn within<T: TryFrom<u64>>(bounds: RangeInclusive<u64>) -> impl Fn(&str) -> Result<T, String> + Clone {
    move |text| {
        let number = text.parse().ok().filter(|number| bounds.contains(number));
        let number = number.and_then(|number| T::try_from(number).ok());
        number.ok_or_else(|| format!("must be a whole number from {} to {}", bounds.start(), bounds.end()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers beyond 64 bits were once refused without a word on the bounds.
    #[test]
    fn whatever_is_no_number_within_bounds_is_told_the_bounds() {
        let read = within::<u16>(2..=600);
        for (text, number) in [("2", 2), ("600", 600), ("0042", 42)] {
            assert_eq!(read(text), Ok(number));
        }
        for text in ["1", "601", "-3", "", "2.5", "1e2", "65538", "99999999999999999999", "many"] {
            assert_eq!(read(text), Err("must be a whole number from 2 to 600".to_owned()), "{text}");
        }
        assert_eq!(within::<u8>(0..=1_000)("256"), Err("must be a whole number from 0 to 1000".to_owned()));
    }
}
