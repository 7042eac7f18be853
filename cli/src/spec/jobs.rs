//! Several jobs in one file: `jobs: [...]`, stored all or none.
//!
//! Each has a name of its own, which `after` of the others may use. A circle of waiting jobs would wait for ever, so it
//! is refused with the way round it.

use std::collections::BTreeMap;

use gangsaw_proto::jobs::v1::{JobSpec, dependency};

use super::read::{Reader, shown};
use super::tree::{Tree, Value};

/// Jobs that may be stored together; the scheduler holds the same limit.
pub(crate) const JOBS_MAX: usize = 1024;

/// Splits a file into its jobs, and says whether they came from a `jobs:` list.
pub(crate) fn split(r: &mut Reader, mut root: Tree) -> Option<(Vec<Tree>, bool)> {
    if !matches!(root.value, Value::Map(_)) {
        r.wrong_type(&root, "a spec", "a map", "write keys such as `run: python train.py`");
        return None;
    }
    let Some(list) = root.take("jobs") else { return Some((vec![root], false)) };
    r.map(&root, "a spec with `jobs`", &[], "`jobs` stands alone");
    let Value::List(jobs) = list.value else {
        r.wrong_type(&list, "`jobs`", "a list", "write one `- name: …` for each job");
        return None;
    };
    if jobs.is_empty() || jobs.len() > JOBS_MAX {
        let message = format!("`jobs` has {} jobs", jobs.len());
        r.fault("bad-value", &list.span, message, format!("store 1 to {JOBS_MAX} jobs together"));
        return None;
    }
    Some((jobs, true))
}

/// The jobs' names, for `after`.
pub(crate) fn names(trees: &[(Tree, Option<String>)], from_list: bool) -> Vec<String> {
    if !from_list {
        return Vec::new();
    }
    let name = |tree: &Tree| match tree.get("name").map(|name| &name.value) {
        Some(Value::Text(name)) => Some(name.clone()),
        Some(_) | None => None,
    };
    trees.iter().filter_map(|(tree, _)| name(tree)).collect()
}

/// Checks what only shows when all jobs are known: names apart, and no circle.
pub(crate) fn check(r: &mut Reader, trees: &[Tree], specs: &[JobSpec], from_list: bool) {
    if !from_list {
        return;
    }
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for (at, (tree, spec)) in trees.iter().zip(specs).enumerate() {
        match tree.get("name") {
            None if matches!(tree.value, Value::Map(_)) => {
                r.fault("missing-key", &tree.span, "a job of `jobs` has no name", "add `name: …`");
            }
            Some(name) if !spec.alias.is_empty() && seen.insert(&spec.alias, at).is_some() => {
                let message = format!("two jobs are named `{}`", shown(&spec.alias));
                r.fault("bad-value", &name.span, message, "give each job a name of its own");
            }
            Some(_) | None => {}
        }
    }
    circle(r, trees, specs, &seen);
}

/// Refuses the first circle found among the jobs' `after`.
fn circle(r: &mut Reader, trees: &[Tree], specs: &[JobSpec], numbers: &BTreeMap<&str, usize>) {
    let before: Vec<Vec<usize>> = specs.iter().map(|spec| awaited(spec, numbers)).collect();
    // Whoever can start is taken away, again and again; what is left waits on a circle.
    let mut left: Vec<bool> = vec![true; specs.len()];
    while let Some(free) = (0..specs.len()).find(|&at| left[at] && before[at].iter().all(|&other| !left[other])) {
        left[free] = false;
    }
    let Some(start) = left.iter().position(|&stuck| stuck) else { return };
    let mut path = vec![start];
    let circle = loop {
        let here = path[path.len() - 1];
        let Some(&next) = before[here].iter().find(|&&other| left[other]) else { return };
        if let Some(at) = path.iter().position(|&known| known == next) {
            break path.split_off(at);
        }
        path.push(next);
    };
    let named = |at: usize| shown(&specs[at].alias);
    let way: Vec<String> = circle.iter().chain(circle.first()).map(|&at| named(at)).collect();
    let message = format!("these jobs wait for each other: {}", way.join(" → "));
    r.fault("cycle", &trees[circle[0]].place("after"), message, "remove one `after` of the circle");
}

/// Numbers of the jobs in this file that a job waits for.
fn awaited(spec: &JobSpec, numbers: &BTreeMap<&str, usize>) -> Vec<usize> {
    let number = |after: &gangsaw_proto::jobs::v1::Dependency| match &after.job {
        Some(dependency::Job::Alias(alias)) => numbers.get(alias.as_str()).copied(),
        Some(dependency::Job::JobId(_)) | None => None,
    };
    spec.after.iter().filter_map(number).collect()
}
