use super::*;
use crate::testing::{Random, mutate};

fn parse(text: &str) -> Quantity {
    Quantity::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn canonical_forms() {
    for (text, canonical) in [
        ("0", "0"),
        ("0n", "0"),
        ("-0", "0"),
        ("000", "0"),
        (".", "0"),
        ("+", "0"),
        ("Ki", "0"),
        ("1", "1"),
        ("1000", "1k"),
        ("1024", "1024"),
        ("1100", "1100"),
        ("1500m", "1500m"),
        ("1.5", "1500m"),
        ("0.5", "500m"),
        ("1000m", "1"),
        ("100000", "100k"),
        ("1.125", "1.125"),
        ("0.125", "125m"),
        ("+100m", "+100m"),
        ("0100m", "0100m"),
        ("1.500k", "1.500k"),
        ("1.2k", "1200"),
        ("1Ki", "1Ki"),
        ("8Ki", "8Ki"),
        ("1024Ki", "1Mi"),
        ("1.5Gi", "1536Mi"),
        ("0.5Gi", "512Mi"),
        ("0.001Ki", "1024m"),
        ("512Mi", "512Mi"),
        ("2048Mi", "2Gi"),
        ("100Ei", "9223372036854775807"),
        ("0.1m", "100u"),
        ("0.1n", "1n"),
        ("1.1n", "2n"),
        ("-1.1n", "-2n"),
        ("0.00000000000000000000000000000000000000000000000000001", "1n"),
        ("1.00000000000000000000000000000000000000000000000000001Gi", "1073741824000000001n"),
        ("1e3", "1e3"),
        ("1E3", "1E3"),
        ("1e2", "100"),
        ("12e6", "12e6"),
        ("1.2e6", "1200e3"),
        ("100e-3", "100e-3"),
        ("1E", "1E"),
        ("1000E", "1e21"),
        ("1e30", "1e30"),
        ("9223372036854775807", "9223372036854775807"),
        ("9223372036854775808", "9223372036854775808"),
        ("123456789012345678901", "123456789012345678901"),
        ("-1.5", "-1500m"),
        ("1n", "1n"),
        ("1u", "1u"),
        ("1000u", "1m"),
        ("3.1415926535897932384626433832795028841971693993751058209749445923078164062862", "3141592654n"),
    ] {
        assert_eq!(Quantity::canonical(text).as_deref(), Ok(canonical), "{text}");
    }
}

#[test]
fn refused() {
    for (text, error) in [
        ("", QuantityError::Format),
        ("1x", QuantityError::Format),
        (" 1", QuantityError::Format),
        ("1 ", QuantityError::Format),
        ("1.2.3", QuantityError::Format),
        ("1e3x", QuantityError::Format),
        ("--1", QuantityError::Suffix),
        ("1kk", QuantityError::Suffix),
        ("1ki", QuantityError::Suffix),
        ("1mi", QuantityError::Suffix),
        ("1e", QuantityError::Suffix),
        ("1e99999999999999999999", QuantityError::Suffix),
        ("1i", QuantityError::Suffix),
        ("999999999999999999999999999999999999999", QuantityError::Numeric),
    ] {
        assert_eq!(Quantity::parse(text).unwrap_err(), error, "{text:?}");
    }
}

#[test]
fn values() {
    for (text, value, milli) in [
        ("1", 1, 1000),
        ("1.1", 2, 1100),
        ("-1.1", -2, -1100),
        ("1m", 1, 1),
        ("1n", 1, 1),
        ("1500m", 2, 1500),
        ("1.5Gi", 1_610_612_736, 1_610_612_736_000),
        ("1e30", i64::MAX, i64::MAX),
        ("-1e2147483647", i64::MIN, i64::MIN),
        ("0", 0, 0),
    ] {
        assert_eq!((parse(text).value(), parse(text).milli_value()), (value, milli), "{text}");
    }
    assert_eq!(parse("1Gi").as_int(), Some(1 << 30));
    assert_eq!(parse("1.5").as_int(), None);
    assert_eq!(parse("1500").as_int(), Some(1500));
    let mut rounded = parse("1.5");
    assert!(!rounded.round_up(0));
    assert_eq!(rounded.to_string(), "2");
    assert!(rounded.round_up(-3));
}

#[test]
fn order() {
    let sorted =
        ["-1e40", "-1Ki", "-1", "-1n", "0", "1n", "999u", "1m", "0.9", "1", "1.1", "1k", "1Ki", "1e30", "1e40"];
    for (left, smaller) in sorted.iter().enumerate() {
        for (right, larger) in sorted.iter().enumerate() {
            assert_eq!(parse(smaller).cmp(&parse(larger)), left.cmp(&right), "{smaller} {larger}");
        }
    }
    assert_eq!(parse("1Ki"), parse("1024"));
    assert_eq!(parse("1000m"), parse("1"));
}

#[test]
fn arithmetic() {
    for (left, right, sum, difference) in [
        ("1", "1", "2", "0"),
        ("1Gi", "512Mi", "1536Mi", "512Mi"),
        ("0", "1Ki", "1Ki", "-1Ki"),
        ("1", "1n", "1000000001n", "999999999n"),
        ("500m", "500m", "1", "0"),
        ("1Gi", "1", "1073741825", "1073741823"),
    ] {
        let (mut added, mut taken) = (parse(left), parse(left));
        added.add(parse(right));
        taken.sub(parse(right));
        assert_eq!((added.to_string().as_str(), taken.to_string().as_str()), (sum, difference), "{left} {right}");
    }
    let mut huge = parse("1e40");
    huge.add(parse("1n"));
    assert!(huge > parse("1e40"));
    let mut product = parse("1.5Gi");
    product.mul(2);
    assert_eq!(product.to_string(), "3Gi");
    let mut product = parse("1234567890123456789012345678901234567");
    product.mul(i64::MAX);
    assert!(product > parse("1e54"));
}

/// Against a plain calculation in integers of nanos, where those fit.
#[test]
fn agrees_with_integers() {
    let mut random = Random::new(3);
    let text = |random: &mut Random| {
        let unit = random.pick(&["", "m", "u", "n", "k", "M", "Ki", "Mi"]);
        let fraction = if random.below(2) == 0 { String::new() } else { format!(".{}", random.below(1000)) };
        format!("{}{}{fraction}{unit}", random.pick(&["", "-"]), random.below(100_000))
    };
    let nanos = |quantity: &Quantity| multiply(quantity.mantissa, quantity.exponent.abs_diff(-9)).unwrap();
    for _ in 0..20_000 {
        let (left, right) = (parse(&text(&mut random)), parse(&text(&mut random)));
        let mut sum = left;
        sum.add(right);
        assert_eq!(nanos(&sum), nanos(&left) + nanos(&right));
        assert_eq!(left.cmp(&right), nanos(&left).cmp(&nanos(&right)));
        assert_eq!(parse(&sum.to_string()), sum, "{sum}");
    }
}

#[test]
fn mutated_text_never_panics() {
    mutate(
        &["1.5Gi", "100m", "-12e6", "+0.001Ki", "9223372036854775807", "1e2147483647", "1e-2147483648"],
        300,
        |text| {
            if let Ok(quantity) = Quantity::parse(text) {
                let canonical = Quantity::canonical(text).unwrap();
                assert_eq!(Quantity::parse(&canonical).unwrap(), quantity, "{text} {canonical}");
                let mut other = quantity;
                other.add(quantity);
                other.mul(-3);
                other.sub(quantity);
                drop((
                    quantity.value(),
                    quantity.milli_value(),
                    other.to_string(),
                    other.as_f64(),
                    other.cmp(&quantity),
                ));
            }
        },
    );
}
