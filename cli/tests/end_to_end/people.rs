//! Tokens of people on the real executable: made, used, refused where their role ends, revoked.

use std::process::Output;

use crate::cluster::{Cluster, err, out};

/// Runs a command as the holder of a token, who has nothing else of this cluster.
fn holder(cluster: &Cluster, token: &str, args: &[&str]) -> Output {
    let home = cluster.place.path().join("holder");
    cluster.command(args).env("GANGSAW_TOKEN", token).env("XDG_STATE_HOME", home).output().unwrap()
}

#[test]
fn a_token_is_made_used_listed_and_revoked() {
    let cluster = Cluster::scheduler();
    let made = cluster.json(&["token", "create", "ada", "--role", "submitter", "--tenant", "lab", "--ttl", "30d"]);
    let token = made["token"].as_str().unwrap();
    assert!(token.starts_with("gsw_1_"), "{made}");
    assert_eq!([&made["name"], &made["role"], &made["tenant"], &made["user"]], ["ada", "submitter", "lab", "ada"]);

    let submitted = holder(&cluster, token, &["submit", "--output", "json", "--", "true"]);
    assert!(submitted.status.success(), "{}", err(&submitted));
    let job = cluster.show(1);
    assert_eq!((job["state"].as_str(), job["user"].as_str()), (Some("PENDING"), Some("ada")));
    let other = cluster.submit(&["--", "true"]).to_string();
    let refused = holder(&cluster, token, &["cancel", &other]);
    assert!(err(&refused).starts_with("error[unknown-job]"), "another tenant's: {}", err(&refused));
    let refused = holder(&cluster, token, &["queue", "set", "default", "--max-running", "1"]);
    assert!(!refused.status.success());
    assert!(err(&refused).starts_with("error[role-too-small]: this needs the role admin"), "{}", err(&refused));
    let cancelled = holder(&cluster, token, &["cancel", "1"]);
    assert!(cancelled.status.success(), "{}", err(&cancelled));

    let listed = cluster.json(&["token", "list"]);
    assert_eq!((listed["tokens"].as_array().unwrap().len(), &listed["tokens"][0]["name"]), (1, &"ada".into()));
    assert!(listed["tokens"][0].get("token").is_none() && listed["tokens"][0]["expires_at"].is_string());
    let table = out(&cluster.run(&["token", "list"]));
    let columns: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(columns, ["TOKEN", "NAME", "ROLE", "TENANT", "USER", "EXPIRES"], "{table}");

    assert_eq!(out(&cluster.run(&["token", "revoke", "1"])), "revoked token 1\n");
    let refused = holder(&cluster, token, &["ps"]);
    assert!(err(&refused).starts_with("error[unauthenticated]"), "{}", err(&refused));
    let gone = cluster.run(&["token", "revoke", "1"]);
    assert!(err(&gone).starts_with("error[unknown-token]"), "{}", err(&gone));
    let own = out(&cluster.run(&["token"]));
    assert_eq!(own.trim().len(), 64, "without a verb, the token in use: {own}");
}

#[test]
fn a_bad_request_for_a_token_says_what_is_wrong() {
    let cluster = Cluster::scheduler();
    for (args, says) in [
        (&["token", "create", "ada", "--role", "king"][..], "error[usage]"),
        (&["token", "create", "ada"][..], "--role"),
        (&["token", "create", "ada", "--role", "viewer", "--ttl", "0s"][..], "write it as 12h or 30d"),
        (&["token", "create", "a:b", "--role", "viewer"][..], "error[bad-name]"),
    ] {
        let refused = cluster.run(args);
        assert_eq!(refused.status.code(), Some(2), "{args:?}: {}", err(&refused));
        assert!(err(&refused).contains(says), "{args:?}: {}", err(&refused));
    }
    assert!(cluster.json(&["token", "list"])["tokens"].as_array().unwrap().is_empty());
}
