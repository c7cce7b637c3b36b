//! What a text means as the secret of an HMAC key; keepalived's `key` means the same by it.

use super::model::HmacSecret;

/// `hex:` and hexadecimal digits, blanks between the bytes allowed; or else the text itself, without the end of its last
/// line. What is wrong is said without a word of it.
pub(crate) fn hmac_secret(text: &[u8]) -> Result<HmacSecret, String> {
    let end = text.iter().rposition(|byte| !b"\r\n".contains(byte)).map_or(0, |last| last + 1);
    let text = &text[..end];
    let bytes = match text.strip_prefix(b"hex:") {
        Some(digits) => {
            from_hex(digits).ok_or("has something behind \"hex:\" that is no pair of hexadecimal digits")?
        }
        None if text.iter().all(|byte| (b' '..=b'~').contains(byte)) => text.to_vec(),
        None => return Err("has a character that is not printable ASCII".to_owned()),
    };
    let length = bytes.len();
    HmacSecret::new(bytes).ok_or_else(|| {
        format!("must be {} to {} bytes long, and this is {length}", HmacSecret::MIN, HmacSecret::MAX)
    })
}

fn from_hex(digits: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for run in digits.split(|byte| b" \t".contains(byte)) {
        for pair in run.chunks(2) {
            let &[high, low] = pair else { return None };
            bytes.push(digit(high)? << 4 | digit(low)?);
        }
    }
    Some(bytes)
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Result<Vec<u8>, String> {
        hmac_secret(text.as_bytes()).map(|secret| secret.bytes().to_vec())
    }

    #[test]
    fn hex_and_text() {
        let counted: Vec<u8> = (0..32).collect();
        let digits: String = counted.iter().map(|byte| format!("{byte:02x}")).collect();
        let spaced: String = counted.iter().map(|byte| format!(" {byte:02X}")).collect();
        assert_eq!(bytes(&format!("hex:{digits}")), Ok(counted.clone()));
        assert_eq!(bytes(&format!("hex:{spaced}\r\n")), Ok(counted));
        // Without the prefix, digits are text.
        assert_eq!(bytes(&format!("{digits}\n")), Ok(digits.clone().into_bytes()));
        assert_eq!(bytes(&"x ".repeat(32)), Ok("x ".repeat(32).into_bytes()));
    }

    #[test]
    fn what_is_wrong_is_said_without_the_secret() {
        for (text, said) in [
            (String::new(), "must be 32 to 64 bytes long, and this is 0"),
            ("s".repeat(31), "must be 32 to 64 bytes long, and this is 31"),
            ("s".repeat(65), "must be 32 to 64 bytes long, and this is 65"),
            (format!("hex:{}", "5".repeat(62)), "must be 32 to 64 bytes long, and this is 31"),
            (format!("hex:{}", "5".repeat(65)), "has something behind \"hex:\""),
            (format!("hex:{}", "5 ".repeat(64)), "has something behind \"hex:\""),
            (format!("hex:{}", "xy".repeat(32)), "has something behind \"hex:\""),
            (format!("{}\n{}", "s".repeat(32), "s".repeat(8)), "has a character that is not printable ASCII"),
            ("ß".repeat(32), "has a character that is not printable ASCII"),
        ] {
            let wrong = bytes(&text).expect_err(&text);
            assert!(wrong.starts_with(said), "{text}: {wrong}");
        }
    }
}
