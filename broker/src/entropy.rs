//! The only source of chance: the system's, or a seed that a simulation chose. Machines are handed it through their `Env`.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use rand::rngs::SmallRng;
use rand::{RngCore as _, SeedableRng as _};

/// Draws numbers and ids. For names and lots, not for secrets.
pub struct Entropy(Mutex<SmallRng>);

impl Entropy {
    /// Seeded by the operating system.
    #[must_use]
    pub fn system() -> Self {
        Self(Mutex::new(SmallRng::from_os_rng()))
    }

    /// The same numbers at every run.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self(Mutex::new(SmallRng::seed_from_u64(seed)))
    }

    #[must_use]
    pub fn next_u64(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).next_u64()
    }

    /// For an id.
    #[must_use]
    pub fn next_bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        self.0.lock().unwrap_or_else(PoisonError::into_inner).fill_bytes(&mut bytes);
        bytes
    }
}

impl fmt::Debug for Entropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entropy")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_numbers_and_the_system_others() {
        let draw = |entropy: Entropy| [entropy.next_u64(), entropy.next_u64()];
        assert_eq!(draw(Entropy::seeded(7)), draw(Entropy::seeded(7)));
        assert_ne!(draw(Entropy::system()), draw(Entropy::system()));
        assert_ne!(Entropy::seeded(1).next_bytes(), Entropy::seeded(2).next_bytes());
    }
}
