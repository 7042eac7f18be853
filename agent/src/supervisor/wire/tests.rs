//! Cutting and putting together.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use gangsaw_proto::supervisor::v1::{Command, Run, command};

use super::*;

fn round_trip(message: &Command) -> (usize, Command) {
    let mut assembler = Assembler::default();
    let packets = packets(message);
    let count = packets.len();
    let mut whole = None;
    for packet in packets {
        assert!(whole.is_none() && packet.len() <= PACKET_MAX);
        whole = assembler.push(&packet).unwrap();
    }
    (count, whole.unwrap())
}

fn run_with(bytes: usize) -> Command {
    Command { command: Some(command::Command::Run(Run { workdir: "x".repeat(bytes), ..Run::default() })) }
}

#[test]
fn messages_of_every_size_arrive_whole() {
    for bytes in [0, 1, PACKET_MAX - 20, PACKET_MAX, PACKET_MAX + 1, 3 * PACKET_MAX, 400_000] {
        let message = run_with(bytes);
        assert_eq!(round_trip(&message).1, message);
    }
    assert_eq!(round_trip(&Command { command: None }).0, 1);
    assert_eq!(round_trip(&run_with(400_000)).0, 7);
}

#[test]
fn endless_message_is_refused_at_the_bound() {
    let mut assembler = Assembler::default();
    let mut packet = vec![0; PACKET_MAX];
    packet[0] = 0;
    let refused = (0..100).find_map(|_| assembler.push::<Command>(&packet).err()).unwrap();
    assert_eq!(refused.kind(), io::ErrorKind::InvalidData);
    assert!(assembler.partial.len() <= MESSAGE_MAX);
}
