//! The wire between a scheduler and its PostgreSQL, which loses what a test tells it to.
//!
//! What a client sends is searched for marks; a mark decides what is lost of that exchange, once.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The request never arrives.
pub(crate) const LOSE_REQUEST: &str = "lose-the-request";
/// Half of the request arrives.
pub(crate) const LOSE_HALF: &str = "lose-half-of-it";
/// The request is answered, and the answer is lost.
pub(crate) const LOSE_ANSWER: &str = "lose-the-answer";

/// From here on nothing arrives, on any connection, and none is closed.
pub(crate) const GO_SILENT: &str = "go-silent";

/// A socket that leads to another one.
pub(crate) struct Wire {
    folder: tempfile::TempDir,
    /// Exchanges that were lost.
    pub(crate) lost: Arc<AtomicU32>,
}

impl Wire {
    /// Leads to the server whose socket is in `to`; it loses `budget` exchanges at most.
    pub(crate) fn to(to: &str, budget: u32) -> Wire {
        let folder = tempfile::Builder::new().prefix("gangsaw-wire").tempdir_in("/tmp").unwrap();
        let listener = UnixListener::bind(folder.path().join(".s.PGSQL.5432")).unwrap();
        let (lost, there) = (Arc::new(AtomicU32::new(0)), format!("{to}/.s.PGSQL.5432"));
        let counted = Arc::clone(&lost);
        // Ends with the test's process.
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = UnixStream::connect(&there) else { continue };
                let lost = Arc::clone(&counted);
                std::thread::spawn(move || carry(&client, &server, &lost, budget));
            }
        });
        Wire { folder, lost }
    }

    pub(crate) fn url(&self) -> String {
        format!("postgresql:///postgres?user=gangsaw&host={}", self.folder.path().display())
    }
}

/// Carries one connection until something of it is lost.
fn carry(client: &UnixStream, server: &UnixStream, lost: &AtomicU32, budget: u32) {
    let answers = {
        let (mut from, mut to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
        let mute = Arc::new(AtomicU32::new(0));
        let muted = Arc::clone(&mute);
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(read @ 1..) = from.read(&mut buffer) {
                if muted.load(Ordering::SeqCst) == 2 {
                    continue;
                }
                // What is lost was said: the transaction it answers is over.
                if muted.load(Ordering::SeqCst) == 1 || to.write_all(&buffer[..read]).is_err() {
                    break;
                }
            }
            let _ = (from.shutdown(std::net::Shutdown::Both), to.shutdown(std::net::Shutdown::Both));
        });
        mute
    };
    let (mut from, mut to) = (client, server);
    let mut buffer = vec![0; 1 << 20];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        let said = &buffer[..read];
        let marked = |mark: &str| said.windows(mark.len()).any(|window| window == mark.as_bytes());
        let mut pass = read;
        if marked(GO_SILENT) || lost.load(Ordering::SeqCst) == u32::MAX {
            lost.store(u32::MAX, Ordering::SeqCst);
            answers.store(2, Ordering::SeqCst);
            continue;
        }
        if [LOSE_REQUEST, LOSE_HALF, LOSE_ANSWER].into_iter().any(marked) && lost.load(Ordering::SeqCst) < budget {
            lost.fetch_add(1, Ordering::SeqCst);
            match () {
                () if marked(LOSE_REQUEST) => pass = 0,
                () if marked(LOSE_HALF) => pass = read / 2,
                () => answers.store(1, Ordering::SeqCst),
            }
        }
        if to.write_all(&said[..pass]).is_err() || pass < read {
            break;
        }
    }
    let _ = (from.shutdown(std::net::Shutdown::Both), to.shutdown(std::net::Shutdown::Both));
}
