//! Dispatch: which worker gets the next connection. A pure function over what each worker has in flight.

use crate::config::Dispatch;

/// Chooses among the slots `0..slots`. `load` gives a slot's connections in flight, or `None` where it has no room.
/// `cursor` is where the turn stands; it is moved behind the chosen slot.
///
/// Round robin looks at one slot where there is room everywhere, and at each slot once at the most; least-connections looks at
/// each once, and ties go in turn.
pub fn pick(
    policy: Dispatch,
    cursor: &mut usize,
    slots: usize,
    load: impl Fn(usize) -> Option<u32>,
) -> Option<usize> {
    let mut in_turn = (*cursor..slots).chain(0..(*cursor).min(slots));
    let chosen = match policy {
        Dispatch::RoundRobin => in_turn.find(|&slot| load(slot).is_some()),
        Dispatch::LeastConnections => in_turn
            .filter_map(|slot| load(slot).map(|n| (n, slot)))
            .min_by_key(|&(n, _)| n)
            .map(|(_, slot)| slot),
    }?;
    *cursor = if chosen + 1 < slots { chosen + 1 } else { 0 };
    Some(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What the policies mean, said without a thought for speed.
    fn naive(policy: Dispatch, cursor: usize, loads: &[Option<u32>]) -> Option<usize> {
        let n = loads.len();
        let order: Vec<usize> = (0..n).map(|k| (cursor + k) % n).filter(|&i| loads[i].is_some()).collect();
        match policy {
            Dispatch::RoundRobin => order.first().copied(),
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
    }

    #[test]
    fn nobody_has_room() {
        let mut cursor = 1;
        assert_eq!(pick(Dispatch::RoundRobin, &mut cursor, 3, |_| None), None);
        assert_eq!(pick(Dispatch::LeastConnections, &mut cursor, 0, |_| Some(0)), None);
    }
}
