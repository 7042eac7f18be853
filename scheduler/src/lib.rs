//! The scheduler: DO, centrally. Engine loop, store, RPC, HTTP.
//!
//! It performs what `gangsaw_core` decides and decides nothing itself. One engine thread drains inputs, asks the core,
//! appends once, and only then answers; around it are the tasks that speak gRPC to people and nodes.
//!
//! Invariants:
//! - Durable before visible: no reply and no grant leaves before its events are on disk.
//! - Everything is bounded: full means RESOURCE_EXHAUSTED with a hint, never a hang.

mod accept;
mod clock;
mod config;
mod disk;
mod engine;
mod http;
mod keyring;
mod lead;
mod logs;
mod metrics;
mod notify;
mod places;
mod rpc;
mod serve;
mod store;
mod tls;
mod token;
mod wire;

pub use config::{Config, NODE_CERTIFICATE_LIFE, Ready, ServeError};
pub use engine::EngineError;
pub use rpc::caller::user_name;
pub use serve::serve;
pub use store::backup::{Backed, BackupError, backup, backup_postgres};
pub use store::contract::AppendError;
pub use store::fail::{FailAt, FailMoment};
pub use store::fsck::{Fault, Report, Told, fsck, fsck_postgres};
#[cfg(fuzzing)]
pub use store::fuzz;
pub use store::postgres::PgOpenError;
pub use store::postgres::read::read_log_postgres;
pub use store::read_log;
pub use store::restore::{RestoreError, Restored, restore, restore_postgres};
pub use store::sqlite::OpenError;
pub use tls::{Made, TlsError, init};
pub use token::{Token, credentials_folder};
