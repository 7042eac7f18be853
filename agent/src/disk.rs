//! Whether the agent's folder can be written: a node that cannot keep what it promises takes no new work.
//!
//! A byte is written over a file of its own now and then, and at once when somebody else's write has failed. While that
//! does not work the scheduler is told why and places nothing here; what runs goes on, and its end waits in the
//! supervisor's memory until the spool takes it. A full disk is not meant: ends have room set aside, and a task that
//! needs room fails by itself.
//!
//! Invariant: one look at a time, on a thread that may hang as long as the disk does.
//!
//! Elsewhere: what is kept on it is `journal`, `folder` and the supervisor's `spool`.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::folder::is_full;

/// The file that is written.
const FILE: &str = "writable";
/// Between two looks at a disk that is well, and at one that is not.
const LOOK_EVERY: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// A disk that takes longer is not well.
const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// What is known of the disk.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    /// Why it cannot be written; `None`: it can.
    pub(crate) fault: watch::Receiver<Option<String>>,
    look: Arc<Notify>,
}

impl Disk {
    /// Somebody's write failed: it is looked at now.
    pub(crate) fn doubt(&self) {
        self.look.notify_one();
    }
}

/// Looks at a folder's disk again and again.
pub(crate) struct Watch {
    folder: PathBuf,
    said: watch::Sender<Option<String>>,
    look: Arc<Notify>,
    stop: CancellationToken,
}

/// Returns what is known of the disk of `folder`, and who finds it out until `stop`.
pub(crate) fn of(folder: &Path, stop: CancellationToken) -> (Disk, Watch) {
    let (said, fault) = watch::channel(None);
    let look = Arc::new(Notify::new());
    (Disk { fault, look: Arc::clone(&look) }, Watch { folder: folder.to_owned(), said, look, stop })
}

impl Watch {
    /// Looks until it is told to stop.
    pub(crate) async fn run(self) {
        let stop = self.stop.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.looks() => {}
        }
    }

    async fn looks(&self) {
        loop {
            let well = self.look_once().await;
            let pause = if well { LOOK_EVERY } else { LOOK_AGAIN };
            tokio::select! {
                () = sleep(pause) => {}
                () = self.look.notified(), if well => {}
            }
        }
    }

    /// Says whether the disk is well.
    async fn look_once(&self) -> bool {
        let (path, doubted) = (self.folder.join(FILE), self.said.borrow().is_some());
        let mut asked = spawn_blocking(move || write(&path, doubted));
        let answer = match timeout(ANSWER_WAIT, &mut asked).await {
            Ok(answer) => answer,
            Err(_) => {
                self.say(Some(format!("{} does not take a byte in {ANSWER_WAIT:?}", self.folder.display())));
                asked.await
            }
        };
        let fault = match answer {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(format!("cannot write to {}: {error}", self.folder.display())),
            Err(_) => None,
        };
        let well = fault.is_none();
        self.say(fault);
        well
    }

    fn say(&self, fault: Option<String>) {
        self.said.send_if_modified(|said| {
            let changed = *said != fault;
            match &fault {
                Some(why) if changed => warn!(%why, "this node takes no new work"),
                None if changed => info!("the state folder can be written again"),
                Some(_) | None => {}
            }
            *said = fault;
            changed
        });
    }
}

/// Writes a byte; one that failed before is believed only once it is on the disk.
fn write(path: &Path, doubted: bool) -> io::Result<()> {
    let written = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
    let written = written.and_then(|mut file| {
        file.write_all(b"w")?;
        if doubted { file.sync_data() } else { Ok(()) }
    });
    match written {
        Err(error) if is_full(&error) => Ok(()),
        written => written,
    }
}

#[cfg(test)]
mod tests {
    //! What counts as a fault.
    #![expect(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[tokio::test]
    async fn a_folder_that_cannot_be_written_is_said_and_its_return_too() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("agent");
        let stop = CancellationToken::new();
        let (mut disk, watch) = of(&folder, stop.clone());
        let looking = tokio::spawn(watch.run());
        let said = disk.fault.wait_for(Option::is_some).await.unwrap().clone().unwrap();
        assert!(said.starts_with(&format!("cannot write to {}: ", folder.display())), "{said}");
        std::fs::create_dir(&folder).unwrap();
        disk.fault.wait_for(Option::is_none).await.unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        disk.doubt();
        disk.fault.wait_for(Option::is_some).await.unwrap();
        stop.cancel();
        looking.await.unwrap();
    }
}
