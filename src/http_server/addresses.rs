//! Counts connections by the address at their other end.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Bounds the connections of one address. Holds one number for each address that has a connection.
#[derive(Clone, Debug)]
pub struct Addresses {
    most: usize,
    counts: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// A connection that counts until it is dropped.
#[derive(Debug)]
pub struct Counted {
    address: IpAddr,
    all: Addresses,
}

impl Addresses {
    /// At most `most` connections of each address.
    pub fn new(most: usize) -> Self {
        Self {
            most,
            counts: Arc::default(),
        }
    }

    /// Counts a connection; `None` if its address has as many as it may have.
    pub fn count(&self, address: IpAddr) -> Option<Counted> {
        let address = network(address);
        let mut counts = self.lock();
        let count = counts.entry(address).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Counted {
            address,
            all: self.clone(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        // A panic elsewhere leaves no number half changed.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Entry::Occupied(mut count) = self.all.lock().entry(self.address) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// What counts as one address: of IPv6, the /64 that one host commonly has.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let prefix = u128::from(address) & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from(prefix))
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_own_bound_and_leaves_nothing_behind() {
        let addresses = Addresses::new(2);
        let count = |address: &str| addresses.count(address.parse().unwrap());
        let held = [count("192.0.2.1"), count("::ffff:192.0.2.1")];
        assert!(held.iter().all(Option::is_some));
        assert!(count("192.0.2.1").is_none());
        let others = [
            count("192.0.2.2"),
            count("2001:db8::1"),
            count("2001:db8::2"),
        ];
        assert!(others.iter().all(Option::is_some));
        assert!(count("2001:db8::3").is_none(), "a /64 is one address");
        drop(held);
        assert!(count("192.0.2.1").is_some());
        drop(others);
        assert!(addresses.lock().is_empty());
    }
}
