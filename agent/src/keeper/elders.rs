//! Supervisors of other versions that still hold tasks, and the places where supervisors live.
//!
//! The first place is the agent's state folder itself; the others are STATE/agent/versions/N. A place whose supervisor is
//! gone may be taken by any version: what is in its spool is of no version. An elder was told to retire: it starts
//! nothing new, and ends once everything of it was acknowledged.
//!
//! Invariant: a supervisor is an elder for as long as this agent runs; what it holds only becomes less.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use futures::future::{BoxFuture, select_all};
use gangsaw_proto::supervisor::v1::command::Command;
use gangsaw_proto::supervisor::v1::notice::Notice;
use gangsaw_proto::supervisor::v1::{HeldLease, List, Retire, Welcome};

use super::{greeted, late};
use crate::supervisor::SupervisorClient;

/// Where one supervisor lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) generation: u32,
    pub(super) state: PathBuf,
}

impl Place {
    pub(super) fn new(home: &Path, generation: u32) -> Place {
        let state = match generation {
            0 => home.to_owned(),
            later => home.join("agent").join("versions").join(later.to_string()),
        };
        Place { generation, state }
    }

    /// Every place that a supervisor has had.
    pub(super) fn all(home: &Path) -> io::Result<Vec<Place>> {
        let mut generations = BTreeSet::from([0]);
        match fs::read_dir(home.join("agent").join("versions")) {
            Ok(entries) => {
                let names = entries.flatten().map(|entry| entry.file_name());
                generations.extend(names.filter_map(|name| name.to_str()?.parse::<u32>().ok()));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        Ok(generations.into_iter().map(|generation| Place::new(home, generation)).collect())
    }

    /// Nothing of it is needed any more.
    pub(super) fn remove(&self) {
        // The first place is the agent's own folder. What cannot be removed is looked at again at the next start.
        if self.generation > 0 {
            let _ = fs::remove_dir_all(&self.state);
        }
    }
}

/// One of them.
pub(super) struct Elder {
    pub(super) place: Place,
    pub(super) client: SupervisorClient,
    /// What it held when it was last asked.
    pub(super) leases: Vec<HeldLease>,
}

impl Elder {
    /// Greets a supervisor of another version and tells it to retire.
    pub(super) async fn meet(place: Place) -> io::Result<Elder> {
        let client = SupervisorClient::connect(&place.state)?;
        let Welcome { leases, .. } = greeted(&client).await?;
        client.send(Command::Retire(Retire {})).await?;
        Ok(Elder { place, client, leases })
    }

    /// Asks what it holds now. Returns the highest sequence of its spool that belongs to the answer.
    pub(super) async fn ask(&mut self) -> io::Result<u64> {
        self.client.send(Command::List(List {})).await?;
        let answer = async {
            while let Some(notice) = self.client.receive().await? {
                // Facts before the answer are in the spool.
                if let Notice::Listing(listing) = notice {
                    return Ok(listing);
                }
            }
            Err(io::Error::from(io::ErrorKind::UnexpectedEof))
        };
        let listing = tokio::time::timeout(super::WELCOME_TIMEOUT, answer).await.map_err(|_| late())??;
        self.leases = listing.leases;
        Ok(listing.last_seq)
    }

    pub(super) fn holds(&self, lease: u64) -> bool {
        self.leases.iter().any(|held| held.lease_id == lease)
    }
}

/// Waits for the next word of any elder; for ever when there is none. Safe to cancel.
pub(super) async fn next_word(elders: &[Elder]) -> (usize, io::Result<Option<Notice>>) {
    if elders.is_empty() {
        return std::future::pending().await;
    }
    let words = elders.iter().map(|elder| Box::pin(elder.client.receive()) as BoxFuture<'_, _>);
    let (word, which, _) = select_all(words).await;
    (which, word)
}
