//! Which versions of the parts work together.
//!
//! A version is MAJOR.MINOR.PATCH, and neighbours in MINOR understand each other: a fleet is upgraded one part after the
//! other. Beyond that the older one could miss what the newer one means, so each refuses the other and says so.
//!
//! Elsewhere: an agent and its supervisors agree on their own protocol, which lives longer.

/// Returns whether parts of these two versions may work together. What is no version (a build of one's own) is taken at
/// its word that it fits.
pub fn work_together(one: &str, other: &str) -> bool {
    match (parse(one), parse(other)) {
        (Some((major, minor)), Some((other_major, other_minor))) => {
            major == other_major && minor.abs_diff(other_minor) <= 1
        }
        (None, _) | (_, None) => true,
    }
}

fn parse(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    //! Neighbours and others.

    use super::*;

    #[test]
    fn neighbours_work_together_and_others_do_not() {
        for (one, other) in [("0.1.0", "0.1.9"), ("0.1.0", "0.2.0"), ("1.5.0", "1.4.7"), ("mine", "0.1.0"), ("", "")] {
            assert!(work_together(one, other) && work_together(other, one), "{one} {other}");
        }
        for (one, other) in [("0.1.0", "0.3.0"), ("1.0.0", "0.1.0"), ("2.4.0", "1.4.0")] {
            assert!(!work_together(one, other) && !work_together(other, one), "{one} {other}");
        }
    }
}
