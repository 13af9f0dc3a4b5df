//! Templates of values that differ between workers: `{slot}`, `{id}`, `{8000+slot}`. No I/O here.

/// The numbers that a template may name.
#[derive(Clone, Copy, Debug, Default)]
pub struct Numbers {
    /// The worker's slot.
    pub slot: u32,
    /// Its number.
    pub id: u32,
}

/// Checks a template.
///
/// # Errors
/// The words for what is expected.
pub fn check(template: &str) -> Result<(), String> {
    fill(template, Numbers::default()).map(drop)
}

/// Fills in a template: `{slot}`, `{id}`, a sum of such names and numbers, and `{{` for a brace.
///
/// # Errors
/// The words for what is expected.
pub fn fill(template: &str, numbers: Numbers) -> Result<String, String> {
    let mut text = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, behind)) = rest.split_once('{') {
        text.push_str(before);
        if let Some(behind) = behind.strip_prefix('{') {
            text.push('{');
            rest = behind;
            continue;
        }
        let (sum, behind) = behind.split_once('}').ok_or_else(|| expected(template))?;
        let term = |term: &str| match term.trim() {
            "slot" => Some(u64::from(numbers.slot)),
            "id" => Some(u64::from(numbers.id)),
            number => number.parse::<u32>().ok().map(u64::from),
        };
        let sum: Option<u64> = sum.split('+').map(term).sum();
        text.push_str(&sum.ok_or_else(|| expected(template))?.to_string());
        rest = behind;
    }
    text.push_str(rest);
    Ok(text)
}

fn expected(template: &str) -> String {
    format!(
        "{{slot}}, {{id}} or a sum such as {{8000+slot}} between braces, and {{{{ for a brace, in {template:?}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_sums_are_filled_in() {
        let fill = |template| fill(template, Numbers { slot: 3, id: 17 });
        for (template, value) in [
            ("", ""),
            ("plain", "plain"),
            ("{slot}", "3"),
            ("a{id}b{slot}c", "a17b3c"),
            ("{8000+slot}", "8003"),
            ("{ 1 + slot + id }", "21"),
            ("{{slot}", "{slot}"),
            ("}", "}"),
        ] {
            assert_eq!(fill(template).as_deref(), Ok(value));
        }
        for bad in ["{", "{}", "{slots}", "{slot", "{8000-slot}", "{-1}", "{slot+}"] {
            assert!(fill(bad).unwrap_err().contains("8000+slot"), "{bad}");
        }
    }
}
