//! `resource.Quantity`: amounts of cpu, memory, storage and the like, exact and never floating.
//!
//! Mirrors `k8s.io/apimachinery/pkg/api/resource`. A quantity is a whole number times a power of ten, together with the
//! notation it was written in; `1.5Gi` and `1536Mi` are the same number in the same notation and print alike.
//!
//! Departures, all far outside any real amount: a number with more than 37 digits is refused (upstream's have no limit);
//! sums and products beyond 37 digits are rounded up; [`Quantity::value`] saturates where upstream answers 0, since an
//! absurdly large request must not look like none; and amounts beyond `E` print with an exponent where upstream drops
//! the unit.

use std::cmp::Ordering;
use std::fmt;

/// The notation of a quantity (`resource.Format`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// `12e6`.
    DecimalExponent,
    /// `12Mi`.
    BinarySI,
    /// `12M`.
    DecimalSI,
}

/// Why a text is no quantity; upstream's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// `ErrFormatWrong`.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// `ErrNumeric`.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    /// `ErrSuffix`.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// An amount. Compared and hashed by value, whatever its notation.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    /// Below `10^37` in magnitude, no multiple of ten unless zero.
    mantissa: i128,
    /// Power of ten; 0 for zero.
    exponent: i32,
    format: Format,
}

const LIMIT: i128 = 10i128.pow(37);
/// The smallest part that is kept.
const NANO: i32 = -9;
const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];

/// `value / 10^places`, rounded away from zero.
fn divide_up(value: i128, places: u32) -> i128 {
    match 10i128.checked_pow(places) {
        Some(divisor) => value / divisor + (value % divisor).signum(),
        None => value.signum(),
    }
}
/// `value * 10^places`, when it stays within 37 digits.
fn multiply(value: i128, places: u32) -> Option<i128> {
    if value == 0 {
        return Some(0);
    }
    value.checked_mul(10i128.checked_pow(places)?).filter(|product| product.abs() < LIMIT)
}

/// A text taken apart, before it means anything (`parseQuantityString`).
struct Parts<'t> {
    negative: bool,
    /// Digits before the point, without leading zeros.
    whole: &'t str,
    /// Digits after the point.
    fraction: &'t str,
    suffix: &'t str,
}

fn split(text: &str) -> Result<Parts<'_>, QuantityError> {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let negative = text.starts_with('-');
    let rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    let rest = rest.trim_start_matches('0');
    let (whole, rest) = rest.split_at(digits(rest));
    let (fraction, suffix) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(digits(rest)),
        None => ("", rest),
    };
    let tail = suffix.trim_start_matches(|symbol| "eEinumkKMGTP".contains(symbol));
    let tail = tail.strip_prefix(['+', '-']).unwrap_or(tail);
    if digits(tail) != tail.len() {
        return Err(QuantityError::Format);
    }
    Ok(Parts { negative, whole, fraction, suffix })
}

/// The number that digits spell.
fn number(digits: impl Iterator<Item = u8>) -> Result<i128, QuantityError> {
    let mut number = 0i128;
    for digit in digits {
        number = number * 10 + i128::from(digit - b'0');
        if number >= LIMIT {
            return Err(QuantityError::Numeric);
        }
    }
    Ok(number)
}

/// Billionths in a number times `2^power`, rounded up and capped at 2^63-1.
fn binary_nanos(parts: &Parts<'_>, power: u32) -> i128 {
    const BILLION: i128 = 1_000_000_000;
    /// Digits of the fraction that are reckoned with; `2^60` of the last is about a billionth.
    const PLACES: u32 = 27;
    let cap = i128::from(i64::MAX) * BILLION;
    let kept = parts.fraction.len().min(PLACES as usize);
    let mut fraction = number(parts.fraction[..kept].bytes()).unwrap_or(0)
        * 10i128.pow(PLACES.abs_diff(u32::try_from(kept).unwrap_or(PLACES)));
    let dropped = i128::from(parts.fraction[kept..].bytes().any(|digit| digit != b'0'));
    let Ok(mut whole) = number(parts.whole.bytes()) else { return cap };
    let one = 10i128.pow(PLACES);
    for _ in 0..power / 10 {
        fraction *= 1024;
        whole = whole.saturating_mul(1024).saturating_add(fraction / one);
        fraction %= one;
        if whole > i128::from(i64::MAX) {
            return cap;
        }
    }
    let nanos = divide_up(fraction.saturating_mul(10) + dropped, PLACES - 9 + 1);
    (whole.saturating_mul(BILLION).saturating_add(nanos)).min(cap)
}

/// What a suffix means: notation and power of ten, or of two for `BinarySI` (`suffixHandler.interpret`).
fn interpret(suffix: &str) -> Option<(Format, i32)> {
    if let Some((_, exponent)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
        return Some((Format::DecimalSI, *exponent));
    }
    if let Some(power) = (1..).zip(&BINARY[1..]).find(|(_, name)| **name == suffix) {
        return Some((Format::BinarySI, power.0 * 10));
    }
    let digits = suffix.strip_prefix(['e', 'E']).filter(|digits| !digits.is_empty())?;
    digits.parse().ok().map(|exponent| (Format::DecimalExponent, exponent))
}

impl Quantity {
    /// `mantissa * 10^exponent`.
    fn normalized(mut mantissa: i128, mut exponent: i32, format: Format) -> Self {
        while mantissa.abs() >= LIMIT {
            mantissa = divide_up(mantissa, 1);
            exponent = exponent.saturating_add(1);
        }
        if mantissa == 0 {
            return Self { mantissa, exponent: 0, format };
        }
        while mantissa % 10 == 0 {
            mantissa /= 10;
            exponent = exponent.saturating_add(1);
        }
        Self { mantissa, exponent, format }
    }
    /// `NewQuantity`.
    pub fn new(value: i64, format: Format) -> Self {
        Self::normalized(value.into(), 0, format)
    }
    /// `NewMilliQuantity`: thousandths.
    pub fn from_milli(value: i64, format: Format) -> Self {
        Self::normalized(value.into(), -3, format)
    }
    /// `NewScaledQuantity`: `value * 10^scale`.
    pub fn from_scaled(value: i64, scale: i32) -> Self {
        Self::normalized(value.into(), scale, Format::DecimalSI)
    }
    /// Nothing, in the given notation.
    pub fn zero(format: Format) -> Self {
        Self { mantissa: 0, exponent: 0, format }
    }

    /// `ParseQuantity`. Parts smaller than a billionth are rounded up; amounts in binary notation are capped at 2^63-1.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        if text.is_empty() {
            return Err(QuantityError::Format);
        }
        let parts = split(text)?;
        let (mut format, power) = interpret(parts.suffix).ok_or(QuantityError::Suffix)?;
        let sign = if parts.negative { -1 } else { 1 };
        let (mut mantissa, mut exponent) = if format == Format::BinarySI {
            (binary_nanos(&parts, power.unsigned_abs()), NANO)
        } else {
            // Digits that cannot matter are dropped, but remembered: they round up.
            let kept = parts.fraction.len().min(36usize.saturating_sub(parts.whole.len()).max(9));
            let mut mantissa = number(parts.whole.bytes().chain(parts.fraction[..kept].bytes()))?;
            let mut exponent = power.saturating_sub(i32::try_from(kept).map_err(|_| QuantityError::Numeric)?);
            if parts.fraction[kept..].bytes().any(|digit| digit != b'0') {
                mantissa = mantissa.saturating_mul(10).saturating_add(1);
                exponent = exponent.saturating_sub(1);
            }
            (mantissa, exponent)
        };
        if exponent < NANO {
            mantissa = divide_up(mantissa, NANO.abs_diff(exponent));
            exponent = NANO;
        }
        let quantity = Self::normalized(sign * mantissa, exponent, format);
        if format == Format::BinarySI && parts.fraction.len() + parts.suffix.len() > 0 {
            let below_one = quantity.mantissa != 0 && quantity.cmp_int(1).is_lt() && quantity.cmp_int(-1).is_gt();
            if below_one {
                format = Format::DecimalSI;
            }
        }
        Ok(Self { format, ..quantity })
    }

    /// The text that upstream writes for what it read from `text`: canonical, except that it keeps some texts as they
    /// came (`1.125`, `+100m`, `0100m`).
    pub fn canonical(text: &str) -> Result<String, QuantityError> {
        let quantity = Self::parse(text)?;
        if keeps_text(text) { Ok(text.to_owned()) } else { Ok(quantity.to_string()) }
    }

    /// The notation.
    pub fn format(&self) -> Format {
        self.format
    }
    /// The same amount in another notation.
    pub fn with_format(self, format: Format) -> Self {
        Self { format, ..self }
    }
    /// Whether it is nothing.
    pub fn is_zero(&self) -> bool {
        self.mantissa == 0
    }
    /// -1, 0 or 1.
    pub fn sign(&self) -> i32 {
        i32::try_from(self.mantissa.signum()).unwrap_or(0)
    }
    /// `ScaledValue`: in units of `10^scale`, rounded away from zero, saturating.
    pub fn scaled_value(&self, scale: i32) -> i64 {
        let saturated = if self.mantissa < 0 { i64::MIN } else { i64::MAX };
        let places = self.exponent.abs_diff(scale);
        if self.exponent < scale {
            i64::try_from(divide_up(self.mantissa, places)).unwrap_or(saturated)
        } else {
            multiply(self.mantissa, places).and_then(|value| i64::try_from(value).ok()).unwrap_or(saturated)
        }
    }
    /// `Value`: rounded away from zero to a whole number, saturating.
    pub fn value(&self) -> i64 {
        self.scaled_value(0)
    }
    /// `MilliValue`: in thousandths, rounded away from zero, saturating.
    pub fn milli_value(&self) -> i64 {
        self.scaled_value(-3)
    }
    /// `AsInt64`: the amount, when it is a whole number of 64 bits.
    pub fn as_int(&self) -> Option<i64> {
        let places = u32::try_from(self.exponent).ok()?;
        multiply(self.mantissa, places).and_then(|value| i64::try_from(value).ok())
    }
    /// `AsApproximateFloat64`, for metrics.
    #[expect(clippy::cast_precision_loss, reason = "approximate by contract")]
    pub fn as_f64(&self) -> f64 {
        self.mantissa as f64 * 10f64.powi(self.exponent)
    }
    /// `RoundUp`: without parts smaller than `10^scale`; false when something was rounded.
    pub fn round_up(&mut self, scale: i32) -> bool {
        if self.exponent >= scale {
            return true;
        }
        *self = Self::normalized(divide_up(self.mantissa, self.exponent.abs_diff(scale)), scale, self.format);
        false
    }

    fn cmp_int(&self, value: i64) -> Ordering {
        self.cmp(&Self::new(value, self.format))
    }

    /// Adds; nothing takes the notation of what is added.
    pub fn add(&mut self, other: Self) {
        let format = if self.is_zero() { other.format } else { self.format };
        let (high, low) = if self.exponent >= other.exponent { (*self, other) } else { (other, *self) };
        *self = match multiply(high.mantissa, high.exponent.abs_diff(low.exponent)) {
            _ if low.is_zero() => Self { format, ..high },
            Some(aligned) => Self::normalized(aligned + low.mantissa, low.exponent, format),
            // More than 37 digits apart: the smaller one only rounds up what the larger one can show.
            None => {
                let scale = high.exponent.saturating_sub(37 - digit_count(high.mantissa));
                let aligned = multiply(high.mantissa, high.exponent.abs_diff(scale)).unwrap_or(high.mantissa);
                Self::normalized(aligned + divide_up(low.mantissa, low.exponent.abs_diff(scale)), scale, format)
            }
        };
    }
    /// Subtracts; nothing takes the notation of what is subtracted.
    pub fn sub(&mut self, other: Self) {
        self.add(Self { mantissa: -other.mantissa, ..other });
    }
    /// Multiplies by a whole number.
    pub fn mul(&mut self, factor: i64) {
        *self = match self.mantissa.checked_mul(factor.into()) {
            Some(product) => Self::normalized(product, self.exponent, self.format),
            // At most 10^37 * 2^63: drop 19 digits, rounding up.
            None => Self::normalized(
                divide_up(self.mantissa, 19).saturating_mul(factor.into()),
                self.exponent.saturating_add(19),
                self.format,
            ),
        };
    }
    /// The negative amount.
    #[must_use]
    pub fn negated(self) -> Self {
        Self { mantissa: -self.mantissa, ..self }
    }
}

fn digit_count(value: i128) -> i32 {
    value.unsigned_abs().checked_ilog10().map_or(0, |log| i32::try_from(log).unwrap_or(38) + 1)
}

/// Whether upstream's `ParseQuantity` takes the text over unchanged: its fast path, on numbers it takes for canonical.
fn keeps_text(text: &str) -> bool {
    let Ok(Parts { whole, fraction, suffix, .. }) = split(text) else { return false };
    let Some((format, power)) = interpret(suffix) else { return false };
    let whole = if whole.is_empty() { "0" } else { whole };
    let digits = whole.len() + fraction.len();
    match format {
        Format::BinarySI => {
            let fits =
                fraction.is_empty() && 14 - i64::try_from(whole.len()).unwrap_or(99) - i64::from(power * 3 / 10) >= 0;
            fits && whole.parse::<i64>().is_ok_and(|value| value & 7 != 0)
        }
        Format::DecimalSI | Format::DecimalExponent => {
            let scale = i64::from(power) - i64::try_from(fraction.len()).unwrap_or(i64::MAX);
            let shifted_ends = |suffix: &str| {
                if fraction.len() >= suffix.len() {
                    fraction.ends_with(suffix)
                } else {
                    whole.ends_with(&suffix[fraction.len()..]) && fraction.bytes().all(|digit| digit == b'0')
                }
            };
            digits <= 18 && scale >= NANO.into() && scale % 3 == 0 && !shifted_ends("000") && !whole.starts_with('0')
        }
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        let signs = self.mantissa.signum().cmp(&other.mantissa.signum());
        if signs.is_ne() || self.mantissa == 0 {
            return signs;
        }
        let magnitude = |quantity: &Self| i64::from(digit_count(quantity.mantissa)) + i64::from(quantity.exponent);
        let larger = magnitude(self).cmp(&magnitude(other));
        if larger.is_ne() {
            return if self.mantissa > 0 { larger } else { larger.reverse() };
        }
        // As many digits before the point: brought to one exponent, both stay below 10^37.
        let places = self.exponent.abs_diff(other.exponent);
        let (left, right) = if self.exponent >= other.exponent {
            (multiply(self.mantissa, places), Some(other.mantissa))
        } else {
            (Some(self.mantissa), multiply(other.mantissa, places))
        };
        left.cmp(&right)
    }
}
impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        (self.mantissa, self.exponent) == (other.mantissa, other.exponent)
    }
}
impl Eq for Quantity {}
impl std::hash::Hash for Quantity {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.mantissa, self.exponent).hash(state);
    }
}
impl std::str::FromStr for Quantity {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        Self::parse(text)
    }
}

/// The canonical form (`CanonicalizeBytes`): no fraction, the largest unit that loses nothing.
impl fmt::Display for Quantity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_zero() {
            return out.write_str("0");
        }
        let small = self.cmp_int(1024).is_lt() && self.cmp_int(-1024).is_gt();
        if self.format == Format::BinarySI
            && !small
            && let Ok(places) = u32::try_from(self.exponent)
            && let Some(mut number) = multiply(self.mantissa, places)
        {
            let mut unit = 0;
            while number % 1024 == 0 && unit + 1 < BINARY.len() {
                number /= 1024;
                unit += 1;
            }
            return write!(out, "{number}{}", BINARY[unit]);
        }
        let places = self.exponent.rem_euclid(3);
        let exponent = self.exponent - places;
        let number = self.mantissa * [1, 10, 100][usize::try_from(places).unwrap_or(0)];
        let unit = DECIMAL.iter().find(|(_, power)| *power == exponent);
        match unit {
            Some((unit, _)) if self.format != Format::DecimalExponent => write!(out, "{number}{unit}"),
            _ if exponent == 0 => write!(out, "{number}"),
            _ => write!(out, "{number}e{exponent}"),
        }
    }
}

#[cfg(test)]
mod tests;
