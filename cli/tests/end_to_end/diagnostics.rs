//! Bad input is told in its place, ends with 2, and stores nothing.

use expect_test::{Expect, expect};

use crate::cluster::{Cluster, Place, err, out};

/// Submits a bad spec to a cluster that must stay empty.
fn refused(cluster: &Cluster, name: &str, text: &str, wanted: &Expect) {
    let spec = cluster.place.file(name, text);
    let output = cluster.run(&["submit", spec.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2), "{}", err(&output));
    assert_eq!(out(&output), "");
    let folder = format!("{}/", cluster.place.path().display());
    wanted.assert_eq(&err(&output).replace(&folder, ""));
    assert_eq!(cluster.json(&["ps", "--all"])["jobs"], serde_json::json!([]), "nothing is stored");
}

#[test]
fn bad_specs_are_refused_with_every_fault_and_nothing_is_stored() {
    let cluster = Cluster::up();
    refused(
        &cluster,
        "keys.yaml",
        "run: [echo]\nresources: {gpu: 1, memory: 4}\npriority: 5000\n",
        &expect![[r#"
        error[unknown-key]: `resources` has no key `gpu`
         --> keys.yaml:2:13
          |
        2 | resources: {gpu: 1, memory: 4}
          |             ^^^
          hint: did you mean `gpus`?

        error[bad-value]: `memory`: `4` has no unit
         --> keys.yaml:2:29
          |
        2 | resources: {gpu: 1, memory: 4}
          |                             ^
          hint: say which: `4GiB` or `4MiB`

        error[bad-value]: `priority` must be a whole number from -1000 to 1000, and this is 5000
         --> keys.yaml:3:11
          |
        3 | priority: 5000
          |           ^^^^
          hint: choose from -1000 to 1000
    "#]],
    );
    refused(
        &cluster,
        "cycle.yaml",
        "jobs:\n- {name: a, run: x, after: b}\n- {name: b, run: x, after: a}\n",
        &expect![[r#"
            error[cycle]: these jobs wait for each other: a → b → a
             --> cycle.yaml:2:28
              |
            2 | - {name: a, run: x, after: b}
              |                            ^
              hint: remove one `after` of the circle
        "#]],
    );
    refused(
        &cluster,
        "name.json",
        "{\"name\": \"a\\u0007b\", \"run\": \"true\"}",
        &expect![[r#"
        error[bad-value]: `name` contains the control character `\u{7}`
         --> name.json:1:10
          |
        1 | {"name": "a\u0007b", "run": "true"}
          |          ^^^^^^^^^^
          hint: use 1 to 128 letters, digits, `-`, `_` or spaces
    "#]],
    );
    refused(
        &cluster,
        "array.toml",
        "run = \"true\"\narray = \"0-999999999\"\n",
        &expect![[r#"
        error[array-too-large]: the array has 1000000000 elements, and 10000000 are allowed
         --> array.toml:2:9
          |
        2 | array = "0-999999999"
          |         ^^^^^^^^^^^^^
          hint: submit several jobs, or do more work in each element
    "#]],
    );
    refused(
        &cluster,
        "true.yaml",
        "run: true\n",
        &expect![[r#"
            error[wrong-type]: `run` must be text, and this is true or false
             --> true.yaml:1:6
              |
            1 | run: true
              |      ^^^^
              hint: for the command of that name write `run: "true"`
        "#]],
    );
    refused(
        &cluster,
        "large.yaml",
        &format!("run: x\n# {}\n", "x".repeat(10 << 20)),
        &expect![[r#"
        error[too-large]: large.yaml has 10485770 bytes, and a spec has at most 1048576
          hint: keep data in files the job reads, and only the job in its spec
    "#]],
    );
}

#[test]
fn a_job_that_never_fits_is_refused_with_the_largest_that_could() {
    let cluster = Cluster::up();
    refused(
        &cluster,
        "fits.yaml",
        "run: x\nresources: {gpus: 12}\n",
        &expect![[r#"
        error[never-fits]: job needs 12 × GPU, and no node has one that fits
         --> fits.yaml:2:19
          |
        2 | resources: {gpus: 12}
          |                   ^^
          hint: ask for no GPU, or add a node that has one
    "#]],
    );
}

#[test]
fn a_wrong_flag_is_told_with_what_was_meant() {
    let place = Place::new();
    let output = place.gangsaw(&["submit", "--gpuss", "1", "--", "true"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    expect![[r#"
        error[usage]: unexpected argument '--gpuss' found

          hint: a similar argument exists: '--gpus'
          hint: to pass '--gpuss' as a value, use '-- --gpuss'

        Usage: gangsaw submit --gpus <N|MODEL:N> [SPEC] [-- <COMMAND>...]

        For more information, try '--help'.
    "#]]
    .assert_eq(&err(&output));
    let output = place.gangsaw(&["submit"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    expect![[r#"
        error[no-work]: nothing to run was given
          hint: give a spec file, or a command after `--`: gangsaw submit -- python train.py
    "#]]
    .assert_eq(&err(&output));
}

#[test]
fn a_faulty_config_stops_everything_but_tasks() {
    let place = Place::new();
    std::fs::create_dir_all(place.path().join("config/gangsaw")).unwrap();
    place.file("config/gangsaw/config.toml", "sever = \"x\"\n");
    let output = place.gangsaw(&["ps"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    expect![[r#"
        error[unknown-key]: the config has no key `sever`
         --> config/gangsaw/config.toml:1:1
          |
        1 | sever = "x"
          | ^^^^^
          hint: did you mean `server`?
    "#]]
    .assert_eq(&err(&output).replace(&format!("{}/", place.path().display()), ""));
}
