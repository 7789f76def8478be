//! Random numbers for names and jitter, which a simulation can seed.

use std::time::Duration;

use rand::Rng;

/// A number that nothing else gets.
pub fn unique() -> u128 {
    with(|random| u128::from(random.next_u64()) << 64 | u128::from(random.next_u64()))
}

/// A share, from 0 to 1.
pub fn share() -> f64 {
    f64::from(with(|random| random.next_u32())) / f64::from(u32::MAX)
}

/// A share of this duration, from none to all of it.
pub fn jitter(most: Duration) -> Duration {
    most.mul_f64(share())
}

#[cfg(not(test))]
fn with<T>(draw: impl FnOnce(&mut dyn Rng) -> T) -> T {
    draw(&mut rand::rng())
}

#[cfg(test)]
thread_local! {
    static SEEDED: std::cell::RefCell<Option<rand::rngs::StdRng>> =
        const { std::cell::RefCell::new(None) };
}

/// Makes the numbers of this thread follow from a seed.
#[cfg(test)]
pub fn seed(seed: u64) {
    use rand::SeedableRng as _;
    let seeded = rand::rngs::StdRng::seed_from_u64(seed);
    SEEDED.with_borrow_mut(|random| *random = Some(seeded));
}

#[cfg(test)]
fn with<T>(draw: impl FnOnce(&mut dyn Rng) -> T) -> T {
    SEEDED.with_borrow_mut(|random| match random {
        Some(random) => draw(random),
        None => draw(&mut rand::rng()),
    })
}
