//! Kubernetes resource quantities ("100m", "64Mi", "1e3"), read and computed exactly.
//!
//! Grammar and canonical form are those of apimachinery's `resource.Quantity`: a signed decimal number with at most one
//! suffix; nothing finer than a billionth (rounded away from zero), nothing of 2^63 or more.

use std::{fmt, str::FromStr};

use thiserror::Error;

use crate::v1;

/// The largest magnitude, as in Kubernetes.
const MAX: i128 = i64::MAX as i128;
/// Billionths in one.
const NANO: i128 = 1_000_000_000;
/// Decimal suffixes and their powers of ten.
const DECIMAL: [(&str, i32); 10] = [
    ("n", -9),
    ("u", -6),
    ("m", -3),
    ("", 0),
    ("k", 3),
    ("M", 6),
    ("G", 9),
    ("T", 12),
    ("P", 15),
    ("E", 18),
];
/// Binary suffixes and their powers of two.
const BINARY: [(&str, u32); 6] = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];

/// Why a text is not a quantity.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum QuantityError {
    /// No text at all.
    #[error("a quantity must not be empty")]
    Empty,
    /// No number at the start.
    #[error("quantity \"{0}\" does not begin with a number")]
    NoNumber(String),
    /// An unknown suffix.
    #[error(
        "quantity \"{text}\" has the unknown suffix \"{suffix}\" (known: n u m k M G T P E, Ki Mi Gi Ti Pi Ei, e<exponent>)"
    )]
    Suffix {
        /// The quantity.
        text: String,
        /// Its suffix.
        suffix: String,
    },
    /// 2^63 or more.
    #[error("quantity \"{0}\" is too large (at most 2^63-1)")]
    TooLarge(String),
}

/// How a quantity was written, and so how it is written again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Format {
    Decimal,
    Binary,
    Exponent,
}

/// An exact number with the way it is written. Equality and order are those of the number.
#[derive(Clone, Copy, Debug)]
pub struct Amount {
    nanos: i128,
    format: Format,
}

impl Amount {
    /// Nothing.
    pub const ZERO: Self = Self {
        nanos: 0,
        format: Format::Decimal,
    };

    /// Reads a quantity.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        if text.is_empty() {
            return Err(QuantityError::Empty);
        }
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let number_end = unsigned
            .find(|c: char| !(c.is_ascii_digit() || c == '.'))
            .unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(number_end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(QuantityError::NoNumber(text.to_owned()));
        }
        let (format, ten, two) = scale(suffix).ok_or_else(|| QuantityError::Suffix {
            text: text.to_owned(),
            suffix: suffix.to_owned(),
        })?;
        let too_large = || QuantityError::TooLarge(text.to_owned());
        let magnitude = nanos(whole, fraction, ten, two)
            .filter(|n| *n <= MAX * NANO)
            .ok_or_else(too_large)?;
        Ok(Self {
            nanos: if text.starts_with('-') { -magnitude } else { magnitude },
            format,
        })
    }

    /// So many thousandths ("500m" of CPU is 500).
    pub const fn from_milli(milli: i64) -> Self {
        Self {
            nanos: milli as i128 * (NANO / 1_000),
            format: Format::Decimal,
        }
    }

    /// So many whole units.
    pub const fn from_value(value: i64) -> Self {
        Self {
            nanos: value as i128 * NANO,
            format: Format::Decimal,
        }
    }

    /// So many bytes, written with binary suffixes.
    pub const fn from_bytes(bytes: i64) -> Self {
        Self {
            nanos: bytes as i128 * NANO,
            format: Format::Binary,
        }
    }

    /// Whole units, rounded up as Kubernetes' `Value()` does (away from zero).
    pub fn value(self) -> i64 {
        // The magnitude is at most i64::MAX units by construction; sums saturate there.
        i64::try_from(div_away(self.nanos, NANO)).unwrap_or(if self.nanos < 0 { i64::MIN } else { i64::MAX })
    }

    /// Thousandths, rounded up (away from zero).
    pub fn milli(self) -> i128 {
        div_away(self.nanos, NANO / 1_000)
    }

    /// True for less than nothing.
    pub const fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// True for nothing.
    pub const fn is_zero(self) -> bool {
        self.nanos == 0
    }
}

/// Format, power of ten and power of two of a suffix.
fn scale(suffix: &str) -> Option<(Format, i32, u32)> {
    if let Some((_, ten)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
        return Some((Format::Decimal, *ten, 0));
    }
    if let Some((_, two)) = BINARY.iter().find(|(name, _)| *name == suffix) {
        return Some((Format::Binary, 0, *two));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?;
    let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    // An exponent that does not fit is out of every range; the sign decides which.
    let limit = if exponent.starts_with('-') { -10_000 } else { 10_000 };
    Some((
        Format::Exponent,
        exponent.parse().unwrap_or(limit).clamp(-10_000, 10_000),
        0,
    ))
}

/// `whole.fraction × 10^ten × 2^two` in billionths, rounded up; `None` when it does not fit.
fn nanos(whole: &str, fraction: &str, ten: i32, two: u32) -> Option<i128> {
    let fraction = fraction.trim_end_matches('0');
    let digits: String = [whole.trim_start_matches('0'), fraction].concat();
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return Some(0);
    }
    // digits × 10^power is the value in billionths, before the power of two.
    let power = 9 + i64::from(ten) - i64::try_from(fraction.len()).ok()?;
    // The first 38 digits hold more than the largest quantity; the rest only decide the rounding.
    let kept = digits.len().min(if two > 0 { 20 } else { 38 });
    let dropped = digits.len() - kept;
    let lost = digits.as_bytes()[kept..].iter().any(|digit| *digit != b'0');
    let mut value: i128 = digits[..kept].parse().ok()?;
    let power = power + i64::try_from(dropped).ok()?;
    value = value.checked_mul(1_i128 << two)?;
    if power >= 0 {
        let factor = 10_i128.checked_pow(u32::try_from(power).ok()?)?;
        return value.checked_mul(factor)?.checked_add(i128::from(lost));
    }
    let Some(divisor) = u32::try_from(-power).ok().and_then(|power| 10_i128.checked_pow(power)) else {
        return Some(1);
    };
    Some(value / divisor + i128::from(lost || value % divisor != 0))
}

/// Division rounded away from zero.
const fn div_away(value: i128, by: i128) -> i128 {
    let rest = value % by;
    value / by + if rest == 0 { 0 } else { rest.signum() }
}

impl PartialEq for Amount {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Amount {}

impl PartialOrd for Amount {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Amount {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl std::ops::Add for Amount {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            nanos: self.nanos.saturating_add(other.nanos),
            format: self.format,
        }
    }
}

impl std::ops::Sub for Amount {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            nanos: self.nanos.saturating_sub(other.nanos),
            format: self.format,
        }
    }
}

impl std::iter::Sum for Amount {
    fn sum<I: Iterator<Item = Self>>(mut amounts: I) -> Self {
        let Some(first) = amounts.next() else { return Self::ZERO };
        amounts.fold(first, std::ops::Add::add)
    }
}

impl FromStr for Amount {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        Self::parse(text)
    }
}

impl fmt::Display for Amount {
    /// Canonical form: no fraction, the largest suffix that keeps the number whole.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        if self.format == Format::Binary && self.nanos.abs() >= 1024 * NANO {
            let mut value = div_away(self.nanos, NANO);
            let mut suffix = "";
            for (name, _) in BINARY {
                if value % 1024 != 0 {
                    break;
                }
                value /= 1024;
                suffix = name;
            }
            return write!(f, "{value}{suffix}");
        }
        let (mut value, mut step) = (self.nanos, 0);
        while value % 1_000 == 0 && step + 1 < DECIMAL.len() {
            value /= 1_000;
            step += 1;
        }
        let (suffix, exponent) = DECIMAL[step];
        match self.format {
            Format::Exponent if exponent != 0 => write!(f, "{value}e{exponent}"),
            _ => write!(f, "{value}{suffix}"),
        }
    }
}

impl v1::Quantity {
    /// The exact number.
    pub fn amount(&self) -> Result<Amount, QuantityError> {
        Amount::parse(&self.value)
    }

    /// Thousandths, rounded up.
    pub fn milli(&self) -> Result<i128, QuantityError> {
        self.amount().map(Amount::milli)
    }

    /// Whole units, rounded up.
    pub fn value(&self) -> Result<i64, QuantityError> {
        self.amount().map(Amount::value)
    }
}

impl From<Amount> for v1::Quantity {
    fn from(amount: Amount) -> Self {
        Self {
            value: amount.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_quantities_have_their_value_and_canonical_form() {
        // text, thousandths, whole units, canonical
        let cases: &[(&str, i128, i64, &str)] = &[
            ("0", 0, 0, "0"),
            ("100m", 100, 1, "100m"),
            ("0.1", 100, 1, "100m"),
            (".5", 500, 1, "500m"),
            ("5.", 5_000, 5, "5"),
            ("1", 1_000, 1, "1"),
            ("1000m", 1_000, 1, "1"),
            ("1500m", 1_500, 2, "1500m"),
            ("+1.5", 1_500, 2, "1500m"),
            ("-1.5", -1_500, -2, "-1500m"),
            ("1k", 1_000_000, 1_000, "1k"),
            ("1024", 1_024_000, 1_024, "1024"),
            ("1Ki", 1_024_000, 1_024, "1Ki"),
            ("64Mi", 67_108_864_000, 67_108_864, "64Mi"),
            ("0.5Gi", 536_870_912_000, 536_870_912, "512Mi"),
            ("1.5Gi", 1_610_612_736_000, 1_610_612_736, "1536Mi"),
            ("0.1Ki", 102_400, 103, "102400m"),
            ("128974848", 128_974_848_000, 128_974_848, "128974848"),
            ("129M", 129_000_000_000, 129_000_000, "129M"),
            ("129e6", 129_000_000_000, 129_000_000, "129e6"),
            ("1E3", 1_000_000, 1_000, "1e3"),
            ("12e-3", 12, 1, "12e-3"),
            ("1n", 1, 1, "1n"),
            ("0.1n", 1, 1, "1n"),
            ("1e-30", 1, 1, "1e-9"),
            (
                "9223372036854775807",
                9_223_372_036_854_775_807_000,
                i64::MAX,
                "9223372036854775807",
            ),
            ("7Ei", 8_070_450_532_247_928_832_000, 8_070_450_532_247_928_832, "7Ei"),
            ("9E", 9_000_000_000_000_000_000_000, 9_000_000_000_000_000_000, "9E"),
            ("000123.45600", 123_456, 124, "123456m"),
        ];
        for (text, milli, value, canonical) in cases {
            let amount = Amount::parse(text).unwrap_or_else(|error| panic!("{error}"));
            let got = (amount.milli(), amount.value(), amount.to_string());
            assert_eq!(got, (*milli, *value, (*canonical).to_owned()), "{text}");
        }
    }

    #[test]
    fn errors_name_the_text() {
        let error = |text| Amount::parse(text).expect_err(text).to_string();
        assert_eq!(error(""), "a quantity must not be empty");
        assert_eq!(error("lots"), "quantity \"lots\" does not begin with a number");
        assert_eq!(error("1.2.3"), "quantity \"1.2.3\" does not begin with a number");
        assert!(error("64MB").starts_with("quantity \"64MB\" has the unknown suffix \"MB\""));
        assert!(error("1K").contains("\"K\""));
        assert!(error("1 Gi").contains("\" Gi\""));
        assert!(error("1e").contains("\"e\""));
        assert_eq!(error("8Ei"), "quantity \"8Ei\" is too large (at most 2^63-1)");
        assert_eq!(
            error("9223372036854775808"),
            "quantity \"9223372036854775808\" is too large (at most 2^63-1)"
        );
        assert_eq!(
            error("1e99999999999"),
            "quantity \"1e99999999999\" is too large (at most 2^63-1)"
        );
    }

    #[test]
    fn sums_are_exact() {
        let sum: Amount = std::iter::repeat_n(Amount::parse("0.1").expect("valid"), 10).sum();
        assert_eq!(sum, Amount::from_value(1));
        assert!(Amount::from_bytes(1 << 20) > Amount::parse("1M").expect("valid"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_without_a_panic(text in "[-+]?[0-9.]{0,45}[a-zA-Z]{0,2}[-+0-9]{0,4}") {
            let _ = Amount::parse(&text);
        }

        #[test]
        fn the_canonical_form_is_the_same_number(number in 0_u64..9_000_000, suffix in "n|u|m||k|M|G|Ki|Mi|Gi|e3|e-2") {
            let amount = Amount::parse(&format!("{number}{suffix}")).expect("generated to be valid");
            let again = Amount::parse(&amount.to_string()).expect("canonical");
            prop_assert_eq!(amount, again);
            prop_assert_eq!(amount.to_string(), again.to_string());
        }

        #[test]
        fn decimals_agree_with_integer_arithmetic(whole in 0_i64..1_000_000, milli in 0_i64..1_000) {
            let amount = Amount::parse(&format!("{whole}.{milli:03}")).expect("valid");
            prop_assert_eq!(amount.milli(), i128::from(whole * 1_000 + milli));
            prop_assert_eq!(amount, Amount::from_milli(whole * 1_000 + milli));
        }
    }
}
