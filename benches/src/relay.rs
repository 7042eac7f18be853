//! A wire to PostgreSQL that can go silent without being closed, as a network that drops everything does.
//!
//! What is sent meanwhile is kept and arrives when the wire is whole again: late, which is the hard case. Connections
//! made meanwhile are taken and answered by nobody.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A wire. Dropping it cuts every connection.
pub(crate) struct Relay {
    /// Where it is entered.
    pub(crate) port: u16,
    whole: watch::Sender<bool>,
    _carrying: JoinSet<()>,
}

impl Relay {
    /// Leads to a port of loopback.
    pub(crate) async fn to(port: u16) -> anyhow::Result<Relay> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (whole, state) = watch::channel(true);
        let entered = listener.local_addr()?.port();
        let mut carrying = JoinSet::new();
        carrying.spawn(async move {
            // Ends its connections with itself.
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(carry(client, SocketAddr::from(([127, 0, 0, 1], port)), state.clone()));
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Relay { port: entered, whole, _carrying: carrying })
    }

    /// Makes the wire silent, or whole again.
    pub(crate) fn set_whole(&self, whole: bool) {
        self.whole.send_replace(whole);
    }
}

async fn carry(client: TcpStream, to: SocketAddr, mut whole: watch::Receiver<bool>) {
    if whole.wait_for(|whole| *whole).await.is_err() {
        return;
    }
    let Ok(server) = TcpStream::connect(to).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let there = copy(from_client, to_server, whole.clone());
    let back = copy(from_server, to_client, whole);
    tokio::join!(there, back);
}

/// Copies while the wire is whole, until one side ends.
async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut whole: watch::Receiver<bool>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if whole.wait_for(|whole| *whole).await.is_err() || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
    if whole.wait_for(|whole| *whole).await.is_ok() {
        let _ = to.shutdown().await;
    }
}
