//! Specs are read whole, and every fault is told in its place.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::io::Write as _;

use expect_test::{Expect, expect};
use gangsaw_proto::jobs::v1::SubmitFault;
use gangsaw_proto::jobs::v1::job_spec::Work;

use super::*;

/// Loads a file of `text` with flags, as `gangsaw submit FILE FLAGS` would.
pub(super) fn load_with(
    name: &str,
    text: &str,
    args: &[&str],
    environment: &[(&str, &str)],
) -> Result<Loaded, Rejected> {
    #[derive(clap::Parser)]
    struct Flags {
        #[command(flatten)]
        flags: JobFlags,
        #[arg(last = true)]
        command: Vec<String>,
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    if !name.is_empty() {
        std::fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
    }
    let args: Vec<String> = std::iter::once("gangsaw").chain(args.iter().copied()).map(str::to_owned).collect();
    let parsed = <Flags as clap::Parser>::parse_from(&args);
    let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let result = load(&Pieces {
        file: (!name.is_empty()).then_some(path.as_path()),
        command: &parsed.command,
        flags: &parsed.flags,
        args: &args,
        environment: &environment,
        config: None,
        folder: Path::new("/here"),
    });
    // Snapshots show the file's name and not the test's folder.
    let short = |sources: &mut Sources| {
        for source in &mut sources.0 {
            source.name = source.name.replace(&format!("{}/", folder.path().display()), "");
        }
    };
    match result {
        Ok(mut loaded) => {
            short(&mut loaded.sources);
            Ok(loaded)
        }
        Err(mut rejected) => {
            short(&mut rejected.sources);
            for fault in &mut rejected.faults {
                fault.message = fault.message.replace(&format!("{}/", folder.path().display()), "");
            }
            Err(rejected)
        }
    }
}

pub(super) fn good(name: &str, text: &str) -> Vec<JobSpec> {
    match load_with(name, text, &[], &[]) {
        Ok(loaded) => loaded.specs,
        Err(rejected) => panic!("{}", render::render(&rejected.sources, &rejected.faults, false)),
    }
}

pub(super) fn bad(name: &str, text: &str, args: &[&str], wanted: &Expect) {
    let rejected = load_with(name, text, args, &[]).unwrap_err();
    wanted.assert_eq(&render::render(&rejected.sources, &rejected.faults, false));
}

const EVERYTHING: &str = r#"
name: train
queue: batch
priority: -5
labels: {team: vision, year: 2026}
run: [python, train.py, 3]
resources: [{gpus: "h200:2", gpu_memory: 80GiB, cpus: 8, memory: 64GiB}, {cpus: 0.5}]
array: 0-99:2%10
replicas: 4
rendezvous: per-process
after: ["ok:7", "any:8", 9]
time_limit: 2h
retry: {failure: 3, infra: 4, preempted: 5, oom: 1, backoff: 10s}
env: {SEED: 1, LR: 1e-4, FLAG: true, TEXT: a b}
workdir: sub
output_dir: /results
grace: 30s
on_disconnect: stop
lost_after: 20min
stop_after: 2min
requeue_on: [75, 76]
hold: true
"#;

#[test]
fn every_key_reaches_the_wire() {
    let specs = good("job.yaml", EVERYTHING);
    let spec = &specs[0];
    expect![[r#"
        name=train queue=batch priority=Some(-5) hold=true replicas=4 rendezvous=2
        work=Some(Argv(Argv { args: ["python", "train.py", "3"] }))
        demands=[Demand { milli_cpus: 8000, memory_bytes: 68719476736, gpus: 2, gpu_model: "h200", gpu_memory_bytes: 85899345920 }, Demand { milli_cpus: 500, memory_bytes: 0, gpus: 0, gpu_model: "", gpu_memory_bytes: 0 }]
        array=Some(Array { ranges: [IndexRange { first: 0, last: 99, step: 2 }], running_max: 10 })
        after=[(1, Some(JobId(7))), (2, Some(JobId(8))), (1, Some(JobId(9)))]
        time_limit=Some(7200) grace=Some(30) lost_after=Some(1200) stop_after=Some(120) on_disconnect=2
        retry=Some(Retry { failure: Some(3), infra: Some(4), preempted: Some(5), oom: Some(1), backoff: Some(Duration { seconds: 10, nanos: 0 }) })
        workdir=/here/sub output_dir=/results requeue_on=[75, 76]
        env={"FLAG": "true", "LR": "1e-4", "SEED": "1", "TEXT": "a b"} labels={"team": "vision", "year": "2026"}
    "#]]
    .assert_eq(&said(spec));
}

fn said(spec: &JobSpec) -> String {
    let sorted = |map: &std::collections::HashMap<String, String>| map.clone().into_iter().collect::<BTreeMap<_, _>>();
    let seconds = |d: &Option<prost_types::Duration>| d.as_ref().map(|d| d.seconds);
    let after: Vec<_> = spec.after.iter().map(|after| (after.kind, after.job.clone())).collect();
    format!(
        "name={} queue={} priority={:?} hold={} replicas={} rendezvous={}\nwork={:?}\ndemands={:?}\narray={:?}\nafter={:?}\ntime_limit={:?} grace={:?} lost_after={:?} stop_after={:?} on_disconnect={}\nretry={:?}\nworkdir={} output_dir={} requeue_on={:?}\nenv={:?} labels={:?}\n",
        spec.name,
        spec.queue,
        spec.priority,
        spec.hold,
        spec.replicas,
        spec.rendezvous,
        spec.work,
        spec.demands,
        spec.array,
        after,
        seconds(&spec.time_limit),
        seconds(&spec.grace),
        seconds(&spec.lost_after),
        seconds(&spec.stop_after),
        spec.on_disconnect,
        spec.retry,
        spec.workdir,
        spec.output_dir,
        spec.requeue_on,
        sorted(&spec.env),
        sorted(&spec.labels)
    )
}

#[test]
fn three_formats_and_a_script_say_the_same() {
    let yaml = good("a.yaml", "name: t\nrun: [echo, hi]\nresources: {gpus: 1, memory: 1GiB}\nenv: {A: b}\n");
    let toml = good(
        "a.toml",
        "name = \"t\"\nrun = [\"echo\", \"hi\"]\n[resources]\ngpus = 1\nmemory = \"1GiB\"\n[env]\nA = \"b\"\n",
    );
    let json = good(
        "a.json",
        "{\t\"name\": \"t\", \"run\": [\"echo\", \"hi\"],\n\t\"resources\": {\"gpus\": 1, \"memory\": \"1GiB\"}, \"env\": {\"A\": \"b\"}}",
    );
    assert_eq!(yaml, toml);
    assert_eq!(yaml, json);
    let script = good("a.sh", "#!/bin/bash\n#GANGSAW --name t --gpus=1 --memory '1GiB'\n#GANGSAW --env A=b\necho hi\n");
    let Some(Work::Argv(argv)) = &script[0].work else { panic!("a script runs an argv") };
    assert_eq!(argv.args[..2], ["/bin/bash", "-c"]);
    assert_eq!(JobSpec { work: yaml[0].work.clone(), ..script[0].clone() }, yaml[0]);
}

#[test]
fn flags_lie_over_the_environment_and_that_over_the_spec() {
    let spec = "run: x\nqueue: file\npriority: 1\ntime_limit: 1h\nresources: {gpus: 1, cpus: 2}\n";
    let environment =
        [("GANGSAW_QUEUE", "env"), ("GANGSAW_PRIORITY", "2"), ("PATH", "/bin"), ("SHLVL", "1"), ("GANGSAW_TOKEN", "t")];
    let loaded = load_with("a.yaml", spec, &["--priority", "-3", "--gpus", "a100:4"], &environment).unwrap();
    let spec = &loaded.specs[0];
    assert_eq!((spec.queue.as_str(), spec.priority), ("env", Some(-3)));
    assert_eq!(
        (spec.demands[0].gpus, spec.demands[0].gpu_model.as_str(), spec.demands[0].milli_cpus),
        (4, "a100", 2000)
    );
    assert_eq!(spec.exported_env.keys().collect::<Vec<_>>(), ["PATH"]);
    let loaded = load_with("a.yaml", "run: x\n", &["--export", "all"], &environment).unwrap();
    assert_eq!(loaded.specs[0].exported_env.len(), 2, "the token stays at home");
}

#[test]
fn a_recipe_may_run_with_or_without_a_gpu() {
    let recipe = |device: &str| {
        good("a.yaml", &format!("recipe: {{name: cnn, epochs: 5, lr: 1e-3}}\nresources: {{cpus: 2{device}}}\n"))[0]
            .clone()
    };
    let gpus = |spec: &JobSpec| spec.demands.iter().map(|demand| demand.gpus).collect::<Vec<_>>();
    assert_eq!(gpus(&recipe("")), [1, 0]);
    assert_eq!(gpus(&recipe(", device: auto")), [1, 0]);
    assert_eq!(gpus(&recipe(", device: cpu")), [0]);
    assert_eq!(gpus(&recipe(", device: gpu")), [1]);
    let Some(Work::Recipe(found)) = recipe("").work else { panic!("a recipe") };
    assert_eq!(found.settings_json, r#"{"epochs":5,"lr":0.001}"#);
    assert_eq!(gpus(&good("a.yaml", "recipe: cnn\n")[0]), [1, 0]);
}

#[test]
fn all_faults_are_told_at_once_each_in_its_place() {
    let text = "nam: x\nrun: 5\nresources:\n  gpus: 0.5\n  memroy: 8GiB\n  memory: 8\n  cpus: many\npriority: high\ntime_limit: 90\nretry: {failures: 1}\nafter: [prepare]\narray: 0-1000000000000\nenv: [A=b]\n";
    bad(
        "job.yaml",
        text,
        &[],
        &expect![[r#"
        error[unknown-key]: a job has no key `nam`
         --> job.yaml:1:1
          |
        1 | nam: x
          | ^^^
          hint: did you mean `name`?

        error[wrong-type]: `run` must be text, and this is a number
         --> job.yaml:2:6
          |
        2 | run: 5
          |      ^
          hint: write a command line, or a list such as [python, train.py]

        error[bad-value]: `gpus`: `0.5` is not a whole number of GPUs
         --> job.yaml:4:9
          |
        4 |   gpus: 0.5
          |         ^^^
          hint: ask for whole GPUs: `1`, `2`, …

        error[unknown-key]: `resources` has no key `memroy`
         --> job.yaml:5:3
          |
        5 |   memroy: 8GiB
          |   ^^^^^^
          hint: did you mean `memory`?

        error[bad-value]: `memory`: `8` has no unit
         --> job.yaml:6:11
          |
        6 |   memory: 8
          |           ^
          hint: say which: `8GiB` or `8MiB`

        error[bad-value]: `cpus`: `many` is not a number of cores
         --> job.yaml:7:9
          |
        7 |   cpus: many
          |         ^^^^
          hint: write cores as `4` or `0.5`, at least `0.001`

        error[wrong-type]: `priority` must be a whole number from -1000 to 1000, and this is text
         --> job.yaml:8:11
          |
        8 | priority: high
          |           ^^^^
          hint: for example `1`

        error[bad-value]: `time_limit`: `90` has no unit
         --> job.yaml:9:13
          |
        9 | time_limit: 90
          |             ^^
          hint: say which: `90s`, `90min` or `90h`

        error[unknown-key]: `retry` has no key `failures`
          --> job.yaml:10:9
           |
        10 | retry: {failures: 1}
           |         ^^^^^^^^
          hint: did you mean `failure`?

        error[unknown-job]: no job in this file is named `prepare`
          --> job.yaml:11:9
           |
        11 | after: [prepare]
           |         ^^^^^^^
          hint: write `ok:12`, `any:12` or `failed:12`, with a job's number or its name in this file

        error[bad-value]: `array`: index 1000000000000 is too large
          --> job.yaml:12:8
           |
        12 | array: 0-1000000000000
           |        ^^^^^^^^^^^^^^^
          hint: the largest index is 4294967294

        error[wrong-type]: `env` must be a map, and this is a list
          --> job.yaml:13:6
           |
        13 | env: [A=b]
           |      ^
          hint: `env` is a map such as {SEED: 1}
    "#]],
    );
}

#[test]
fn a_wrong_flag_has_its_caret_on_the_command_line() {
    bad(
        "",
        "",
        &["--gpus", "two", "--env", "SEED", "--device=auto", "--", "python", "train it.py"],
        &expect![[r#"
        error[bad-value]: `gpus`: `two` is not a number of GPUs
         --> command line:1:16
          |
        1 | gangsaw --gpus two --env SEED --device=auto -- python 'train it.py'
          |                ^^^
          hint: write `2`, or `h200:2` for a model

        error[bad-value]: `--env SEED` sets nothing
         --> command line:1:26
          |
        1 | gangsaw --gpus two --env SEED --device=auto -- python 'train it.py'
          |                          ^^^^
          hint: write `--env NAME=VALUE`

        error[conflict]: `device: auto` is for recipes: only its author knows that a command can do without a GPU
         --> command line:1:40
          |
        1 | gangsaw --gpus two --env SEED --device=auto -- python 'train it.py'
          |                                        ^^^^
          hint: list both, best first: resources: [{gpus: 1}, {cpus: 4}]
    "#]],
    );
}

#[test]
fn a_script_has_its_carets_in_its_own_lines() {
    bad(
        "job.sh",
        "#!/bin/sh\n#GANGSAW --gpus two\n#GANGSAW --tim-limit 2h\necho\n#GANGSAW --hold\n",
        &[],
        &expect![[r#"
        error[unknown-flag]: unexpected argument '--tim-limit' found
         --> job.sh:3:10
          |
        3 | #GANGSAW --tim-limit 2h
          |          ^^^^^^^^^^^
          hint: did you mean `--time-limit`?

        error[misplaced]: this `#GANGSAW` line comes after the first command
         --> job.sh:5:1
          |
        5 | #GANGSAW --hold
          | ^^^^^^^^^^^^^^^
          hint: move it above the first command
    "#]],
    );
    bad(
        "job.pl",
        "#!/usr/bin/perl\nprint 1;\n",
        &[],
        &expect![[r#"
            error[unknown-interpreter]: a batch script runs under one of sh, bash, dash, zsh, ksh, python, python3, and this one asks for `perl`
             --> job.pl:1:1
              |
            1 | #!/usr/bin/perl
              | ^^^^^^^^^^^^^^^
              hint: write a YAML spec with `run: [interpreter, /path/to/script]`

            error[missing-key]: the job does not say what runs
             --> job.pl:1:1
              |
            1 | #!/usr/bin/perl
              | ^^^^^^^^^^^^^^^
              hint: add `run: python train.py`, or `recipe: cnn`
        "#]],
    );
}

#[test]
fn syntax_faults_are_shown_where_they_are() {
    bad(
        "a.yaml",
        "run: [a\nname: b\n",
        &[],
        &expect![[r#"
            error[syntax]: illegal placement of ':' indicator
             --> a.yaml:2:5
              |
            2 | name: b
              |     ^
              hint: a spec is one YAML map such as `run: python train.py`
        "#]],
    );
    bad(
        "a.json",
        "{\"run\": \"x\",\n \"name\" \"y\"}",
        &[],
        &expect![[r#"
        error[syntax]: this is not JSON: expected `:`
         --> a.json:2:9
          |
        2 |  "name" "y"}
          |         ^
          hint: a spec is one JSON object such as {"run": "python train.py"}
    "#]],
    );
    bad(
        "a.toml",
        "run = x\nname = \"\n",
        &[],
        &expect![[r#"
        error[syntax]: string values must be quoted, expected literal string
         --> a.toml:1:7
          |
        1 | run = x
          |       ^
          hint: a spec is a TOML table such as `run = "python train.py"`

        error[syntax]: invalid basic string, expected `"`
         --> a.toml:2:9
          |
        2 | name = "
          |         ^
          hint: a spec is a TOML table such as `run = "python train.py"`
    "#]],
    );
    bad(
        "a.yaml",
        "run: a\nrun: b\n",
        &[],
        &expect![[r#"
            error[syntax]: duplicate mapping key: run
             --> a.yaml:2:1
              |
            2 | run: b
              | ^^^
              hint: a spec is one YAML map such as `run: python train.py`
        "#]],
    );
    bad(
        "a.yaml",
        "- run: a\n",
        &[],
        &expect![[r#"
        error[wrong-type]: a spec must be a map, and this is a list
         --> a.yaml:1:1
          |
        1 | - run: a
          | ^
          hint: write keys such as `run: python train.py`
    "#]],
    );
}

#[test]
fn jobs_that_wait_for_each_other_are_refused() {
    let text = "jobs:\n  - {name: a, run: x, after: c}\n  - {name: b, run: x, after: 'ok:a'}\n  - {name: c, run: x, after: [b, d]}\n  - {name: d, run: x}\n  - {name: d, run: y}\n  - {run: y, after: e}\n";
    bad(
        "jobs.yaml",
        text,
        &[],
        &expect![[r#"
        error[cycle]: these jobs wait for each other: a → c → b → a
         --> jobs.yaml:2:30
          |
        2 |   - {name: a, run: x, after: c}
          |                              ^
          hint: remove one `after` of the circle

        error[bad-value]: two jobs are named `d`
         --> jobs.yaml:6:12
          |
        6 |   - {name: d, run: y}
          |            ^
          hint: give each job a name of its own

        error[missing-key]: a job of `jobs` has no name
         --> jobs.yaml:7:5
          |
        7 |   - {run: y, after: e}
          |     ^
          hint: add `name: …`

        error[unknown-job]: no job in this file is named `e`
         --> jobs.yaml:7:21
          |
        7 |   - {run: y, after: e}
          |                     ^
          hint: did you mean `a`?
    "#]],
    );
}

#[test]
fn a_name_with_control_characters_is_refused_and_shown_harmlessly() {
    bad(
        "a.yaml",
        "run: x\nname: \"a\\e[31mb\"\nqueue: \"\\a\"\n",
        &[],
        &expect![[r#"
        error[bad-value]: `name` contains the control character `\u{1b}`
         --> a.yaml:2:7
          |
        2 | name: "a\e[31mb"
          |       ^^^^^^^^^^
          hint: use 1 to 128 letters, digits, `-`, `_` or spaces

        error[bad-value]: `queue` contains the control character `\u{7}`
         --> a.yaml:3:8
          |
        3 | queue: "\a"
          |        ^^^^
          hint: use 1 to 128 letters, digits, `-`, `_` or spaces
    "#]],
    );
}

#[test]
fn a_flag_with_a_line_break_is_shown_on_its_line() {
    let args = ["--name", "a\nb", "--array", "1000000000", "--", "true"];
    let rejected = load_with("", "", &args, &[]).unwrap_err();
    let text = render::render(&rejected.sources, &rejected.faults, false);
    assert_eq!(rejected.faults.len(), 2, "{text}");
    assert!(text.contains("1 | gangsaw --name 'a\n") && text.contains("control character `\\n`"), "{text}");
    assert!(text.contains("2 | b' --array 1000000000") && text.contains("hint: write `0-999999999` for"), "{text}");
}

#[test]
fn a_huge_spec_is_refused_before_it_is_read() {
    bad(
        "a.yaml",
        &format!("run: x\n# {}\n", "x".repeat(10 << 20)),
        &[],
        &expect![[r#"
        error[too-large]: a.yaml has 10485770 bytes, and a spec has at most 1048576
          hint: keep data in files the job reads, and only the job in its spec
    "#]],
    );
}

#[test]
fn an_alias_bomb_ends_at_the_budget() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let before = level - 1;
        text.push_str(&format!("a{level}: &a{level} [{}]\n", vec![format!("*a{before}"); 10].join(", ")));
    }
    let rejected = load_with("a.yaml", &text, &[], &[]).unwrap_err();
    assert_eq!(rejected.faults[0].reason, "syntax");
    let deep = "[".repeat(100_000);
    let rejected = load_with("a.yaml", &deep, &[], &[]).unwrap_err();
    assert_eq!(rejected.faults[0].reason, "syntax");
    let rejected = load_with("a.json", &deep, &[], &[]).unwrap_err();
    assert_eq!(rejected.faults[0].reason, "syntax");
}

#[test]
fn the_schedulers_faults_are_shown_in_the_spec() {
    let text = "jobs:\n- name: a\n  run: x\n- name: b\n  run: x\n  resources:\n    gpus: 12\n";
    let loaded = load_with("job.yaml", text, &[], &[]).unwrap();
    let fault = SubmitFault {
        job: 1,
        path: "resources.gpus".into(),
        reason: "never-fits".into(),
        message: "job needs 12 GPUs, and the largest node has 8".into(),
        hint: "ask for at most 8".into(),
    };
    let rejected = loaded.rejected(&SubmitFaults { faults: vec![fault] });
    expect![[r#"
        error[never-fits]: job needs 12 GPUs, and the largest node has 8
         --> job.yaml:7:11
          |
        7 |     gpus: 12
          |           ^^
          hint: ask for at most 8
    "#]]
    .assert_eq(&render::render(&rejected.sources, &rejected.faults, false));
}
