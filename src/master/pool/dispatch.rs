//! Dispatch: which worker gets the next connection. Pure functions over what each worker has in flight.

use crate::config::Dispatch;
use std::net::IpAddr;

/// Chooses among the slots `0..slots`. `load` returns a slot's connections in flight, or `None` if it has no room.
/// `cursor` is the slot whose turn it is; it moves to the one after the chosen slot.
///
/// Round robin reads the load of one slot if all have room; least-connections that of each, and among equals takes turns.
/// Source-hash is for [`pick_for`]; clients without an address are given in turn.
pub fn pick(
    policy: Dispatch,
    cursor: &mut usize,
    slots: usize,
    load: impl Fn(usize) -> Option<u32>,
) -> Option<usize> {
    let mut in_turn = (*cursor..slots).chain(0..(*cursor).min(slots));
    let chosen = match policy {
        Dispatch::RoundRobin | Dispatch::SourceHash => in_turn.find(|&slot| load(slot).is_some()),
        Dispatch::LeastConnections => in_turn
            .filter_map(|slot| load(slot).map(|n| (n, slot)))
            .min_by_key(|&(n, _)| n)
            .map(|(_, slot)| slot),
    }?;
    *cursor = if chosen + 1 < slots { chosen + 1 } else { 0 };
    Some(chosen)
}

/// Chooses for a client among the slots `0..slots`: of those with room the one with the highest weight, which each pair of client
/// and slot has independently of the others (rendezvous hashing). A slot that has no room moves only its own clients, evenly to the
/// others, until it has room again.
pub fn pick_for(client: u64, slots: usize, has_room: impl Fn(usize) -> bool) -> Option<usize> {
    (0..slots).filter(|&slot| has_room(slot)).max_by_key(|&slot| weight(client, slot))
}

/// Chooses the slot with the fewest connections, the lowest among equals; `load` as in [`pick`].
pub fn least(slots: usize, load: impl Fn(usize) -> Option<u32>) -> Option<usize> {
    (0..slots).filter_map(|slot| load(slot).map(|n| (n, slot))).min().map(|(_, slot)| slot)
}

/// Returns a client's number: its address without the port, mixed.
pub fn client_of(ip: IpAddr) -> u64 {
    match ip {
        IpAddr::V4(v4) => mix(v4.to_bits().into()),
        IpAddr::V6(v6) => mix(mix((v6.to_bits() >> 64) as u64) ^ v6.to_bits() as u64),
    }
}

fn weight(client: u64, slot: usize) -> u64 {
    mix(client ^ mix(slot as u64 + 1))
}

/// A permutation of the 64-bit numbers in which each bit of the result depends on each bit of the argument: the last step of
/// splitmix64.
fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The policies, written without regard to speed.
    fn naive(policy: Dispatch, cursor: usize, loads: &[Option<u32>]) -> Option<usize> {
        let n = loads.len();
        let order: Vec<usize> = (0..n).map(|k| (cursor + k) % n).filter(|&i| loads[i].is_some()).collect();
        match policy {
            Dispatch::RoundRobin | Dispatch::SourceHash => order.first().copied(),
            Dispatch::LeastConnections => {
                let least = order.iter().map(|&i| loads[i]).min()?;
                order.into_iter().find(|&i| loads[i] == least)
            }
        }
    }

    proptest! {
        #[test]
        fn picks_what_the_naive_picker_picks(
            loads in proptest::collection::vec(proptest::option::of(0u32..4), 1..12),
            start in 0usize..12,
            least: bool,
        ) {
            let policy = if least { Dispatch::LeastConnections } else { Dispatch::RoundRobin };
            let mut cursor = start % loads.len();
            for _ in 0..2 * loads.len() {
                let expected = naive(policy, cursor, &loads);
                prop_assert_eq!(pick(policy, &mut cursor, loads.len(), |i| loads[i]), expected);
                prop_assert!(cursor < loads.len());
            }
        }

        #[test]
        fn round_robin_is_exact_among_those_with_room(open in proptest::collection::vec(any::<bool>(), 1..12)) {
            prop_assume!(open.contains(&true));
            let mut cursor = 0;
            let mut given = vec![0; open.len()];
            for _ in 0..10 * open.iter().filter(|&&o| o).count() {
                let slot = pick(Dispatch::RoundRobin, &mut cursor, open.len(), |i| open[i].then_some(0)).unwrap();
                given[slot] += 1;
            }
            for (slot, n) in given.into_iter().enumerate() {
                prop_assert_eq!(n, if open[slot] { 10 } else { 0 });
            }
        }

        #[test]
        fn only_the_clients_of_a_slot_without_room_move(client: u64, open in proptest::collection::vec(any::<bool>(), 1..40)) {
            let all = pick_for(client, open.len(), |_| true).unwrap();
            match pick_for(client, open.len(), |slot| open[slot]) {
                Some(slot) => prop_assert!(open[slot] && (slot == all || !open[all])),
                None => prop_assert!(!open.contains(&true)),
            }
        }

        #[test]
        fn a_new_slot_takes_clients_from_others_and_moves_none_between_them(client: u64, slots in 1usize..40) {
            let before = pick_for(client, slots, |_| true).unwrap();
            let after = pick_for(client, slots + 1, |_| true).unwrap();
            prop_assert!(after == before || after == slots);
        }
    }

    /// The number of `clients` of each slot, without the slot that is gone.
    fn shares(clients: impl Iterator<Item = IpAddr>, slots: usize, gone: Option<usize>) -> Vec<u32> {
        let mut shares = vec![0; slots];
        for ip in clients {
            shares[pick_for(client_of(ip), slots, |slot| Some(slot) != gone).unwrap()] += 1;
        }
        shares
    }

    /// Neighbours, as they are in a network; each address is one client.
    fn neighbours() -> impl Iterator<Item = IpAddr> {
        (0..24_000u32).map(|n| std::net::Ipv4Addr::from_bits(0x0a01_0000 + n).into())
    }

    #[test]
    fn clients_spread_evenly_and_so_do_those_of_a_slot_that_goes() {
        let networks = (0..24_000u128).map(|n| IpAddr::V6((0x2001_0db8 << 96 | n << 64 | 1).into()));
        let within = |shares: &[u32], mean: u32| shares.iter().all(|&n| n.abs_diff(mean) < mean / 10);
        assert!(within(&shares(networks, 8, None), 3000));
        assert!(within(&shares(neighbours(), 8, None), 3000));
        let mut without = shares(neighbours(), 8, Some(3));
        assert_eq!(without.remove(3), 0);
        assert!(within(&without, 24_000 / 7), "{without:?}");
    }

    #[test]
    fn each_bit_of_an_address_counts() {
        let client = |ip: &str| client_of(ip.parse().unwrap());
        assert_ne!(client("192.0.2.1"), client("192.0.2.2"));
        assert_ne!(client("2001:db8::1"), client("2001:db8:0:1::"));
        assert_eq!(client("2001:db8::1"), client("2001:db8::1"));
    }

    #[test]
    fn without_room_no_slot_is_chosen() {
        let mut cursor = 1;
        assert_eq!(pick(Dispatch::RoundRobin, &mut cursor, 3, |_| None), None);
        assert_eq!(pick(Dispatch::LeastConnections, &mut cursor, 0, |_| Some(0)), None);
    }
}
