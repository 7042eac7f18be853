//! From a request to what every task shares.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;

use gangsaw_proto::supervisor::v1::{Argv, ArrayBounds, Limits as WireLimits};

use super::*;

fn run(args: &[&str]) -> Run {
    let args = args.iter().map(ToString::to_string).collect();
    Run { lease_id: 7, job_id: 12, attempt: 1, work: Some(run::Work::Argv(Argv { args })), ..Run::default() }
}

fn template(run: Run) -> Template {
    Template::new(run, "tag").unwrap()
}

fn detail(run: Run) -> String {
    Template::new(run, "tag").unwrap_err().detail
}

#[test]
fn bad_requests_are_the_users_fault_and_say_why() {
    assert_eq!(detail(run(&[])), "there is no command");
    assert_eq!(detail(run(&["a\0b"])), "an argument or variable holds a zero byte");
    assert_eq!(detail(Run { first_index: 2, last_index: 1, ..run(&["x"]) }), detail_of_ranges());
    let ranks = vec![Rank::default(), Rank { rank: 1, ..Rank::default() }];
    assert_eq!(detail(Run { ranks, last_index: 1, ..run(&["x"]) }), detail_of_ranges());
    let env = [("A=B".to_owned(), String::new())].into();
    assert_eq!(detail(Run { env, ..run(&["x"]) }), "`A=B` cannot name a variable");
    assert!(Template::new(run(&[]), "tag").unwrap_err().users_fault);
}

fn detail_of_ranges() -> String {
    "a lease of several ranks has one element, and ranges ascend".to_owned()
}

#[test]
fn commands_are_found_in_the_tasks_own_path() {
    let folder = tempfile::tempdir().unwrap();
    let tool = folder.path().join("tool");
    std::fs::write(&tool, "").unwrap();
    let with_path = || {
        let path = format!("/nowhere:{}:/bin", folder.path().display());
        Run { env: [("PATH".to_owned(), path)].into(), ..run(&["tool"]) }
    };
    let missing = template(with_path()).program().unwrap_err();
    assert_eq!(missing.errno, libc::EACCES);
    std::fs::set_permissions(&tool, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    assert_eq!(template(with_path()).program().unwrap().to_str().unwrap(), tool.to_str().unwrap());
    assert_eq!(template(run(&["./tool"])).program().unwrap().to_str().unwrap(), "./tool");
    let unknown = template(run(&["no-such-tool"])).program().unwrap_err();
    assert_eq!(unknown.detail, "cannot execute `no-such-tool`: no such file or directory");
    assert!(unknown.users_fault);
}

#[test]
fn tasks_are_named_as_people_name_them() {
    assert_eq!(template(run(&["x"])).task_name(0, 0), "12");
    let array = Some(ArrayBounds::default());
    assert_eq!(template(Run { array, ..run(&["x"]) }).task_name(3, 0), "12[3]");
    let gang = Some(Gang::default());
    assert_eq!(template(Run { array, gang: gang.clone(), ..run(&["x"]) }).task_name(3, 1), "12[3].1");
    assert_eq!(template(Run { gang, ..run(&["x"]) }).task_name(0, 1), "12.1");
}

#[test]
fn limits_and_slots_have_defaults_and_bounds() {
    let plain = template(run(&["x"]));
    assert_eq!(plain.limits, Limits { milli_cpus: 1000, memory_bytes: 0, pids_max: PIDS_DEFAULT });
    assert_eq!(plain.slots, 1);
    let limits = Some(WireLimits { milli_cpus: 2, memory_bytes: 3, pids_max: 4 });
    let given = template(Run { limits, slots: u32::MAX, ..run(&["x"]) });
    assert_eq!(given.limits, Limits { milli_cpus: 2, memory_bytes: 3, pids_max: 4 });
    assert_eq!(given.slots, SLOTS_MAX);
}

#[test]
fn users_folders_are_filled_in_and_made_with_their_parents() {
    let run = Run { output_dir: "/data/{index}/{rank}-{attempt}".into(), ..run(&["x"]) };
    let folders = Folders::name(Path::new("/s/12"), 5, 1, 2, &run.output_dir, &run.checkpoint_dir);
    assert_eq!(folders.output, "/data/5/1-2");
    assert_eq!(folders.checkpoints, "/s/12/5.1-2/checkpoints");
    let made = template(run).user_folders(&folders).unwrap();
    let made: Vec<&str> = made.iter().map(|path| path.to_str().unwrap()).collect();
    assert_eq!(made, ["/data", "/data/5", "/data/5/1-2"]);
}

#[test]
fn faults_of_the_machine_are_not_the_users() {
    assert!(!exec_fault("x", libc::ENOMEM).users_fault);
    assert!(exec_fault("x", libc::ENOEXEC).detail.contains("#!/bin/sh"));
    assert!(!workdir_fault("/w", libc::EIO).users_fault);
    assert!(workdir_fault("/w", libc::EACCES).users_fault);
}
