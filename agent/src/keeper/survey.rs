//! The other versions' supervisors: found at the start, asked, and cleared up after.
//!
//! Elsewhere: what an elder is and where it lives is `elders`; who is sent what is [`super`].

use std::collections::BTreeSet;

use super::*;

impl Keeper {
    /// Finds every supervisor there is, tells those of other versions to retire, and chooses a place for our own.
    /// Nothing when the agent stops.
    pub(super) async fn survey(&mut self) -> Option<()> {
        let places = match Place::all(&self.home) {
            Ok(places) => places,
            Err(error) => {
                warn!(%error, "the folder of supervisors cannot be read");
                return Some(());
            }
        };
        let (mut empty, mut others, mut own) = (Vec::new(), Vec::new(), None);
        for place in places {
            match self.found_at(&place).await? {
                Some(Welcome { version, retiring: false, .. }) if version == self.parts.version => own = Some(place),
                Some(welcome) => others.push((place, welcome.version)),
                None => empty.push(place),
            }
        }
        let next = others.iter().map(|(place, _)| place.generation + 1).max().unwrap_or(0);
        let vacant = if own.is_none() && !empty.is_empty() { Some(empty.remove(0)) } else { None };
        self.place = own.or(vacant).unwrap_or_else(|| Place::new(&self.home, next));
        for (place, version) in others {
            match Elder::meet(place.clone()).await {
                Ok(elder) => {
                    info!(%version, leases = elder.leases.len(), "a supervisor of another version finishes what it has");
                    self.elders.push(elder);
                }
                // It ended meanwhile.
                Err(_) => empty.push(place),
            }
        }
        for place in empty {
            let facts = self.ruin(place).await?;
            self.backlog.extend(facts);
        }
        Some(())
    }

    /// The supervisor at a place, if one lives there. One that does not answer is waited for: what it
    /// holds must be known before anything else is said. Nothing when the agent stops.
    async fn found_at(&self, place: &Place) -> Option<Option<Welcome>> {
        loop {
            let found = match SupervisorClient::connect(&place.state) {
                Ok(client) => greeted(&client).await.map(Some),
                Err(error) if is_nobody(&error) => Ok(None),
                Err(error) => Err(error),
            };
            match found {
                Ok(found) => return Some(found),
                Err(error) => warn!(%error, place = place.generation, "a supervisor does not answer"),
            }
            tokio::select! {
                () = self.parts.stop.cancelled() => return None,
                () = sleep(RETRY_MIN) => {}
            }
        }
    }

    /// Kills what is left of a place's tasks and returns the facts that nobody has heard. Nothing when the agent stops.
    async fn ruin(&mut self, place: Place) -> Option<Vec<Fact>> {
        let state = place.state.clone();
        self.killed(move || kill_all_leftovers(&state)).await?;
        let facts = told(&place, u64::MAX).await.unwrap_or_else(|error| {
            warn!(%error, "the spool of a dead supervisor cannot be read");
            Vec::new()
        });
        let facts = self.numbers.take(place.generation, facts);
        if self.numbers.waits(place.generation) {
            self.ruins.push(place);
        } else {
            place.remove();
        }
        Some(facts)
    }

    /// What the elders hold now, the facts that belong to it, and those that did not answer: they are elders no more.
    pub(super) async fn ask_elders(&mut self) -> io::Result<(Vec<HeldLease>, Vec<Fact>, Vec<Elder>)> {
        let (mut leases, mut facts, mut fallen, mut alive) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for mut elder in std::mem::take(&mut self.elders) {
            let answered = elder.ask().await;
            // Held, also by one that has just died: it falls after the list, and its leases with it.
            leases.extend(elder.leases.iter().cloned());
            match answered {
                Ok(last) => {
                    facts.extend(self.numbers.take(elder.place.generation, told(&elder.place, last).await?));
                    alive.push(elder);
                }
                Err(_) => fallen.push(elder),
            }
        }
        self.elders = alive;
        Ok((leases, facts, fallen))
    }

    /// Takes an elder's word, or its end. `None` when the agent stops.
    pub(super) async fn elder_said(
        &mut self,
        which: usize,
        word: io::Result<Option<Notice>>,
    ) -> io::Result<Option<()>> {
        match word {
            Ok(Some(notice)) => self.pass(self.elders[which].place.generation, notice).await.map(Some),
            Ok(None) | Err(_) => {
                let elder = self.elders.remove(which);
                Ok(self.fell(elder).await)
            }
        }
    }

    /// The connection to an elder is gone: it lives and is met again, or it is dead and cleared up after.
    pub(super) async fn fell(&mut self, elder: Elder) -> Option<()> {
        let leases: BTreeSet<u64> = elder.leases.iter().map(|held| held.lease_id).collect();
        let place = elder.place.clone();
        drop(elder);
        loop {
            match Elder::meet(place.clone()).await {
                Ok(again) => {
                    self.elders.push(again);
                    return Some(());
                }
                Err(error) if is_nobody(&error) => break,
                Err(error) => warn!(%error, "a supervisor of another version does not answer"),
            }
            tokio::select! {
                () = self.parts.stop.cancelled() => return None,
                () = sleep(RETRY_MIN) => {}
            }
        }
        let facts = self.ruin(place).await?;
        info!("a supervisor of another version has ended");
        self.say(Heard::Fallen(leases, facts)).await
    }
}
