//! The open connections: how many there may be, and which of them yields when there are too many.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

/// The bounds of open connections.
///
/// A connection is a stranger until a request on it has shown the credentials of a client. Where
/// there is no room, the oldest stranger yields to the newcomer: silent connections keep nobody
/// out.
#[derive(Debug)]
pub(super) struct Connections {
    max: usize,
    max_each: usize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    all: usize,
    by_address: HashMap<IpAddr, Address>,
    /// In the order of their arrival.
    strangers: BTreeMap<u64, Stranger>,
}

#[derive(Debug, Default)]
struct Address {
    all: usize,
    strangers: BTreeSet<u64>,
}

#[derive(Debug)]
struct Stranger {
    address: IpAddr,
    evicted: CancellationToken,
}

/// The place of one open connection; free again when dropped.
#[derive(Debug)]
pub(super) struct Slot {
    of: Arc<Connections>,
    id: u64,
    address: IpAddr,
    evicted: CancellationToken,
}

impl Connections {
    /// At most `max` connections, and `max_each` from one address.
    pub(super) fn new(max: usize, max_each: usize) -> Arc<Self> {
        Arc::new(Self {
            max,
            max_each,
            table: Mutex::default(),
        })
    }

    /// A slot for a connection from this address; `None`: there is no room.
    pub(super) fn open(self: &Arc<Self>, peer: SocketAddr) -> Option<Slot> {
        let address = grouped(peer.ip());
        let mut table = self.table();
        let own = table.by_address.get(&address);
        if own.is_some_and(|own| own.all >= self.max_each) {
            let oldest = own.and_then(|own| own.strangers.first().copied());
            table.evict(oldest?);
        } else if table.all >= self.max {
            let oldest = table.strangers.keys().next().copied();
            table.evict(oldest?);
        }
        let id = table.next;
        table.next += 1;
        table.all += 1;
        let own = table.by_address.entry(address).or_default();
        own.all += 1;
        own.strangers.insert(id);
        let evicted = CancellationToken::new();
        let stranger = Stranger {
            address,
            evicted: evicted.clone(),
        };
        table.strangers.insert(id, stranger);
        Some(Slot {
            of: self.clone(),
            id,
            address,
            evicted,
        })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn evict(&mut self, id: u64) {
        if let Some(stranger) = self.forget_stranger(id) {
            stranger.evicted.cancel();
        }
    }

    fn forget_stranger(&mut self, id: u64) -> Option<Stranger> {
        let stranger = self.strangers.remove(&id)?;
        if let Some(own) = self.by_address.get_mut(&stranger.address) {
            own.strangers.remove(&id);
        }
        Some(stranger)
    }
}

impl Slot {
    /// Notes that a client's credentials have come: the connection yields to nobody any more.
    pub(super) fn admit(&self) {
        self.of.table().forget_stranger(self.id);
    }

    /// Resolves when the connection must yield.
    pub(super) async fn evicted(&self) {
        self.evicted.cancelled().await;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut table = self.of.table();
        table.forget_stranger(self.id);
        table.all -= 1;
        if let Some(own) = table.by_address.get_mut(&self.address) {
            own.all -= 1;
            if own.all == 0 {
                table.by_address.remove(&self.address);
            }
        }
    }
}

/// The address that connections are counted under. A host has 64 bits of an IPv6 network to itself.
fn grouped(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(address: &str) -> SocketAddr {
        SocketAddr::new(address.parse().unwrap(), 1)
    }

    fn is_evicted(slot: &Slot) -> bool {
        slot.evicted.is_cancelled()
    }

    #[test]
    fn the_oldest_stranger_yields_to_a_newcomer_and_a_client_to_nobody() {
        let connections = Connections::new(3, 3);
        let open = || connections.open(from("10.0.0.1"));
        let slots = [open().unwrap(), open().unwrap(), open().unwrap()];
        slots[0].admit();
        let fourth = open().unwrap();
        assert_eq!(slots.each_ref().map(is_evicted), [false, true, false]);
        let [first, second, third] = slots;
        drop(second);
        third.admit();
        fourth.admit();
        assert!(open().is_none());
        drop(first);
        assert!(open().is_some());
    }

    #[test]
    fn an_address_at_its_bound_evicts_its_own_strangers_and_no_others() {
        let connections = Connections::new(10, 2);
        let other = connections.open(from("10.0.0.2")).unwrap();
        let open = || connections.open(from("10.0.0.1"));
        let (first, second) = (open().unwrap(), open().unwrap());
        let third = open().unwrap();
        assert!(is_evicted(&first) && !is_evicted(&second) && !is_evicted(&other));
        drop(first);
        second.admit();
        third.admit();
        assert!(open().is_none());
        assert!(connections.open(from("10.0.0.2")).is_some());
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one_address_and_a_mapped_address_as_itself() {
        for (address, same) in [
            ("2001:db8::1", "2001:db8::ffff:1"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
        ] {
            let connections = Connections::new(10, 1);
            let first = connections.open(from(address)).unwrap();
            let second = connections.open(from(same)).unwrap();
            assert!(is_evicted(&first) && !is_evicted(&second), "{address}");
        }
        let connections = Connections::new(10, 1);
        let first = connections.open(from("2001:db8::1")).unwrap();
        let second = connections.open(from("2001:db8:0:1::1")).unwrap();
        assert!(!is_evicted(&first) && !is_evicted(&second));
    }

    #[test]
    fn nothing_is_kept_of_closed_connections() {
        let connections = Connections::new(10, 10);
        let slots: Vec<_> = (0..10).map(|_| connections.open(from("::1"))).collect();
        slots.iter().flatten().take(5).for_each(Slot::admit);
        drop(slots);
        let table = connections.table();
        assert_eq!(table.all, 0);
        assert!(table.by_address.is_empty() && table.strangers.is_empty());
    }
}
