//! Amounts are read as people mean them, and refused with the way to write them.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use super::*;

#[test]
fn a_time_needs_a_unit_and_may_have_several() {
    assert_eq!(duration("1h30m").unwrap(), Duration::from_secs(5400));
    assert_eq!(duration("250ms").unwrap(), Duration::from_millis(250));
    assert_eq!(duration("90").unwrap_err().hint, "say which: `90s`, `90min` or `90h`");
    assert_eq!(duration("soon").unwrap_err().message, "`soon` is not a time");
    assert_eq!(duration("9000000h").unwrap_err().message, "`9000000h` is longer than ten years");
}

#[test]
fn memory_needs_a_unit_and_stays_below_what_exists() {
    assert_eq!(bytes("8GiB").unwrap(), 8 << 30);
    assert_eq!(bytes("512MB").unwrap(), 512_000_000);
    assert_eq!(bytes("8").unwrap_err().message, "`8` has no unit");
    assert_eq!(bytes("-1GiB").unwrap_err().message, "`-1GiB` is not an amount of memory");
    assert_eq!(bytes("4096PiB").unwrap_err().message, "`4096PiB` is more than any machine has");
}

#[test]
fn cores_are_counted_in_thousandths() {
    assert_eq!(milli_cpus("0.5").unwrap(), 500);
    assert_eq!(milli_cpus("16").unwrap(), 16_000);
    for wrong in ["0", "-1", "nan", "inf", "1e9", "many"] {
        milli_cpus(wrong).unwrap_err();
    }
}

#[test]
fn gpus_are_whole_and_may_name_a_model() {
    assert_eq!(gpus("2").unwrap(), Gpus { count: 2, model: String::new() });
    assert_eq!(gpus("RTX A6000:3").unwrap(), Gpus { count: 3, model: "RTX A6000".into() });
    assert_eq!(gpus("0.5").unwrap_err().hint, "ask for whole GPUs: `1`, `2`, …");
    assert_eq!(gpus(":2").unwrap_err().message, "`:2` names no GPU model");
    assert_eq!(gpus("-1").unwrap_err().message, "`-1` is not a number of GPUs");
}

#[test]
fn an_array_has_ranges_steps_and_a_limit() {
    let array = array("0-9,20-29:3%4").unwrap();
    assert_eq!(array.running_max, 4);
    assert_eq!(array.ranges, [IndexRange { first: 0, last: 9, step: 1 }, IndexRange { first: 20, last: 29, step: 3 }]);
    assert_eq!(count(&array.ranges), 14);
}

#[test]
fn an_array_is_refused_with_the_way_to_write_it() {
    assert_eq!(array("9-0").unwrap_err().hint, "did you mean `0-9`?");
    assert_eq!(array("0-9%0").unwrap_err().message, "`%0` is not how many may run at once");
    assert_eq!(array("0-9:0").unwrap_err().message, "`0-9:0` has a step of zero");
    assert_eq!(array("5,1").unwrap_err().message, "index 1 comes after 5");
    assert_eq!(array("0-99999999999").unwrap_err().message, "index 99999999999 is too large");
    assert_eq!(array("100").unwrap_err().hint, "write `0-99` for 100 indices, or `100-100` for this one");
    assert_eq!(array("").unwrap_err().message, "`` is not an index");
}

#[test]
fn durations_are_shown_by_their_largest_units() {
    assert_eq!(short_duration(Duration::from_micros(1500)), "1ms");
    assert_eq!(short_duration(Duration::from_micros(700)), "0.7ms");
    assert_eq!(short_duration(Duration::from_millis(3210)), "3.2s");
    assert_eq!(short_duration(Duration::from_secs(125)), "2m 05s");
    assert_eq!(short_duration(Duration::from_secs(7500)), "2h 05m");
    assert_eq!(short_duration(Duration::from_secs(90_000)), "1d 01h");
}
