//! `gangsaw fsck`, `backup` and `restore`: the scheduler's store, in its folder or in a database. They read it themselves
//! and need no scheduler; the first two may run beside one.

use std::path::PathBuf;

use gangsaw_scheduler::{BackupError, OpenError, RestoreError, ServeError};
use serde_json::json;

use super::up;
use crate::fail::{BAD_INPUT, Failure, STORE, bad_input, failure};
use crate::output::{Format, object};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Fsck {
    /// Where state is kept
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// The database that is the store; default a file in the state folder
    #[arg(long, value_name = "URL", env = "GANGSAW_STORE", hide_env_values = true)]
    store: Option<String>,
    /// Write tables again that differ from the log; no scheduler may use the store meanwhile
    #[arg(long)]
    rebuild: bool,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Backup {
    /// The folder to make
    #[arg(value_name = "DEST")]
    dest: PathBuf,
    /// Where state is kept
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// The database that is the store; default a file in the state folder
    #[arg(long, value_name = "URL", env = "GANGSAW_STORE", hide_env_values = true)]
    store: Option<String>,
}

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Restore {
    /// The backup
    #[arg(value_name = "BACKUP")]
    backup: PathBuf,
    /// Where state is kept from now on; it holds no scheduler's state yet
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// The database that is the store from now on, an empty one; default a file in the state folder
    #[arg(long, value_name = "URL", env = "GANGSAW_STORE", hide_env_values = true)]
    store: Option<String>,
}

/// Runs what waits for PostgreSQL apart from the thread that this runtime needs.
fn apart<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(work).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Returns the URL of a store, if one was given.
fn url(given: &Option<String>) -> Option<&str> {
    given.as_deref().filter(|url| !url.is_empty())
}

const DAMAGED_HINT: &str = "`gangsaw fsck --state DIR` names every fault; `gangsaw restore BACKUP --state NEW-DIR` makes a new folder of a backup";

/// Runs `fsck`.
pub(crate) fn fsck(format: Format, args: &Fsck) -> Result<u8, Failure> {
    let state = up::folder(args.state.as_deref())?;
    let report = match url(&args.store) {
        Some(url) => apart(|| gangsaw_scheduler::fsck_postgres(url, args.rebuild)),
        None => gangsaw_scheduler::fsck(&state, args.rebuild),
    };
    let report = report.map_err(unreadable)?;
    let faults: Vec<_> = report
        .faults
        .iter()
        .map(|fault| json!({ "reason": fault.reason, "message": fault.message, "hint": fault.hint }))
        .collect();
    let value = json!({
        "sound": report.faults.is_empty(),
        "first_seq": report.first_seq,
        "last_seq": report.last_seq,
        "archives": report.archives,
        "snapshot_seq": report.snapshot_seq,
        "live": report.live,
        "whole": report.whole,
        "history": report.whole.then(|| json!({
            "jobs": report.history.jobs, "leases": report.history.leases, "open_elements": report.history.open,
        })),
        "rebuilt": report.rebuilt,
        "faults": faults,
    });
    object(format, value, || {
        let mut text =
            format!("events      {} to {}, {} archive(s)\n", report.first_seq, report.last_seq, report.archives);
        text += &report.snapshot_seq.map_or(String::new(), |seq| format!("snapshot    follows event {seq}\n"));
        if report.live {
            text += "checked     a copy: a scheduler uses the store\n";
        }
        if report.whole {
            let told = report.history;
            text += &format!(
                "history     {} job(s) under {} lease(s), {} element(s) not ended: nothing twice, nothing missing\n",
                told.jobs, told.leases, told.open
            );
        } else {
            text += "tables      compared from the snapshot on: older events are gone\n";
        }
        if report.rebuilt > 0 {
            text += &format!("tables      {} row(s) differed and were written again\n", report.rebuilt);
        }
        text += &format!("state       {}\n", if report.faults.is_empty() { "sound" } else { "DAMAGED" });
        text
    })?;
    if report.faults.is_empty() {
        return Ok(0);
    }
    let text =
        report.faults.iter().map(|fault| failure(fault.reason, fault.message.as_str(), fault.hint, STORE).text());
    Err(Failure::Rendered { text: text.collect(), exit: STORE })
}

fn unreadable(error: OpenError) -> Failure {
    let sentence = sentence(&error);
    match error {
        OpenError::InUse(_) => {
            bad_input("store-in-use", sentence, "stop the scheduler first; without --rebuild it may go on")
        }
        OpenError::Damaged { .. } => failure("store-damaged", sentence, DAMAGED_HINT, STORE),
        OpenError::Format { .. } => {
            failure("store-format", sentence, "use the version of gangsaw that wrote it", STORE)
        }
        OpenError::Sqlite { .. } | OpenError::Io { .. } => {
            failure("store-unreadable", sentence, "name the scheduler's folder with --state", STORE)
        }
        OpenError::Postgres(_) => {
            let error = ServeError::Open(error);
            failure(error.reason(), sentence, error.hint(), error.exit_code())
        }
    }
}

/// An error with what is behind it.
fn sentence(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Runs `backup`.
pub(crate) fn backup(format: Format, args: &Backup) -> Result<u8, Failure> {
    let state = up::folder(args.state.as_deref())?;
    let dest = std::path::absolute(&args.dest)?;
    let backed = match url(&args.store) {
        Some(url) => apart(|| gangsaw_scheduler::backup_postgres(url, &state, &dest)),
        None => gangsaw_scheduler::backup(&state, &dest),
    };
    let backed = backed.map_err(|error| {
        let sentence = error.to_string();
        match error {
            BackupError::Database(error) => unreadable(error),
            BackupError::Exists(_) => {
                failure("backup-exists", sentence, "name a folder that does not exist", BAD_INPUT)
            }
            BackupError::Damaged(_) => failure("store-damaged", sentence, DAMAGED_HINT, STORE),
            BackupError::Sqlite { .. } | BackupError::Io { .. } => {
                failure("backup-failed", sentence, "nothing was left behind; try again once that is put right", STORE)
            }
        }
    })?;
    let value = json!({
        "backup": dest.display().to_string(),
        "last_seq": backed.last_seq,
        "files": backed.files,
        "bytes": backed.bytes,
    });
    object(format, value, || {
        format!(
            "{} has everything up to event {}, checked: {} files, {} bytes\n",
            dest.display(),
            backed.last_seq,
            backed.files,
            backed.bytes
        )
    })?;
    Ok(0)
}

/// Runs `restore`.
pub(crate) fn restore(format: Format, args: &Restore) -> Result<u8, Failure> {
    let state = up::folder(args.state.as_deref())?;
    let user = std::env::var("USER").unwrap_or_else(|_| "operator".to_owned());
    let restored = match url(&args.store) {
        Some(url) => apart(|| gangsaw_scheduler::restore_postgres(&args.backup, &state, url, &user)),
        None => gangsaw_scheduler::restore(&args.backup, &state, &user),
    };
    let restored = restored.map_err(|error| {
        let sentence = error.to_string();
        match error {
            RestoreError::Taken(_) => {
                let hint = "name an empty database; `DROP SCHEMA gangsaw CASCADE` there gives the old one up";
                failure("state-exists", sentence, hint, BAD_INPUT)
            }
            RestoreError::Database(error) => unreadable(error),
            RestoreError::Occupied(_) => {
                failure("state-exists", sentence, "name another folder with --state, or move this one away", BAD_INPUT)
            }
            RestoreError::NotABackup { .. } => {
                bad_input("not-a-backup", sentence, "name a folder that `gangsaw backup` made with this version")
            }
            RestoreError::BadName(_) => bad_input("bad-name", sentence, "set USER"),
            RestoreError::Damaged { .. } => failure("backup-damaged", sentence, "use another backup", STORE),
            RestoreError::Open(_) | RestoreError::Append(_) | RestoreError::Io { .. } => {
                failure("restore-failed", sentence, "nothing was left behind; try again once that is put right", STORE)
            }
        }
    })?;
    let value = json!({
        "state": state.display().to_string(),
        "epoch": restored.epoch,
        "last_seq": restored.last_seq,
        "lost_ms": restored.lost_ms,
        "next_job": restored.next_job,
    });
    let holds = url(&args.store).map_or_else(|| state.display().to_string(), |_| "the database".to_owned());
    object(format, value, || {
        format!(
            "{holds} holds what the backup held; what happened in the {} s since is not known, and jobs \
             are numbered from {} on; tokens that were revoked since must be revoked again\n",
            restored.lost_ms.div_ceil(1_000),
            restored.next_job
        )
    })?;
    Ok(0)
}
