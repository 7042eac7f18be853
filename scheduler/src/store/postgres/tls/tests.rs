//! Who is believed, who is not, and what is seen of it from outside.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use gangsaw_core::event::Event;
use gangsaw_core::time::Time;

use super::super::super::contract::Store as _;
use super::super::super::tests::secure::Secure;
use super::super::tests::lead;
use super::*;

/// How a server would be spoken to, in a word or two.
fn way(url: &str) -> String {
    let (rest, asked) = Asked::take(url);
    let config: Config = rest.parse().unwrap();
    match asked.and(&config).way(config.get_hosts().first(), config.get_hostaddrs().first()) {
        Ok(Way::Clear) => "clear".to_owned(),
        Ok(Way::Tls { connector, or_clear }) => {
            format!("tls {:?}{}", connector.server, if or_clear { " or clear" } else { "" })
        }
        Err(PgOpenError::InTheClear { host }) => format!("refused {host}"),
        Err(error) => panic!("{url}: {error:?}"),
    }
}

#[test]
fn what_leaves_this_machine_is_encrypted_unless_the_address_says_otherwise() {
    let pem = rcgen::generate_simple_self_signed(["db.example".to_owned()]).unwrap().cert.pem();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("the ca.pem");
    std::fs::write(&file, pem).unwrap();
    let roots = format!("sslrootcert={}", file.display().to_string().replace(' ', "%20"));
    let db = r#"DnsName("db.example")"#;
    for (url, expected) in [
        ("postgres://u@db.example/g?ROOTS".to_owned(), format!("tls {db}")),
        ("postgres://u@db.example/g?sslmode=require&ROOTS".to_owned(), format!("tls {db}")),
        ("postgres://u@db.example/g?ROOTS&sslmode=verify-ca".to_owned(), format!("tls {db}")),
        ("postgres://u@db.example/g?sslmode=prefer".to_owned(), "refused db.example".to_owned()),
        ("postgres://u@db.example/g?sslmode=disable".to_owned(), "clear".to_owned()),
        ("user=u host=db.example sslmode=disable".to_owned(), "clear".to_owned()),
        ("postgres://u@localhost/g?hostaddr=10.0.0.7&sslmode=prefer".to_owned(), "refused localhost".to_owned()),
        ("postgres://u@localhost/g".to_owned(), "clear".to_owned()),
        ("postgres://u:a?b@[::1]/g".to_owned(), "clear".to_owned()),
        (
            "postgres://u@127.0.0.2/g?sslmode=prefer".to_owned(),
            "tls IpAddress(V4(Ipv4Addr([127, 0, 0, 2]))) or clear".to_owned(),
        ),
        ("postgres:///g?host=/run/postgresql&sslmode=require".to_owned(), "clear".to_owned()),
    ] {
        assert_eq!(way(&url.replace("ROOTS", &roots)), expected, "{url}");
    }
    let of = |more: &str| {
        let (rest, asked) = Asked::take(&format!("postgres://u@db.example/g?{more}"));
        let config: Config = rest.parse().map_err(PgOpenError::Address)?;
        asked.and(&config).way(config.get_hosts().first(), None)
    };
    assert!(
        matches!(of("sslrootcert=/nowhere/ca.pem"), Err(PgOpenError::Authorities { what, .. }) if what == "/nowhere/ca.pem")
    );
    assert!(matches!(of("sslmode=perhaps"), Err(PgOpenError::Address(_))), "an unknown word is not passed over");
}

/// Leads, appends, and says how that was seen from outside; or why not.
fn tried(secure: &Secure, url: &str) -> String {
    match lead(url) {
        Ok((mut store, loaded)) => {
            let at = Time(loaded.state.now().0 + 1);
            store.append(at, at.0, &[Event::KeysExpired(at)], &[]).unwrap();
            secure.sessions()
        }
        Err(error) => {
            assert!(matches!(error, PgOpenError::Untrusted { .. }), "{error:?}");
            crate::lead::lease::chain(&error)
        }
    }
}

#[test]
fn a_server_is_believed_by_its_certificate_and_every_session_is_encrypted() {
    let Some(secure) = Secure::start(true) else { return };
    let roots = |name: &str| format!("&sslrootcert={}", secure.authority(name).display());
    let try_it = |name: &str, more: &str| tried(&secure, &secure.url(name, more));
    for (name, more) in [
        ("db.example", roots("ca")),
        ("db.example", format!("&sslmode=verify-full{}", roots("ca"))),
        ("another.example", format!("&sslmode=verify-ca{}", roots("ca"))),
        ("127.0.0.1", format!("&sslmode=require{}", roots("ca"))),
        ("127.0.0.1", "&sslmode=require".to_owned()),
        ("127.0.0.1", "&sslmode=prefer".to_owned()),
        // The password is proved for this very connection.
        ("db.example", format!("&channel_binding=require{}", roots("ca"))),
    ] {
        assert_eq!(try_it(name, &more), "TLSv1.3", "{name} {more}");
    }
    for (name, more) in [("127.0.0.1", String::new()), ("db.example", "&sslmode=disable".to_owned())] {
        assert_eq!(try_it(name, &more), "clear", "{name} {more}");
    }
    for (name, more, why) in [
        ("db.example", roots("other"), "UnknownIssuer"),
        ("db.example", format!("&sslmode=verify-ca{}", roots("other")), "UnknownIssuer"),
        ("127.0.0.1", format!("&sslmode=require{}", roots("other")), "UnknownIssuer"),
        ("db.example", "&sslmode=require".to_owned(), "UnknownIssuer"),
        ("another.example", roots("ca"), "not valid for name"),
        ("another.example", format!("&sslmode=require{}", roots("ca")), "not valid for name"),
        ("127.0.0.1", format!("&sslmode=verify-full{}", roots("ca")), "not valid for name"),
    ] {
        let said = try_it(name, &more);
        assert!(said.contains(why) && said.contains("could be trusted"), "{name} {more}: {said}");
    }
}

#[test]
fn a_server_without_tls_is_refused_where_tls_is_asked_for() {
    let Some(secure) = Secure::start(false) else { return };
    let roots = format!("&sslrootcert={}", secure.authority("ca").display());
    for (name, more) in [
        ("db.example", roots.clone()),
        ("db.example", format!("&sslmode=require{roots}")),
        ("127.0.0.1", "&sslmode=require".to_owned()),
        ("127.0.0.1", format!("&sslmode=verify-full{roots}")),
    ] {
        let said = tried(&secure, &secure.url(name, &more));
        assert!(said.contains("server does not support TLS"), "{name} {more}: {said}");
    }
    assert_eq!(tried(&secure, &secure.url("127.0.0.1", "&sslmode=prefer")), "clear");
}
