//! The agent's side of the connection, with tokio and without.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use gangsaw_proto::supervisor::v1::{Command, Notice, command, notice};
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::sync::Mutex;

use super::paths::Paths;
use super::wire::{self, Assembler, PACKET_BUFFER};

/// A connection for code without a runtime; calls block.
#[derive(Debug)]
pub struct Connection {
    fd: OwnedFd,
    assembler: Assembler,
    buffer: Box<[u8; PACKET_BUFFER]>,
}

impl Connection {
    /// Dials the supervisor of `state`.
    ///
    /// # Errors
    /// `NotFound` and `ConnectionRefused`: none is running.
    pub fn connect(state: &Path) -> io::Result<Self> {
        let fd = wire::dial(&Paths::new(state), false)?;
        Ok(Self { fd, assembler: Assembler::default(), buffer: Box::new([0; PACKET_BUFFER]) })
    }

    /// Sends one command.
    ///
    /// # Errors
    /// When the supervisor has gone.
    pub fn send(&self, command: command::Command) -> io::Result<()> {
        let packets = wire::packets(&Command { command: Some(command) });
        packets.iter().try_for_each(|packet| wire::send_packet(&self.fd, packet))
    }

    /// Waits for the next notice. `None`: the supervisor has gone, or serves another agent.
    ///
    /// # Errors
    /// When what arrives is no message of ours.
    pub fn receive(&mut self) -> io::Result<Option<notice::Notice>> {
        loop {
            let packet = wire::receive_packet(&self.fd, &mut self.buffer)?;
            if packet.is_empty() {
                return Ok(None);
            }
            if let Some(Notice { notice: Some(notice) }) = self.assembler.push(packet)? {
                return Ok(Some(notice));
            }
        }
    }
}

/// A connection for the agent's runtime. Sending and receiving may go on at the same time in two tasks.
#[derive(Debug)]
pub struct SupervisorClient {
    /// In truth a SOCK_SEQPACKET one: this type only watches it, the calls on it are `wire`'s.
    socket: UnixDatagram,
    /// Held while one message's packets go out, so that two senders cannot mix theirs.
    sending: Mutex<()>,
    incoming: Mutex<Incoming>,
}

#[derive(Debug)]
struct Incoming {
    assembler: Assembler,
    buffer: Box<[u8; PACKET_BUFFER]>,
}

impl SupervisorClient {
    /// Dials the supervisor of `state`, within a runtime that does IO.
    ///
    /// # Errors
    /// `NotFound` and `ConnectionRefused`: none is running.
    pub fn connect(state: &Path) -> io::Result<Self> {
        let fd = wire::dial(&Paths::new(state), true)?;
        let socket = UnixDatagram::from_std(std::os::unix::net::UnixDatagram::from(fd))?;
        let incoming = Incoming { assembler: Assembler::default(), buffer: Box::new([0; PACKET_BUFFER]) };
        Ok(Self { socket, sending: Mutex::new(()), incoming: Mutex::new(incoming) })
    }

    /// Sends one command; waits while the socket is full. Cancelled in the middle of a message of several packets, it
    /// shuts the connection down, for the rest of that message would be missing.
    ///
    /// # Errors
    /// When the supervisor has gone.
    pub async fn send(&self, command: command::Command) -> io::Result<()> {
        let packets = wire::packets(&Command { command: Some(command) });
        let _alone = self.sending.lock().await;
        let mut guard = Unfinished { client: self, armed: false };
        for packet in &packets {
            self.socket.async_io(Interest::WRITABLE, || wire::send_packet(&self.socket, packet)).await?;
            guard.armed = true;
        }
        guard.armed = false;
        Ok(())
    }

    /// Waits for the next notice. `None`: the supervisor has gone, or serves another agent. Safe to cancel: packets
    /// that have come stay.
    ///
    /// # Errors
    /// When what arrives is no message of ours.
    pub async fn receive(&self) -> io::Result<Option<notice::Notice>> {
        let mut incoming = self.incoming.lock().await;
        let Incoming { assembler, buffer } = &mut *incoming;
        loop {
            let receive = || wire::receive_packet(&self.socket, buffer).map(<[u8]>::len);
            let length = self.socket.async_io(Interest::READABLE, receive).await?;
            let packet = buffer.get(..length).unwrap_or_default();
            if packet.is_empty() {
                return Ok(None);
            }
            if let Some(Notice { notice: Some(notice) }) = assembler.push(packet)? {
                return Ok(Some(notice));
            }
        }
    }
}

/// Ends the connection when a message was cut short.
struct Unfinished<'a> {
    client: &'a SupervisorClient,
    armed: bool,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if self.armed {
            let _ = rustix::net::shutdown(&self.client.socket, rustix::net::Shutdown::Both);
        }
    }
}
