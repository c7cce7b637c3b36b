//! What is kept of a password: an Argon2id hash (RFC 9106) in the PHC string format, `$argon2id$v=19$m=...$salt$hash`.

use argon2::{
    Argon2, Params,
    password_hash::{PasswordHash, PasswordHasher as _, PasswordVerifier as _, SaltString},
};
use ring::rand::{SecureRandom as _, SystemRandom};

/// Bytes of salt (RFC 9106 §3.1).
const SALT: usize = 16;

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
    let argon2 = Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    let hash = argon2.hash_password(password.as_bytes(), &salt).map_err(PasswordError::Hash)?;
    Ok(hash.to_string())
}

/// Whether a password is the one that was hashed. What is no hash is nobody's.
pub fn verify(password: &str, hash: &str) -> bool {
    PasswordHash::new(hash)
        .is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

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
