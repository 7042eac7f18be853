//! The straight path and the verbs along it.

use serde_json::json;

use crate::cluster::{Cluster, err, eventually, out};

#[test]
fn a_job_goes_from_a_file_to_its_log_and_record() {
    let cluster = Cluster::up();
    let spec = cluster.place.file(
        "hello.yaml",
        "name: hello\nrun: 'echo out of $GANGSAW_JOB_ID; echo err >&2; pwd; echo $WHO'\nenv: {WHO: me, API_TOKEN: abc}\n",
    );
    let job = cluster.submit(&[spec.to_str().unwrap()]);
    let waited = cluster.run(&["wait", &job.to_string()]);
    assert_eq!(waited.status.code(), Some(0), "{}", err(&waited));
    let logs = cluster.run(&["logs", &job.to_string()]);
    assert_eq!(out(&logs), format!("out of {job}\n{}\nme\n", cluster.place.path().display()));
    assert_eq!(err(&logs), "err\n");
    let shown = cluster.show(job);
    assert_eq!(shown["state"], "COMPLETED");
    assert_eq!(shown["name"], "hello");
    assert_eq!(shown["element_counts"], json!({ "COMPLETED": 1 }));
    assert_eq!(shown["spec"]["env"], json!({ "API_TOKEN": "********", "WHO": "me" }), "a token is not shown");
    let people = cluster.run(&["show", &job.to_string()]);
    assert!(!out(&people).contains("abc") && out(&people).contains("API_TOKEN=********"), "{}", out(&people));
}

#[test]
fn several_jobs_of_one_file_run_in_their_order() {
    let cluster = Cluster::up();
    let spec = cluster.place.file(
        "pipeline.yaml",
        "jobs:\n- {name: last, run: 'cat made', after: [first]}\n- {name: first, run: 'echo here > made'}\n- {name: never, run: 'true', after: ['failed:first']}\n",
    );
    let stored = cluster.json(&["submit", spec.to_str().unwrap()]);
    let ids: Vec<u64> = stored["job_ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
    assert_eq!(cluster.until(ids[0], "COMPLETED")["name"], "last");
    assert_eq!(out(&cluster.run(&["logs", &ids[0].to_string()])), "here\n");
    cluster.until(ids[2], "CANCELLED");
}

#[test]
fn an_array_runs_each_index_once_and_parts_of_it_are_named() {
    let cluster = Cluster::up();
    let job = cluster.submit(&[
        "--array",
        "0-19:3%2",
        "--",
        "sh",
        "-c",
        "echo i=$GANGSAW_ARRAY_INDEX; exit $((GANGSAW_ARRAY_INDEX % 2))",
    ]);
    cluster.until(job, "FAILED");
    let shown = cluster.show(job);
    assert_eq!(shown["element_counts"], json!({ "COMPLETED": 4, "FAILED": 3 }));
    assert_eq!(out(&cluster.run(&["logs", &format!("{job}[9]")])), "i=9\n");
    let part = cluster.json(&["show", &format!("{job}[6-12:3]")]);
    let indices: Vec<u64> =
        part["tasks"].as_array().unwrap().iter().map(|task| task["index"].as_u64().unwrap()).collect();
    assert_eq!(indices, [6, 9, 12]);
    assert_eq!(cluster.run(&["wait", &format!("{job}[0]")]).status.code(), Some(0));
    assert_eq!(cluster.run(&["wait", &format!("{job}[3]")]).status.code(), Some(1));
    let retried = cluster.json(&["retry", &format!("{job}[3]")]);
    assert_eq!(retried["elements"], 1);
    eventually("a second attempt", || {
        let task = cluster.json(&["show", &format!("{job}[3]")])["tasks"][0].clone();
        (task["attempt"] == 2 && task["state"] == "FAILED").then_some(())
    });
}

#[test]
fn a_job_is_held_changed_released_and_cancelled() {
    let cluster = Cluster::up();
    let job = cluster.submit(&["--hold", "--", "sleep", "600"]);
    let id = job.to_string();
    assert_eq!(cluster.show(job)["state"], "HELD");
    assert!(cluster.run(&["update", &id, "--priority", "-7"]).status.success());
    assert_eq!(cluster.show(job)["priority"], -7);
    assert!(cluster.run(&["release", &id]).status.success());
    cluster.until_running(job);
    assert_eq!(cluster.json(&["cancel", &id])["elements"], 1);
    cluster.until(job, "CANCELLED");
}

#[test]
fn a_node_is_cordoned_resumed_and_shown() {
    let cluster = Cluster::up();
    let name = cluster.json(&["nodes"])["nodes"][0]["name"].as_str().unwrap().to_owned();
    assert!(cluster.run(&["nodes", "cordon", &name, "--reason", "new disk"]).status.success());
    let job = cluster.submit(&["--", "true"]);
    assert_eq!(cluster.show(job)["state"], "PENDING");
    let shown = cluster.json(&["nodes", "show", &name]);
    assert_eq!((&shown["mode"], &shown["reason"]), (&json!("cordoned"), &json!("new disk")));
    assert!(cluster.run(&["nodes", "resume", &name]).status.success());
    cluster.until(job, "COMPLETED");
}

#[test]
fn a_queues_limit_holds_jobs_back() {
    let cluster = Cluster::up();
    assert!(cluster.run(&["queue", "set", "narrow", "--max-running", "1"]).status.success());
    let first = cluster.submit(&["--queue", "narrow", "--", "sleep", "600"]);
    cluster.until_running(first);
    let second = cluster.submit(&["--queue", "narrow", "--", "true"]);
    assert_eq!(cluster.show(second)["state"], "PENDING");
    let queues = cluster.json(&["queue"]);
    let narrow = queues["queues"].as_array().unwrap().iter().find(|queue| queue["name"] == "narrow").unwrap().clone();
    assert_eq!((&narrow["max_running"], &narrow["running"]), (&json!(1), &json!(1)));
    cluster.run(&["cancel", &first.to_string()]);
    cluster.until(second, "COMPLETED");
}

#[test]
fn a_script_tells_its_progress_and_watchers_see_it() {
    let cluster = Cluster::up();
    let script = format!("{} progress step=3 total=10 loss=0.5 && sleep 600", crate::cluster::GANGSAW);
    let job = cluster.submit(&["--", "sh", "-c", &script]);
    let progress = eventually("progress", || {
        let progress = cluster.show(job)["tasks"][0]["progress"].clone();
        (progress["step"] == 3).then_some(progress)
    });
    assert_eq!((&progress["total"], &progress["metrics"]["loss"]), (&json!(10), &json!(0.5)));
}
