//! What tasks print, on our own stdout and stderr.
//!
//! One task's output passes through byte by byte. With several tasks, whole lines pass through with the task's name
//! before them. When the scheduler restarts, reading begins again and skips what was already shown.

use std::collections::BTreeMap;
use std::io::Write as _;

use gangsaw_proto::jobs::v1::{ReadLogsRequest, ReadLogsResponse, Stream};

use crate::client::{Client, Patience};
use crate::fail::{self, Failure};

/// A line longer than this is passed on in pieces.
const LINE_MAX: usize = 64 << 10;

/// One task's one stream in one attempt.
type Source = (u32, u32, u32, i32);

/// What is put before each line, so that a reader knows whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    /// Nothing: one task is read, byte by byte.
    Not,
    /// The task's index and rank: several tasks of one job are read.
    Task,
    /// The job's number too: several jobs are read.
    Job(u64),
}

/// Shows log chunks.
pub(crate) struct Show {
    /// What is put before each line.
    named: Named,
    /// Bytes shown so far of each source.
    shown: BTreeMap<Source, u64>,
    /// Bytes still to skip after a restart.
    skip: BTreeMap<Source, u64>,
    /// Lines not yet ended.
    partial: BTreeMap<Source, Vec<u8>>,
}

impl Show {
    /// Nothing was shown yet.
    pub(crate) fn new(named: Named) -> Show {
        Show { named, shown: BTreeMap::new(), skip: BTreeMap::new(), partial: BTreeMap::new() }
    }

    /// A task's name before its lines.
    fn name(&self, (index, rank, _, _): Source) -> String {
        match self.named {
            Named::Not | Named::Task => format!("[{index}].{rank}"),
            Named::Job(job) => format!("{job}[{index}].{rank}"),
        }
    }

    /// Reading begins again from the start: what was shown is skipped.
    fn again(&mut self) {
        self.skip = self.shown.clone();
    }

    /// Shows one chunk.
    fn chunk(&mut self, chunk: &ReadLogsResponse) -> Result<(), Failure> {
        let source = (chunk.index, chunk.rank, chunk.attempt, chunk.stream);
        let (data, dropped) = self.unseen(source, chunk);
        if dropped > 0 {
            crate::output::note(&format!("note: {dropped} bytes dropped of {}", self.name(source)));
        }
        match self.named {
            Named::Not => write(source, data),
            Named::Task | Named::Job(_) => self.lines(source, data),
        }
    }

    /// What of a chunk was not shown before a restart: its bytes, and how many were dropped before them.
    fn unseen<'c>(&mut self, source: Source, chunk: &'c ReadLogsResponse) -> (&'c [u8], u64) {
        let skip = self.skip.entry(source).or_default();
        let dropped = if *skip == 0 { chunk.dropped_bytes } else { 0 };
        let skipped = usize::try_from(*skip).unwrap_or(usize::MAX).min(chunk.data.len());
        *skip -= skipped as u64;
        let data = &chunk.data[skipped..];
        *self.shown.entry(source).or_default() += data.len() as u64;
        (data, dropped)
    }

    /// Shows whole lines with the task's name.
    fn lines(&mut self, source: Source, data: &[u8]) -> Result<(), Failure> {
        let name = self.name(source);
        let partial = self.partial.entry(source).or_default();
        let mut out = Vec::new();
        for piece in data.split_inclusive(|byte| *byte == b'\n') {
            partial.extend_from_slice(piece);
            if partial.ends_with(b"\n") || partial.len() >= LINE_MAX {
                out.extend_from_slice(format!("{name}: ").as_bytes());
                out.append(partial);
                if !out.ends_with(b"\n") {
                    out.push(b'\n');
                }
            }
        }
        write(source, &out)
    }

    /// Shows lines that never ended.
    fn finish(&mut self) -> Result<(), Failure> {
        for (source, mut line) in std::mem::take(&mut self.partial) {
            if !line.is_empty() {
                let mut out = format!("{}: ", self.name(source)).into_bytes();
                out.append(&mut line);
                out.push(b'\n');
                write(source, &out)?;
            }
        }
        Ok(())
    }
}

/// Writes to the stream of the same kind.
fn write((_, _, _, stream): Source, data: &[u8]) -> Result<(), Failure> {
    if stream == i32::from(Stream::Stderr) {
        let mut err = std::io::stderr().lock();
        err.write_all(data)?;
        return Ok(err.flush()?);
    }
    let mut out = std::io::stdout().lock();
    out.write_all(data)?;
    Ok(out.flush()?)
}

/// Reads what was asked for to its end.
pub(crate) async fn follow(client: &mut Client, request: &ReadLogsRequest, named: Named) -> Result<(), Failure> {
    let mut show = Show::new(named);
    let mut patience = Patience::new();
    loop {
        match once(client, request, &mut show, &mut patience).await? {
            Ok(()) => return show.finish(),
            // What the node has now is asked for again only by those who wait for more.
            Err(status) if !request.follow && fail::reason(&status).as_deref() == Some(fail::NODE_UNREACHABLE) => {
                show.finish()?;
                return Err(client.refused(&status));
            }
            Err(status) => {
                patience.wait(client, &status).await?;
                show.again();
            }
        }
    }
}

/// Reads until the end or until the scheduler goes away.
async fn once(
    client: &mut Client,
    request: &ReadLogsRequest,
    show: &mut Show,
    patience: &mut Patience,
) -> Result<Result<(), tonic::Status>, Failure> {
    let mut stream = match client.jobs.read_logs(request.clone()).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => return Ok(Err(status)),
    };
    loop {
        match stream.message().await {
            Ok(Some(chunk)) => {
                patience.answered();
                show.chunk(&chunk)?;
            }
            Ok(None) => return Ok(Ok(())),
            Err(status) => return Ok(Err(status)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_again_shows_each_byte_once() {
        let source = (0, 0, 1, i32::from(Stream::Stdout));
        let chunk = |text: &str, dropped_bytes| ReadLogsResponse {
            index: 0,
            rank: 0,
            attempt: 1,
            stream: Stream::Stdout.into(),
            data: text.as_bytes().to_vec(),
            dropped_bytes,
        };
        let mut show = Show::new(Named::Not);
        assert_eq!(show.unseen(source, &chunk("hello ", 0)), (b"hello ".as_slice(), 0));
        assert_eq!(show.unseen(source, &chunk("wor", 7)), (b"wor".as_slice(), 7));
        show.again();
        assert_eq!(show.unseen(source, &chunk("hell", 0)), (b"".as_slice(), 0));
        assert_eq!(show.unseen(source, &chunk("o world", 7)), (b"ld".as_slice(), 0), "cut elsewhere, and told once");
        show.again();
        assert_eq!(show.unseen(source, &chunk("hello world!", 0)), (b"!".as_slice(), 0));
    }
}
