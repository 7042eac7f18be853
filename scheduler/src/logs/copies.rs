//! Copies of finished output: one file for what a node had of a job at one time.
//!
//! A file `logs/JOB/SERIAL.zst` is a run of `gangsaw.log.v1.LogChunk`, each behind its length, compressed as one
//! stream. It gets its name only when it is whole and synced. Output is copied per job and node, not per element: a
//! hundred thousand tasks that print nothing cost one question and no file.
//!
//! Where two files hold output of the same attempt, the later one holds all of it.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use gangsaw_core::id::{JobId, NodeId};
use gangsaw_core::ranges::RangeSet;
use gangsaw_proto::log::v1::LogChunk;
use gangsaw_proto::node::v1::ServeLogsResponse;
use prost::Message;
use tokio_util::sync::CancellationToken;

use super::{Inbox, Logs, What, Window};
use crate::clock::{boot_ns, wall_ms};

/// Every attempt on the node, in a query's `attempt`.
const ALL_ATTEMPTS: u32 = u32::MAX;
/// Bytes kept of one attempt's stream.
const ATTEMPT_BYTES_MAX: u64 = 64 << 20;
/// Longest chunk a copy may hold: nodes send 64 KiB.
const CHUNK_BYTES_MAX: u64 = 1 << 20;
/// How often ended output is looked for, and how long output of a job that goes on waits for company.
const ROUND: Duration = Duration::from_secs(1);
const COMPANY_NS: u64 = 10_000_000_000;
/// How long a node may take to answer one copy.
const ANSWER_WAIT: Duration = Duration::from_secs(120);
/// How often retention is looked at, in rounds.
const RETENTION_ROUNDS: u64 = 600;
/// Age and bytes after which copies go, oldest first.
const AGE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
const BYTES_MAX: u64 = 10 << 30;

/// One stream of one attempt.
pub(crate) type Key = (u32, u32, u32, i32);

/// Returns the key of a chunk: index, rank, attempt, stream.
pub(crate) fn key(chunk: &LogChunk) -> Key {
    (chunk.index, chunk.rank, chunk.attempt, chunk.stream)
}

impl Logs {
    /// Copies ended output, and deletes old copies, until told to stop.
    pub(crate) async fn keep(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(ROUND);
        for round in 0_u64.. {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return,
            }
            tokio::select! {
                () = self.copy_round() => {}
                () = stop.cancelled() => return,
            }
            if round % RETENTION_ROUNDS == 0 {
                let folder = self.folder.clone();
                let retained = tokio::task::spawn_blocking(move || retain(&folder, SystemTime::now())).await;
                if let Ok(Err(error)) = retained {
                    tracing::warn!(%error, "old copies of logs cannot be deleted");
                }
            }
        }
    }

    async fn copy_round(&self) {
        self.tell_copied();
        let due_by = (boot_ns(), COMPANY_NS);
        let attached = self.attached();
        let due = self.engine.read(move |view| {
            let due = view.take_uncopied(due_by, |node| attached.contains(node));
            let name = |node: NodeId| view.state.node(node).map(|node| node.body.name.to_string());
            due.into_iter().filter_map(|(job, node, set)| Some((job, node, name(node)?, set))).collect::<Vec<_>>()
        });
        // A busy engine is asked again the next round.
        let Ok(due) = due.await else { return };
        for (job, node, name, elements) in due {
            if let Err(error) = self.copy(job, &name, &elements).await {
                tracing::debug!(%job, node = name, %error, "output is not copied yet");
                let back = move |view: &mut crate::engine::View<'_>| {
                    if view.state.job(job).is_some() {
                        view.return_uncopied(job, node, &elements, boot_ns());
                    }
                };
                let _ = self.engine.read(back).await;
            }
        }
        self.tell_copied();
    }

    async fn copy(&self, job: JobId, node: &str, elements: &RangeSet) -> io::Result<()> {
        let (Some(first), Some(last)) = (elements.first(), elements.last()) else { return Ok(()) };
        let mut inbox = Inbox::new(1);
        let query = ServeLogsResponse {
            job_id: job.0,
            first_index: first,
            last_index: last,
            attempt: ALL_ATTEMPTS,
            ..Default::default()
        };
        let Some(query) = self.query(node, &inbox, query) else {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "the node has no log stream"));
        };
        let received = self.receive(job, node, elements, (query, &mut inbox));
        let received = tokio::time::timeout(ANSWER_WAIT, received).await;
        self.forget(query);
        received.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        for range in elements.iter() {
            self.copied(node, job.0, (range.first, range.last));
        }
        Ok(())
    }

    /// Writes what a query yields into a copy, if it yields anything.
    async fn receive(
        &self,
        job: JobId,
        node: &str,
        elements: &RangeSet,
        (query, inbox): (u64, &mut Inbox),
    ) -> io::Result<()> {
        let mut writer: Option<Writer> = None;
        let mut window = Window::of(inbox);
        loop {
            let piece = tokio::select! {
                biased;
                piece = inbox.pieces.recv() => piece,
                () = inbox.lost.changed.notified() => None,
            };
            match piece.map(|piece| piece.what) {
                Some(What::Data(chunk)) if elements.contains(chunk.index) => {
                    let open = match writer.take() {
                        Some(open) => open,
                        None => Writer::create(&self.folder.join(job.to_string()), node)?,
                    };
                    self.metrics.log_copied.inc_by(chunk.data.len() as u64);
                    writer.insert(open).push(chunk)?;
                }
                Some(What::Data(_)) => {}
                Some(What::End(error)) if error.is_empty() => break,
                Some(What::End(error)) => return Err(io::Error::other(error)),
                None => return Err(io::ErrorKind::ConnectionReset.into()),
            }
            self.taken(query, &mut window);
        }
        match writer {
            // Syncing may take a while; the runtime's workers have others to serve.
            Some(writer) => tokio::task::spawn_blocking(|| writer.finish()).await.map_err(io::Error::other)?,
            None => Ok(()),
        }
    }
}

/// A copy that is being written. Dropping it unfinished leaves nothing.
struct Writer {
    fresh: PathBuf,
    path: PathBuf,
    stream: Option<zstd::Encoder<'static, io::BufWriter<std::fs::File>>>,
    kept: BTreeMap<Key, u64>,
}

impl Writer {
    fn create(folder: &Path, node: &str) -> io::Result<Writer> {
        crate::token::make_private_folder(folder)?;
        let plain: String = node.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        let serial = format!("{:013x}-{plain}", wall_ms());
        let fresh = folder.join(format!("{serial}.unfinished"));
        let stream = zstd::Encoder::new(io::BufWriter::new(std::fs::File::create(&fresh)?), 3)?;
        Ok(Writer { fresh, path: folder.join(format!("{serial}.zst")), stream: Some(stream), kept: BTreeMap::new() })
    }

    fn push(&mut self, mut chunk: LogChunk) -> io::Result<()> {
        let kept = self.kept.entry(key(&chunk)).or_default();
        let bytes = chunk.data.len() as u64;
        if *kept >= ATTEMPT_BYTES_MAX && bytes > 0 {
            chunk.dropped_bytes += bytes;
            chunk.data.clear();
        }
        *kept += bytes;
        match &mut self.stream {
            Some(stream) => stream.write_all(&chunk.encode_length_delimited_to_vec()),
            None => Ok(()),
        }
    }

    fn finish(mut self) -> io::Result<()> {
        let Some(stream) = self.stream.take() else { return Ok(()) };
        let file = stream.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        std::fs::rename(&self.fresh, &self.path)?;
        std::fs::File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // After `finish` the name is gone already.
        let _ = std::fs::remove_file(&self.fresh);
    }
}

/// Returns the copies of a job, the latest first.
pub(crate) fn files(folder: &Path, job: JobId) -> io::Result<Vec<PathBuf>> {
    let mut files = match std::fs::read_dir(folder.join(job.to_string())) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    files.retain(|path| path.extension().is_some_and(|extension| extension == "zst"));
    files.sort_unstable();
    files.reverse();
    Ok(files)
}

/// Reads a copy, a chunk at a time.
pub(crate) fn read(path: &Path, mut take: impl FnMut(LogChunk) -> bool) -> io::Result<()> {
    let mut stream = BufReader::new(zstd::Decoder::new(std::fs::File::open(path)?)?);
    while let Some(length) = varint(&mut stream)? {
        if length > CHUNK_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a chunk announces an impossible length"));
        }
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        stream.read_exact(&mut bytes)?;
        let chunk = LogChunk::decode(bytes.as_slice()).map_err(io::Error::other)?;
        if !take(chunk) {
            return Ok(());
        }
    }
    Ok(())
}

/// Reads a length; `None` at the end.
fn varint(stream: &mut impl Read) -> io::Result<Option<u64>> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let mut byte = [0];
        if stream.read(&mut byte)? == 0 {
            return if shift == 0 { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
        value |= u64::from(byte[0] & 0x7f) << shift;
        if byte[0] & 0x80 == 0 {
            return Ok(Some(value));
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

/// Deletes copies that are too old or too many, oldest first.
fn retain(folder: &Path, now: SystemTime) -> io::Result<()> {
    let mut files = Vec::new();
    for job in std::fs::read_dir(folder)? {
        let job = job?.path();
        for file in std::fs::read_dir(&job)? {
            let file = file?;
            let meta = file.metadata()?;
            files.push((meta.modified()?, meta.len(), file.path()));
        }
        // Fails while it holds files, as it should.
        let _ = std::fs::remove_dir(&job);
    }
    files.sort_unstable();
    let mut bytes: u64 = files.iter().map(|(_, length, _)| length).sum();
    for (modified, length, path) in files {
        let old = now.duration_since(modified).is_ok_and(|age| age > AGE_MAX);
        if !old && bytes <= BYTES_MAX {
            break;
        }
        std::fs::remove_file(path)?;
        bytes -= length;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
