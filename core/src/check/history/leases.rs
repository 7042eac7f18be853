//! What leases hold, and when it is free again.

use super::{Check, History};
use crate::id::{Attempt, DeviceId, Index, JobId, LeaseId, NodeId, Rank};

#[derive(Clone, Debug)]
pub(super) struct LeaseTrack {
    pub(super) job: JobId,
    pub(super) node: NodeId,
    pub(super) first: Index,
    pub(super) last: Index,
    pub(super) attempt: Attempt,
    /// The first lease of the gang, which its element is under; itself for a chunk.
    pub(super) head: LeaseId,
    /// What each rank holds until it is gone.
    pub(super) devices: Vec<(Rank, DeviceId)>,
    /// Elements (of a gang: the one) that have not left.
    pub(super) live: u64,
    /// Elements that run at once.
    pub(super) slots: u64,
    pub(super) fenced: bool,
}

impl History {
    /// Nothing is taken under the lease any more.
    pub(super) fn fence(&mut self, lease: LeaseId) -> Check {
        if let Some(track) = self.leases.get_mut(&lease) {
            track.fenced = true;
        }
        Ok(())
    }

    /// A rank, or all of a lease, is gone: its devices are free.
    pub(super) fn release(&mut self, lease: LeaseId, rank: Option<Rank>) {
        let Some(track) = self.leases.get(&lease) else { return };
        for (of, device) in &track.devices {
            let holder = self.holders.get(&(track.node, device.clone()));
            if rank.is_none_or(|rank| rank == *of) && holder == Some(&lease) {
                self.holders.remove(&(track.node, device.clone()));
            }
        }
    }

    /// Something of a fenced lease is gone from its node.
    pub(super) fn confirmed(&mut self, lease: LeaseId, elements: u64, rank: Option<Rank>) {
        let Some(track) = self.leases.get_mut(&lease) else { return };
        track.live = track.live.saturating_sub(elements);
        if rank.is_some() || track.live == 0 {
            self.release(lease, rank);
        }
    }

    /// An element leaves its lease. A fenced lease holds what it holds until that is confirmed.
    pub(super) fn leaves(&mut self, lease: LeaseId) {
        let Some(track) = self.leases.get_mut(&lease).filter(|track| !track.fenced) else { return };
        track.live = track.live.saturating_sub(1);
        if track.live == 0 {
            let head = track.head;
            let parts: Vec<LeaseId> =
                self.leases.range(head..).take_while(|(_, part)| part.head == head).map(|(id, _)| *id).collect();
            for part in parts {
                let fenced = self.leases.get(&part).is_some_and(|part| part.fenced);
                if !fenced {
                    self.release(part, None);
                }
            }
        }
    }
}

impl LeaseTrack {
    pub(super) fn new(
        job: JobId,
        node: NodeId,
        (first, last): (Index, Index),
        attempt: Attempt,
        head: LeaseId,
        slots: u64,
    ) -> Self {
        let live = u64::from(last - first) + 1;
        Self { job, node, first, last, attempt, head, devices: Vec::new(), live, slots, fenced: false }
    }
}
