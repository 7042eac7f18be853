//! What most jobs lack: a pointer where there would be an empty collection.
//!
//! A hundred thousand jobs wait, and nearly all of them have no records, no leases, no dependencies. An empty collection
//! takes three words in each of them; this takes one, and reads as the empty collection. The first change allocates it.
//!
//! Invariant: what was emptied again equals what was never filled.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::{Deref, DerefMut};

/// A collection whose empty value exists before the program runs.
pub trait Empty: Default + 'static {
    /// Returns it.
    fn empty() -> &'static Self;

    /// Says whether this one is.
    fn is_empty(&self) -> bool;
}

impl<K: 'static, V: 'static> Empty for BTreeMap<K, V> {
    fn empty() -> &'static Self {
        const { &BTreeMap::new() }
    }

    fn is_empty(&self) -> bool {
        self.is_empty()
    }
}

impl<K: 'static> Empty for BTreeSet<K> {
    fn empty() -> &'static Self {
        const { &BTreeSet::new() }
    }

    fn is_empty(&self) -> bool {
        self.is_empty()
    }
}

impl<V: 'static> Empty for Vec<V> {
    fn empty() -> &'static Self {
        const { &Vec::new() }
    }

    fn is_empty(&self) -> bool {
        self.is_empty()
    }
}

/// A collection that is nearly always empty. Reads and changes like the collection itself.
#[derive(Clone)]
pub struct Rare<T>(Option<Box<T>>);

impl<T> Default for Rare<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Empty> Deref for Rare<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_deref().unwrap_or_else(|| T::empty())
    }
}

impl<T: Empty> DerefMut for Rare<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.get_or_insert_default()
    }
}

impl<T: Empty> From<T> for Rare<T> {
    fn from(held: T) -> Self {
        Self((!held.is_empty()).then(|| Box::new(held)))
    }
}

impl<T: Empty + FromIterator<I>, I> FromIterator<I> for Rare<T> {
    fn from_iter<A: IntoIterator<Item = I>>(all: A) -> Self {
        T::from_iter(all).into()
    }
}

impl<'a, T: Empty> IntoIterator for &'a Rare<T>
where
    &'a T: IntoIterator,
{
    type Item = <&'a T as IntoIterator>::Item;
    type IntoIter = <&'a T as IntoIterator>::IntoIter;

    fn into_iter(self) -> Self::IntoIter {
        (**self).into_iter()
    }
}

impl<T: Empty + PartialEq> PartialEq for Rare<T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: Empty + Eq> Eq for Rare<T> {}

impl<T: Empty + fmt::Debug> fmt::Debug for Rare<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    //! Reading allocates nothing, and emptied is empty.

    use super::*;

    #[test]
    fn an_emptied_collection_equals_one_that_was_never_filled() {
        let mut rare = Rare::<BTreeMap<u32, u32>>::default();
        assert!(rare.get(&1).is_none() && rare.0.is_none());
        rare.insert(1, 2);
        assert_eq!((rare.get(&1), rare.len()), (Some(&2), 1));
        rare.remove(&1);
        assert_eq!(rare, Rare::default());
        assert!(Rare::from(Vec::<u32>::new()).0.is_none());
    }
}
