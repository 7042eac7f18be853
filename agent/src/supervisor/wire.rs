//! Messages of `supervisor.v1` on a SOCK_SEQPACKET socket.
//!
//! The kernel keeps packets whole and in order but bounds their size, so a message is cut into packets of at most
//! [`PACKET_MAX`] bytes whose first byte says whether it is the last. Both sides bound what they put together at
//! [`MESSAGE_MAX`]: more is a broken peer, and the connection ends.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use prost::Message;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::paths::Paths;

/// Version of the protocol this code speaks.
pub(crate) const PROTOCOL: u32 = 1;
/// Well below the default socket buffer of 208 KiB, so that a packet always fits in the end.
const PACKET_MAX: usize = 64 * 1024;
/// An environment and arguments may be 384 KiB; a listing of 10,000 tasks is about 2 MiB.
const MESSAGE_MAX: usize = 4 << 20;

/// Cuts a message into packets.
pub(crate) fn packets(message: &impl Message) -> VecDeque<Vec<u8>> {
    let bytes = message.encode_to_vec();
    let mut packets = VecDeque::new();
    let mut rest = bytes.as_slice();
    loop {
        let (part, after) = rest.split_at(rest.len().min(PACKET_MAX - 1));
        let mut packet = Vec::with_capacity(part.len() + 1);
        packet.push(u8::from(after.is_empty()));
        packet.extend_from_slice(part);
        packets.push_back(packet);
        if after.is_empty() {
            return packets;
        }
        rest = after;
    }
}

/// Puts packets together again.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    partial: Vec<u8>,
}

impl Assembler {
    /// Takes one packet; returns the message it completes.
    pub(crate) fn push<M: Message + Default>(&mut self, packet: &[u8]) -> io::Result<Option<M>> {
        let (last, part) = packet.split_first().ok_or_else(|| invalid("empty packet"))?;
        if self.partial.len() + part.len() > MESSAGE_MAX {
            return Err(invalid("message too large"));
        }
        if *last == 1 && self.partial.is_empty() {
            return M::decode(part).map(Some).map_err(|fault| io::Error::new(io::ErrorKind::InvalidData, fault));
        }
        self.partial.extend_from_slice(part);
        if *last == 0 {
            return Ok(None);
        }
        let whole = std::mem::take(&mut self.partial);
        M::decode(whole.as_slice()).map(Some).map_err(|fault| io::Error::new(io::ErrorKind::InvalidData, fault))
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Dials the supervisor of a state folder.
pub(crate) fn dial(paths: &Paths, nonblocking: bool) -> io::Result<OwnedFd> {
    let (address, _folder) = paths.socket()?;
    let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::net::connect(&fd, &address)?;
    if nonblocking {
        rustix::io::ioctl_fionbio(&fd, true)?;
    }
    Ok(fd)
}

/// Sends one packet. A peer that is gone is an error, never a signal.
pub(crate) fn send_packet(fd: impl AsFd, packet: &[u8]) -> io::Result<()> {
    loop {
        match rustix::net::send(fd.as_fd(), packet, SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(fault) => return Err(fault.into()),
        }
    }
}

/// Receives one packet into `buffer`; an empty slice means the peer has gone.
pub(crate) fn receive_packet(fd: impl AsFd, buffer: &mut [u8; PACKET_BUFFER]) -> io::Result<&[u8]> {
    loop {
        match rustix::net::recv(fd.as_fd(), &mut buffer[..], RecvFlags::empty()) {
            Ok((_, length)) => return buffer.get(..length).ok_or_else(|| invalid("packet too large")),
            Err(Errno::INTR) => {}
            // A peer that was killed with packets unread.
            Err(Errno::CONNRESET) => return Ok(&buffer[..0]),
            Err(fault) => return Err(fault.into()),
        }
    }
}

/// Size of a buffer that holds any packet.
pub(crate) const PACKET_BUFFER: usize = PACKET_MAX;

#[cfg(test)]
mod tests;
