//! Quantities are compared by what they mean: the cluster rewrites `0.5` to `500m` and `1024Mi` to `1Gi`.

/// Whether two quantities are the same amount; texts that are none are the same when they are equal.
pub(crate) fn same_quantity(one: &str, other: &str) -> bool {
    one == other || nano(one).zip(nano(other)).is_some_and(|(one, other)| one == other)
}

/// The amount in units of 10⁻⁹, the smallest that Kubernetes knows.
fn nano(text: &str) -> Option<u128> {
    let (number, exponent) = match text.find(['e', 'E']) {
        // `12E` is exa, `12e3` an exponent.
        Some(at) if at + 1 < text.len() => (&text[..at], text[at + 1..].parse::<i32>().ok()?),
        _ => (text, 0),
    };
    let digits = number.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let (binary, decimal) = match &number[digits.len()..] {
        "" => (0, 0),
        "n" => (0, -9),
        "u" => (0, -6),
        "m" => (0, -3),
        "k" => (0, 3),
        "M" => (0, 6),
        "G" => (0, 9),
        "T" => (0, 12),
        "P" => (0, 15),
        "E" => (0, 18),
        "Ki" => (10, 0),
        "Mi" => (20, 0),
        "Gi" => (30, 0),
        "Ti" => (40, 0),
        "Pi" => (50, 0),
        "Ei" => (60, 0),
        _ => return None,
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() && part.is_empty() {
        return None;
    }
    let value: u128 = format!("{whole}{part}").parse().ok()?;
    let scale = 9 + decimal + exponent - i32::try_from(part.len()).ok()?;
    let value = value.checked_mul(1_u128.checked_shl(binary)?)?;
    let power = 10_u128.checked_pow(scale.unsigned_abs())?;
    if scale >= 0 { value.checked_mul(power) } else { Some(value.div_ceil(power)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_compared_by_meaning() {
        for (one, other) in [
            ("4", "4000m"),
            ("0.5", "500m"),
            ("1Gi", "1024Mi"),
            ("1Gi", "1073741824"),
            ("1.5Gi", "1536Mi"),
            ("12e3", "12k"),
            ("1E", "1000P"),
        ] {
            assert!(same_quantity(one, other), "{one} {other}");
        }
        for (one, other) in [("4", "5"), ("1G", "1Gi"), ("x", "y"), ("", "0"), ("1", "1m")] {
            assert!(!same_quantity(one, other), "{one} {other}");
        }
    }

    #[test]
    fn nothing_overflows() {
        for text in
            ["9".repeat(32), "999999999999Ei".into(), "1e99999999999".into(), "1e-40".into(), ".".into()]
        {
            assert!(!same_quantity(&text, "1"), "{text}");
        }
    }
}
