//! Who gets a place, and who goes.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

fn places() -> Places {
    Places::new(Limits {
        all: 8,
        of_one: 6,
        nodes: 7,
        strangers: Crowd { welcome: 5, most: 7 },
        strangers_of_one: Crowd { welcome: 3, most: 5 },
        fair: Duration::ZERO,
        wait: Duration::from_millis(50),
    })
}

fn enter(places: &Places, from: u8) -> Result<(u64, CancellationToken), &'static str> {
    locked(&places.0).enter(IpAddr::from([10, 0, 0, from]), Instant::now())
}

fn prove(places: &Places, number: u64) {
    assert!(locked(&places.0).proved(number, false));
}

#[test]
fn the_oldest_stranger_of_an_address_goes_for_a_new_one() {
    let places = places();
    let strangers: Vec<_> = (0..5).map(|_| enter(&places, 1).unwrap()).collect();
    let gone: Vec<bool> = strangers.iter().map(|(_, leave)| leave.is_cancelled()).collect();
    assert_eq!(gone, [true, true, false, false, false]);
    assert_eq!(places.taken(), 3);
}

#[test]
fn a_stranger_has_his_fair_time_however_many_come_after_him() {
    let places = places();
    locked(&places.0).limits.fair = Duration::from_secs(2);
    let begun = Instant::now();
    let enter = |at: Duration| locked(&places.0).enter(IpAddr::from([10, 0, 0, 1]), begun + at).unwrap();
    let crowd: Vec<_> = (0..5).map(|_| enter(Duration::ZERO)).collect();
    let gone = || crowd.iter().map(|(_, leave)| leave.is_cancelled()).collect::<Vec<_>>();
    assert_eq!(gone(), [false; 5], "more than are welcome, and nobody has had his time");
    let late = enter(Duration::from_secs(1));
    assert_eq!(gone(), [true, false, false, false, false], "as many as there may ever be");
    let last = enter(Duration::from_secs(2));
    assert_eq!(gone(), [true, true, true, true, false], "two seconds later those go that are too many");
    assert!(!late.1.is_cancelled() && !last.1.is_cancelled());
    assert_eq!(places.taken(), 3);
}

#[test]
fn strangers_of_many_addresses_make_room_for_each_other() {
    let places = places();
    let strangers: Vec<_> = (0..7).map(|from| enter(&places, from).unwrap()).collect();
    assert_eq!(strangers.iter().filter(|(_, leave)| leave.is_cancelled()).count(), 2);
    assert!(strangers[0].1.is_cancelled() && strangers[1].1.is_cancelled(), "the oldest");
}

#[test]
fn the_proved_stay_and_one_address_leaves_room_for_others() {
    let places = places();
    let mut proved = Vec::new();
    for _ in 0..6 {
        let (number, leave) = enter(&places, 1).unwrap();
        prove(&places, number);
        proved.push((number, leave));
    }
    assert_eq!(enter(&places, 1).unwrap_err(), "too-many-of-one-address");
    for from in [2, 3] {
        let (number, leave) = enter(&places, from).unwrap();
        prove(&places, number);
        proved.push((number, leave));
    }
    assert_eq!(enter(&places, 4).unwrap_err(), "too-many-connections");
    assert!(proved.iter().all(|(_, leave)| !leave.is_cancelled()));
    locked(&places.0).leave(proved[0].0);
    enter(&places, 1).unwrap();
    assert_eq!(locked(&places.0).addresses.len(), 3, "an address without connections is forgotten");
}

#[test]
fn the_last_places_are_never_a_nodes() {
    let places = places();
    let mut nodes = Vec::new();
    for from in 0..7 {
        let (number, _) = enter(&places, from).unwrap();
        assert!(locked(&places.0).proved(number, true) && locked(&places.0).proved(number, true), "counted once");
        nodes.push(number);
    }
    let (one_more, _) = enter(&places, 8).unwrap();
    assert!(!locked(&places.0).proved(one_more, true));
    let (person, leave) = enter(&places, 9).unwrap();
    prove(&places, person);
    assert!(!leave.is_cancelled() && places.taken() == 8, "the node that was refused made room");
    locked(&places.0).leave(person);
    locked(&places.0).leave(nodes[0]);
    let (again, _) = enter(&places, 8).unwrap();
    assert!(locked(&places.0).proved(again, true), "a place that a node left");
}

#[test]
fn one_machine_is_one_address_however_it_is_written() {
    let ip = |text: &str| whose(text.parse().unwrap());
    assert_eq!(ip("::ffff:10.0.0.1"), ip("10.0.0.1"));
    assert_eq!(ip("2001:db8::1"), ip("2001:db8::ffff:1"));
    assert_ne!(ip("2001:db8::1"), ip("2001:db8:0:1::1"));
    assert_ne!(ip("::1"), ip("::"));
}

/// Two ends of a connection, the first with a place.
async fn connection(places: &Places) -> (Placed, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, address) = listener.accept().await.unwrap();
    (places.enter(stream, address).unwrap(), client)
}

#[tokio::test]
async fn a_stranger_has_a_while_and_a_proved_connection_all_the_time() {
    let places = places();
    let (mut known, mut client) = connection(&places).await;
    assert!(known.ticket().proved(false));
    let (mut stranger, _silent) = connection(&places).await;
    let error = stranger.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert!(stranger.write_u8(1).await.is_err(), "nor may it write");
    drop(stranger);
    assert_eq!(places.taken(), 1);
    client.write_u8(7).await.unwrap();
    assert_eq!(known.read_u8().await.unwrap(), 7);
}

#[tokio::test]
async fn a_stranger_that_is_told_to_go_wakes_up_and_goes() {
    let places = places();
    locked(&places.0).limits.wait = Duration::from_secs(3_600);
    let (mut oldest, _silent) = connection(&places).await;
    let reading = tokio::spawn(async move { oldest.read_u8().await.unwrap_err().kind() });
    tokio::task::yield_now().await;
    for _ in 0..3 {
        locked(&places.0).enter(IpAddr::from([127, 0, 0, 1]), Instant::now()).unwrap();
    }
    assert_eq!(reading.await.unwrap(), io::ErrorKind::TimedOut);
}
