//! Runs seeds and says what came of each: `seed FIRST [COUNT] [INPUTS] [LINES]`. One seed alone that fails is run again
//! to show the last lines of its trace.

use gangsaw_sim::{Plan, run, run_and_explain};

fn main() {
    let number = |at: usize, or: u64| std::env::args().nth(at).and_then(|text| text.parse().ok()).unwrap_or(or);
    let (first, count, inputs) = (number(1, 0), number(2, 1), number(3, 2_000));
    let tail_lines = usize::try_from(number(4, 1_000)).unwrap_or(1_000);
    for seed in first..first + count {
        let plan = Plan::new(seed, inputs);
        if count == 1 {
            let outcome = run_and_explain(&Plan { tail_lines, ..plan });
            println!("{}\n{outcome}", outcome.counters);
        } else {
            println!("{}", run(&plan));
        }
    }
}
