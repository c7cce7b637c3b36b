//! What is kept of a password: an Argon2id hash (RFC 9106) in the PHC string format, `$argon2id$v=19$m=...$salt$hash`.

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHash, PasswordHasher as _, PasswordVerifier as _, SaltString},
};
use ring::rand::{SecureRandom as _, SystemRandom};

/// Bytes of salt (RFC 9106 §3.1).
const SALT: usize = 16;

/// More memory for one login, in KiB, is more than what the machine should give to whoever asks.
const MOST_MEMORY: u32 = 256 * 1024;
/// More work for one, in KiB times passes: about a second.
const MOST_WORK: u64 = 1024 * 1024;

/// Why a text is not what is kept of a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    /// It is not in the PHC string format, or has no salt or no hash; perhaps it is the password itself.
    #[error("must be a hash of the password, and not the password itself")]
    NotAHash,
    /// It was made by something else.
    #[error("must be an Argon2 hash; others are not known here")]
    Algorithm,
    /// It is in the format, with a version or costs that Argon2 does not have.
    #[error("has a version or costs that Argon2 does not have")]
    Params,
    /// To compare a password with it takes too much.
    #[error("costs too much: at most 256 MiB of memory, and 1 GiB times passes")]
    Costs,
}

/// Whether [`verify`] can compare a password with it, in about a second.
///
/// # Errors
/// Why not. The hash itself is not repeated.
pub fn check(hash: &str) -> Result<(), HashError> {
    let hash = PasswordHash::new(hash).map_err(|_| HashError::NotAHash)?;
    Algorithm::try_from(hash.algorithm).map_err(|_| HashError::Algorithm)?;
    if hash.salt.is_none() || hash.hash.is_none() {
        return Err(HashError::NotAHash);
    }
    if let Some(version) = hash.version {
        Version::try_from(version).map_err(|_| HashError::Params)?;
    }
    let params = Params::try_from(&hash).map_err(|_| HashError::Params)?;
    let work = u64::from(params.m_cost()) * u64::from(params.t_cost());
    if params.m_cost() > MOST_MEMORY || work > MOST_WORK {
        return Err(HashError::Costs);
    }
    Ok(())
}

/// Why a password has no hash.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// There is none.
    #[error("a password must not be empty")]
    Empty,
    /// The kernel gave no random bytes.
    #[error("there are no random bytes for a salt")]
    NoSalt,
    /// The library refused.
    #[error("the password cannot be hashed: {0}")]
    Hash(argon2::password_hash::Error),
}

/// The hash of a password, with a salt of its own: 19 MiB and two passes, as OWASP advises. It takes some ten
/// milliseconds on purpose.
///
/// # Errors
/// For an empty password, and where the kernel has no random bytes.
pub fn hash(password: &str) -> Result<String, PasswordError> {
    hash_with(password, Params::default())
}

fn hash_with(password: &str, params: Params) -> Result<String, PasswordError> {
    if password.is_empty() {
        return Err(PasswordError::Empty);
    }
    let mut salt = [0; SALT];
    SystemRandom::new().fill(&mut salt).map_err(|_| PasswordError::NoSalt)?;
    let salt = SaltString::encode_b64(&salt).map_err(PasswordError::Hash)?;
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let hash = argon2.hash_password(password.as_bytes(), &salt).map_err(PasswordError::Hash)?;
    Ok(hash.to_string())
}

/// Whether a password is the one that was hashed. What is no hash is nobody's.
pub fn verify(password: &str, hash: &str) -> bool {
    PasswordHash::new(hash)
        .is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
}

/// A hash that costs next to nothing.
#[cfg(test)]
pub(crate) fn cheap_hash(password: &str) -> String {
    let params = Params::new(Params::MIN_M_COST, 1, 1, None).expect("small");
    hash_with(password, params).expect("hashed")
}

/// Of no known password, for tests that only need one to be there.
#[cfg(test)]
pub(crate) const SAMPLE: &str =
    "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_hash_is_told_from_one() {
        assert_eq!(check(SAMPLE), Ok(()));
        assert_eq!(check(&hash("secret").expect("hashed")), Ok(()));
        for (text, error) in [
            ("", HashError::NotAHash),
            ("secret", HashError::NotAHash),
            ("$argon2id$...", HashError::NotAHash),
            ("$argon2id$v=19$m=8,t=1,p=1", HashError::NotAHash),
            ("$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ", HashError::NotAHash),
            ("$6$c2FsdHNhbHQ$MDEyMzQ1Njc4OWFiY2RlZg", HashError::Algorithm),
            (&SAMPLE.replace("argon2id", "scrypt"), HashError::Algorithm),
            (&SAMPLE.replace("v=19", "v=20"), HashError::Params),
            (&SAMPLE.replace("m=8", "m=1"), HashError::Params),
            (&SAMPLE.replace("m=8", "m=262145"), HashError::Costs),
            (&SAMPLE.replace("m=8,t=1", "m=1024,t=1025"), HashError::Costs),
        ] {
            assert_eq!(check(text), Err(error), "{text}");
            assert!(error == HashError::Costs || !verify("secret", text));
        }
    }

    #[test]
    fn a_hash_knows_its_password_and_no_other() {
        let cheap = Params::new(Params::MIN_M_COST, 1, 1, None).expect("small");
        let hash = hash_with("admin123", cheap.clone()).expect("hashed");
        assert!(hash.starts_with("$argon2id$v=19$m=8,t=1,p=1$"), "{hash}");
        assert!(verify("admin123", &hash));
        assert!(!verify("admin124", &hash) && !verify("", &hash) && !verify("admin123", "admin123"));
        assert_ne!(hash, hash_with("admin123", cheap).expect("hashed"), "each has a salt of its own");
        assert_eq!(super::hash(""), Err(PasswordError::Empty));
    }

    #[test]
    fn the_costs_are_those_of_owasp() {
        let params = Params::default();
        assert_eq!((params.m_cost(), params.t_cost(), params.p_cost()), (19 * 1024, 2, 1));
    }
}
