//! One spec becomes the jobs of its sweep, and every misuse is told in its place.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use expect_test::expect;
use gangsaw_proto::jobs::v1::JobSpec;
use gangsaw_proto::jobs::v1::job_spec::Work;

use crate::spec::Loaded;
use crate::spec::tests::{bad, good, load_with};

/// What runs, in words.
fn work(spec: &JobSpec) -> String {
    match spec.work.as_ref().unwrap() {
        Work::Shell(line) => line.clone(),
        Work::Argv(argv) => argv.args.join(" "),
        Work::Recipe(recipe) => format!("{} {}", recipe.name, recipe.settings_json),
    }
}

/// Loads a command line.
fn flags(args: &[&str]) -> Loaded {
    load_with("", "", args, &[]).unwrap()
}

#[test]
fn several_sweeps_make_a_job_of_each_combination_the_last_varying_fastest() {
    let args = ["--sweep", "lr=1e-4,1e-3", "--sweep=opt=sgd,adam", "--", "train", "--lr={lr}", "{opt}", "${lr}", "{x}"];
    let loaded = flags(&args);
    let found: Vec<String> = loaded.specs.iter().map(work).collect();
    assert_eq!(
        found,
        [
            "train --lr=1e-4 sgd ${lr} {x}",
            "train --lr=1e-4 adam ${lr} {x}",
            "train --lr=1e-3 sgd ${lr} {x}",
            "train --lr=1e-3 adam ${lr} {x}",
        ]
    );
    let last = &loaded.specs[3];
    assert_eq!((last.env["GANGSAW_SWEEP_LR"].as_str(), last.env["GANGSAW_SWEEP_OPT"].as_str()), ("1e-3", "adam"));
    assert_eq!((last.labels["lr"].as_str(), last.labels["opt"].as_str()), ("1e-3", "adam"));
    assert_eq!(loaded.chosen[3].to_string(), r#"{"lr":0.001,"opt":"adam"}"#);
}

#[test]
fn a_recipe_takes_swept_values_as_its_settings() {
    let spec = "recipe: {name: cnn, lr: 5, epochs: 2}\nsweep: {lr: [1e-3, 0.01], channels: [[8], [8, 16]]}\n";
    let found: Vec<String> = good("a.yaml", spec).iter().map(work).collect();
    assert_eq!(
        found,
        [
            r#"cnn {"lr":0.001,"epochs":2,"channels":[8]}"#,
            r#"cnn {"lr":0.001,"epochs":2,"channels":[8,16]}"#,
            r#"cnn {"lr":0.01,"epochs":2,"channels":[8]}"#,
            r#"cnn {"lr":0.01,"epochs":2,"channels":[8,16]}"#,
        ]
    );
    let named = load_with("a.yaml", "recipe: mlp\n", &["--sweep", "seed=1,2"], &[]).unwrap();
    assert_eq!(named.specs.iter().map(work).collect::<Vec<_>>(), [r#"mlp {"seed":1}"#, r#"mlp {"seed":2}"#]);
}

#[test]
fn a_placeholder_stands_for_any_value_of_a_spec_and_flags_replace_a_files_values() {
    let spec =
        "name: 'n-{n}'\nrun: x\nresources: {gpus: '{n}'}\npriority: '{n}'\nenv: {N: '{n}'}\nsweep: {n: [8, 9]}\n";
    let loaded = load_with("a.yaml", spec, &["--sweep", "n=1,2"], &[]).unwrap();
    let found: Vec<_> = loaded
        .specs
        .iter()
        .map(|spec| (spec.name.as_str(), spec.demands[0].gpus, spec.priority, spec.env["N"].as_str()))
        .collect();
    assert_eq!(found, [("n-1", 1, Some(1), "1"), ("n-2", 2, Some(2), "2")]);
    let toml = "run = \"x\"\nname = \"{a}\"\n[sweep]\na = [\"p\", \"q\"]\n";
    let names: Vec<String> = good("a.toml", toml).iter().map(|spec| spec.name.clone()).collect();
    assert_eq!(names, ["p", "q"]);
}

#[test]
fn the_program_of_a_script_keeps_its_braces_and_its_arguments_do_not() {
    let text = "#!/bin/bash\n#GANGSAW --sweep lr=1,2 --name 'lr {lr}'\nf() {lr}; echo $GANGSAW_SWEEP_LR\n";
    let loaded = load_with("a.sh", text, &["--", "--lr", "{lr}"], &[]).unwrap();
    let Some(Work::Argv(argv)) = &loaded.specs[1].work else { panic!("a script runs an argv") };
    assert_eq!((argv.args[2].as_str(), &argv.args[4..]), (text, ["--lr".to_owned(), "2".to_owned()].as_slice()));
    assert_eq!(loaded.specs[1].name, "lr 2");
}

#[test]
fn results_of_different_combinations_get_folders_of_their_own() {
    let folders = |args: &[&str]| -> Vec<String> {
        let args: Vec<&str> = args.iter().chain(&["--", "x"]).copied().collect();
        flags(&args).specs.into_iter().map(|spec| spec.output_dir).collect()
    };
    let swept = ["--sweep", "lr=1,2", "--sweep", "set=a/b"];
    assert_eq!(folders(&swept), ["", ""], "each attempt has its own anyway");
    let one = [&swept[..], &["--output-dir", "runs"]].concat();
    assert_eq!(folders(&one), ["/here/runs/lr=1,set=a%2Fb", "/here/runs/lr=2,set=a%2Fb"]);
    let own = [&swept[..], &["--output-dir", "/r/{lr}"]].concat();
    assert_eq!(folders(&own), ["/r/1", "/r/2"], "`set` has one value and tells nothing apart");
}

#[test]
fn a_filled_in_value_is_not_read_again() {
    let found: Vec<String> =
        flags(&["--sweep", "a={b}", "--sweep", "b=1", "--", "x{a}{b}{", "{a"]).specs.iter().map(work).collect();
    assert_eq!(found, ["x{b}1{ {a"]);
}

#[test]
fn every_misuse_of_a_sweep_flag_has_its_caret() {
    let args = [
        "--sweep", "lr", "--sweep", "a=1,,2", "--sweep", "b=1,1", "--sweep", "2x=1", "--sweep", "rank=1", "--sweep",
        "a-b=1", "--sweep", "A_b=2", "--sweep", "c=1", "--sweep", "c=2", "--label", "a-b=2", "--gpus", "two", "--",
        "x",
    ];
    bad(
        "",
        "",
        &args,
        &expect![[r#"
            error[bad-value]: `--sweep lr` lists no values
             --> command line:1:17
              |
            1 | gangsaw --sweep lr --sweep a=1,,2 --sweep b=1,1 --sweep 2x=1 --sweep rank=1 --sweep a-b=1 --sweep A_b=2 --sweep c=1 --sweep c=2 --lab...
              |                 ^^
              hint: write `--sweep NAME=VALUE,VALUE`

            error[bad-value]: `sweep.a` has an empty value
             --> command line:1:32
              |
            1 | gangsaw --sweep lr --sweep a=1,,2 --sweep b=1,1 --sweep 2x=1 --sweep rank=1 --sweep a-b=1 --sweep A_b=2 --sweep c=1 --sweep c=2 --lab...
              |                                ^
              hint: write a map such as {lr: [1e-4, 1e-3], seed: [1, 2, 3]}, or `--sweep lr=1e-4,1e-3`

            error[bad-value]: `sweep.b` lists `1` twice
             --> command line:1:47
              |
            1 | gangsaw --sweep lr --sweep a=1,,2 --sweep b=1,1 --sweep 2x=1 --sweep rank=1 --sweep a-b=1 --sweep A_b=2 --sweep c=1 --sweep c=2 --lab...
              |                                               ^
              hint: list each value once

            error[bad-value]: `2x` cannot be swept over
             --> command line:1:57
              |
            1 | gangsaw --sweep lr --sweep a=1,,2 --sweep b=1,1 --sweep 2x=1 --sweep rank=1 --sweep a-b=1 --sweep A_b=2 --sweep c=1 --sweep c=2 --lab...
              |                                                         ^^
              hint: use at most 64 letters, digits, `_` and `-`, a letter first

            error[bad-value]: `{rank}` is filled in for each task
             --> command line:1:70
              |
            1 | gangsaw --sweep lr --sweep a=1,,2 --sweep b=1,1 --sweep 2x=1 --sweep rank=1 --sweep a-b=1 --sweep A_b=2 --sweep c=1 --sweep c=2 --lab...
              |                                                                      ^^^^
              hint: choose another name

            error[bad-value]: `a-b` and `A_b` would both be GANGSAW_SWEEP_A_B
             --> command line:1:99
              |
            1 | gangsaw --sweep lr --sweep a=1,,2 --sweep b=1,1 --sweep 2x=1 --sweep rank=1 --sweep a-b=1 --sweep A_b=2 --sweep c=1 --sweep c=2 --lab...
              |                                                                                                   ^^^
              hint: choose another name

            error[bad-value]: `c` is swept over twice
             --> command line:1:125
              |
            1 | gangsaw --sweep lr --sweep a=1,,2 --sweep b=1,1 --sweep 2x=1 --sweep rank=1 --sweep a-b=1 --sweep A_b=2 --sweep c=1 --sweep c=2 --lab...
              |                                                                                                                             ^^^
              hint: list all its values once: `--sweep NAME=VALUE,VALUE`

            error[conflict]: label `a-b` is set here, and swept over
             --> command line:1:137
              |
            1 | ...1 --sweep a-b=1 --sweep A_b=2 --sweep c=1 --sweep c=2 --label a-b=2 --gpus two -- x
              |                                                                  ^^^^^
              hint: rename the label, or leave it out: the sweep sets it

            error[bad-value]: `gpus`: `two` is not a number of GPUs
             --> command line:1:150
              |
            1 | ...b=1 --sweep A_b=2 --sweep c=1 --sweep c=2 --label a-b=2 --gpus two -- x
              |                                                                   ^^^
              hint: write `2`, or `h200:2` for a model
        "#]],
    );
}

#[test]
fn every_misuse_of_a_sweep_in_a_file_has_its_caret() {
    bad(
        "a.yaml",
        "run: x\nsweep: {a: [], b: {c: 1}, d: [1, null, {e: 1}]}\n",
        &[],
        &expect![[r#"
        error[bad-value]: `sweep.a` lists no value
         --> a.yaml:2:12
          |
        2 | sweep: {a: [], b: {c: 1}, d: [1, null, {e: 1}]}
          |            ^
          hint: write a map such as {lr: [1e-4, 1e-3], seed: [1, 2, 3]}, or `--sweep lr=1e-4,1e-3`

        error[wrong-type]: a value of `sweep.b` must be text, a number, or a list of those, and this is a map
         --> a.yaml:2:19
          |
        2 | sweep: {a: [], b: {c: 1}, d: [1, null, {e: 1}]}
          |                   ^
          hint: write a map such as {lr: [1e-4, 1e-3], seed: [1, 2, 3]}, or `--sweep lr=1e-4,1e-3`

        error[wrong-type]: a value of `sweep.d` must be text, a number, or a list of those, and this is nothing
         --> a.yaml:2:34
          |
        2 | sweep: {a: [], b: {c: 1}, d: [1, null, {e: 1}]}
          |                                  ^^^^
          hint: write a map such as {lr: [1e-4, 1e-3], seed: [1, 2, 3]}, or `--sweep lr=1e-4,1e-3`

        error[wrong-type]: a value of `sweep.d` must be text, a number, or a list of those, and this is a map
         --> a.yaml:2:40
          |
        2 | sweep: {a: [], b: {c: 1}, d: [1, null, {e: 1}]}
          |                                        ^
          hint: write a map such as {lr: [1e-4, 1e-3], seed: [1, 2, 3]}, or `--sweep lr=1e-4,1e-3`
    "#]],
    );
    bad(
        "a.yaml",
        "run: x\nsweep: [1]\n",
        &[],
        &expect![[r#"
        error[wrong-type]: `sweep` must be a map, and this is a list
         --> a.yaml:2:8
          |
        2 | sweep: [1]
          |        ^
          hint: write a map such as {lr: [1e-4, 1e-3], seed: [1, 2, 3]}, or `--sweep lr=1e-4,1e-3`
    "#]],
    );
    bad(
        "a.yaml",
        "run: x\nsweep: {}\n",
        &[],
        &expect![[r#"
        error[bad-value]: `sweep` names nothing
         --> a.yaml:2:8
          |
        2 | sweep: {}
          |        ^
          hint: write a map such as {lr: [1e-4, 1e-3], seed: [1, 2, 3]}, or `--sweep lr=1e-4,1e-3`
    "#]],
    );
    bad(
        "a.yaml",
        "jobs:\n- {name: a, run: x, sweep: {b: [1]}}\n",
        &[],
        &expect![[r#"
        error[conflict]: `jobs` lists its jobs itself, and `sweep` makes jobs of one
         --> a.yaml:2:28
          |
        2 | - {name: a, run: x, sweep: {b: [1]}}
          |                            ^
          hint: submit the job to sweep by itself
    "#]],
    );
    bad(
        "a.yaml",
        "recipe: cnn\n",
        &["--sweep", "lr=0.1,-1", "--sweep", "lrr=1,2"],
        &expect![[r#"
        error[bad-setting]: `recipe.lr` expected a number from 0.000000001 to 100, found -1
         --> command line:1:24
          |
        1 | gangsaw --sweep lr=0.1,-1 --sweep lrr=1,2
          |                        ^^
          hint: see the recipe's settings in its documentation

        error[bad-setting]: `recipe.lrr` unknown setting; there are: recipe, data, epochs, batch, lr, optimizer, weight_decay, momentum, warmup, clip_norm, shift, dropout, hidden, channels, seed, target_accuracy, checkpoint_every, requeue_on_stop
         --> command line:1:39
          |
        1 | gangsaw --sweep lr=0.1,-1 --sweep lrr=1,2
          |                                       ^
          hint: see the recipe's settings in its documentation

        error[bad-setting]: `recipe.lrr` unknown setting; there are: recipe, data, epochs, batch, lr, optimizer, weight_decay, momentum, warmup, clip_norm, shift, dropout, hidden, channels, seed, target_accuracy, checkpoint_every, requeue_on_stop
         --> command line:1:41
          |
        1 | gangsaw --sweep lr=0.1,-1 --sweep lrr=1,2
          |                                         ^
          hint: see the recipe's settings in its documentation
    "#]],
    );
}

#[test]
fn a_sweep_has_as_many_combinations_as_can_be_stored_together() {
    let list = |count: usize| (0..count).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    let (a, b) = (format!("a={}", list(32)), format!("b={}", list(32)));
    assert_eq!(flags(&["--sweep", &a, "--sweep", &b, "--", "x"]).specs.len(), 1024);
    let (a, b) = (format!("a={}", list(4)), format!("b={}", list(257)));
    let rejected = load_with("", "", &["--sweep", &a, "--sweep", &b, "--gpus", "x", "--", "x"], &[]).unwrap_err();
    let found: Vec<&str> = rejected.faults.iter().map(|fault| fault.message.as_str()).collect();
    assert_eq!(found, ["the sweep has 4 × 257 combinations", "`gpus`: `x` is not a number of GPUs"]);
    let wide: Vec<String> = (0..40).map(|n| format!("x{n}={}", list(10))).collect();
    let args: Vec<&str> = wide.iter().flat_map(|wide| ["--sweep", wide]).chain(["--", "x"]).collect();
    let rejected = load_with("", "", &args, &[]).unwrap_err();
    assert_eq!(rejected.faults[0].reason, "too-many", "10^40 overflows nothing");
}

#[test]
fn a_fault_that_all_combinations_share_is_told_once() {
    let args = ["--sweep", "lr=1,2,3", "--cpus", "many", "--", "x"];
    assert_eq!(load_with("", "", &args, &[]).unwrap_err().faults.len(), 1);
}
