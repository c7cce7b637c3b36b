//! What the file of `sync.key_file` means.

use super::model::SyncKeys;

/// A secret on each line: hexadecimal digits, with or without `hex:` before them, or a text of printable ASCII. Empty lines, and
/// those that begin with `#`, say nothing. What is wrong is said without a word of it.
pub(super) fn sync_keys(text: &[u8]) -> Result<SyncKeys, String> {
    let mut secrets: Vec<Vec<u8>> = Vec::new();
    for (line, text) in (1..).zip(text.split(|byte| *byte == b'\n')) {
        let text = text.trim_ascii();
        if text.is_empty() || text.starts_with(b"#") {
            continue;
        }
        let secret = secret(text).map_err(|wrong| format!("line {line} {wrong}"))?;
        if secrets.contains(&secret) {
            return Err(format!("line {line} has a key that is there already"));
        }
        secrets.push(secret);
    }
    let count = secrets.len();
    SyncKeys::new(secrets).ok_or_else(|| match count {
        0 => "holds no key".to_owned(),
        _ => format!("holds {count} keys, and {} are the most", SyncKeys::MOST),
    })
}

fn secret(text: &[u8]) -> Result<Vec<u8>, String> {
    let prefixed = text.strip_prefix(b"hex:");
    let secret = match from_hex(prefixed.unwrap_or(text)) {
        Some(bytes) => bytes,
        None if prefixed.is_some() => {
            return Err("has something behind \"hex:\" that is no pair of hexadecimal digits".to_owned());
        }
        None if text.iter().all(|byte| (b' '..=b'~').contains(byte)) => text.to_vec(),
        None => return Err("has a character that is not printable ASCII".to_owned()),
    };
    let length = secret.len();
    if (SyncKeys::MIN..=SyncKeys::MAX).contains(&length) {
        Ok(secret)
    } else {
        Err(format!("must be {} to {} bytes of secret, and has {length}", SyncKeys::MIN, SyncKeys::MAX))
    }
}

fn from_hex(digits: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = digits.chunks(2).map(|pair| match pair {
        &[high, low] => Some(digit(high)? << 4 | digit(low)?),
        _ => None,
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(text: &str) -> Result<Vec<Vec<u8>>, String> {
        sync_keys(text.as_bytes()).map(|keys| keys.secrets().map(<[u8]>::to_vec).collect())
    }

    #[test]
    fn hex_text_and_several_generations() {
        let digits = "5a".repeat(32);
        assert_eq!(secrets(&digits), Ok(vec![vec![0x5a; 32]]));
        assert_eq!(secrets(&format!("hex:{digits}\r\n")), Ok(vec![vec![0x5a; 32]]));
        let text = "correct horse battery staple, twice";
        let file = format!("# the new one\n{text}\n\n  {digits}  \n");
        assert_eq!(secrets(&file), Ok(vec![text.as_bytes().to_vec(), vec![0x5a; 32]]));
    }

    #[test]
    fn what_is_wrong_is_said_without_the_secret() {
        for (text, said) in [
            (String::new(), "holds no key"),
            ("# nothing\n".to_owned(), "holds no key"),
            ("s".repeat(31), "line 1 must be 32 to 256 bytes of secret, and has 31"),
            ("\n".to_owned() + &"s".repeat(257), "line 2 must be 32 to 256 bytes of secret, and has 257"),
            // 62 characters, but 31 bytes of secret.
            ("5a".repeat(31), "line 1 must be 32 to 256 bytes of secret, and has 31"),
            (format!("hex:{}", "5".repeat(65)), "line 1 has something behind \"hex:\""),
            ("ß".repeat(32), "line 1 has a character that is not printable ASCII"),
            (format!("{0}\n{0}\n", "s".repeat(32)), "line 2 has a key that is there already"),
            (
                (0..5).map(|key| format!("{key}").repeat(33) + "x\n").collect(),
                "holds 5 keys, and 4 are the most",
            ),
        ] {
            let wrong = secrets(&text).expect_err(&text);
            assert!(wrong.starts_with(said), "{text}: {wrong}");
        }
    }
}
