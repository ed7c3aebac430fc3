//! `intstr.IntOrString`: a count, or a share in percent (`k8s.io/apimachinery/pkg/util/intstr`).

use crate::error::quote;
use crate::value::Value;
use std::fmt;

/// A number or a text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum IntOrString {
    /// A number.
    Int(i32),
    /// A text, such as `25%` or a port's name.
    String(String),
}

/// A text that is no percentage; upstream's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid value for IntOrString: {0}")]
pub struct IntOrStringError(String);

impl IntOrString {
    /// From a tree's node; `None` when it is neither.
    pub fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Int(number) => i32::try_from(*number).ok().map(Self::Int),
            Value::String(text) => Some(Self::String(text.clone())),
            _ => None,
        }
    }
    /// `Parse`: a number when the text is one.
    pub fn parse(text: &str) -> Self {
        text.parse().map_or_else(|_| Self::String(text.to_owned()), Self::Int)
    }
    /// `IntValue`: the number, also one written as text; 0 for other text.
    pub fn int_value(&self) -> i32 {
        match self {
            Self::Int(number) => *number,
            Self::String(text) => text.parse().unwrap_or(0),
        }
    }
    /// `GetScaledValueFromIntOrPercent`: the number, or the share of `total`, rounded up or down.
    pub fn scaled(&self, total: i64, round_up: bool) -> Result<i64, IntOrStringError> {
        let text = match self {
            Self::Int(number) => return Ok(i64::from(*number)),
            Self::String(text) => text,
        };
        let Some(digits) = text.strip_suffix('%') else {
            return Err(IntOrStringError("invalid type: string is not a percentage".to_owned()));
        };
        let wrong = |why: &str| {
            IntOrStringError(format!("invalid value {}: strconv.Atoi: parsing {}: {why}", quote(text), quote(digits)))
        };
        let unsigned = digits.strip_prefix(['+', '-']).unwrap_or(digits);
        if unsigned.is_empty() || !unsigned.bytes().all(|digit| digit.is_ascii_digit()) {
            return Err(wrong("invalid syntax"));
        }
        let percent: i64 = digits.parse().map_err(|_| wrong("value out of range"))?;
        let product = i128::from(percent) * i128::from(total);
        let floor = product.div_euclid(100);
        let share = if round_up && product.rem_euclid(100) != 0 { floor + 1 } else { floor };
        Ok(i64::try_from(share).unwrap_or(if share < 0 { i64::MIN } else { i64::MAX }))
    }
}

impl fmt::Display for IntOrString {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(number) => number.fmt(out),
            Self::String(text) => out.write_str(text),
        }
    }
}
impl From<IntOrString> for Value {
    fn from(value: IntOrString) -> Self {
        match value {
            IntOrString::Int(number) => Self::Int(number.into()),
            IntOrString::String(text) => Self::String(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_rounded_as_asked() {
        for (text, total, up, down) in [
            ("25%", 10, 3, 2),
            ("50%", 10, 5, 5),
            ("0%", 7, 0, 0),
            ("100%", 7, 7, 7),
            ("150%", 3, 5, 4),
            ("1%", 1, 1, 0),
        ] {
            let value = IntOrString::parse(text);
            assert_eq!((value.scaled(total, true), value.scaled(total, false)), (Ok(up), Ok(down)), "{text}");
        }
        assert_eq!(IntOrString::parse("3").scaled(10, true), Ok(3));
        for (text, message) in [
            ("abc", "invalid value for IntOrString: invalid type: string is not a percentage"),
            ("x%", "invalid value for IntOrString: invalid value \"x%\": strconv.Atoi: parsing \"x\": invalid syntax"),
            ("%", "invalid value for IntOrString: invalid value \"%\": strconv.Atoi: parsing \"\": invalid syntax"),
        ] {
            assert_eq!(
                IntOrString::parse(text).scaled(1, true).map_err(|error| error.to_string()),
                Err(message.into())
            );
        }
        assert!(IntOrString::parse("9999999999999999999999%").scaled(1, true).is_err());
        assert_eq!(IntOrString::parse("9223372036854775807%").scaled(i64::MAX, true), Ok(i64::MAX));
        assert_eq!(IntOrString::parse("http").int_value(), 0);
        assert_eq!(Value::from(IntOrString::parse("80")), Value::Int(80));
    }
}
