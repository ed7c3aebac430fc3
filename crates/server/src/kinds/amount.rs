//! Sums and comparisons of quantities, exact to a billionth.
//!
//! Objects keep quantities as canonical text; this is the number behind the text while it is being reckoned with.

use std::cmp::Ordering;
use std::fmt;

/// How the text of a quantity was written, kept by sums (`resource.Format`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    DecimalExponent,
    BinarySI,
    DecimalSI,
}

/// A quantity: billionths.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Amount {
    nano: i128,
    format: Format,
}

const NANO: i128 = 1_000_000_000;
/// Beyond this upstream caps too; it keeps products below far from overflow.
const MOST: i128 = (i64::MAX as i128) * NANO;

impl Amount {
    /// None of anything.
    pub(crate) const ZERO: Self = Self { nano: 0, format: Format::DecimalSI };

    /// A whole number.
    pub(crate) fn whole(number: i64) -> Self {
        Self { nano: i128::from(number) * NANO, format: Format::DecimalSI }
    }

    /// Reads the text of a quantity.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (negative, rest) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let digits_end = rest.find(|symbol: char| !symbol.is_ascii_digit() && symbol != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(digits_end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return None;
        }
        let (multiplier, divisor, format) = suffix_scale(suffix)?;
        let mut mantissa: i128 = 0;
        for digit in whole.bytes() {
            mantissa = mantissa.saturating_mul(10).saturating_add(i128::from(digit - b'0')).min(i128::MAX / 100);
        }
        let mut nano = mantissa.saturating_mul(NANO);
        let mut place = NANO / 10;
        let mut lost = false;
        for digit in fraction.bytes() {
            if place == 0 {
                lost |= digit != b'0';
            } else {
                nano = nano.saturating_add(i128::from(digit - b'0') * place);
                place /= 10;
            }
        }
        let scaled = nano.saturating_mul(multiplier).min(MOST.saturating_mul(divisor));
        // Anything below a billionth rounds up, away from nothing.
        let mut nano = scaled / divisor;
        if scaled % divisor != 0 || lost {
            nano += 1;
        }
        let nano = nano.min(MOST);
        Some(Self { nano: if negative { -nano } else { nano }, format })
    }

    /// Whether it is below zero.
    pub(crate) fn is_negative(self) -> bool {
        self.nano < 0
    }
    /// Whether it is zero.
    pub(crate) fn is_zero(self) -> bool {
        self.nano == 0
    }
    /// Whether it is a whole number of thousandths.
    pub(crate) fn is_whole_milli(self) -> bool {
        self.nano % 1_000_000 == 0
    }
    /// Whether it is a whole number.
    pub(crate) fn is_whole(self) -> bool {
        self.nano % NANO == 0
    }
    /// The whole number, rounded up.
    pub(crate) fn value(self) -> i64 {
        let whole = self.nano.div_euclid(NANO) + i128::from(self.nano.rem_euclid(NANO) != 0);
        i64::try_from(whole).unwrap_or(if whole < 0 { i64::MIN } else { i64::MAX })
    }
    /// The sum, in the format of `self` unless it is zero.
    pub(crate) fn plus(self, other: Self) -> Self {
        let format = if self.nano == 0 { other.format } else { self.format };
        Self { nano: (self.nano + other.nano).clamp(-MOST, MOST), format }
    }
    /// The difference.
    pub(crate) fn minus(self, other: Self) -> Self {
        let format = if self.nano == 0 { other.format } else { self.format };
        Self { nano: (self.nano - other.nano).clamp(-MOST, MOST), format }
    }
    /// The greater of two.
    pub(crate) fn greater(self, other: Self) -> Self {
        if other.nano > self.nano { other } else { self }
    }
    /// How often `other` fits, as a ratio.
    pub(crate) fn ratio(self, other: Self) -> f64 {
        self.nano as f64 / other.nano as f64
    }
}

impl PartialEq for Amount {
    fn eq(&self, other: &Self) -> bool {
        self.nano == other.nano
    }
}
impl Eq for Amount {}
impl PartialOrd for Amount {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Amount {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

/// Multiplier and divisor of a suffix.
fn suffix_scale(suffix: &str) -> Option<(i128, i128, Format)> {
    let decimal = |power: u32| Some((10i128.pow(power), 1, Format::DecimalSI));
    match suffix {
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "m" => Some((1, 1_000, Format::DecimalSI)),
        "u" => Some((1, 1_000_000, Format::DecimalSI)),
        "n" => Some((1, NANO, Format::DecimalSI)),
        "Ki" | "Mi" | "Gi" | "Ti" | "Pi" | "Ei" => {
            let power = "KMGTPE".find(&suffix[..1])? as u32 + 1;
            Some((1i128 << (10 * power), 1, Format::BinarySI))
        }
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = exponent.unsigned_abs().min(20);
            let scale = 10i128.pow(power);
            Some(if exponent < 0 { (1, scale, Format::DecimalExponent) } else { (scale, 1, Format::DecimalExponent) })
        }
    }
}

impl fmt::Display for Amount {
    /// The canonical text (`Quantity.CanonicalizeBytes`): the greatest suffix that leaves a whole number. Binary
    /// amounts below 1024 or with a fraction are written as decimal ones.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nano == 0 {
            return out.write_str("0");
        }
        let whole = self.nano / NANO;
        if self.format == Format::BinarySI && self.is_whole() && whole.abs() >= 1024 {
            let mut number = whole;
            let mut power = 0;
            while number % 1024 == 0 && power < 6 {
                number /= 1024;
                power += 1;
            }
            return write!(out, "{number}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][power]);
        }
        let mut number = self.nano;
        let mut power = 0;
        while number % 1000 == 0 && power < 9 {
            number /= 1000;
            power += 1;
        }
        if self.format == Format::DecimalExponent {
            let exponent = power as i32 * 3 - 9;
            return if exponent == 0 { write!(out, "{number}") } else { write!(out, "{number}e{exponent}") };
        }
        write!(out, "{number}{}", ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"][power])
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn adds_and_prints_canonically() {
        for (left, right, sum) in [
            ("100m", "1", "1100m"),
            ("1Gi", "1Gi", "2Gi"),
            ("512Ki", "512Ki", "1Mi"),
            ("0.5", "500m", "1"),
            ("1e3", "1", "1001"),
            ("1000", "1000", "2k"),
            ("0", "64Mi", "64Mi"),
            ("1Ki", "0", "1Ki"),
            ("1000Ki", "24Ki", "1Mi"),
        ] {
            assert_eq!(Amount::parse(left).unwrap().plus(Amount::parse(right).unwrap()).to_string(), sum);
        }
        assert!(Amount::parse("1.5Gi").unwrap().is_whole());
        assert!(!Amount::parse("1n").unwrap().is_whole_milli());
        for bad in ["", "x", "1.2.3", "1Kib", "--1", "1e", "."] {
            assert!(Amount::parse(bad).is_none(), "{bad}");
        }
        assert_eq!(Amount::parse("99999999999999999999999999999999999999999999E").unwrap().value(), i64::MAX);
    }
}
