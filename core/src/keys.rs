//! The idempotency keys that were used: what a repeated Submit is known by.
//!
//! There is one for every submit of the last day, so each is held once: by the first job it made, which is also the
//! order of time, and found by a hash. Two keys may have one hash, so what is found is compared as a whole.
//!
//! Invariants: `found` has exactly one entry for every key; keys rise in time with the numbers of their first jobs.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};

use crate::hash::Fnv;
use crate::id::{IdempotencyKey, JobId, Tenant};
use crate::rare::Rare;
use crate::time::Time;

/// A used key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UsedKey {
    /// Whose it is.
    pub(crate) tenant: Tenant,
    /// What the client called its submit.
    pub(crate) key: IdempotencyKey,
    /// When it was used.
    pub(crate) used_at: Time,
    /// Digest of the specs it came with.
    pub(crate) digest: u64,
    /// The jobs it made after the first.
    further: Rare<Vec<JobId>>,
}

/// Every used key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct UsedKeys {
    /// By the first job each made.
    used: BTreeMap<JobId, UsedKey>,
    /// Hash and first job of each.
    found: BTreeSet<(u64, JobId)>,
}

impl UsedKeys {
    /// Returns the first job that a key made, and what is known of the key.
    pub(crate) fn get(&self, tenant: &Tenant, key: &IdempotencyKey) -> Option<(JobId, &UsedKey)> {
        let hash = hash(tenant, key);
        let alike = self.found.range((hash, JobId(0))..=(hash, JobId(u64::MAX)));
        let mut alike = alike.filter_map(|(_, first)| Some((*first, self.used.get(first)?)));
        alike.find(|(_, used)| used.tenant == *tenant && used.key == *key)
    }

    /// Returns the jobs that a key made, which is at least one.
    pub(crate) fn jobs(first: JobId, used: &UsedKey) -> Vec<JobId> {
        std::iter::once(first).chain(used.further.iter().copied()).collect()
    }

    /// Notes a key with the jobs it made. One that was used before, and is not known any more by anybody, is replaced.
    pub(crate) fn insert(
        &mut self,
        (tenant, key): (Tenant, IdempotencyKey),
        used_at: Time,
        digest: u64,
        jobs: &[JobId],
    ) {
        let Some((first, further)) = jobs.split_first() else { return };
        if let Some((before, _)) = self.get(&tenant, &key) {
            self.remove(before);
        }
        self.found.insert((hash(&tenant, &key), *first));
        let further = further.to_vec().into();
        self.used.insert(*first, UsedKey { tenant, key, used_at, digest, further });
    }

    /// Returns when the oldest was used.
    pub(crate) fn oldest(&self) -> Option<Time> {
        self.used.first_key_value().map(|(_, used)| used.used_at)
    }

    /// Forgets every key that was used at `until` or before.
    pub(crate) fn expire(&mut self, until: Time) {
        while let Some((first, used)) = self.used.first_key_value() {
            if used.used_at > until {
                break;
            }
            let first = *first;
            self.remove(first);
        }
    }

    /// Yields the first job of each key and what is known of it, oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (JobId, &UsedKey)> {
        self.used.iter().map(|(first, used)| (*first, used))
    }

    fn remove(&mut self, first: JobId) {
        if let Some(used) = self.used.remove(&first) {
            self.found.remove(&(hash(&used.tenant, &used.key), first));
        }
    }
}

fn hash(tenant: &Tenant, key: &IdempotencyKey) -> u64 {
    let mut hasher = Fnv::default();
    tenant.hash(&mut hasher);
    key.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    //! Found, replaced, forgotten in the order of time.
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn a_key_is_found_by_tenant_and_text_and_forgotten_when_its_time_is_over() {
        let mut keys = UsedKeys::default();
        let name = |key: &str| (Tenant::default(), IdempotencyKey::new(key).unwrap());
        let other = Tenant::new("other").unwrap();
        for number in 1..=100_u64 {
            keys.insert(name(&format!("k{number}")), Time(number), number, &[JobId(2 * number), JobId(2 * number + 1)]);
        }
        let (tenant, key) = name("k7");
        let (first, used) = keys.get(&tenant, &key).unwrap();
        assert_eq!((used.digest, UsedKeys::jobs(first, used)), (7, vec![JobId(14), JobId(15)]));
        assert!(keys.get(&other, &key).is_none());
        keys.insert(name("k7"), Time(200), 70, &[JobId(500)]);
        assert_eq!(keys.get(&tenant, &key).unwrap().1.digest, 70, "a key that is used again is the new one");
        keys.expire(Time(99));
        let left: Vec<_> = keys.iter().map(|(first, used)| (first.0, used.used_at.0)).collect();
        assert_eq!((left, keys.oldest(), keys.found.len()), (vec![(200, 100), (500, 200)], Some(Time(100)), 2));
    }
}
