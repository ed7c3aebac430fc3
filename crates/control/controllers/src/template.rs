//! What templates have in common wherever they are rolled out: their hash, and bounds in numbers or percent.

use skiff_machinery::Value;
use skiff_machinery::codec::json;
use skiff_machinery::intstr::IntOrString;

/// The alphabet of names that nobody reads a word into (`rand.SafeEncodeString`).
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// A template's name among its owner's (`controller.ComputeHash`): FNV-1a over its canonical JSON and the number of
/// collisions so far.
pub fn hash(template: &Value, collisions: i64) -> String {
    let mut hash: u32 = 0x811c_9dc5;
    let mut mix = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
    };
    mix(&json::to_vec(template));
    if collisions > 0 {
        mix(&collisions.to_le_bytes());
    }
    hash.to_string().bytes().map(|digit| char::from(ALPHABET[usize::from(digit) % ALPHABET.len()])).collect()
}

/// A number, or a share of `total` in percent; `None` when it is absent or cannot be read, which validation refuses.
pub fn scaled(value: Option<&Value>, total: i64, round_up: bool) -> Option<i64> {
    IntOrString::from_value(value?)?.scaled(total, round_up).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_machinery::object;

    #[test]
    fn a_collision_changes_the_hash() {
        let template = object! { "spec": object! { "a": 1 } };
        assert_eq!(hash(&template, 0), hash(&template.clone(), 0));
        assert_ne!(hash(&template, 0), hash(&template, 1));
        assert_ne!(hash(&template, 0), hash(&object! { "spec": object! { "a": 2 } }, 0));
    }

    #[test]
    fn bounds_are_numbers_or_shares() {
        assert_eq!(scaled(Some(&Value::from("25%")), 10, true), Some(3));
        assert_eq!(scaled(Some(&Value::from("25%")), 10, false), Some(2));
        assert_eq!(scaled(Some(&Value::from(3)), 10, false), Some(3));
        assert_eq!(scaled(None, 10, true), None);
    }
}
