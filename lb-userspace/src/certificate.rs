//! When a certificate ends. Pure.

use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;

/// The end of a certificate's validity (RFC 5280 §4.1.2.5). `None` where it is no certificate, or ended before 1970.
pub fn not_after(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let seconds = u64::try_from(parsed.validity().not_after.timestamp()).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn until(year: i32, month: u8, day: u8) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["lb1".to_owned()]).expect("a name");
        params.not_before = date_time_ymd(1960, 1, 1);
        params.not_after = date_time_ymd(year, month, day);
        let key = KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("a certificate").der().clone()
    }

    #[test]
    fn the_end_is_that_of_the_certificate_in_both_of_its_forms() {
        // UTCTime up to 2049, GeneralizedTime after that.
        for (end, text) in [
            ((2026, 1, 2), "2026-01-02T00:00:00Z"),
            ((2049, 12, 31), "2049-12-31T00:00:00Z"),
            ((4096, 1, 1), "4096-01-01T00:00:00Z"),
        ] {
            let found = not_after(&until(end.0, end.1, end.2)).expect("a time");
            assert_eq!(humantime::format_rfc3339_seconds(found).to_string(), text);
        }
        assert_eq!(not_after(&until(1961, 1, 1)), None);
    }

    static ONE: LazyLock<Vec<u8>> = LazyLock::new(|| until(2030, 1, 1).to_vec());

    proptest! {
        #[test]
        fn nothing_that_a_backend_sends_is_a_surprise(
            bytes in proptest::collection::vec(any::<u8>(), 0..64),
            place in any::<proptest::sample::Index>(),
            value in any::<u8>(),
        ) {
            not_after(&CertificateDer::from(bytes));
            let mut certificate = ONE.clone();
            *place.get_mut(&mut certificate) = value;
            not_after(&CertificateDer::from(certificate));
        }
    }
}
