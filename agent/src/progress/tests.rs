//! Messages in, batches out; floods, nonsense, long folders.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use super::*;

/// A folder of its own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("gangsaw-progress-{}-{name}", std::process::id()));
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn key(lease: u64) -> Tasks {
    Tasks { lease, first: 0, last: 0, ranks: vec![0] }
}

fn json(update: &Update) -> String {
    String::from_utf8(update.to_json().unwrap()).unwrap()
}

/// Sends without the checks of `send_progress`.
fn send(path: &Path, text: &str) -> io::Result<()> {
    let socket = std::os::unix::net::UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to(text.as_bytes(), path).map(drop)
}

#[test]
fn nonsense_is_dropped_and_unknown_keys_are_ignored() {
    for bad in [
        "",
        "3",
        "[]",
        "{\"step\":-1}",
        "{\"step\":1.5}",
        "{\"metrics\":{\"loss\":\"x\"}}",
        "{\"metrics\":{\"loss\":NaN}}",
        "{\"checkpoint\":\"a\\nb\"}",
        "{\"step\":1} {}",
    ] {
        assert_eq!(Update::parse(bad.as_bytes()), None, "{bad}");
    }
    let long = format!("{{\"checkpoint\":\"{}\"}}", "x".repeat(DATAGRAM_MAX));
    assert_eq!(Update::parse(long.as_bytes()), None);
    let update =
        Update::parse(b"{\"step\":3,\"colour\":\"red\",\"metrics\":{\"loss\":0.5,\"accuracy\":null}}").unwrap();
    assert_eq!(json(&update), r#"{"step":3,"metrics":{"loss":0.5}}"#);
}

#[test]
fn newer_values_replace_older_ones_and_the_rest_stays() {
    let mut update = Update::parse(b"{\"step\":3,\"total\":9,\"metrics\":{\"loss\":0.5,\"lr\":1}}").unwrap();
    update.merge(Update::parse(b"{\"step\":4,\"metrics\":{\"loss\":0.25}}").unwrap());
    assert_eq!(json(&update), r#"{"step":4,"total":9,"metrics":{"loss":0.25,"lr":1.0}}"#);
}

#[tokio::test]
async fn message_arrives_with_its_task_and_the_last_one_survives_the_end() {
    let folder = Folder::new("arrives");
    let mut progress = Progress::open(&folder.0).unwrap();
    let path = progress.bind(key(7)).unwrap();
    let bell = progress.bell();
    send_progress(&path, r#"{"step":1,"total":2}"#).unwrap();
    bell.ring().await;
    let first = progress.take();
    assert_eq!(
        first.iter().map(|(key, update)| (key.lease, json(update))).collect::<Vec<_>>(),
        [(7, r#"{"step":1,"total":2}"#.to_owned())]
    );
    send_progress(&path, r#"{"step":2}"#).unwrap();
    progress.release(7);
    bell.ring().await;
    assert_eq!(progress.take().first().map(|(_, update)| update.step), Some(Some(2)));
    assert_eq!(send_progress(&path, "{}").unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[tokio::test]
async fn flood_neither_blocks_the_sender_nor_grows_what_waits() {
    let folder = Folder::new("flood");
    let mut progress = Progress::open(&folder.0).unwrap();
    let path = progress.bind(key(8)).unwrap();
    let mut refused = 0;
    for step in 0..20_000 {
        let sent = send(&path, &format!("{{\"step\":{step},\"metrics\":{{\"m{step}\":1}}}}"));
        refused += u32::from(sent.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock));
        if step % 100 == 0 {
            tokio::task::yield_now().await;
        }
    }
    progress.bell().ring().await;
    let taken = progress.take();
    assert_eq!(taken.len(), 1);
    assert!(taken[0].1.metrics.len() <= 64);
    assert!(refused > 0, "nobody reads 20,000 messages in one window");
}

#[tokio::test]
async fn folder_with_a_long_name_gets_a_short_one_that_stays_the_same() {
    let folder = Folder::new(&"long".repeat(30));
    let mut progress = Progress::open(&folder.0).unwrap();
    let again = Progress::open(&folder.0).unwrap();
    assert_eq!(progress.folder(), again.folder());
    let path = progress.bind(key(u64::MAX)).unwrap();
    send_progress(&path, "{}").unwrap();
    progress.release(u64::MAX);
    std::fs::remove_dir(progress.folder()).unwrap();
}

#[tokio::test]
async fn socket_of_a_killed_agent_is_taken_over_and_strangers_are_swept() {
    let folder = Folder::new("killed");
    let mut before = Progress::open(&folder.0).unwrap();
    let path = before.bind(key(9)).unwrap();
    let stale = before.bind(key(10)).unwrap();
    drop(before);
    let mut after = Progress::open(&folder.0).unwrap();
    assert_eq!(after.bind(key(9)).unwrap(), path);
    after.sweep();
    assert!(path.exists() && !stale.exists());
    send_progress(&path, r#"{"step":5}"#).unwrap();
    after.bell().ring().await;
    assert_eq!(after.take().len(), 1);
}

#[tokio::test]
async fn tasks_that_share_a_lease_are_told_apart_by_name_or_by_the_sender() {
    let folder = Folder::new("shared");
    let mut progress = Progress::open(&folder.0).unwrap();
    let path = progress.bind(Tasks { lease: 11, first: 5, last: 9, ranks: vec![0, 1] }).unwrap();
    send(&path, r#"{"step":1,"task":"3[6].1"}"#).unwrap();
    send(&path, r#"{"step":2,"task":"3[4]"}"#).unwrap();
    send(&path, r#"{"step":3}"#).unwrap();
    let script = r#"import os,socket
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'{"step":4}', os.environ["GANGSAW_PROGRESS"])
import sys
sys.stdin.read()"#;
    let child = std::process::Command::new("python3")
        .args(["-c", script])
        .env("GANGSAW_PROGRESS", &path)
        .env("GANGSAW_TASK_ID", "3[8].0")
        .stdin(std::process::Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        assert!(std::env::var_os("CI").is_none(), "python3 is needed");
        return println!("python3 is not here: the sender's pid is not tested");
    };
    let bell = progress.bell();
    let mut taken = BTreeMap::new();
    while taken.len() < 2 {
        bell.ring().await;
        taken.extend(progress.take().into_iter().map(|(key, update)| ((key.index, key.rank), update.step)));
    }
    drop(child.stdin.take());
    child.wait().unwrap();
    assert_eq!(taken, BTreeMap::from([((6, 1), Some(1)), ((8, 0), Some(4))]));
}
