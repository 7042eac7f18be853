//! Who is overdue, and what hashes say.

use super::*;

#[test]
fn a_node_is_overdue_after_its_time_to_live_and_a_new_leader_gives_a_full_one() {
    let mut liveness = Liveness::starting(Time(1_000), [NodeId(1), NodeId(2)]);
    liveness.heard(NodeId(2), Time(20_000));
    assert_eq!(liveness.next_overdue(LEASE_TTL), Some(Time(31_000)));
    assert_eq!(liveness.overdue(Time(30_999), LEASE_TTL), []);
    assert_eq!(liveness.overdue(Time(31_000), LEASE_TTL), [NodeId(1)]);
    liveness.forget(NodeId(1));
    assert_eq!(liveness.overdue(Time(60_000), LEASE_TTL), [NodeId(2)]);
    assert_eq!(liveness.last_heard(NodeId(2)), Some(Time(20_000)));
}

#[test]
fn the_time_to_live_grows_with_the_fleet() {
    assert_eq!([1, 2_000, 10_000].map(lease_ttl), [Millis(30_015), Millis(60_000), Millis(180_000)]);
}

#[test]
fn the_hash_of_leases_knows_no_order_and_tells_neighbours_apart() {
    let hash = |ids: &[u64]| lease_hash(ids.iter().map(|id| LeaseId(*id)));
    assert_eq!(hash(&[1, 2, 3]), hash(&[3, 1, 2]));
    assert_ne!(hash(&[1, 2]), hash(&[1, 3]));
    assert_ne!(hash(&[1, 4]), hash(&[2, 3]));
    assert_eq!(hash(&[]), 0);
}
