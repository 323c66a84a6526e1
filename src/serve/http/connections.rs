//! Limits on connections, in all and per peer.
//!
//! At the limit, the connection that has been idle longest is closed, never one in a request. If all are in a request,
//! a few more are accepted for the probes' endpoints only, so that overloading the server does not have it restarted.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::activity::Activity;
use crate::serve::sync::lock;

/// Number of connections. With the constants below it stays under the default limit of 1,024 file descriptors.
const MAX: usize = 512;
/// Descriptors reserved for listeners, a reading, files kept open between readings (at most 32), and connections beyond
/// the limit.
const OTHERS: u64 = 96;
/// Number of connections per peer: a scraper has one or two, a browser six.
const MAX_OF_PEER: usize = 64;
/// Number of connections beyond the limit, for probes.
const RESERVED: usize = 8;

/// A peer: an IPv4 address, or the /64 network of an IPv6 address, since a host may have any number of addresses in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Peer {
    /// Address, host byte order.
    V4(u32),
    /// Upper half of the address, host byte order.
    V6(u64),
}

impl From<IpAddr> for Peer {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.to_bits()),
            IpAddr::V6(address) => Self::V6((address.to_bits() >> 64) as u64),
        }
    }
}

#[derive(Debug)]
struct Open {
    peer: Peer,
    reserved: bool,
    activity: Arc<Activity>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    open: BTreeMap<u64, Open>,
}

impl State {
    /// Connections that are not being closed and match.
    fn standing(&self, wanted: impl Fn(&Open) -> bool) -> impl Iterator<Item = &Open> {
        self.open.values().filter(move |open| wanted(open) && !open.activity.gives_way())
    }

    /// Whether there are fewer than `cap` connections, closing the longest idle one if necessary.
    fn has_room(&self, cap: usize, wanted: impl Fn(&Open) -> bool + Copy) -> bool {
        let excess = (self.standing(wanted).count() + 1).saturating_sub(cap);
        (0..excess).all(|_| self.idlest_gives_way(wanted))
    }

    fn idlest_gives_way(&self, wanted: impl Fn(&Open) -> bool) -> bool {
        let idle = self.standing(wanted).filter_map(|open| Some((open.activity.idle_since()?, open)));
        let mut idle: Vec<_> = idle.collect();
        idle.sort_by_key(|(since, _)| *since);
        idle.iter().any(|(_, open)| open.activity.give_way())
    }
}

/// All connections of the server.
#[derive(Debug)]
pub(crate) struct Connections {
    state: Mutex<State>,
    max: usize,
}

impl Connections {
    /// With a limit derived from the process's limit of file descriptors.
    pub(crate) fn of(descriptors: Option<u64>) -> Self {
        let room = descriptors.unwrap_or(u64::MAX).saturating_sub(OTHERS).max(RESERVED as u64);
        Self { state: Mutex::default(), max: usize::try_from(room).unwrap_or(MAX).min(MAX) }
    }

    /// Number of open connections.
    pub(crate) fn count(&self) -> usize {
        lock(&self.state).open.len()
    }

    /// A slot for a new connection. `None`: all are in a request, including those for probes.
    pub(crate) fn admit(self: &Arc<Self>, peer: Peer, now: Instant) -> Option<ConnectionSlot> {
        let mut state = lock(&self.state);
        let ordinary = state.has_room(MAX_OF_PEER, |open| !open.reserved && open.peer == peer)
            && state.has_room(self.max, |open| !open.reserved);
        if !ordinary && !state.has_room(RESERVED, |open| open.reserved) {
            return None;
        }
        let (number, activity) = (state.next, Arc::new(Activity::new(now)));
        state.next += 1;
        state.open.insert(number, Open { peer, reserved: !ordinary, activity: Arc::clone(&activity) });
        Some(ConnectionSlot { connections: Arc::clone(self), number, activity, only_probes: !ordinary })
    }

    /// Closes the longest idle connection, to free a descriptor.
    pub(crate) fn make_room(&self) {
        lock(&self.state).idlest_gives_way(|_| true);
    }
}

/// The slot of one connection, freed on drop.
#[derive(Debug)]
pub(crate) struct ConnectionSlot {
    connections: Arc<Connections>,
    number: u64,
    /// Activity of the connection.
    pub activity: Arc<Activity>,
    /// Whether it is a reserved one, for probes' endpoints only.
    pub only_probes: bool,
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        lock(&self.connections.state).open.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn peer(number: u32) -> Peer {
        Peer::V4(number)
    }

    fn admit(connections: &Arc<Connections>, number: u32, at: Instant) -> ConnectionSlot {
        connections.admit(peer(number), at).expect("a place")
    }

    #[test]
    fn a_host_of_ipv6_is_its_network() {
        let peer = |text: &str| Peer::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(peer("2001:db8::1"), peer("2001:db8::ffff:1:2:3"));
        assert_ne!(peer("2001:db8::1"), peer("2001:db8:0:1::1"));
        assert_eq!(peer("::ffff:192.0.2.1"), peer("192.0.2.1"), "a socket for both families shows IPv4 so");
        assert_ne!(peer("192.0.2.1"), peer("192.0.2.2"));
    }

    #[test]
    fn of_one_peer_the_connection_idle_longest_gives_way() {
        let (connections, start) = (Arc::new(Connections::of(None)), Instant::now());
        let places: Vec<ConnectionSlot> =
            (0..64).map(|second| admit(&connections, 1, start + Duration::from_secs(second))).collect();
        let other = admit(&connections, 2, start);
        assert!(places[0].activity.begin_request(start), "it is in a request, though it came first");
        let more = admit(&connections, 1, start + Duration::from_secs(100));
        assert!(!more.only_probes);
        let gone: Vec<usize> = (0..64).filter(|at| places[*at].activity.gives_way()).collect();
        assert_eq!(gone, [1]);
        assert!(!other.activity.gives_way(), "another peer has nothing to do with it");
        assert_eq!(connections.count(), 66);
        drop(places);
        assert_eq!(connections.count(), 2);
    }

    #[test]
    fn there_are_fewer_where_descriptors_are_few() {
        let max = |descriptors| Connections::of(descriptors).max;
        assert_eq!([None, Some(u64::MAX), Some(1024), Some(608)].map(max), [512; 4]);
        assert_eq!([Some(607), Some(132), Some(64), Some(3)].map(max), [511, 36, 8, 8]);
    }

    #[test]
    fn in_all_the_connection_idle_longest_gives_way() {
        let (connections, start) = (Arc::new(Connections::of(None)), Instant::now());
        let places: Vec<ConnectionSlot> =
            (0..512u32).map(|n| admit(&connections, n / 64, start + Duration::from_secs(n.into()))).collect();
        let scraper = admit(&connections, 99, start);
        assert!(!scraper.only_probes && places[0].activity.gives_way() && !places[1].activity.gives_way());
    }

    #[test]
    fn where_all_are_in_a_request_there_is_room_for_probes() {
        let (connections, start) = (Arc::new(Connections::of(None)), Instant::now());
        let in_request = |number: u32| {
            let place = admit(&connections, number, start);
            assert!(place.activity.begin_request(start));
            place
        };
        let _busy: Vec<ConnectionSlot> = (0..64).map(|_| in_request(1)).collect();
        let reserved: Vec<ConnectionSlot> = (0..8).map(|_| admit(&connections, 1, start)).collect();
        assert!(reserved.iter().all(|place| place.only_probes));
        let again = admit(&connections, 1, start);
        assert!(again.only_probes && reserved.iter().filter(|place| place.activity.gives_way()).count() == 1);
        assert!(!admit(&connections, 2, start).only_probes, "another peer is served as ever");
        for place in reserved.iter().chain([&again]) {
            place.activity.begin_request(start);
        }
        assert!(connections.admit(peer(1), start).is_none());
    }
}
